// Tests the rules of the client against a real hub, with a proxy in between where the network misbehaves.

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { RecadoOptions } from '../../src/index.ts';
import { Hub, sign, userToken } from '../support/hub.ts';
import { TestProxy } from '../support/proxy.ts';
import { Recorded, until } from '../support/record.ts';

let hub: Hub;
let proxy: TestProxy;
const open: Recorded[] = [];
let users = 0;
const newUser = (): string => `user-${++users}`;

/** A client of a test; closed after it. */
function client(user: string, options: Partial<RecadoOptions> = {}, url = proxy.url): Recorded {
  const recorded = new Recorded(url, user, options);
  open.push(recorded);
  return recorded;
}

beforeAll(async () => {
  hub = await Hub.start({ WS_HEARTBEAT_INTERVAL: '1s', RECADO_DRAIN_WINDOW: '1s' });
});

afterAll(async () => {
  await hub.stop();
});

beforeAll(async () => {
  proxy = await TestProxy.to(hub.port);
});

afterEach(async () => {
  for (const one of open.splice(0)) one.client.close();
  proxy.isBlackHole = false;
  proxy.refusesUpgrades = false;
  proxy.rewrite = (piece) => piece;
  proxy.requests.length = 0;
  proxy.upgrades = 0;
});

afterAll(async () => {
  await proxy.stop();
});

const TRANSPORTS = ['websocket', 'sse'] as const;

