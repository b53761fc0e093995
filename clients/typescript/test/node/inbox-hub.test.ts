// Tests the inbox of the client against a real hub, by both transports.

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { InboxList, type InboxListOptions, type RecadoOptions } from '../../src/index.ts';
import { Hub } from '../support/hub.ts';
import { Recorded, until } from '../support/record.ts';

let hub: Hub;
const open: Recorded[] = [];
let users = 0;
const newUser = (): string => `inbox-user-${++users}`;

beforeAll(async () => {
  hub = await Hub.start({ RECADO_REQUIRED_TYPES: 'security_*' });
});

afterEach(() => {
  for (const one of open.splice(0)) one.client.close();
});

afterAll(() => hub?.stop());

/** A device of a user, with the inbox. */
async function device(user: string, clientId: string, options: Partial<RecadoOptions> = {}): Promise<Recorded> {
  const one = new Recorded(hub.url, user, { clientId, inbox: true, ...options });
  open.push(one);
  return one.live();
}

function listOf({ client }: Recorded, options: InboxListOptions = {}): InboxList {
  const list = new InboxList(client, options);
  list.subscribe(() => {});
  return list;
}

/** The titles of a list's items, with their marks. */
const shown = (list: InboxList): string =>
  list
    .snapshot()
    .items.map(
      ({ title, read, archived, muted }) => `${title}${read ? ' r' : ''}${archived ? ' a' : ''}${muted ? ' m' : ''}`,
    )
    .join(', ');

const untilShown = (list: InboxList, expected: string): Promise<void> =>
  until(
    `items: ${expected}`,
    () => shown(list) === expected,
    () => shown(list),
  );

const untilCounts = (unread: number, unseen: number, ...all: Recorded[]): Promise<void> =>
  until(
    `counts ${unread} ${unseen}`,
    () =>
      all.every(({ client }) => client.inbox.counts()?.unread === unread && client.inbox.counts()?.unseen === unseen),
    () => all.map(({ client }) => client.inbox.counts()),
  );

const post = async (user: string, title: string, more: object = {}): Promise<number> =>
  (await hub.post(user, 1, { title, ...more }))[0]!.seq;

describe.each(['websocket', 'sse'] as const)('by %s', (transport) => {
  test('two devices have the same items and counts, whichever of them changes something', async () => {
    const user = newUser();
    const first = await post(user, 'one');
    const [phone, desk] = [await device(user, 'phone', { transport }), await device(user, 'desk', { transport })];
    const [held, other] = [listOf(phone), listOf(desk)];
    await Promise.all([untilShown(held, 'one'), untilShown(other, 'one'), untilCounts(1, 1, phone, desk)]);
    const second = await post(user, 'two', { type: 'order_created' });
    // No items: they have a time to live, or say so.
    await post(user, 'brief', { ttl: 60 });
    await post(user, 'aside', { inbox: false });
    await Promise.all([untilShown(held, 'two, one'), untilShown(other, 'two, one'), untilCounts(2, 2, phone, desk)]);
    await until('all four', () => [phone, desk].every(({ got }) => got.at(-1)?.title === 'aside'));
    expect(shown(held)).toBe('two, one');

    const marked = phone.client.inbox.markRead([second]);
    expect(shown(held)).toBe('two r, one');
    expect(await marked).toMatchObject({ unread: 1, unseen: 2 });
    await Promise.all([untilShown(other, 'two r, one'), untilCounts(1, 2, phone, desk)]);
    await desk.client.inbox.markSeen();
    await untilCounts(1, 0, phone, desk);
    await desk.client.inbox.archive([first]);
    await Promise.all([untilShown(held, 'two r'), untilShown(other, 'two r'), untilCounts(0, 0, phone, desk)]);
    await desk.client.inbox.unarchive([first]);
    await desk.client.inbox.markUnread([second]);
    await Promise.all([untilShown(held, 'two, one'), untilShown(other, 'two, one'), untilCounts(2, 0, phone, desk)]);
    await phone.client.inbox.markRead({ upTo: phone.client.inbox.counts()!.asOf });
    await Promise.all([untilShown(other, 'two r, one r'), untilCounts(0, 0, phone, desk)]);
    expect(await phone.client.inbox.markRead([second])).toMatchObject({ seq: null, unread: 0 });
    expect([phone.errors, desk.errors]).toEqual([[], []]);
    // Changes of the inbox are no notifications.
    expect([...phone.got, ...desk.got].filter(({ title }) => title === '')).toEqual([]);
  });

  test('what happened during a disconnect is in the list and in the counts', async () => {
    const user = newUser();
    const first = await post(user, 'one');
    const [phone, desk] = [await device(user, 'phone', { transport }), await device(user, 'desk', { transport })];
    const held = listOf(phone);
    await untilShown(held, 'one');
    phone.client.close();
    await until('closed', async () => (await hub.connections(user)).length === 1);
    await desk.client.inbox.markRead([first]);
    await post(user, 'two');
    await phone.live();
    await Promise.all([untilShown(held, 'two, one r'), untilCounts(1, 2, phone)]);
    expect(phone.got.map(({ title }) => title)).toEqual(['two']);
  });

  test('a muted type is delivered and not counted, on every device', async () => {
    const user = newUser();
    const [phone, desk] = [await device(user, 'phone', { transport }), await device(user, 'desk', { transport })];
    const held = listOf(phone);
    await post(user, 'one', { type: 'stock_low' });
    await Promise.all([untilShown(held, 'one'), untilCounts(1, 1, phone, desk)]);
    expect(await desk.client.inbox.mute(['stock_*'])).toMatchObject({ muted: ['stock_*'], unread: 0 });
    await Promise.all([untilShown(held, 'one m'), untilCounts(0, 0, phone, desk)]);
    await post(user, 'two', { type: 'stock_high' });
    await untilShown(held, 'two m, one m');
    expect(phone.got.map(({ title, muted }) => [title, muted])).toEqual([
      ['one', undefined],
      ['two', true],
    ]);
    expect(await desk.client.inbox.preferences()).toEqual({ muted: ['stock_*'], required: ['security_*'] });
    await desk.client.inbox.unmute(['stock_*']);
    await Promise.all([untilShown(held, 'two, one'), untilCounts(2, 2, phone, desk)]);
    const refused = phone.client.inbox.mute(['security_login']);
    await expect(refused).rejects.toMatchObject({ code: 'invalid_field', status: 422 });
    expect(shown(held)).toBe('two, one');
  });
});

