// Serves the built page, signs its tokens, and posts what its buttons say. For this machine: it signs for any user.
import { createHmac } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { NotificationClient } from '@recado/client/server';

const { RECADO_URL = '', RECADO_JWT_SECRET = '', RECADO_KEY = '', BELL_PORT = '8000' } = process.env;
const hub = new NotificationClient({ url: RECADO_URL, apiKey: RECADO_KEY });

/** @param {string} user */
function userToken(user) {
  const part = (/** @type {object} */ value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = { sub: user, exp: Math.floor(Date.now() / 1000) + 15 * 60 };
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${text}.${createHmac('sha256', RECADO_JWT_SECRET).update(text).digest('base64url')}`;
}

/** @param {import('node:http').IncomingMessage} request */
async function bodyOf(request) {
  let text = '';
  for await (const piece of request.setEncoding('utf8')) text += piece;
  return JSON.parse(text);
}

/** @type {Record<string, [string, string]>} */
const FILES = {
  '/': ['index.html', 'text/html; charset=utf-8'],
  '/main.js': ['dist/main.js', 'text/javascript'],
  '/main.css': ['dist/main.css', 'text/css'],
};
const http = new URL(RECADO_URL).origin;
const POLICY = `default-src 'self'; img-src data:; connect-src 'self' ${http} ${http.replace('http', 'ws')}`;

const server = createServer(async (request, response) => {
  try {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://localhost');
    const file = FILES[pathname];
    if (pathname === '/token') {
      response.setHeader('cache-control', 'no-store');
      response.end(userToken(searchParams.get('user') ?? ''));
    } else if (pathname === '/post' && request.headers['content-type'] === 'application/json') {
      response.end(JSON.stringify(await hub.notify(await bodyOf(request))));
    } else if (file) {
      const text = await readFile(new URL(file[0], import.meta.url), 'utf8');
      response.writeHead(200, { 'content-type': file[1], 'content-security-policy': POLICY });
      response.end(pathname === '/' ? text.replace('HUB', http) : text);
    } else {
      response.writeHead(404).end();
    }
  } catch (error) {
    response.writeHead(400).end(String(error));
  }
});
server.listen(Number(BELL_PORT), '127.0.0.1', () => console.log(`bell  http://127.0.0.1:${BELL_PORT}`));
