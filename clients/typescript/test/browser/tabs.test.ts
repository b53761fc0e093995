// Tests one connection a browser with several Chromium tabs of one profile against a real hub.

import { createServer, type Server } from 'node:http';
import { build } from 'esbuild';
import type { Browser, BrowserContext, Page } from 'playwright';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { RecadoClient } from '../../src/index.ts';
import { launch } from '../support/browser.ts';
import { freePort, Hub, userToken } from '../support/hub.ts';
import { TestProxy } from '../support/proxy.ts';
import { until } from '../support/record.ts';

declare const client: RecadoClient;
declare const seen: { seqs: number[]; times: number[]; gaps: object[]; errors: string[]; states: string[] };

let hub: Hub;
let proxy: TestProxy;
let server: Server;
let browser: Browser;
let context: BrowserContext;
let origin = '';
let users = 0;
let user = '';

beforeAll(async () => {
  hub = await Hub.start({ WS_HEARTBEAT_INTERVAL: '1s' });
  proxy = await TestProxy.to(hub.port);
  const { outputFiles } = await build({
    entryPoints: ['test/browser/page.ts'],
    bundle: true,
    format: 'esm',
    target: 'es2022',
    write: false,
  });
  const script = outputFiles[0]!.text;
  server = createServer((request, response) => {
    if (request.url === '/never') return;
    const isScript = request.url === '/page.js';
    response.setHeader('content-type', isScript ? 'text/javascript' : 'text/html');
    response.end(isScript ? script : '<!doctype html><title>tab</title><script type="module" src="/page.js"></script>');
  });
  const port = await freePort();
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${port}`;
  browser = await launch();
});

afterAll(async () => {
  await browser?.close();
  server?.close();
  await proxy?.stop();
  await hub?.stop();
});

afterEach(async () => {
  await context?.close();
});

/** Starts a test: a new user, a new profile, and so many tabs, all live. */
async function tabs(count: number, query = ''): Promise<Page[]> {
  user = `tab-user-${++users}`;
  context = await browser.newContext();
  const pages: Page[] = [];
  for (let i = 0; i < count; i++) pages.push(await openTab(query));
  return pages;
}

async function openTab(query = '', url = hub.url): Promise<Page> {
  const page = await context.newPage();
  const hubQuery = `hub=${encodeURIComponent(url)}&token=${userToken(user)}`;
  await page.goto(`${origin}/?${hubQuery}&${query}`);
  await page.waitForFunction(() => client.snapshot().state === 'live', null, { timeout: 30_000 });
  return page;
}

const seqs = (page: Page): Promise<number[]> => page.evaluate(() => seen.seqs);
const isLeader = (page: Page): Promise<boolean> => page.evaluate(() => client.snapshot().isLeader);

async function split(pages: Page[]): Promise<{ leader: Page; followers: Page[] }> {
  const leads = await Promise.all(pages.map(isLeader));
  expect(leads.filter(Boolean)).toHaveLength(1);
  return { leader: pages[leads.indexOf(true)]!, followers: pages.filter((_, at) => !leads[at]) };
}

/** Every tab has these numbers, once and in order; the hub has one connection. */
async function expectEverywhere(pages: Page[], expected: number[]): Promise<void> {
  for (const page of pages) {
    const last = expected.at(-1)!;
    await page.waitForFunction((seq) => (seen.seqs.at(-1) ?? 0) >= seq, last, { timeout: 30_000 });
    expect(await seqs(page)).toEqual(expected);
    expect(await page.evaluate(() => [seen.gaps, seen.errors])).toEqual([[], []]);
  }
  await until('one connection', async () => (await hub.connections(user)).length === 1);
}

const numbers = (posted: { seq: number }[]): number[] => posted.map((p) => p.seq);

/** Posts one notification every 20 ms until it is stopped. */
function writer(): { stop(): Promise<number[]> } {
  const posted: number[] = [];
  let going = true;
  const done = (async () => {
    while (going) {
      posted.push(...numbers(await hub.post(user, 1)));
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  })();
  return {
    stop: async () => {
      going = false;
      await done;
      return posted;
    },
  };
}

describe.each(['websocket', 'sse'])('by %s', (transport) => {
  test('four tabs share one connection, and each receives everything once, in order', async () => {
    const pages = await tabs(4, `transport=${transport}`);
    const posted = await hub.post(user, 50);
    await expectEverywhere(pages, numbers(posted));
    const connections = await hub.connections(user);
    expect(connections[0]).toMatchObject({ transport, clientId: expect.stringMatching(/^web-[0-9a-f-]{36}$/) });
    await split(pages);
  });

  test('the leader closes: another tab leads, and nothing is missed', async () => {
    const pages = await tabs(3, `transport=${transport}`);
    const { leader, followers } = await split(pages);
    const writing = writer();
    await followers[0]!.waitForFunction(() => seen.seqs.length > 5);
    await leader.close();
    await followers[0]!.waitForFunction(() => seen.seqs.length > 30);
    await expectEverywhere(followers, await writing.stop());
    await split(followers);
  });
});

test('the renderer of the leader is killed: another tab leads, and nothing is missed', async () => {
  const pages = await tabs(3);
  const { leader, followers } = await split(pages);
  const writing = writer();
  await followers[0]!.waitForFunction(() => seen.seqs.length > 5);
  const session = await context.newCDPSession(leader);
  session.send('Page.crash').catch(() => {});
  await followers[0]!.waitForFunction(() => seen.seqs.length > 30);
  await expectEverywhere(followers, await writing.stop());
  await split(followers);
});

test('the leader is stopped in the debugger: a visible tab steals the lock; the leader comes back as follower', async () => {
  const pages = await tabs(3);
  const { leader, followers } = await split(pages);
  const before = numbers(await hub.post(user, 3));
  await expectEverywhere(pages, before);
  const session = await context.newCDPSession(leader);
  await session.send('Debugger.enable');
  await session.send('Debugger.pause');
  // The pause takes effect with the next statement that the page runs.
  const writing = writer();
  await new Promise((resolve) => setTimeout(resolve, 500));
  await followers[0]!.evaluate(() => window.dispatchEvent(new Event('focus')));
  await followers[0]!.waitForFunction(() => client.snapshot().isLeader, null, { timeout: 20_000 });
  await followers[1]!.waitForFunction((n) => seen.seqs.length > n + 20, before.length);
  const during = await writing.stop();
  await session.send('Debugger.resume');
  await session.send('Debugger.disable');
  await leader.waitForFunction(() => !client.snapshot().isLeader, null, { timeout: 20_000 });
  const after = numbers(await hub.post(user, 3));
  await expectEverywhere(pages, [...before, ...during, ...after]);
  await split(pages);
});

test('a stuck leader is noticed without any event of the page', async () => {
  const pages = await tabs(2);
  const { leader, followers } = await split(pages);
  const session = await context.newCDPSession(leader);
  await session.send('Debugger.enable');
  await session.send('Debugger.pause');
  // Two heartbeats and five seconds of silence, one second for a word.
  await followers[0]!.waitForFunction(() => client.snapshot().isLeader, null, { timeout: 25_000 });
  const posted = numbers(await hub.post(user, 2));
  await session.send('Debugger.resume');
  await session.send('Debugger.disable');
  await expectEverywhere(pages, posted);
});

test('the hub is killed: all tabs resume with exactly the missed ones', async () => {
  const pages = await tabs(3);
  const before = numbers(await hub.post(user, 3));
  await expectEverywhere(pages, before);
  await hub.kill();
  await hub.start();
  const missed = numbers(await hub.post(user, 500));
  await expectEverywhere(pages, [...before, ...missed]);
});

test('a tab that opens later begins at the place of the leader, and reads the rest from the history', async () => {
  const pages = await tabs(2);
  const before = numbers(await hub.post(user, 5));
  await expectEverywhere(pages, before);
  const late = await openTab();
  const after = numbers(await hub.post(user, 5));
  await expectEverywhere([late], after);
  const history = await late.evaluate(async () => (await client.history()).notifications.map((n) => n.seq));
  expect(history).toEqual([...before, ...after]);
});

test('manual acknowledgements of any tab count for the device', async () => {
  const pages = await tabs(2, 'manual=1');
  const posted = numbers(await hub.post(user, 3));
  await expectEverywhere(pages, posted);
  const { followers } = await split(pages);
  await followers[0]!.evaluate((seq) => client.ack(seq), posted[1]!);
  await until('acked', async () => (await hub.connections(user))[0]?.ackedSeq === posted[1]);
});

test('a command of a follower goes through the leader, and its refusal comes back', async () => {
  const pages = await tabs(2);
  const { followers } = await split(pages);
  const code = await followers[0]!.evaluate(() => client.send({ type: 'bet' }).then(String, (error) => error.code));
  expect(code).toBe('unknown_type');
});

test('storage that is cleared does not end the connection', async () => {
  const pages = await tabs(2);
  await pages[0]!.evaluate(() => localStorage.clear());
  await hub.kill();
  await hub.start();
  const posted = numbers(await hub.post(user, 2));
  await expectEverywhere(pages, posted);
});

test('without Web Locks each tab connects by itself', async () => {
  await tabs(0);
  await context.addInitScript(() => Object.defineProperty(navigator, 'locks', { value: undefined }));
  const pages = [await openTab(), await openTab()];
  const posted = numbers(await hub.post(user, 4));
  for (const page of pages) {
    await page.waitForFunction((n) => seen.seqs.length >= n, posted.length);
    expect(await seqs(page)).toEqual(posted);
    expect(await isLeader(page)).toBe(true);
  }
  expect(await hub.connections(user)).toHaveLength(2);
});

test('where storage is denied each page connects by itself', async () => {
  await tabs(0);
  await context.addInitScript(() =>
    Object.defineProperty(window, 'localStorage', {
      get: () => {
        throw new DOMException('Access is denied for this document.', 'SecurityError');
      },
    }),
  );
  const page = await openTab();
  const posted = numbers(await hub.post(user, 2));
  await expectEverywhere([page], posted);
});

test('rule 8: a visible page asks for a sign of life, and finds a black hole in less than two heartbeats', async () => {
  await tabs(0);
  const page = await openTab('', proxy.url);
  const before = numbers(await hub.post(user, 1));
  await expectEverywhere([page], before);
  proxy.isBlackHole = true;
  const missed = numbers(await hub.post(user, 2));
  const asked = Date.now();
  await page.evaluate(() => window.dispatchEvent(new Event('online')));
  await page.waitForFunction(() => client.snapshot().state !== 'live');
  // 2.5 s for the answer to a ping; the watchdog would have needed two heartbeats and 5 s.
  expect(Date.now() - asked).toBeLessThan(6_000);
  proxy.isBlackHole = false;
  proxy.cut();
  await page.waitForFunction((n) => seen.seqs.length >= n, before.length + missed.length);
  expect(await seqs(page)).toEqual([...before, ...missed]);
});

test('rule 8: a page that comes back to a hub that was away does not wait for its timer', async () => {
  const pages = await tabs(2);
  const { followers } = await split(pages);
  await hub.kill();
  await followers[0]!.waitForFunction(() => client.snapshot().state === 'waiting');
  // Wait until the back-off is long.
  await followers[0]!.waitForFunction(() => (client.snapshot().retryAt ?? 0) - Date.now() > 3_000);
  await hub.start();
  const asked = Date.now();
  await followers[0]!.evaluate(() => window.dispatchEvent(new Event('focus')));
  await followers[0]!.waitForFunction(() => client.snapshot().state === 'live');
  expect(Date.now() - asked).toBeLessThan(2_500);
});

test('a page in the back-forward cache gives up the lock, and joins again', async () => {
  const pages = await tabs(2);
  const { leader, followers } = await split(pages);
  const hide = (page: Page, type: string): Promise<boolean> =>
    page.evaluate((name) => window.dispatchEvent(new PageTransitionEvent(name, { persisted: true })), type);
  await hide(leader, 'pagehide');
  await followers[0]!.waitForFunction(() => client.snapshot().isLeader && client.snapshot().state === 'live');
  const missed = numbers(await hub.post(user, 3));
  await expectEverywhere(followers, missed);
  expect(await seqs(leader)).toEqual([]);
  await hide(leader, 'pageshow');
  await expectEverywhere(pages, missed);
  await split(pages);
});

test('two users of one browser have a connection each, and receive their own', async () => {
  const [first] = await tabs(1);
  const firstUser = user;
  user = `${firstUser}-second`;
  const second = await openTab();
  const [mine] = numbers(await hub.post(firstUser, 1));
  const [theirs] = numbers(await hub.post(user, 1));
  await second.waitForFunction(() => seen.seqs.length > 0);
  await first!.waitForFunction(() => seen.seqs.length > 0);
  expect([await seqs(first!), await seqs(second)]).toEqual([[mine], [theirs]]);
  expect([await isLeader(first!), await isLeader(second)]).toEqual([true, true]);
});

test('tabs with the same types share; those with others connect by themselves and miss nothing', async () => {
  const pages = await tabs(2, 'types=order_*+stock.low');
  pages.push(await openTab('types=stock.low+order_*'));
  const other = await openTab('types=chat');
  const orders = numbers(await hub.post(user, 2, { type: 'order_created' }));
  const chats = numbers(await hub.post(user, 3, { type: 'chat' }));
  for (const page of pages) {
    await page.waitForFunction((seq) => (client.seq ?? 0) >= seq, chats.at(-1)!);
    expect(await seqs(page)).toEqual(orders);
  }
  await other.waitForFunction((seq) => seen.seqs.at(-1) === seq, chats.at(-1)!);
  expect(await seqs(other)).toEqual(chats);
  const devices = (await hub.connections(user)).map((one) => one.clientId);
  expect([devices.length, new Set(devices).size]).toEqual([2, 2]);
  // What the others acknowledge while no tab for chats is open is not acknowledged for chats.
  await other.close();
  const missed = numbers(await hub.post(user, 2, { type: 'chat' }));
  await until('acked', async () => (await hub.connections(user)).every((one) => one.ackedSeq >= missed.at(-1)!));
  const again = await openTab('types=chat');
  await again.waitForFunction((seq) => seen.seqs.at(-1) === seq, missed.at(-1)!);
  expect(await seqs(again)).toEqual(missed);
});

test('with inbox each tab has the counts, and a tab that leads later goes on with them', async () => {
  const pages = await tabs(3, 'inbox=1');
  const other = await openTab();
  const posted = numbers(await hub.post(user, 3));
  const expectCounts = async (open: Page[], unread: number, unseen: number): Promise<void> => {
    const has = (wanted: number[]): boolean =>
      JSON.stringify([client.inbox.counts()?.unread, client.inbox.counts()?.unseen]) === JSON.stringify(wanted);
    for (const page of open) await page.waitForFunction(has, [unread, unseen], { timeout: 20_000 });
  };
  await expectCounts(pages, 3, 3);
  // One connection for the tabs with the inbox, and one for that without.
  expect(await hub.connections(user)).toHaveLength(2);
  const { leader, followers } = await split(pages);
  await followers[0]!.evaluate((seq) => client.inbox.markRead([seq]), posted[0]!);
  await expectCounts(pages, 2, 3);
  await leader.evaluate(() => client.inbox.markSeen());
  await expectCounts(pages, 2, 0);
  await leader.close();
  await hub.post(user, 1);
  await expectCounts(followers, 3, 1);
  await followers[1]!.evaluate(() => client.inbox.markRead({ upTo: client.inbox.counts()!.asOf }));
  await expectCounts(followers, 0, 0);
  for (const page of [...followers, other]) {
    await page.waitForFunction(() => seen.seqs.length === 4);
    expect(await page.evaluate(() => seen.errors)).toEqual([]);
  }
  expect(await other.evaluate(() => client.inbox.counts())).toBeUndefined();
});

test('with tabs: own each page connects by itself', async () => {
  const pages = await tabs(2, 'own=1');
  const posted = numbers(await hub.post(user, 3));
  for (const page of pages) {
    await page.waitForFunction((n) => seen.seqs.length >= n, posted.length);
    expect(await seqs(page)).toEqual(posted);
  }
  expect(await hub.connections(user)).toHaveLength(2);
});

test('a page that is loaded anew begins after what was handled', async () => {
  const pages = await tabs(1);
  const posted = numbers(await hub.post(user, 3));
  await expectEverywhere(pages, posted);
  const device = (await hub.connections(user))[0]!.clientId;
  await until('acked', async () => (await hub.connections(user))[0]?.ackedSeq === posted[2]);
  await pages[0]!.reload();
  const next = numbers(await hub.post(user, 2));
  await expectEverywhere(pages, next);
  expect((await hub.connections(user))[0]!.clientId).toBe(device);
});

// The browser aborts it before `pagehide`, and the listener ends without having done its work.
test('a listener that ends because the page is left does not acknowledge', async () => {
  const [page] = await tabs(1);
  await page!.evaluate(
    () =>
      void client.on('notification', () =>
        fetch('/never')
          .then(() => {})
          .catch(() => {}),
      ),
  );
  const posted = numbers(await hub.post(user, 3));
  for (let load = 0; load < 2; load++) {
    await page!.waitForFunction(() => seen.seqs.length === 3);
    expect(await seqs(page!)).toEqual(posted);
    await page!.reload();
  }
});
