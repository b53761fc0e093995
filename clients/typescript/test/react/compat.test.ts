// Tests the hooks for pages that move, with React 18 and 19, in Chromium, on a fake and on a real hub.

import { createServer, type Server } from 'node:http';
import type { Browser, Page } from 'playwright';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { UseProviderWebSocket } from '../../src/compat.ts';
import { bundle, launch } from '../support/browser.ts';
import { freePort, Hub, userToken } from '../support/hub.ts';
import { Provider } from '../support/provider.ts';
import { until } from '../support/record.ts';

declare const stories: Record<string, () => Promise<unknown>>;
declare const game: { log: unknown[][]; socket: UseProviderWebSocket };
declare const seen: { a: number[]; b: number[]; status: string[] };

let browser: Browser;
let hub: Hub;
let provider: Provider;
/** A hub that holds sessions with the provider. */
let table: Hub;

beforeAll(async () => {
  provider = await Provider.start();
  const settings = { WS_HEARTBEAT_INTERVAL: '1s' };
  const withProvider = { ...settings, RECADO_UPSTREAM_FILE: provider.file };
  [browser, hub, table] = await Promise.all([launch(), Hub.start(settings), Hub.start(withProvider)]);
});

afterAll(async () => {
  await browser?.close();
  await Promise.all([hub?.stop(), table?.stop()]);
  await provider?.stop();
});