describe.each(TRANSPORTS)('by %s', (transport) => {
  test('a client receives what is posted, and says how it is connected', async () => {
    const user = newUser();
    const one = await client(user, { transport }).live();
    const posted = await hub.post(user, 3);
    await one.expectExactly(posted.map((p) => p.seq));
    expect(one.got[0]).toMatchObject({
      type: 'test',
      title: 'title',
      message: 'message 0',
      data: { at: 0 },
      to: 'user',
    });
    expect(one.client.snapshot()).toMatchObject({ state: 'live', transport, userId: user, isLeader: true });
    expect(one.states).toEqual(['connecting', 'replaying', 'live']);
    expect(one.client.seq).toBeGreaterThanOrEqual(posted.at(-1)!.seq);
    expect(one.asked).toEqual(['first']);
  });

  test('rule 2: after kill -9 of the hub it resumes with exactly the missed ones', async () => {
    const user = newUser();
    const one = await client(user, { transport }).live();
    const before = await hub.post(user, 5);
    await one.expectExactly(before.map((p) => p.seq));
    await hub.kill();
    await one.untilState('waiting');
    proxy.isBlackHole = true;
    await hub.start();
    const missed = await hub.post(user, 7);
    proxy.isBlackHole = false;
    proxy.cut();
    const after = [...before, ...missed].map((p) => p.seq);
    await one.expectExactly(after);
    const again = proxy.requests.filter((line) => line.includes('log_id=')).at(-1);
    expect(again).toContain(`since=`);
    expect(one.gaps).toEqual([]);
  });

  test('rule 12: 2,500 missed notifications arrive in order, once', async () => {
    const user = newUser();
    const one = await client(user, { transport }).live();
    one.client.close();
    const missed = await hub.post(user, 2_500);
    await one.live();
    await one.expectExactly(missed.map((p) => p.seq));
    // The last ones may arrive as live: the hub may not have dispatched them yet when the client connects.
    expect(one.got[0]).toMatchObject({ replayed: true });
  });

  test('rule 3: a frame that the network swallows is noticed and received again', async () => {
    const user = newUser();
    const one = await client(user, { transport }).live();
    proxy.rewrite = (piece) => (piece.includes('swallow me') ? null : piece);
    const lost = await hub.post(user, 1, { message: 'swallow me' });
    await until('the frame was swallowed', async () => (await hub.connections(user)).length === 1);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(one.got).toEqual([]);
    proxy.rewrite = (piece) => piece;
    // The next heartbeat proves the hole.
    const next = await hub.post(user, 1);
    await one.expectExactly([...lost, ...next].map((p) => p.seq));
    expect(one.states).toContain('waiting hole');
  });

  test('rule 5: what was handled is acknowledged, and a new client starts after it', async () => {
    const user = newUser();
    const one = await client(user, { transport, ackDelayMs: 50 }).live();
    const posted = await hub.post(user, 3);
    await one.expectExactly(posted.map((p) => p.seq));
    const last = posted.at(-1)!.seq;
    await until('acked', async () => (await hub.connections(user)).some((c) => c.ackedSeq >= last));
    one.client.close();
    const next = await hub.post(user, 1);
    const two = await client(user, { transport }).live();
    await two.expectExactly(next.map((p) => p.seq));
  });

  test('rule 5: close() acknowledges without waiting for the delay', async () => {
    const user = newUser();
    const one = await client(user, { transport, ackDelayMs: 60_000 }).live();
    const posted = await hub.post(user, 2);
    await one.expectExactly(posted.map((p) => p.seq));
    one.client.close();
    await until('the session ended', async () => (await hub.connections(user)).length === 0);
    await new Promise((resolve) => setTimeout(resolve, 300));
    const next = await hub.post(user, 1);
    const two = await client(user, { transport }).live();
    await two.expectExactly(next.map((p) => p.seq));
  });

  test('rule 4: with manual acknowledgements nothing is acknowledged but what the application says', async () => {
    const user = newUser();
    const one = await client(user, { transport, ack: 'manual', ackDelayMs: 20 }).live();
    const posted = await hub.post(user, 4);
    await one.expectExactly(posted.map((p) => p.seq));
    const [first, second, third, fourth] = posted.map((p) => p.seq) as [number, number, number, number];
    expect(() => one.client.ack(fourth + 1_000)).toThrow(/cannot acknowledge/);
    one.client.ack(second);
    await until('acked', async () => (await hub.connections(user)).some((c) => c.ackedSeq === second));
    one.client.close();
    const two = await client(user, { transport, ack: 'manual' }).live();
    await two.expectExactly([third, fourth]);
    expect(first).toBeLessThan(second);
  });

  test('rule 6: a token that is refused twice ends in unauthorized; connect() tries again', async () => {
    const user = newUser();
    let expired = true;
    const getToken = (): string => userToken(user, expired ? -60 : 600);
    const one = client(user, { transport, getToken });
    one.client.connect();
    await one.untilState('unauthorized');
    expect(one.client.snapshot().reason).toContain('token_expired');
    expect(one.errors.map((e) => e.code)).toEqual(['token_expired']);
    expired = false;
    await one.live();
    const posted = await hub.post(user, 1);
    await one.expectExactly(posted.map((p) => p.seq));
  });

  test('rule 6: a token of another secret stops at once', async () => {
    const user = newUser();
    const getToken = (): string => sign({ sub: user }, 600, 'another secret of at least 32 bytes!');
    const one = client(user, { transport, getToken });
    one.client.connect();
    await expect(one.client.ready()).rejects.toMatchObject({ code: expect.stringContaining('unauthorized') });
    expect(one.client.snapshot().state).toBe('unauthorized');
    expect(one.asked).toEqual(['first']);
  });

  test('rule 6: null from getToken ends in unauthorized', async () => {
    const one = client(newUser(), { transport, getToken: () => null });
    one.client.connect();
    await one.untilState('unauthorized');
    expect(one.client.snapshot().reason).toBe('no_token');
    expect(proxy.requests.filter((line) => line.startsWith('GET'))).toEqual([]);
  });

  test('rule 6: a getToken that fails is asked again', async () => {
    const user = newUser();
    let calls = 0;
    const getToken = (): string => {
      if (++calls < 3) throw new Error('the backend is away');
      return userToken(user);
    };
    const one = await client(user, { transport, getToken, backoff: { minMs: 20 } }).live();
    expect(one.errors.map((e) => [e.code, e.retryable])).toEqual([
      ['token_failed', true],
      ['token_failed', true],
    ]);
  });

  test('rule 6: a token that expires in the middle is replaced, and nothing is missed', async () => {
    const user = newUser();
    const getToken = ({ reason }: { reason: string }): string => userToken(user, reason === 'expiring' ? 3_600 : 4);
    const one = await client(user, { transport, getToken }).live();
    const session = (await hub.connections(user))[0]!.sessionId;
    await until('the token was replaced', () => one.asked.includes('expiring'));
    const posted = await hub.post(user, 1);
    await one.expectExactly(posted.map((p) => p.seq));
    await one.untilState('live');
    expect(one.asked).toEqual(['first', 'expiring']);
    const sessions = (await hub.connections(user)).map((c) => c.sessionId);
    expect(sessions).toEqual([session]);
    expect(one.states).toEqual(['connecting', 'replaying', 'live']);
  });

  test('rule 7: a hub that stops says when to come back', async () => {
    const user = newUser();
    const one = await client(user, { transport }).live();
    const stopped = hub.drain();
    await until(
      'the hub said goodbye',
      () => one.states.includes('waiting draining'),
      () => one.states,
    );
    await stopped;
    await hub.start();
    const posted = await hub.post(user, 1);
    await one.expectExactly(posted.map((p) => p.seq));
  });

  test('rule 8: a black hole is noticed by the watchdog', async () => {
    const user = newUser();
    const one = await client(user, { transport }).live();
    proxy.isBlackHole = true;
    const missed = await hub.post(user, 2);
    await until(
      'silence was noticed',
      () => one.states.some((s) => s === 'waiting silent'),
      () => one.states,
    );
    proxy.isBlackHole = false;
    proxy.cut();
    await one.expectExactly(missed.map((p) => p.seq));
  });

  test('rule 10: a place above the head is told reset', async () => {
    const user = newUser();
    const posted = await hub.post(user, 2);
    const one = await client(user, { transport, since: 1_000_000_000 }).live();
    expect(one.gaps).toEqual([{ status: 'reset' }]);
    await one.expectExactly(posted.map((p) => p.seq));
  });
});

