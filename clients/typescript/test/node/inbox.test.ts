// Tests the inbox of the client and its lists on a fake hub, alone and with other tabs.

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { InboxList, type InboxListOptions, RecadoClient } from '../../src/index.ts';
import { FakeHub } from '../../src/testing.ts';
import { FakeLocks } from '../support/locks.ts';
import { Recorded, until } from '../support/record.ts';

const open: Recorded[] = [];
let hub: FakeHub;

beforeEach(() => {
  hub = new FakeHub();
});

afterEach(() => {
  for (const one of open.splice(0)) one.client.close();
  vi.unstubAllGlobals();
});

function recorded(more: object = {}): Recorded {
  const options = { ...hub.options(), inbox: true, backoff: { minMs: 5 }, ...more };
  const one = new Recorded('ws://fake.invalid/', '42', options as object);
  open.push(one);
  return one;
}

/** A list with a subscriber. */
function listOf({ client }: Recorded, options: InboxListOptions = {}): InboxList & { told: number } {
  const list = Object.assign(new InboxList(client, options), { told: 0 });
  list.subscribe(() => void list.told++);
  return list;
}

/** The items of a list as `seq` and their marks. */
const shown = (list: InboxList): string =>
  list
    .snapshot()
    .items.map(({ seq, read, archived, muted }) => `${seq}${read ? 'r' : ''}${archived ? 'a' : ''}${muted ? 'm' : ''}`)
    .join();

const untilShown = (list: InboxList, expected: string): Promise<void> =>
  until(
    `items ${expected}`,
    () => shown(list) === expected,
    () => list.snapshot(),
  );

const untilCounts = ({ client }: Recorded, unread: number, unseen: number): Promise<void> =>
  until(
    `counts ${unread} ${unseen}`,
    () => client.inbox.counts()?.unread === unread && client.inbox.counts()?.unseen === unseen,
    () => client.inbox.counts(),
  );

test('types are refused together with inbox', () => {
  const options = { ...hub.options(), inbox: true, types: ['order_*'] };
  expect(() => new RecadoClient(options)).toThrow('inbox counts every type: leave out types, or inbox');
  const { inbox: _, types: __, ...plain } = options;
  expect(() => new InboxList(new RecadoClient(plain))).toThrow('needs a client with the option inbox: true');
});

describe('counts', () => {
  test('are what the hub said: at connect, with each item, with each change', async () => {
    hub.post({ type: 'a' });
    const one = recorded();
    expect(one.client.inbox.counts()).toBeUndefined();
    expect(one.client.snapshot()).toMatchObject({ unread: null, unseen: null, asOf: null });
    await one.live();
    expect(one.client.inbox.counts()).toEqual({ unread: 1, unseen: 1, asOf: 1 });
    hub.post({ type: 'a' });
    hub.post({ type: 'a', inbox: false });
    await one.expectExactly([2, 3]);
    expect(one.client.snapshot()).toMatchObject({ unread: 2, unseen: 2, asOf: 2 });
    hub.change({ op: 'seen', up_to: 3 });
    await untilCounts(one, 2, 0);
    hub.change({ op: 'read', seqs: [1] });
    await untilCounts(one, 1, 0);
    expect(one.client.inbox.counts()?.asOf).toBe(5);
  });

  test('a listener reads the counts that came with its notification', async () => {
    const one = await recorded().live();
    const seen: unknown[] = [];
    one.client.on('notification', () => void seen.push(one.client.inbox.counts()?.unread));
    hub.post({ type: 'a' });
    hub.post({ type: 'a' });
    await until('two notifications', () => seen.length === 2);
    expect(seen).toEqual([1, 2]);
  });

  test('an older as_of loses, the same one wins, and nothing is computed', async () => {
    const one = await recorded().live();
    const say = async (unread: number, asOf: number, expected: number): Promise<void> => {
      hub.frame({ type: 'inbox_counts', unread, unseen: 0, as_of: asOf });
      await new Promise((resolve) => setTimeout(resolve));
      expect(one.client.inbox.counts()?.unread).toBe(expected);
    };
    await say(1_000, 50, 1_000);
    await say(3, 49, 1_000);
    await say(4, 50, 4);
    // A notification whose counts are older, and one without counts.
    hub.post({ type: 'a' });
    hub.post({ type: 'a', inbox: false });
    await one.expectExactly([1, 2]);
    expect(one.client.inbox.counts()).toEqual({ unread: 4, unseen: 0, asOf: 50 });
  });

  test('an answer has counts, and those of another log are ignored', async () => {
    hub.post({ type: 'a' });
    const one = recorded();
    // Without a connection the log is not known yet.
    expect(await one.client.inbox.list()).toMatchObject({ unread: 1, as_of: 1 });
    expect(one.client.inbox.counts()).toBeUndefined();
    await one.live();
    hub.swallow(1);
    expect(await one.client.inbox.markRead([1])).toEqual({ seq: 2, unread: 0, unseen: 1, as_of: 2 });
    expect(one.client.inbox.counts()).toEqual({ unread: 0, unseen: 1, asOf: 2 });
    expect(await one.client.inbox.markRead([1])).toMatchObject({ seq: null });
  });

  test('a reset forgets them, and so does close()', async () => {
    for (let i = 0; i < 9; i++) hub.post({ type: 'a' });
    const one = await recorded().live();
    expect(one.client.inbox.counts()?.asOf).toBe(9);
    hub.reset();
    hub.post({ type: 'a' });
    await until('a reset', () => one.gaps.length === 1);
    await untilCounts(one, 1, 1);
    expect(one.client.inbox.counts()?.asOf).toBe(1);
    one.client.close();
    expect(one.client.inbox.counts()).toBeUndefined();
  });

  test('10,000 items tell a subscriber at most once in 16 ms, and the last counts are there at once', async () => {
    const one = await recorded().live();
    let told = 0;
    one.client.subscribe(() => told++);
    const began = Date.now();
    for (let i = 0; i < 10_000; i++) hub.post({ type: 'a' });
    await until('the last', () => one.seqs.at(-1) === 10_000);
    expect(one.client.inbox.counts()).toEqual({ unread: 1_000, unseen: 1_000, asOf: 10_000 });
    expect(told).toBeLessThanOrEqual((Date.now() - began) / 16 + 2);
  });
});

