// Tests what tabs do with each other: real BroadcastChannels, fake locks, a fake hub.

import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { FakeHub } from '../../src/testing.ts';
import { FakeLocks } from '../support/locks.ts';
import { Recorded, until } from '../support/record.ts';

/** The channel of the tabs of these tests. */
const CHANNEL = 'recado:2:http://fake.invalid/:u:d';

let locks: FakeLocks;
const open: Recorded[] = [];
const channels: BroadcastChannel[] = [];

/** A tab that is not connected yet. */
function tab(hub: FakeHub, more: object = {}): Recorded {
  const options = {
    ...hub.options(),
    tabs: 'share',
    clientId: 'd',
    userKey: 'u',
    backoff: { minMs: 5 },
    ackDelayMs: 1,
  };
  const recorded = new Recorded('ws://fake.invalid/', '42', { ...options, ...more } as object);
  open.push(recorded);
  return recorded;
}

/** Says something to the tabs, as another tab does. */
function say(word: object): void {
  const channel = new BroadcastChannel(CHANNEL);
  channels.push(channel);
  channel.postMessage(word);
}

const rest = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

beforeEach(() => {
  locks = new FakeLocks();
  vi.stubGlobal('navigator', { locks });
});

afterEach(() => {
  for (const one of open.splice(0)) one.client.close();
  for (const one of channels.splice(0)) one.close();
  vi.unstubAllGlobals();
});

test('two tabs share one connection, and each receives everything once', async () => {
  const hub = new FakeHub();
  const [one, two] = [await tab(hub).live(), await tab(hub).live()];
  for (let i = 0; i < 3; i++) hub.post({ type: 'test' });
  await Promise.all([one, two].map((each) => each.expectExactly([1, 2, 3])));
  expect([hub.opened, one.client.snapshot().isLeader, two.client.snapshot().isLeader]).toEqual([1, true, false]);
});

test('a tab that joins receives what the leader had not handled when it died', async () => {
  const hub = new FakeHub();
  const one = tab(hub);
  one.client.on('notification', () => new Promise(() => {}));
  await one.live();
  hub.post({ type: 'test' });
  hub.post({ type: 'test' });
  await one.expectExactly([1, 2]);
  const two = await tab(hub).live();
  one.client.close();
  await two.expectExactly([1, 2]);
  await until('acked', () => hub.acked('d') === 2);
});

test('a tab that followed notices another user when it leads', async () => {
  const one = await tab(new FakeHub()).live();
  const two = await tab(new FakeHub({ userId: '43' })).live();
  one.client.close();
  await two.untilState('failed');
  expect(two.client.snapshot()).toMatchObject({ reason: 'identity_changed', userId: '42' });
});

const otherUser = { type: 'connection_established', user_id: '43', log_id: 'fake-log-1', heartbeat_ms: 1_000 };

test('a leader passes no frames of another user', async () => {
  const hub = new FakeHub();
  const one = await tab(hub).live();
  const two = await tab(hub).live();
  // The follower sees a first frame, and would notice the other user by itself.
  hub.drop();
  await until('a second connection', () => two.caughtUp === 1);
  hub.frame({ ...otherUser, resume: { status: 'ok', from: 0 } } as never);
  await two.untilState('failed');
  expect([one, two].map((each) => each.client.snapshot().reason)).toEqual(['identity_changed', 'identity_changed']);
  expect([one.errors.length, two.errors.length]).toEqual([1, 0]);
});

test('a follower applies nothing after a frame of another user, or after it was closed', async () => {
  const hub = new FakeHub();
  await tab(hub).live();
  const [two, three] = [await tab(hub).live(), await tab(hub).live()];
  three.client.on('notification', () => three.client.close());
  const item = (seq: number): object => ({ type: 'test', title: 't', id: `id-${seq}`, seq, prev: seq - 1 });
  say({ w: 'frames', frames: [item(1), { ...otherUser, resume: { status: 'ok', from: 1 } }, item(2)] });
  await until('the word arrived', () => two.errors.length > 0 && three.client.snapshot().state === 'closed');
  expect([two.seqs, three.seqs, two.errors.length, three.errors.length]).toEqual([[1], [1], 1, 0]);
});

test('commands that are sent before a leader is known reach the hub, once', async () => {
  const hub = new FakeHub();
  for (const id of ['leader', 'follower']) {
    const one = tab(hub);
    one.client.connect();
    // A function is no JSON, and cannot be cloned either: it is left out.
    const command = { type: 'bet', payload: { at: 1, skip: () => {} } };
    expect(await one.client.send(command, { id, timeoutMs: 1_000 })).toMatchObject({ id, status: 'sent' });
  }
  expect(hub.commands).toEqual(['leader', 'follower'].map((id) => ({ type: 'bet', payload: { at: 1 }, id })));
});

