// Tests the fake hub with the real client, and rules of the client that need a script.

import { getEventListeners } from 'node:events';
import { afterEach, expect, test } from 'vitest';
import { RecadoClient } from '../../src/index.ts';
import { FakeHub } from '../../src/testing.ts';
import { Recorded, until } from '../support/record.ts';

const open: Recorded[] = [];

function client(hub: FakeHub, more: object = {}): Recorded {
  const recorded = new Recorded('ws://fake.invalid/', '42', { ...hub.options(), backoff: { minMs: 5 }, ...more });
  open.push(recorded);
  return recorded;
}

afterEach(() => {
  for (const one of open.splice(0)) one.client.close();
});

const at = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1);

test('delivers what is posted, and stores what is acknowledged', async () => {
  const hub = new FakeHub();
  const one = await client(hub, { ackDelayMs: 1 }).live();
  const posted = hub.post({ type: 'order_created', title: 'New order', data: { order_id: '1' } });
  await one.expectExactly([1]);
  expect(one.got[0]).toMatchObject(posted);
  expect(posted.created_at).toBe('2026-01-01T00:00:00.000Z');
  await until('acked', () => hub.acked() === 1);
});

test('a client that was away receives the missed ones, marked as replayed', async () => {
  const hub = new FakeHub();
  const one = await client(hub).live();
  hub.stop();
  await one.untilState('waiting');
  for (let i = 0; i < 3; i++) hub.post({ type: 'test' });
  hub.start();
  await one.expectExactly(at(3));
  expect(one.got.every((n) => n.replayed)).toBe(true);
  expect(hub.connections).toBe(1);
});

test('a swallowed frame is noticed by the next notification, and by a heartbeat', async () => {
  for (const proof of [(hub: FakeHub) => void hub.post({ type: 'test' }), (hub: FakeHub) => hub.advance(30_000)]) {
    const hub = new FakeHub();
    const one = await client(hub).live();
    hub.swallow();
    hub.post({ type: 'test' });
    proof(hub);
    await until('everything arrived', () => one.client.seq === hub.head && one.client.snapshot().state === 'live');
    expect(one.seqs).toEqual(at(hub.head));
    expect(one.states).toContain('waiting hole');
  }
});

test('a swallowed frame of the replay is noticed by caught_up', async () => {
  const hub = new FakeHub();
  const one = await client(hub).live();
  hub.stop();
  await one.untilState('waiting');
  hub.post({ type: 'test' });
  hub.swallow();
  hub.start();
  await one.expectExactly([1]);
  expect(one.states).toContain('waiting hole');
});

test('numbers of other users are no hole, and a heartbeat moves the place', async () => {
  const hub = new FakeHub();
  const one = await client(hub).live();
  hub.skip(5);
  hub.post({ type: 'test' });
  hub.skip(4);
  hub.advance(30_000);
  await until('the place moved', () => one.client.seq === 10);
  expect(one.seqs).toEqual([6]);
  expect(one.states).toEqual(['connecting', 'replaying', 'live']);
  expect(hub.now.toISOString()).toBe('2026-01-01T00:00:30.000Z');
});

test('rule 10: a gap is told with its range', async () => {
  const hub = new FakeHub();
  const one = await client(hub).live();
  hub.stop();
  await one.untilState('waiting');
  for (let i = 0; i < 5; i++) hub.post({ type: 'test' });
  hub.trim(3);
  hub.start();
  await one.expectExactly([4, 5]);
  expect(one.gaps).toEqual([{ status: 'gap', lost_from: 1, lost_to: 3 }]);
});

test('rule 10: after a reset numbers and acknowledgements start anew', async () => {
  const hub = new FakeHub();
  const one = await client(hub, { ackDelayMs: 1 }).live();
  for (let i = 0; i < 5; i++) hub.post({ type: 'test' });
  await one.expectExactly(at(5));
  await until('acked', () => hub.acked() === 5);
  hub.reset();
  hub.post({ type: 'test' });
  await until('the reset', () => one.gaps.length === 1);
  await until('the new notification', () => one.seqs.length === 6);
  expect(one.gaps).toEqual([{ status: 'reset' }]);
  expect(one.seqs).toEqual([...at(5), 1]);
  await until('acked in the new log', () => hub.acked() === 1);
});