describe('frames', () => {
  test('inbox, preferences and inbox_counts never reach the listeners of notifications', async () => {
    const one = await recorded().live();
    const events: unknown[] = [];
    one.client.on('inbox', (event) => void events.push(event));
    hub.post({ type: 'a' });
    hub.change({ op: 'read', seqs: [1] });
    hub.change({ muted: ['b'] });
    hub.frame({ type: 'inbox_counts', unread: 0, unseen: 0, as_of: 3 });
    hub.post({ type: 'b' });
    await one.expectExactly([1, 4]);
    expect(one.got[1]).toMatchObject({ muted: true });
    expect(events).toEqual([
      { state: 'logged', change: { op: 'read', seqs: [1] }, seq: 2 },
      { state: 'logged', change: { muted: ['b'] }, seq: 3 },
    ]);
    // The position moves past them, and they are acknowledged.
    await until('acked', () => hub.acked() === 4);
    expect(one.errors).toEqual([]);
  });

  test('a client without inbox receives nothing of it, and neither does history()', async () => {
    const one = await recorded({ inbox: false }).live();
    const events: unknown[] = [];
    one.client.on('inbox', (event) => void events.push(event));
    hub.post({ type: 'a' });
    hub.change({ op: 'read', seqs: [1] });
    hub.post({ type: 'a' });
    await one.expectExactly([1, 3]);
    expect([events, one.client.inbox.counts()]).toEqual([[], undefined]);
    expect((await one.client.history()).notifications.map(({ seq }) => seq)).toEqual([1, 3]);
  });

  test('what was missed arrives as events after a reconnect', async () => {
    hub.post({ type: 'a' });
    const one = await recorded({ since: 0 }).live();
    const list = listOf(one);
    await untilShown(list, '1');
    hub.stop();
    hub.post({ type: 'a' });
    hub.change({ op: 'read', seqs: [1] });
    hub.start();
    await untilShown(list, '2,1r');
    expect(one.seqs).toEqual([1, 2]);
    await untilCounts(one, 1, 2);
  });
});

