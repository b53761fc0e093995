// Runs each case of clients/cases against the service client, and posts to a real hub that is killed.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createTcpServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as after } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, expectTypeOf, test } from 'vitest';
import {
  type Clock,
  InvalidNotificationError,
  type NewNotification,
  NotificationClient,
  type NotificationClientOptions,
  NotificationError,
  type Receipt,
} from '../../src/server.ts';

const CASES = fileURLToPath(new URL('../../../cases/', import.meta.url));
const FILES = ['retries.json', 'errors.json', 'batches.json', 'methods.json'];
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const API_KEY = 'rck_secret_of_the_test';
const NOTE: NewNotification = { type: 't', title: 'T', message: 'M', user_id: '42' };

interface Answer {
  ok?: number;
  cut?: number;
  status?: number;
  headers?: Record<string, string>;
  body?: unknown;
  text?: string;
  after_ms?: number;
  reset?: boolean;
  close?: boolean;
}

interface Case {
  name: string;
  client?: { timeout_ms?: number; deadline_ms?: number; retries?: number; on_error?: 'log' };
  random?: number;
  server?: 'absent';
  call: { method: string; arguments: unknown[]; idempotency_key?: string };
  answers: Answer[];
  requests: { path?: string; key: string; body?: unknown; items?: number }[];
  waits_ms: (number | [number, number])[];
  result?: unknown;
  error?: Record<string, unknown>;
}

interface SeenRequest {
  path: string;
  headers: IncomingMessage['headers'];
  // biome-ignore lint/suspicious/noExplicitAny: any JSON
  body: any;
}

/** Gives the answers of a case (clients/cases/README.md), one for each request, in order. */
class ScriptedServer {
  readonly requests: SeenRequest[] = [];
  readonly #sockets = new Set<Socket>();
  readonly #seqs = new Map<string, number>();
  readonly #server: Server;

  constructor(readonly answers: Answer[]) {
    this.#server = createServer((request, response) => {
      // The client went away, which a case may want.
      this.#answer(request, response).catch(() => response.destroy());
    });
  }

  async start(): Promise<this> {
    await new Promise<void>((listening) => this.#server.listen(0, '127.0.0.1', listening));
    return this;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Connections that carried a request. */
  get connections(): number {
    return this.#sockets.size;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((closed) => this.#server.close(closed));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.#sockets.add(request.socket);
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const seen = {
      path: request.url ?? '',
      headers: request.headers,
      body: JSON.parse(Buffer.concat(chunks).toString()),
    };
    const answer = this.answers[this.requests.length] ?? { status: 500, text: 'no more answers' };
    this.requests.push(seen);
    if (answer.after_ms) await after(answer.after_ms, undefined, { ref: false });
    if (answer.reset) return void request.socket.resetAndDestroy();
    if (answer.close) return void request.socket.destroy();
    const { status, text } = this.#content(answer, seen);
    response.writeHead(status, { 'Content-Length': Buffer.byteLength(text), ...dated(answer.headers) });
    if (answer.cut) return void response.write(text.slice(0, text.length / 2), () => request.socket.destroy());
    response.end(text);
  }

  #content(answer: Answer, request: SeenRequest): { status: number; text: string } {
    const status = answer.ok ?? answer.cut;
    if (status === undefined) return { status: answer.status ?? 500, text: answer.text ?? JSON.stringify(answer.body) };
    const key = String(request.headers['idempotency-key']);
    const items: { idempotency_key?: string }[] | undefined = request.body.items;
    const keys = items?.map((item, at) => item.idempotency_key ?? `${key}/${at}`) ?? [key];
    const receipts = keys.map((each) => receiptOf(this.#seq(each), status === 200));
    return { status, text: JSON.stringify({ success: true, ...(items ? { items: receipts } : receipts[0]) }) };
  }

  #seq(key: string): number {
    const seq = this.#seqs.get(key) ?? this.#seqs.size + 1;
    this.#seqs.set(key, seq);
    return seq;
  }
}

function receiptOf(seq: number, duplicate: boolean): Receipt {
  const id = `00000000-0000-7000-8000-${String(seq).padStart(12, '0')}`;
  return { seq, id, created_at: '2026-11-21T16:39:58.120Z', duplicate };
}

function dated(headers: Record<string, string> = {}): Record<string, string> {
  const seconds = /^\{date\+(\d+)\}$/.exec(headers['Retry-After'] ?? '')?.[1];
  return seconds
    ? { ...headers, 'Retry-After': new Date(Date.now() + Number(seconds) * 1_000).toUTCString() }
    : headers;
}

/** Records waits instead of waiting. The clock moves on by each of them. */
function recordedClock(waits: number[], random = 1): Clock {
  return {
    now: () => performance.now() + waits.reduce((sum, wait) => sum + wait, 0),
    random: () => random,
    sleep: async (ms) => void waits.push(ms),
  };
}

async function closedPort(): Promise<number> {
  const server = createTcpServer();
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  const { port } = server.address() as AddressInfo;
  await new Promise((closed) => server.close(closed));
  return port;
}

function expand(argument: unknown): unknown {
  const copies = (argument as { $copies?: [unknown, number] } | null)?.$copies;
  return copies ? Array.from({ length: copies[1] }, () => copies[0]) : argument;
}

async function outcomeOf(call: () => Promise<unknown>): Promise<{ result?: unknown; error?: unknown }> {
  try {
    return { result: await call() };
  } catch (error) {
    return { error };
  }
}

let stop: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const each of stop) await each();
  stop = [];
});