describe.each(TRANSPORTS)('types by %s', (transport) => {
  test('what is filtered out moves the place and is acknowledged; a killed hub changes nothing', async () => {
    const user = newUser();
    const options = { transport, types: ['order_*', 'stock.low'], clientId: 'web-1', ackDelayMs: 20 } as const;
    const one = await client(user, options).live();
    const before = [
      ...(await hub.post(user, 1, { type: 'stock.low' })),
      ...(await hub.post(user, 2, { type: 'order_created' })),
    ];
    const [left] = (await hub.post(user, 40, { type: 'chat' })).slice(-1);
    await until('the place passed them', () => one.client.seq! >= left!.seq);
    await until('acked', async () => (await hub.connections(user)).some((c) => c.ackedSeq >= left!.seq));
    await hub.kill();
    await one.untilState('waiting');
    proxy.isBlackHole = true;
    await hub.start();
    await hub.post(user, 3, { type: 'chat' });
    const missed = await hub.post(user, 3, { type: 'order_paid' });
    await hub.post(user, 1_200, { type: 'chat' });
    proxy.requests.length = 0;
    proxy.isBlackHole = false;
    proxy.cut();
    const after = await hub.post(user, 1, { type: 'stock.low' });
    const expected = [...before, ...missed, ...after].map((p) => p.seq);
    await one.expectExactly(expected);
    const stream = proxy.requests.find((line) => /ws|stream/.test(line))!;
    const query = new URLSearchParams(stream.split(/[ ?]/)[2]);
    expect(query.get('types')).toBe('order_*,stock.low');
    expect(Number(query.get('since'))).toBeGreaterThanOrEqual(left!.seq);
    expect(one.gaps).toEqual([]);
    await until('acked', async () => (await hub.connections(user)).some((c) => c.ackedSeq >= after[0]!.seq));
    one.client.close();
    const again = await client(user, options).live();
    const last = await hub.post(user, 1, { type: 'order_created' });
    await again.expectExactly(last.map((p) => p.seq));
  });

  test('since takes a duration, a Date and a time', async () => {
    const user = newUser();
    const early = await hub.post(user, 2);
    await new Promise((resolve) => setTimeout(resolve, 20));
    const cut = new Date();
    const late = await hub.post(user, 3);
    const created = (await client(user).client.history()).notifications.map((n) => n.created_at);
    expect([created[1]! < cut.toISOString(), created[2]! >= cut.toISOString()]).toEqual([true, true]);
    const all = [...early, ...late].map((p) => p.seq);
    const zoned = new Date(cut.getTime() + 7_200_000).toISOString().replace('Z', '+02:00');
    for (const [since, seqs] of [
      ['10m', all],
      [cut, all.slice(2)],
      [cut.toISOString(), all.slice(2)],
      [zoned, all.slice(2)],
      [new Date('2000-01-01'), all],
      ['2999-01-01T00:00:00Z', []],
    ] as const) {
      const one = await client(user, { transport, since, clientId: 'times' }).live();
      expect([since, one.seqs, one.gaps]).toEqual([since, seqs, []]);
      one.client.close();
    }
  });
});

test('a start that is no time ends in failed', async () => {
  const one = client(newUser(), { since: 'yesterday' });
  one.client.connect();
  await one.untilState('failed');
  expect(one.client.snapshot().reason).toMatch(/^bad_query/);
});

test('types without a type and an invalid Date are refused before anything is sent', () => {
  expect(() => client(newUser(), { types: [] })).toThrow(TypeError);
  expect(() => client(newUser(), { types: [''] })).toThrow('types must name at least one type');
  expect(() => client(newUser(), { since: new Date('never') })).toThrow(RangeError);
});