describe('changes', () => {
  test('markSeen takes the counts, or the end of the log; up to a number marks as seen, too', async () => {
    for (let i = 0; i < 3; i++) hub.post({ type: 'a' });
    const one = recorded();
    expect(await one.client.inbox.markSeen()).toMatchObject({ unread: 3, unseen: 0 });
    await one.live();
    hub.post({ type: 'a' });
    await one.expectExactly([5]);
    expect(await one.client.inbox.markSeen()).toMatchObject({ unread: 4, unseen: 0 });
    expect(await one.client.inbox.markRead({ upTo: 3 })).toMatchObject({ unread: 1 });
    expect(await one.client.inbox.archive({ upTo: 5 })).toMatchObject({ unread: 0 });
    expect((await one.client.inbox.list()).items).toEqual([]);
    expect(await one.client.inbox.unarchive([5])).toMatchObject({ unread: 1 });
  });

  test('mute and unmute edit the set one after another', async () => {
    const one = await recorded().live();
    const { inbox } = one.client;
    const all = await Promise.all([inbox.mute(['a', 'b_*']), inbox.mute(['c', 'a']), inbox.unmute(['b_*', 'x'])]);
    expect(all.map(({ muted }) => muted)).toEqual([
      ['a', 'b_*'],
      ['a', 'b_*', 'c'],
      ['a', 'c'],
    ]);
    expect(await inbox.preferences()).toEqual({ muted: ['a', 'c'], required: [] });
    hub.refuseRequest(503, 'unavailable');
    await expect(inbox.mute(['d'])).rejects.toMatchObject({ code: 'unavailable', retryable: true });
    expect(await inbox.mute(['e'])).toMatchObject({ muted: ['a', 'c', 'e'] });
  });

  test('a number that is no item, and the end of another log, are refused with the code of the hub', async () => {
    hub.post({ type: 'a', inbox: false });
    const one = await recorded().live();
    await expect(one.client.inbox.markRead([1])).rejects.toMatchObject({ code: 'invalid_field', status: 422 });
    hub.stop();
    hub.reset();
    hub.start();
    await expect(one.client.inbox.markRead({ upTo: 0 })).rejects.toMatchObject({ code: 'reset', status: 409 });
  });
});

describe('a list', () => {
  test('loads once it has a subscriber and the client is live, and has new items on top', async () => {
    for (let i = 0; i < 5; i++) hub.post({ type: 'a' });
    const one = recorded({ since: 0 });
    const list = listOf(one, { limit: 2 });
    expect(list.snapshot()).toMatchObject({ items: [], status: 'loading', hasMore: false });
    await one.live();
    await untilShown(list, '5,4');
    expect(list.snapshot()).toMatchObject({ status: 'ready', hasMore: true, unread: 5, unseen: 5, asOf: 5 });
    hub.post({ type: 'a' });
    hub.post({ type: 'a', inbox: false });
    await untilShown(list, '6,5,4');
    expect(list.snapshot().items[0]).toEqual({
      ...{ seq: 6, id: 'fake-1-6', type: 'a', title: 'title', message: '', data: null, to: 'user' },
      ...{ created_at: '2026-01-01T00:00:00.000Z', read: false, archived: false },
    });
    await list.loadMore();
    expect(shown(list)).toBe('6,5,4,3,2');
    await list.loadMore();
    await list.loadMore();
    expect([shown(list), list.snapshot().hasMore]).toEqual(['6,5,4,3,2,1', false]);
    expect(list.snapshot()).toBe(list.snapshot());
  });

  test('shows a change of this page at once, and takes it back when the hub refuses it', async () => {
    for (let i = 0; i < 3; i++) hub.post({ type: 'a' });
    const one = await recorded().live();
    const list = listOf(one);
    await untilShown(list, '3,2,1');
    const read = one.client.inbox.markRead([3]);
    expect(shown(list)).toBe('3r,2,1');
    // The counts wait for the hub.
    expect(list.snapshot().unread).toBe(3);
    await read;
    expect(list.snapshot().unread).toBe(2);
    hub.refuseRequest(503, 'unavailable');
    const archived = one.client.inbox.archive({ upTo: 3 });
    expect(shown(list)).toBe('');
    await expect(archived).rejects.toMatchObject({ code: 'unavailable' });
    expect(shown(list)).toBe('3r,2,1');
    expect(list.snapshot().unread).toBe(2);
    await one.client.inbox.mute(['a']);
    expect(shown(list)).toBe('3rm,2m,1m');
    await untilCounts(one, 0, 0);
  });

  test('follows the changes of other devices', async () => {
    for (let i = 0; i < 3; i++) hub.post({ type: 'a' });
    const one = await recorded().live();
    const [all, unread, archived] = [
      listOf(one),
      listOf(one, { filter: 'unread' }),
      listOf(one, { filter: 'archived' }),
    ];
    await Promise.all([untilShown(all, '3,2,1'), untilShown(unread, '3,2,1')]);
    hub.change({ op: 'read', up_to: 2 });
    await Promise.all([untilShown(all, '3,2r,1r'), untilShown(unread, '3')]);
    hub.change({ op: 'archive', seqs: [2, 3] });
    await Promise.all([untilShown(all, '1r'), untilShown(unread, ''), untilShown(archived, '3a,2ra')]);
    hub.change({ op: 'unarchive', seqs: [3] });
    hub.change({ op: 'unread', seqs: [1] });
    await Promise.all([untilShown(all, '3,1'), untilShown(unread, '3,1'), untilShown(archived, '2ra')]);
  });

  test('a muted item comes into the list, and is not counted', async () => {
    const one = await recorded().live();
    const list = listOf(one);
    await until('loaded', () => list.snapshot().status === 'ready');
    hub.change({ muted: ['stock_*'] });
    hub.post({ type: 'stock_low' });
    await untilShown(list, '2m');
    expect(list.snapshot().unread).toBe(0);
  });

  test('a gap and a reset load the first page again', async () => {
    for (let i = 0; i < 3; i++) hub.post({ type: 'a' });
    const one = await recorded().live();
    const list = listOf(one);
    await untilShown(list, '3,2,1');
    hub.stop();
    for (let i = 0; i < 3; i++) hub.post({ type: 'a' });
    hub.trim(5);
    hub.start();
    await untilShown(list, '6');
    expect(one.gaps[0]).toMatchObject({ status: 'gap', lost_from: 4, lost_to: 5 });
    hub.reset();
    await until('empty', () => list.snapshot().items.length === 0);
    hub.post({ type: 'a' });
    await untilShown(list, '1');
    await until('counted', () => list.snapshot().asOf === 1);
  });

  test('a page that fails is asked for again, and the status says so', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] });
    try {
      hub.post({ type: 'a' });
      const one = recorded();
      const list = listOf(one);
      hub.refuseRequest(503, 'unavailable');
      one.client.connect();
      await vi.waitUntil(() => list.snapshot().status === 'failed');
      await vi.advanceTimersByTimeAsync(5_000);
      expect([shown(list), list.snapshot().status]).toEqual(['1', 'ready']);
    } finally {
      vi.useRealTimers();
    }
  });

  test('loads again for a new subscriber only if something came meanwhile', async () => {
    let requests = 0;
    const { fetch } = hub.options();
    const counting: typeof fetch = (...request) => {
      requests++;
      return fetch!(...request);
    };
    hub.post({ type: 'a' });
    const one = await recorded({ fetch: counting, ack: 'manual' }).live();
    const list = new InboxList(one.client);
    list.subscribe(() => {})();
    const stop = list.subscribe(() => {});
    await untilShown(list, '1');
    expect(requests).toBe(1);
    stop();
    hub.post({ type: 'a' });
    await one.expectExactly([2]);
    list.subscribe(() => {});
    await untilShown(list, '2,1');
    expect(requests).toBe(2);
  });
});