async function scripted(answers: Answer[]): Promise<ScriptedServer> {
  const server = await new ScriptedServer(answers).start();
  stop.push(() => server.stop());
  return server;
}

describe.each(FILES)('%s', (file) => {
  const { cases } = JSON.parse(readFileSync(join(CASES, file), 'utf8')) as { cases: Case[] };
  test.each(cases.map((each) => [each.name, each] as const))('%s', async (_, each) => {
    const server = await scripted(each.answers);
    const [waits, logged]: [number[], string[]] = [[], []];
    const { timeout_ms, deadline_ms, retries, on_error } = each.client ?? {};
    const options: NotificationClientOptions<'throw' | 'log'> = {
      url: each.server === 'absent' ? `http://127.0.0.1:${await closedPort()}` : server.url,
      apiKey: API_KEY,
      clock: recordedClock(waits, each.random),
      logger: { warn: (...line: unknown[]) => logged.push(line.join(' ')) },
      ...(timeout_ms !== undefined && { timeoutMs: timeout_ms }),
      ...(deadline_ms !== undefined && { deadlineMs: deadline_ms }),
      ...(retries !== undefined && { retries }),
      ...(on_error && { onError: on_error }),
    };
    const client = new NotificationClient(options) as unknown as Record<string, (...a: unknown[]) => Promise<unknown>>;
    const key = each.call.idempotency_key;
    const call = client[each.call.method]?.bind(client);
    const { result, error } = await outcomeOf(
      () =>
        call?.(
          ...each.call.arguments.map(expand),
          key === undefined ? {} : { idempotencyKey: key },
        ) as Promise<unknown>,
    );

    if (each.error) expectError(each.error, error);
    else expectResult(each.result, result, error);
    expect(logged).toHaveLength(on_error ? 1 : 0);
    expect(`${logged} ${String(error)} ${JSON.stringify(error)}`).not.toContain(API_KEY);
    expect(waits).toHaveLength(each.waits_ms.length);
    for (const [at, wanted] of each.waits_ms.entries()) {
      const [least, most] = Array.isArray(wanted) ? wanted : [wanted, wanted];
      expect(waits[at]).toBeGreaterThanOrEqual(least - 1);
      expect(waits[at]).toBeLessThanOrEqual(most + 1);
    }
    expectRequests(each, server);
  });
});

function expectResult(expected: unknown, result: unknown, error: unknown): void {
  expect(error).toBeUndefined();
  const count = (expected as { $count?: number } | null)?.$count;
  if (count !== undefined) {
    expect((result as Receipt[]).map((receipt) => receipt.seq)).toEqual(
      Array.from({ length: count }, (_, at) => at + 1),
    );
    return;
  }
  const whole = (each: unknown): unknown => {
    const receipt = each as Pick<Receipt, 'seq' | 'duplicate'> | null;
    return receipt && receiptOf(receipt.seq, receipt.duplicate);
  };
  expect(result).toEqual(Array.isArray(expected) ? expected.map(whole) : whole(expected));
}

