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