test('rule 10: a gap that no listener takes is logged', async () => {
  const hub = new FakeHub();
  const warned: unknown[] = [];
  const logger = { debug: () => {}, warn: (...args: unknown[]) => void warned.push(args), error: () => {} };
  hub.post({ type: 'test' });
  const quiet = new RecadoClient({ ...hub.options(), since: 900, logger });
  quiet.connect();
  await quiet.ready();
  quiet.close();
  expect(JSON.stringify(warned)).toContain('no listener for');
});

test('rule 6: a refused token is replaced at once, twice at most', async () => {
  const hub = new FakeHub();
  hub.refuse(4401, 'token_expired');
  hub.refuse(4401, 'token_expired');
  const one = await client(hub).live();
  expect(one.asked).toEqual(['first', 'refused', 'refused']);
  for (let i = 0; i < 3; i++) hub.refuse(4401, 'token_expired');
  hub.drop();
  await one.untilState('unauthorized');
  expect(one.asked).toEqual(['first', 'refused', 'refused', 'again', 'refused', 'refused']);
});

test('rule 7: a replaced session stops, and connect() comes back', async () => {
  const hub = new FakeHub();
  const one = await client(hub).live();
  hub.close(4004, 'session_replaced');
  await one.untilState('failed');
  expect(one.client.snapshot().reason).toBe('session_replaced');
  expect(hub.connections).toBe(0);
  await one.live();
  expect(hub.connections).toBe(1);
});

test('rule 7: after_ms of a goodbye wins over the back-off', async () => {
  const hub = new FakeHub();
  const one = await client(hub).live();
  const before = Date.now();
  hub.close(4000, 'draining', 400);
  await one.untilState('waiting');
  expect(one.client.snapshot().retryAt).toBeGreaterThanOrEqual(before + 390);
  await one.untilState('live');
  expect(Date.now() - before).toBeGreaterThanOrEqual(390);
});

test('rule 11: a command has its result; one without times out, and a late result is dropped', async () => {
  const hub = new FakeHub();
  const one = await client(hub).live();
  expect(await one.client.send({ type: 'bet', payload: { stake: 5 } }, { id: 'b-1' })).toMatchObject({
    id: 'b-1',
    status: 'sent',
  });
  expect(hub.commands).toMatchObject([{ id: 'b-1', type: 'bet', payload: { stake: 5 } }]);
  hub.onCommand = () => null;
  const late = one.client.send({ type: 'bet' }, { id: 'b-2', timeoutMs: 30 });
  await expect(late).rejects.toMatchObject({ code: 'timeout', retryable: true });
  hub.frame({ type: 'command_result', id: 'b-2', status: 'sent' });
  expect(hub.commands.map((command) => command.id)).toEqual(['b-1', 'b-2']);
});

test('rule 11: a command waits for the connection, and is sent once', async () => {
  const hub = new FakeHub();
  const one = await client(hub).live();
  hub.stop();
  await one.untilState('waiting');
  const result = one.client.send({ type: 'bet' }, { id: 'b-3' });
  hub.start();
  expect(await result).toMatchObject({ status: 'sent' });
  hub.drop();
  await until('back', () => hub.connections === 1 && one.client.snapshot().state === 'live');
  expect(hub.commands).toHaveLength(1);
});

// What went wrong: such a command was refused as `unsupported`, as if the connection used SSE.
test('rule 11: a command that a closing socket does not take is sent by the next connection', async () => {
  const hub = new FakeHub();
  const { WebSocket: Socket } = hub.options();
  const sockets: { readyState: number }[] = [];
  class Seen extends (Socket as unknown as new (url: string) => { readyState: number }) {
    constructor(url: string) {
      super(url);
      sockets.push(this);
    }
  }
  const one = await client(hub, { WebSocket: Seen }).live();
  (sockets[0] as { readyState: number }).readyState = 2;
  const result = one.client.send({ type: 'bet' }, { id: 'b-7' });
  hub.drop();
  expect(await result).toMatchObject({ status: 'sent' });
  expect(hub.commands).toHaveLength(1);
});