function expectError(expected: Record<string, unknown>, error: unknown): void {
  expect(error).toBeInstanceOf(NotificationError);
  const found = error as NotificationError;
  const facts: Record<string, unknown> = {
    class: found.constructor.name,
    code: found.code,
    status: found.status,
    attempts: found.attempts,
    outcome_unknown: found.outcomeUnknown,
    request_id: found.requestId,
    retry_after_ms: found.retryAfterMs,
    errors: found.errors,
    key: UUID.test(found.idempotencyKey ?? '') ? 'uuid' : found.idempotencyKey,
    receipts: found.receipts.length,
  };
  expect(Object.fromEntries(Object.keys(expected).map((name) => [name, facts[name]]))).toEqual(expected);
  expect(found.name).toBe(facts.class);
  if (found.code === 'network_error' || found.code === 'timeout') expect(found.cause).toBeDefined();
}

function expectRequests(each: Case, server: ScriptedServer): void {
  expect(server.requests).toHaveLength(each.requests.length);
  const made = new Set<string>();
  for (const [at, expected] of each.requests.entries()) {
    const request = server.requests[at] as SeenRequest;
    const key = String(request.headers['idempotency-key']);
    if (expected.key === 'uuid') made.add(key);
    expect(expected.key === 'uuid' ? UUID.test(key) : key).toBe(expected.key === 'uuid' ? true : expected.key);
    expect(request.headers.authorization).toBe(`Bearer ${API_KEY}`);
    expect(request.headers['content-type']).toBe('application/json');
    if (expected.path) expect(request.path).toBe(expected.path);
    if (expected.body) expect(request.body).toEqual(expected.body);
    if (expected.items !== undefined) expect(request.body.items).toHaveLength(expected.items);
  }
  // One key for all attempts.
  expect(made.size).toBeLessThanOrEqual(1);
}

describe('settings', () => {
  test.each([
    [{ url: 'hub' }],
    [{ url: 'ws://hub' }],
    [{ url: 'https://user:secret@hub' }],
    [{ url: 'https://hub?x=1' }],
    [{ apiKey: '' }],
    [{ apiKey: 'two words' }],
    [{ apiKey: 'key\r\nX: 1' }],
    [{ timeoutMs: 0 }],
    [{ deadlineMs: Number.NaN }],
    [{ retries: -1 }],
    [{ retries: 1.5 }],
    [{ texts: { order_lost: () => ({ title: '', message: '' }) } as object }],
  ] as Partial<NotificationClientOptions>[][])('%o is refused', (setting) => {
    const make = (): unknown => new NotificationClient({ url: 'http://hub', apiKey: 'key', ...setting });
    expect(make).toThrow(/url|URL|apiKey|Ms|retries|texts/);
    expect(make).not.toThrow(/secret|two words/);
  });

  test('a path of the address is kept', async () => {
    const server = await scripted([{ ok: 201 }]);
    await new NotificationClient({ url: `${server.url}/hub/`, apiKey: API_KEY }).notify(NOTE);
    expect(server.requests[0]?.path).toBe('/hub/api/internal/notify');
  });

  test('posts share connections', async () => {
    const server = await scripted(Array.from({ length: 6 }, () => ({ ok: 201 })));
    const client = new NotificationClient({ url: server.url, apiKey: API_KEY });
    for (const _ of server.answers) await client.notify(NOTE);
    expect(server.connections).toBeLessThan(6);
  });

  test('texts can be replaced', async () => {
    const server = await scripted([{ ok: 201 }, { ok: 201 }]);
    const texts = { stock_alert: (data: object) => ({ title: 'Estoque baixo', message: JSON.stringify(data) }) };
    const client = new NotificationClient({ url: server.url, apiKey: API_KEY, texts });
    await client.notifyStockAlert('43', '7', { quantity: 3 });
    await client.notifyCartUpdated('42', '7', {});
    const sent = server.requests.map(({ body }) => [body.title, body.message]);
    expect(sent).toEqual([
      ['Estoque baixo', '{"quantity":3}'],
      ['Cart updated', 'Your cart was updated'],
    ]);
  });

  test('data that is not JSON is refused before anything is sent', async () => {
    const server = await scripted([]);
    const client = new NotificationClient({ url: server.url, apiKey: API_KEY });
    const cyclic: unknown[] = [];
    cyclic.push(cyclic);
    for (const data of [Number.NaN, 1n, cyclic]) {
      await expect(client.notify({ ...NOTE, data })).rejects.toBeInstanceOf(InvalidNotificationError);
    }
    expect(server.requests).toEqual([]);
  });

  test('an address that is undefined does not widen the audience', async () => {
    const server = await scripted([]);
    const client = new NotificationClient({ url: server.url, apiKey: API_KEY });
    const lost = { ...NOTE, user_id: undefined, account_id: '7' } as unknown as NewNotification;
    await expect(client.notify(lost)).rejects.toBeInstanceOf(InvalidNotificationError);
    expect(server.requests).toEqual([]);
  });

  test('the type of a result follows onError', async () => {
    const server = await scripted([{ ok: 201 }, { status: 401, text: '' }]);
    const settings = { url: server.url, apiKey: API_KEY, logger: { warn: () => undefined } };
    const receipt = await new NotificationClient(settings).notify(NOTE);
    const perhaps = await new NotificationClient({ ...settings, onError: 'log' }).notify(NOTE);
    expectTypeOf(receipt).toEqualTypeOf<Receipt>();
    expectTypeOf(perhaps).toEqualTypeOf<Receipt | null>();
    expect([receipt.seq, perhaps]).toEqual([1, null]);
  });
});