describe.each(['18', '19'])('React %s', (major) => {
  let page: Page;
  let server: Server;
  let origin = '';
  const errors: string[] = [];

  beforeAll(async () => {
    const script = await bundle('compat-page.tsx', major, 'browser');
    server = createServer((request, response) => {
      const isScript = request.url === '/page.js';
      response.setHeader('content-type', isScript ? 'text/javascript' : 'text/html; charset=utf-8');
      response.end(isScript ? script : '<!doctype html><body><script type="module" src="/page.js"></script>');
    });
    const port = await freePort();
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
    origin = `http://127.0.0.1:${port}`;
    page = await browser.newPage();
    page.setDefaultTimeout(20_000);
    page.on('pageerror', (error) => errors.push(String(error)));
    await page.goto(origin);
    await page.waitForFunction(() => typeof stories === 'object');
  });

  afterAll(async () => {
    await page?.close();
    server?.close();
  });

  const tell = (name: string): Promise<unknown> => page.evaluate((story) => stories[story]!(), name);

  test('receives each message once, resumes after a break, and closes when it is unmounted', async () => {
    expect(await tell('life')).toEqual({
      got: ['m order_created first', 'm order_updated missed'],
      statuses: ['disconnected', 'connecting', 'connected', 'disconnected', 'connecting', 'connected'],
      last: ['order_created', 'first'],
      open: 0,
    });
  });

  test('opens nothing without a token, keeps one for a new token, and connects anew for another user', async () => {
    expect(await tell('tokens')).toEqual([
      [0, 0, 'disconnected'],
      [1, 1, 'connected'],
      [1, 1, 'connected'],
      [1, 2, 'connected'],
      [0, 2, 'disconnected'],
      [0, 2, 'error'],
      [1, 3, 'connected'],
    ]);
  });

  test('disconnect closes until reconnect, which resumes', async () => {
    expect(await tell('buttons')).toEqual({
      off: [0, false],
      got: ['m order_created missed', 'm order_created next'],
      open: 1,
    });
  });

  test('3,000 messages reach the handler in order and cost at most 600 renders', async () => {
    const flood = (await tell('flood')) as { inOrder: boolean; renders: number };
    expect(flood.inOrder).toBe(true);
    expect(flood.renders).toBeLessThanOrEqual(600);
  });

  test('a page with a provider receives status, data and results, and sends each bet once', async () => {
    expect(await tell('provider')).toEqual({
      before: null,
      status: 'connected',
      sent: [true, true, true],
      after: [null, false],
      log: [
        ['status', 'connected', 'Conectado ao Pragmatic Play'],
        ['data', '<spin/>'],
        ['result', 'b-1', 'sent'],
        ['result', 'b-2', 'sent'],
        ['error', 'Erro na conexão: x', undefined],
      ],
      commands: [
        { id: 'b-1', type: 'bet', payload: { amount: 5 } },
        { id: 'b-2', type: 'bet', payload: { amount: 6 } },
      ],
    });
  });

  test('a tab that opens later knows the status of the provider', async () => {
    const log = [
      ['status', 'connected', 'one'],
      ['status', 'disconnected', 'two'],
    ];
    expect(await tell('late')).toEqual([1, log, log]);
  });

  test('the address of the old page reaches a real hub; two components share a connection through its kill', async () => {
    const user = `old-page-${major}`;
    const tab = await browser.newPage();
    const ws = encodeURIComponent(`${hub.url.replace('http', 'ws')}/ws`);
    await tab.goto(`${origin}/?ws=${ws}&token=${userToken(user)}`);
    const both = (): boolean => seen.status.join() === 'connected,connected';
    await tab.waitForFunction(both);
    const before = await hub.post(user, 3, { type: 'order_created' });
    await tab.waitForFunction(() => seen.a.length + seen.b.length === 6);
    await until('one connection', async () => (await hub.connections(user)).length === 1);
    await hub.kill();
    await hub.start();
    const after = await hub.post(user, 4, { type: 'order_created' });
    await tab.waitForFunction(() => seen.a.length + seen.b.length >= 14, null, { timeout: 30_000 });
    const seqs = [...before, ...after].map((p) => p.seq);
    expect(await tab.evaluate(() => [seen.a, seen.b])).toEqual([seqs, seqs]);
    await tab.close();
  });

  // Once: another hub takes a session over when the lease of the killed one is over, after some ten seconds.
  test.runIf(major === '19')(
    'the page of a provider keeps its game through a kill of the hub, and each bet is placed once',
    async () => {
      const user = `player-${major}`;
      const tab = await browser.newPage();
      const log = (): Promise<unknown[][]> => tab.evaluate(() => game.log);
      const bet = (id: string): Promise<boolean> =>
        tab.evaluate((id) => game.socket.sendMessage({ type: 'bet', id, payload: { id } }), id);
      const untilLogged = async (entry: unknown[]): Promise<void> =>
        until(`${entry}`, async () => (await log()).some((one) => String(one) === String(entry)));
      const url = encodeURIComponent(`${table.url.replace('http', 'ws')}/ws`);
      await tab.goto(`${origin}/?game=${url}&token=${userToken(user)}`);
      await untilLogged(['status', 'connected', 'at the table']);
      provider.say(user, '<spin n="1"/>');
      await untilLogged(['data', '<spin n="1"/>']);
      expect(await bet('b-1')).toBe(true);
      await untilLogged(['result', 'b-1', 'sent']);

      await table.kill();
      await tab.waitForFunction(() => !game.socket.isConnected);
      expect(await tab.evaluate(() => [game.socket.providerStatus, game.socket.sendMessage({ type: 'bet' })])).toEqual([
        null,
        false,
      ]);
      await until('the provider lost the hub', () => !provider.isConnected(user));
      await table.start();
      await until('a new session', () => provider.isConnected(user));
      await tab.waitForFunction(() => game.socket.providerStatus?.status === 'connected', null, { timeout: 35_000 });
      provider.say(user, '<spin n="2"/>');
      await untilLogged(['data', '<spin n="2"/>']);
      // SSE may be the first that finds the hub up again. It carries no commands.
      await until('a WebSocket', async () => (await table.connections(user))[0]?.transport === 'websocket');
      expect(await bet('b-2')).toBe(true);
      await untilLogged(['result', 'b-2', 'sent']);

      const all = await log();
      const of = (kind: string): unknown[] => all.filter(([what]) => what === kind).map(([, value]) => value);
      expect(of('data')).toEqual(['<spin n="1"/>', '<spin n="2"/>']);
      // The hub repeats results of the last minute to a connection, and the page may see b-1 again.
      expect([...new Set(of('result'))]).toEqual(['b-1', 'b-2']);
      expect(of('error')).toEqual([]);
      expect(provider.heardFrom(user)).toEqual([{ id: 'b-1' }, { id: 'b-2' }]);
      // The session outlives the hub that signed in.
      expect(provider.signedIn.filter((one) => one === user)).toHaveLength(1);
      await tab.close();
    },
  );

  test('nothing failed in the page', () => {
    expect(errors).toEqual([]);
  });
});