test('a hub that is killed in between loses no change, and its counts are the same after it', async () => {
  const user = newUser();
  const first = await post(user, 'one');
  const phone = await device(user, 'phone');
  const held = listOf(phone);
  await untilShown(held, 'one');
  await phone.client.inbox.markRead([first]);
  await hub.kill();
  const lost = phone.client.inbox.archive([first]);
  expect(shown(held)).toBe('');
  await expect(lost).rejects.toMatchObject({ code: 'network', retryable: true });
  expect(shown(held)).toBe('one r');
  await hub.start();
  await post(user, 'two');
  await Promise.all([untilShown(held, 'two, one r'), untilCounts(1, 2, phone)]);
});

test('pages go back to the oldest item, and a number of another user is refused', async () => {
  const user = newUser();
  const posted = await hub.post(user, 7);
  const foreign = await post(newUser(), 'not mine');
  const phone = await device(user, 'phone');
  const list = listOf(phone, { limit: 3 });
  await until('the first page', () => list.snapshot().items.length === 3);
  while (list.snapshot().hasMore) await list.loadMore();
  const seqs = list.snapshot().items.map(({ seq }) => seq);
  expect(seqs).toEqual(posted.map(({ seq }) => seq).reverse());
  const refused = phone.client.inbox.markRead([seqs[0]!, foreign]);
  expect(list.snapshot().items[0]?.read).toBe(true);
  await expect(refused).rejects.toMatchObject({ code: 'invalid_field', status: 422 });
  expect(list.snapshot().items[0]?.read).toBe(false);
  const ahead = phone.client.inbox.markSeen(1_000_000);
  await expect(ahead).rejects.toMatchObject({ code: 'invalid_field', status: 422 });
});

test('a client without inbox receives nothing of it', async () => {
  const user = newUser();
  const first = await post(user, 'one');
  const plain = await device(user, 'plain', { inbox: false });
  const phone = await device(user, 'phone');
  await phone.client.inbox.markRead([first]);
  const last = await post(user, 'two');
  await plain.expectExactly([last]);
  expect(plain.client.snapshot()).toMatchObject({ unread: null, asOf: null });
  expect(plain.got[0]).not.toHaveProperty('unread');
  const { notifications } = await plain.client.history();
  expect(notifications.map(({ seq }) => seq)).toEqual([first, last]);
});