describe('a signal', () => {
  test('ends an attempt with its reason, without another attempt', async () => {
    const server = await scripted([{ after_ms: 20_000, ok: 201 }]);
    const [stopping, reason] = [new AbortController(), new Error('the service stops')];
    const client = new NotificationClient({ url: server.url, apiKey: API_KEY, onError: 'log' });
    const call = client.notify(NOTE, { signal: stopping.signal });
    await expect.poll(() => server.requests.length).toBe(1);
    stopping.abort(reason);
    await expect(call).rejects.toBe(reason);
    expect(server.requests).toHaveLength(1);
  });

  test('ends a wait with its reason', async () => {
    const server = await scripted([{ status: 429, headers: { 'Retry-After': '15' }, text: '' }]);
    const [stopping, reason] = [new AbortController(), new Error('the service stops')];
    const call = new NotificationClient({ url: server.url, apiKey: API_KEY }).notify(NOTE, { signal: stopping.signal });
    await expect.poll(() => server.requests.length).toBe(1);
    // The answer has arrived by then; a wait that is not ended would take 15 s.
    await after(50);
    stopping.abort(reason);
    await expect(call).rejects.toBe(reason);
  }, 10_000);
});

/** Returns the hub to test with: `RECADO_HUB_BIN`, or the one that cargo built. */
function findHub(): string | undefined {
  const built = ['release', 'debug'].map((kind) => new URL(`../../../../target/${kind}/recado`, import.meta.url));
  return process.env.RECADO_HUB_BIN || built.map((path) => fileURLToPath(path)).find((path) => existsSync(path));
}

/** A hub with a private PostgreSQL. It can be killed and started again. */
class Hub {
  readonly #folder = mkdtempSync(join(tmpdir(), 'recado-server-client-'));
  readonly #environment: NodeJS.ProcessEnv;
  readonly url: string;
  #process: ChildProcess | undefined;