test('rule 1: the token is in the subprotocol and not in the address', async () => {
  const user = newUser();
  await client(user, { since: 'live', clientId: 'web-1' }).live();
  const streams = proxy.requests.filter((line) => line.startsWith('GET'));
  expect(streams).toEqual(['GET /ws?client_id=web-1&since=live&ack=client&frames=lines HTTP/1.1']);
});

test('rule 1: a hub behind a path is reached under that path', async () => {
  const one = client(newUser(), {}, `${proxy.url}/hub`);
  one.client.connect();
  await until('a request', () => proxy.requests.some((line) => line.startsWith('GET')));
  expect(proxy.requests.find((line) => line.startsWith('GET'))).toContain('GET /hub/ws?');
});

test('rule 2: a reconnect names number, log and notification', async () => {
  const user = newUser();
  const one = await client(user).live();
  const [posted] = await hub.post(user, 1);
  await one.expectExactly([posted!.seq]);
  proxy.cut();
  await until('a second upgrade', () => proxy.upgrades === 2);
  const query = new URLSearchParams(proxy.requests.at(-1)!.split(/[ ?]/)[2]);
  expect(query.get('since')).toBe(String(posted!.seq));
  expect(query.get('last_id')).toBe(posted!.id);
  expect(query.get('log_id')).toMatch(/^[0-9a-f-]{36}$/);
});

test('rule 2: another user under the same client ends in failed', async () => {
  const [user, other] = [newUser(), newUser()];
  let now = user;
  const one = await client(user, { getToken: () => userToken(now) }).live();
  now = other;
  proxy.cut();
  await one.untilState('failed');
  expect(one.client.snapshot().reason).toBe('identity_changed');
  const posted = await hub.post(other, 1);
  await client(other, { since: 'earliest' }).live();
  expect(one.got).toEqual([]);
  // The application decides: connect() serves the new user from here on, from the start of a new machine.
  await one.live();
  expect(one.client.snapshot().userId).toBe(other);
  expect(posted).toHaveLength(1);
});

test('rule 4: a listener that throws goes to error, and the stream goes on', async () => {
  const user = newUser();
  const one = client(user, { ackDelayMs: 20 });
  one.client.onType('poison', () => {
    throw new Error('cannot eat this');
  });
  one.client.onType('poison', () => Promise.reject(new Error('nor this')));
  await one.live();
  const poison = await hub.post(user, 1, { type: 'poison' });
  const next = await hub.post(user, 1);
  await one.expectExactly([...poison, ...next].map((p) => p.seq));
  expect(one.errors.map((e) => e.code)).toEqual(['handler_failed', 'handler_failed']);
  await until('acked', async () => (await hub.connections(user)).some((c) => c.ackedSeq >= next[0]!.seq));
});

test('rule 4: an unfinished listener holds the acknowledgement, not the next notification', async () => {
  const user = newUser();
  const one = client(user, { ackDelayMs: 20 });
  let finish = (): void => {};
  const finished = new Promise<void>((resolve) => {
    finish = resolve;
  });
  one.client.onType('slow', () => finished);
  await one.live();
  const [slow] = await hub.post(user, 1, { type: 'slow' });
  const [next] = await hub.post(user, 1);
  await one.expectExactly([slow!.seq, next!.seq]);
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect((await hub.connections(user))[0]!.ackedSeq).toBeLessThan(slow!.seq);
  finish();
  await until('acked', async () => (await hub.connections(user)).some((c) => c.ackedSeq >= next!.seq));
});

test('rule 4: a loop acknowledges a notification when it asks for the next', async () => {
  const user = newUser();
  const one = client(user, { ackDelayMs: 20 });
  const loop = one.client.notifications();
  await one.live();
  const [first, second] = await hub.post(user, 2);
  expect((await loop.next()).value?.seq).toBe(first!.seq);
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect((await hub.connections(user))[0]!.ackedSeq).toBeLessThan(first!.seq);
  expect((await loop.next()).value?.seq).toBe(second!.seq);
  await until('acked', async () => (await hub.connections(user)).some((c) => c.ackedSeq >= first!.seq));
  one.client.close();
  expect((await loop.next()).done).toBe(true);
});