test('connect() of a follower in an end state waits for the leader, and so does ready()', async () => {
  const hub = new FakeHub();
  const one = await tab(hub).live();
  const two = await tab(hub).live();
  hub.close(4004, 'session_replaced');
  await two.untilState('failed');
  two.client.connect();
  // What went wrong: the state of before was still there, and `ready()` rejected at once.
  await two.client.ready();
  expect(one.client.snapshot().state).toBe('live');
  // The leader's answer may be an end state again.
  for (let i = 0; i < 2; i++) hub.refuse(4004, 'session_replaced');
  hub.close(4004, 'session_replaced');
  await two.untilState('failed');
  two.client.connect();
  await expect(two.client.ready()).rejects.toMatchObject({ code: 'session_replaced' });
  // Of the leader, too.
  one.client.connect();
  await expect(one.client.ready()).rejects.toMatchObject({ code: 'session_replaced' });
  one.client.connect();
  await one.client.ready();
  await until('the follower is live as well', () => two.client.snapshot().state === 'live');
});

test('a refusal of one of several commands of a follower reaches that command', async () => {
  const hub = new FakeHub();
  hub.onCommand = ({ id }) => (id === 'b' ? { code: 'command_id_conflict', message: 'used' } : { status: 'sent' });
  await tab(hub).live();
  const two = await tab(hub).live();
  const several = ['a', 'b', 'c'].map((id) =>
    two.client.send({ type: 'bet' }, { id }).then(
      ({ status }) => status,
      ({ code }) => code,
    ),
  );
  expect(await Promise.all(several)).toEqual(['sent', 'command_id_conflict', 'sent']);
});

test('a command whose time is over before a leader is known is not sent', async () => {
  const hub = new FakeHub();
  let release = (): void => {};
  const hold = (resolve: () => void): void => {
    release = resolve;
  };
  void locks.request('', {}, () => new Promise(hold));
  const one = tab(hub);
  one.client.connect();
  await expect(one.client.send({ type: 'bet' }, { timeoutMs: 20 })).rejects.toMatchObject({ code: 'timeout' });
  release();
  await one.live();
  await rest(30);
  expect(hub.commands).toEqual([]);
});

test('a leader ignores the acknowledgement of another log', async () => {
  const hub = new FakeHub();
  const one = await tab(hub, { ack: 'manual' }).live();
  const two = await tab(hub, { ack: 'manual' }).live();
  hub.post({ type: 'test' });
  hub.post({ type: 'test' });
  await Promise.all([one, two].map((each) => each.expectExactly([1, 2])));
  say({ w: 'ack', seq: 2, logId: 'another' });
  await rest(50);
  expect(hub.acked('d')).toBe(0);
  two.client.ack(1);
  await until('acked', () => hub.acked('d') === 1);
});

test('a client whose lock or channel the browser refuses connects alone', async () => {
  const hub = new FakeHub();
  locks.refusal = new DOMException('no locks here', 'SecurityError');
  const one = await tab(hub).live();
  locks.refusal = null;
  vi.stubGlobal(
    'BroadcastChannel',
    class {
      constructor() {
        throw new DOMException('no channels here', 'SecurityError');
      }
    },
  );
  const two = await tab(hub).live();
  hub.post({ type: 'test' });
  await Promise.all([one, two].map((each) => each.expectExactly([1])));
  expect([one, two].map((each) => each.client.snapshot().isLeader)).toEqual([true, true]);
});

/** Makes the next client that connects one of a page, and returns its window. */
function page(): EventTarget {
  const window = new EventTarget();
  vi.stubGlobal('window', window);
  vi.stubGlobal('document', Object.assign(new EventTarget(), { visibilityState: 'visible' }));
  return window;
}

const cached = (name: 'pagehide' | 'pageshow'): Event => Object.assign(new Event(name), { persisted: true });

test('a page that comes back from the cache in an end state joins its tabs again', async () => {
  const hub = new FakeHub();
  const window = page();
  const one = await tab(hub).live();
  page();
  const two = await tab(hub).live();
  hub.close(4500, 'unauthorized');
  await two.untilState('unauthorized');
  window.dispatchEvent(cached('pagehide'));
  await until('the other tab leads', () => two.client.snapshot().isLeader);
  await two.live();
  window.dispatchEvent(cached('pageshow'));
  await one.live();
  await rest(30);
  expect([hub.connections, one.client.snapshot().isLeader]).toEqual([1, false]);
});

test('a page that is hidden or shown before its device is known joins once', async () => {
  const hub = new FakeHub();
  const window = page();
  let give: (token: string) => void = () => {};
  const hold = (resolve: (token: string) => void): void => {
    give = resolve;
  };
  const getToken = (): Promise<string> => new Promise(hold);
  const one = tab(hub, { userKey: undefined, getToken });
  for (let round = 1; round <= 2; round++) {
    one.client.connect();
    await until('the token was asked for', () => one.asked.length > 0);
    window.dispatchEvent(cached('pagehide'));
    give('token');
    await rest(20);
    expect(locks.requests).toBe(2 * round - 2);
    window.dispatchEvent(cached('pageshow'));
    await until('live', () => {
      give('token');
      return one.client.snapshot().state === 'live';
    });
    expect(locks.requests).toBe(2 * round - 1);
    one.client.close();
    one.asked.length = 0;
    one.client.connect();
    window.dispatchEvent(cached('pageshow'));
    await until('live', () => {
      give('token');
      return one.client.snapshot().state === 'live';
    });
    expect([locks.requests, hub.connections]).toEqual([2 * round, 1]);
    one.client.close();
    one.asked.length = 0;
  }
});
