// Serves the built page and its API: sign in, a token for the hub, orders.
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Orders } from './orders.mjs';
import { hub, userToken } from './recado.mjs';

/** @typedef {import('node:http').IncomingMessage} Request */
/** @typedef {{ status: number, body?: unknown, headers?: Record<string, string> }} Answer */
/** @typedef {{ id: string, name: string, isShopkeeper: boolean }} User */

const PAGE = fileURLToPath(new URL('../dist', import.meta.url));
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css' };
const MOST_BODY_BYTES = 10_000;
const ITEMS = ['Lamp', 'Vase'];

/** Users of the demonstration. They sign in without a password. @type {User[]} */
const USERS = [
  { id: 'ana', name: 'Ana', isShopkeeper: false },
  { id: 'ben', name: 'Ben', isShopkeeper: true },
];
/** Signed-in users, by the secret in their cookie. @type {Map<string, User>} */
const sessions = new Map();

const { SHOP_DATA = '.', RECADO_URL = '' } = process.env;
const orders = new Orders(join(SHOP_DATA, 'orders.json'), hub, 'ben');

/** @param {Request} request */
const cookieOf = (request) => /(?:^|; )shop_session=([\w-]+)/.exec(request.headers.cookie ?? '')?.[1] ?? '';

/** @param {Request} request */
async function bodyOf(request) {
  // A form of another site cannot send this type, so it cannot act for the user.
  if (request.headers['content-type'] !== 'application/json') throw new Error('content-type must be application/json');
  let text = '';
  for await (const piece of request.setEncoding('utf8')) {
    text += piece;
    if (text.length > MOST_BODY_BYTES) throw new Error('the body is too large');
  }
  return JSON.parse(text);
}

/** The cookie of a session. Behind https, add Secure. @param {string} value @param {number} seconds */
const cookie = (value, seconds) => ({
  'set-cookie': `shop_session=${value}; HttpOnly; SameSite=Lax; Path=/; Max-Age=${seconds}`,
});

/** @param {Request} request @returns {Promise<Answer>} */
async function signIn(request) {
  const { user: id } = await bodyOf(request);
  const user = USERS.find((one) => one.id === id);
  if (!user) return { status: 404, body: { error: 'there is no such user' } };
  const secret = randomUUID();
  sessions.set(secret, user);
  return { status: 201, body: { user, hub: RECADO_URL }, headers: cookie(secret, 86_400) };
}

/** @param {Request} request @returns {Promise<Answer>} */
async function answer(request) {
  const user = sessions.get(cookieOf(request));
  const route = `${request.method} ${request.url}`;
  const shipped = /^POST \/api\/orders\/(\d+)\/shipped$/.exec(route);
  if (route === 'GET /api/session') return { status: 200, body: { user: user ?? null, hub: RECADO_URL, items: ITEMS } };
  if (route === 'POST /api/session') return signIn(request);
  if (!user) return { status: 401, body: { error: 'sign in first' } };
  if (route === 'DELETE /api/session') {
    sessions.delete(cookieOf(request));
    return { status: 200, body: {}, headers: cookie('', 0) };
  }
  if (route === 'GET /api/token') return { status: 200, body: { token: userToken(user.id) } };
  if (route === 'GET /api/orders') return { status: 200, body: orders.list(user.isShopkeeper ? undefined : user.id) };
  if (route === 'POST /api/orders') {
    const { item } = await bodyOf(request);
    if (!ITEMS.includes(item)) return { status: 422, body: { error: `item must be one of ${ITEMS.join(', ')}` } };
    return { status: 201, body: orders.place(user.id, item) };
  }
  if (shipped) {
    if (!user.isShopkeeper) return { status: 403, body: { error: 'only the shopkeeper ships' } };
    await bodyOf(request);
    const order = orders.ship(Number(shipped[1]));
    return order ? { status: 200, body: order } : { status: 404, body: { error: 'there is no such order' } };
  }
  return { status: 404, body: { error: 'there is no such route' } };
}

/** A file of the built page. @param {string} url */
async function file(url) {
  const path = normalize(new URL(url, 'http://localhost').pathname);
  const name = path === '/' ? '/index.html' : path;
  return { type: TYPES[/** @type {keyof TYPES} */ (extname(name))], content: await readFile(join(PAGE, name)) };
}

const http = new URL(RECADO_URL).origin;
const socket = http.replace('http', 'ws');
const SECURITY = {
  'content-security-policy': `default-src 'self'; img-src data:; connect-src 'self' ${http} ${socket}`,
  'x-content-type-options': 'nosniff',
};

const server = createServer(async (request, response) => {
  const url = request.url ?? '/';
  try {
    if (url.startsWith('/api/')) {
      const { status, body, headers } = await answer(request);
      response.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store', ...headers });
      response.end(JSON.stringify(body));
    } else {
      const { type, content } = await file(url);
      response.writeHead(200, { 'content-type': type ?? 'application/octet-stream', ...SECURITY });
      response.end(content);
    }
  } catch (error) {
    const missing = /** @type {NodeJS.ErrnoException} */ (error).code === 'ENOENT';
    response.writeHead(missing ? 404 : 400, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ error: missing ? 'there is no such file' : String(error) }));
  }
});
server.listen(Number(process.env.SHOP_PORT ?? 8000), '127.0.0.1', () => {
  console.log(
    `shop  http://127.0.0.1:${process.env.SHOP_PORT ?? 8000}    sign in as Ana here, and as Ben in a private window`,
  );
});