test('rule 11: a command right after connect() is sent, and one of a closed client is not sent later', async () => {
  const hub = new FakeHub();
  const one = client(hub);
  one.client.connect();
  expect(await one.client.send({ type: 'bet' }, { id: 'b-4' })).toMatchObject({ id: 'b-4', status: 'sent' });
  one.client.close();
  one.client.connect();
  const early = one.client.send({ type: 'bet' }, { id: 'b-5' });
  one.client.close();
  await expect(early).rejects.toMatchObject({ code: 'closed' });
  await one.live();
  expect(await one.client.send({ type: 'bet' }, { id: 'b-6' })).toMatchObject({ status: 'sent' });
  expect(hub.commands.map((command) => command.id)).toEqual(['b-4', 'b-6']);
});

test('close() rejects commands without a result', async () => {
  const hub = new FakeHub();
  hub.onCommand = () => null;
  const one = await client(hub).live();
  const result = one.client.send({ type: 'bet' });
  one.client.close();
  await expect(result).rejects.toMatchObject({ code: 'closed' });
});

test('status, upstreamError and refusals of the hub reach their listeners', async () => {
  const hub = new FakeHub();
  const one = await client(hub).live();
  const heard: unknown[] = [];
  one.client.on('status', (status) => void heard.push(status.status));
  one.client.on('upstreamError', (error) => void heard.push(error.message));
  hub.frame({ type: 'status', status: 'connected', message: 'ok' });
  hub.frame({ type: 'error', message: 'cannot sign in' });
  hub.frame({ type: 'error', code: 'bad_token', message: 'expired' });
  await until('all three', () => heard.length === 2 && one.errors.length === 1);
  expect(heard).toEqual(['connected', 'cannot sign in']);
  expect(one.errors[0]).toMatchObject({ code: 'bad_token', message: 'expired' });
});

test('history gives pages in both directions, and by type', async () => {
  const hub = new FakeHub();
  for (let i = 0; i < 5; i++) hub.post({ type: i % 2 ? 'odd' : 'even' });
  const one = client(hub);
  const up = await one.client.history({ limit: 3 });
  expect([up.notifications.map((n) => n.seq), up.next]).toEqual([[1, 2, 3], 3]);
  expect((await one.client.history({ after: 3 })).notifications.map((n) => n.seq)).toEqual([4, 5]);
  const down = await one.client.history({ order: 'desc', limit: 2, type: 'even' });
  expect([down.notifications.map((n) => n.seq), down.next]).toEqual([[5, 3], 3]);
  expect(await one.client.head()).toEqual({ head: 5, earliest: 1, log_id: 'fake-log-1' });
  hub.stop();
  await expect(one.client.head()).rejects.toMatchObject({ code: 'network', retryable: true });
});

test('a loop receives each notification and ends with its signal', async () => {
  const hub = new FakeHub();
  const one = client(hub);
  const abort = new AbortController();
  const loop = one.client.notifications({ signal: abort.signal });
  await one.live();
  for (let i = 0; i < 3; i++) hub.post({ type: 'test' });
  const got: number[] = [];
  for await (const { seq } of loop) {
    got.push(seq);
    if (seq === 3) abort.abort();
  }
  expect(got).toEqual([1, 2, 3]);
});

test('a listener that is removed is not called again, and one can close the client', async () => {
  const hub = new FakeHub();
  const one = await client(hub).live();
  const got: number[] = [];
  const off = one.client.on('notification', (n) => {
    got.push(n.seq);
    off();
  });
  one.client.onType('last', () => one.client.close());
  hub.post({ type: 'test' });
  hub.post({ type: 'last' });
  hub.post({ type: 'test' });
  await one.untilState('closed');
  expect([got, one.seqs]).toEqual([[1], [1, 2]]);
});

test('a constructed client opens nothing and calls nothing', () => {
  const hub = new FakeHub();
  const one = client(hub);
  expect([one.client.snapshot().state, one.client.seq, one.asked, hub.connections]).toEqual(['idle', null, [], 0]);
});