test('rule 9: a proxy that refuses upgrades leads to SSE, and nothing is missed', async () => {
  const user = newUser();
  const first = await client(user).live();
  first.client.close();
  proxy.refusesUpgrades = true;
  const missed = await hub.post(user, 5);
  const one = await client(user).live();
  await one.expectExactly(missed.map((p) => p.seq));
  expect(one.client.snapshot().transport).toBe('sse');
  expect(proxy.upgrades).toBe(3);
  // The WebSocket is tried once more, and costs nothing.
  await until('another upgrade', () => proxy.upgrades === 4);
  const more = await hub.post(user, 3);
  await one.expectExactly([...missed, ...more].map((p) => p.seq));
  expect(one.client.snapshot().transport).toBe('sse');
});

test('rule 9: after a hub that was away the WebSocket is used again', async () => {
  const user = newUser();
  const one = await client(user, { backoff: { minMs: 10, maxMs: 50 } }).live();
  await hub.kill();
  await until('many tries', () => one.states.filter((s) => s.startsWith('waiting')).length > 8);
  await hub.start();
  const posted = await hub.post(user, 1);
  await one.expectExactly(posted.map((p) => p.seq));
  // What went wrong: SSE may be the first that finds the hub up again, and then commands were refused for ten minutes.
  await until('a WebSocket', () => one.client.snapshot().transport === 'websocket');
});

test('rule 11: a command that no provider takes is refused with the code of the hub', async () => {
  const one = await client(newUser()).live();
  await expect(one.client.send({ type: 'bet', payload: {} })).rejects.toMatchObject({ code: 'unknown_type' });
  // What went wrong: with several commands under way, none was refused, and each ended with `timeout`.
  const several = ['a', 'b', 'c'].map((id) => one.client.send({ type: 'bet', payload: id }, { id }));
  for (const each of several) await expect(each).rejects.toMatchObject({ code: 'unknown_type' });
  expect(one.errors).toEqual([]);
});

test('rule 11: SSE refuses commands, and a closed client does', async () => {
  const one = await client(newUser(), { transport: 'sse' }).live();
  await expect(one.client.send({ type: 'bet' })).rejects.toMatchObject({ code: 'unsupported' });
  one.client.close();
  await expect(one.client.send({ type: 'bet' })).rejects.toMatchObject({ code: 'closed' });
});

test('history and head give what was posted, page by page', async () => {
  const user = newUser();
  const posted = await hub.post(user, 5);
  const one = client(user);
  const page = await one.client.history({ limit: 2, order: 'desc' });
  expect(page.notifications.map((n) => n.seq)).toEqual([posted[4]!.seq, posted[3]!.seq]);
  const next = await one.client.history({ limit: 3, order: 'desc', after: page.next! });
  expect(next.notifications.map((n) => n.seq)).toEqual([posted[2]!.seq, posted[1]!.seq, posted[0]!.seq]);
  expect((await one.client.head()).log_id).toBe(page.log_id);
  await expect(one.client.history({ limit: 0 })).rejects.toMatchObject({ code: 'invalid_field', status: 422 });
  const third = page.notifications[1]!;
  const since = async (time: Date | string): Promise<number> =>
    (await one.client.history({ since: time })).notifications.length;
  expect(await since('10m')).toBe(5);
  expect(await since(new Date(Date.now() + 3_600_000))).toBe(0);
  expect(await since(third.created_at)).toBeGreaterThan(0);
  await expect(one.client.history({ since: 'yesterday' })).rejects.toMatchObject({ code: 'invalid_field' });
  await expect(one.client.history({ since: new Date('no') })).rejects.toThrow(RangeError);
});

test('history uses the types of the client, unless the query says otherwise', async () => {
  const user = newUser();
  for (const type of ['order_created', 'chat', 'order_paid', 'stock.low']) await hub.post(user, 1, { type });
  const one = client(user, { types: ['order_*'] });
  const types = async (query?: object): Promise<string[]> =>
    (await one.client.history(query)).notifications.map((n) => n.type);
  expect(await types()).toEqual(['order_created', 'order_paid']);
  expect(await types({ type: 'chat' })).toEqual(['chat']);
  expect(await types({ types: ['chat', 'stock.*'] })).toEqual(['chat', 'stock.low']);
  expect(await types({ types: ['*'] })).toHaveLength(4);
});

test('an expired token of a request is replaced once', async () => {
  const user = newUser();
  const getToken = ({ reason }: { reason: string }): string => userToken(user, reason === 'refused' ? 600 : -60);
  const one = client(user, { getToken });
  expect((await one.client.head()).head).toBeGreaterThan(0);
  expect(one.asked).toEqual(['first', 'refused']);
});