describe('tabs', () => {
  beforeEach(() => {
    const named = new Map<string, FakeLocks>();
    const request = (name: string, ...more: [object, () => undefined]): Promise<void> => {
      const locks = named.get(name) ?? new FakeLocks();
      named.set(name, locks);
      return locks.request(name, ...more);
    };
    vi.stubGlobal('navigator', { locks: { request } });
  });
  const tab = (more: object = {}): Recorded => recorded({ tabs: 'share', clientId: 'd', userKey: 'u', ...more });

  test('a follower has the counts and the events of the one connection', async () => {
    hub.post({ type: 'a' });
    const [one, two] = [await tab().live(), await tab().live()];
    expect(hub.opened).toBe(1);
    await untilCounts(two, 1, 1);
    const lists = [listOf(one), listOf(two)];
    await Promise.all(lists.map((list) => untilShown(list, '1')));
    hub.post({ type: 'a' });
    await Promise.all(lists.map((list) => untilShown(list, '2,1')));
    await two.client.inbox.markRead({ upTo: 2 });
    await Promise.all(lists.map((list) => untilShown(list, '2r,1r')));
    await Promise.all([untilCounts(one, 0, 0), untilCounts(two, 0, 0)]);
    hub.frame({ type: 'inbox_counts', unread: 9, unseen: 8, as_of: 99 });
    await Promise.all([untilCounts(one, 9, 8), untilCounts(two, 9, 8)]);
    expect([one, two].map(({ seqs }) => seqs)).toEqual([[2], [2]]);
  });

  test('a leader that knows less does not take a follower back', async () => {
    const [one, two] = [await tab().live(), await tab().live()];
    hub.post({ type: 'a' });
    await Promise.all([untilCounts(one, 1, 1), untilCounts(two, 1, 1)]);
    hub.swallow(1);
    await two.client.inbox.markRead([1]);
    expect(two.client.inbox.counts()).toMatchObject({ unread: 0, asOf: 2 });
    // Its state comes to the other tab.
    hub.close(4000, 'draining', 1);
    await until('both are live again', () => two.caughtUp === 1 && one.client.snapshot().state === 'live');
    await untilCounts(one, 0, 1);
    expect(two.client.inbox.counts()?.unread).toBe(0);
  });

  test('tabs with and without inbox do not share a connection, and have the same device', async () => {
    const [one, two] = [await tab().live(), await tab({ inbox: false }).live()];
    expect(hub.opened).toBe(2);
    hub.post({ type: 'a' });
    await Promise.all([one, two].map((each) => each.expectExactly([1])));
    await until('acked', () => hub.acked('d') === 1);
  });
});