test('types and times are served as by a hub', async () => {
  const hub = new FakeHub();
  for (const type of ['order_created', 'chat']) hub.post({ type });
  hub.advance(600_000);
  for (const type of ['order_paid', 'chat', 'stock']) hub.post({ type });
  const seen = async (options: object): Promise<number[]> => {
    const got: number[] = [];
    const client = new RecadoClient({ ...hub.options(), ...options });
    client.on('notification', (n) => void got.push(n.seq));
    client.connect();
    await client.ready();
    client.close();
    return got;
  };
  expect(await seen({ since: 'earliest', types: ['order_*'] })).toEqual([1, 3]);
  expect(await seen({ since: '5m', types: ['chat', 'stock'] })).toEqual([4, 5]);
  expect(await seen({ since: hub.now, types: ['order_*'] })).toEqual([3]);
  expect(await seen({ since: '2027-01-01T00:00:00Z' })).toEqual([]);
  const { notifications } = await new RecadoClient({ ...hub.options(), types: ['order_*'] }).history();
  expect(notifications.map((n) => n.seq)).toEqual([1, 3]);
});

test('what waits when a loop breaks is not acknowledged until the next loop has seen it', async () => {
  const hub = new FakeHub();
  const one = client(hub, { ackDelayMs: 1 });
  const loop = one.client.notifications();
  await one.live();
  for (let i = 0; i < 3; i++) hub.post({ type: 'test' });
  await one.expectExactly(at(3));
  for await (const { seq } of loop) {
    expect(seq).toBe(1);
    break;
  }
  await until('acked', () => hub.acked() === 1);
  await new Promise((resolve) => setTimeout(resolve, 30));
  expect(hub.acked()).toBe(1);
  const next = one.client.notifications();
  hub.post({ type: 'test' });
  const got: (number | undefined)[] = [];
  for (let i = 0; i < 3; i++) got.push((await next.next()).value?.seq);
  expect(got).toEqual([2, 3, 4]);
  await until('acked', () => hub.acked() === 3);
  await next.return();
  await until('acked', () => hub.acked() === 4);
});

test('an error of the WebSocket constructor does not show the token', async () => {
  class Refusing {
    constructor(_: string, protocols: string[]) {
      throw new SyntaxError(`The subprotocol '${protocols.join()}' is invalid.`);
    }
  }
  const one = client(new FakeHub(), { WebSocket: Refusing });
  one.client.connect();
  await one.untilState('waiting');
  expect(one.client.snapshot().reason).toBe('network: SyntaxError');
});

test('a subscriber that throws is reported, and does not stop reconnecting', async () => {
  const hub = new FakeHub();
  const one = client(hub);
  one.client.subscribe(() => {
    throw new Error('a subscriber');
  });
  await one.live();
  hub.drop();
  await until('a second connection', () => hub.opened === 2);
  await one.live();
  expect(one.errors[0]).toMatchObject({ code: 'handler_failed' });
});

test('ready settles for a signal that is aborted already, and leaves no listener on it', async () => {
  const one = client(new FakeHub());
  await expect(one.client.ready({ signal: AbortSignal.abort('over') })).rejects.toBe('over');
  const { signal } = new AbortController();
  const ready = one.client.ready({ signal });
  expect(getEventListeners(signal, 'abort').length).toBe(1);
  one.client.connect();
  await ready;
  expect(getEventListeners(signal, 'abort').length).toBe(0);
});

test('a command that waits for its result is not sent again, and one that is not JSON is not sent', async () => {
  const hub = new FakeHub();
  hub.onCommand = () => null;
  const one = await client(hub).live();
  const first = one.client.send({ type: 'bet' }, { id: 'a', timeoutMs: 50 });
  await expect(one.client.send({ type: 'bet' }, { id: 'a' })).rejects.toMatchObject({ code: 'command_id_conflict' });
  await expect(one.client.send({ type: 'bet', payload: 1n })).rejects.toMatchObject({ code: 'invalid_command' });
  await expect(first).rejects.toMatchObject({ code: 'timeout' });
  expect(hub.commands.length).toBe(1);
  expect(one.client.snapshot().state).toBe('live');
});