  constructor(
    readonly binary: string,
    port: number,
  ) {
    // A hub that runs as root lets another user run its PostgreSQL, which needs to enter the folder.
    chmodSync(this.#folder, 0o755);
    this.url = `http://127.0.0.1:${port}`;
    const kept = Object.entries(process.env).filter(([name]) => !/^(RECADO_(?!POSTGRES)|WS_|DATABASE_)/.test(name));
    const own = { RECADO_DATA_DIR: join(this.#folder, 'data'), PORT: String(port), RECADO_LOG: 'warn' };
    this.#environment = { ...Object.fromEntries(kept), ...own };
  }

  async start(): Promise<void> {
    const log = openSync(join(this.#folder, 'log'), 'a');
    const hub = spawn(this.binary, ['serve'], { env: this.#environment, stdio: ['ignore', 'pipe', log] });
    this.#process = hub;
    let printed = '';
    for await (const chunk of hub.stdout ?? []) {
      printed += chunk;
      if (printed.startsWith('ready ')) return;
    }
    throw new Error(`the hub did not start: ${readFileSync(join(this.#folder, 'log'), 'utf8')}`);
  }

  async end(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    const hub = this.#process;
    if (!hub || hub.exitCode !== null || hub.signalCode !== null) return;
    const ended = new Promise((resolve) => hub.once('exit', resolve));
    hub.kill(signal);
    await ended;
  }

  remove(): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }

  run(...words: string[]): string {
    return execFileSync(this.binary, words, { env: this.#environment, encoding: 'utf8', stdio: 'pipe' }).trim();
  }

  async history(user: string): Promise<{ seq: number; message: string; data: unknown }[]> {
    const headers = { Authorization: `Bearer ${this.run('token', '--user', user)}` };
    const answer = await fetch(`${this.url}/api/notifications?limit=1000`, { headers });
    return ((await answer.json()) as { notifications: { seq: number; message: string; data: unknown }[] })
      .notifications;
  }
}

const binary = findHub();
if (!binary) console.warn('no hub to test with: run cargo build, or set RECADO_HUB_BIN to a built recado');

describe.skipIf(!binary)('a real hub', () => {
  let hub: Hub;
  let apiKey: string;

  beforeAll(async () => {
    // Below the ports of outgoing connections, so that a restarted hub can have it again.
    hub = new Hub(binary as string, 20_000 + Math.floor(Math.random() * 12_000));
    await hub.start();
    apiKey = hub.run('key', 'create', 'shop');
  }, 90_000);

  afterAll(async () => {
    await hub.end('SIGTERM');
    hub.remove();
  }, 60_000);

  test('has a post as it was given, and knows its key', async () => {
    const client = new NotificationClient({ url: hub.url, apiKey });
    const data = { note: 'Olá 💡', total: 59.9, lines: [1, null, true] };
    const first = await client.notify({ ...NOTE, user_id: 'arrives', data }, { idempotencyKey: 'arrives-1' });
    const second = await client.notify({ ...NOTE, user_id: 'arrives', data }, { idempotencyKey: 'arrives-1' });
    expect([first.duplicate, second]).toEqual([false, { ...first, duplicate: true }]);
    expect(await hub.history('arrives')).toMatchObject([{ seq: first.seq, data }]);
  });

  test('has exactly one row when its answer is lost and it is killed before the next attempt', async () => {
    const answers: number[] = [];
    const client = new NotificationClient({
      url: hub.url,
      apiKey,
      fetch: async (...request) => {
        const answer = await fetch(...request);
        answers.push(answer.status);
        if (answers.length === 1) throw new TypeError('fetch failed', { cause: { code: 'ECONNRESET' } });
        return answer;
      },
      clock: {
        ...recordedClock([]),
        sleep: async () => {
          await hub.end('SIGKILL');
          await hub.start();
        },
      },
    });
    const receipt = await client.notify({ ...NOTE, user_id: 'killed' });
    expect([answers, receipt.duplicate]).toEqual([[201, 200], true]);
    expect(await hub.history('killed')).toMatchObject([{ seq: receipt.seq }]);
  }, 60_000);

  test('is back before the default retries end', async () => {
    const client = new NotificationClient({ url: hub.url, apiKey });
    await hub.end('SIGKILL');
    const call = client.notify({ ...NOTE, user_id: 'restart' });
    await hub.start();
    const receipt = await call;
    expect(await hub.history('restart')).toMatchObject([{ seq: receipt.seq }]);
  }, 60_000);
});
