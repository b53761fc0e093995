// Tests the small parts: acknowledgements, parsers, addresses, tokens, the store.

import { getEventListeners } from 'node:events';
import { expect, test } from 'vitest';
import { AckTracker } from '../../src/acks.ts';
import { EventParser } from '../../src/events.ts';
import { parseFrames } from '../../src/frames.ts';
import { RecadoClient } from '../../src/index.ts';
import { iterate, type Waiting } from '../../src/iterator.ts';
import type { End } from '../../src/machine.ts';
import { openSocket } from '../../src/socket.ts';
import { Store } from '../../src/store.ts';
import { claimsOf, Tokens } from '../../src/tokens.ts';
import { HubUrl } from '../../src/transport.ts';
import { sign } from '../support/hub.ts';

test('acknowledges up to the first notification that is not handled', () => {
  const acks = new AckTracker();
  acks.moved(10);
  const [first, second] = [acks.begin(11), acks.begin(13)];
  acks.moved(14);
  expect(acks.ready('auto')).toBe(10);
  second();
  expect(acks.ready('auto')).toBe(10);
  first();
  expect(acks.ready('auto')).toBe(14);
  expect(acks.ready('manual')).toBe(0);
  acks.manual(12);
  acks.manual(11);
  expect(acks.ready('manual')).toBe(12);
  acks.reset(3);
  expect([acks.ready('auto'), acks.ready('manual')]).toEqual([3, 0]);
});

test('a handler of the log before a reset frees no number of the new log', () => {
  const acks = new AckTracker();
  const old = acks.begin(5);
  acks.reset(0);
  acks.begin(5);
  acks.moved(6);
  old();
  expect([acks.ready('auto'), acks.handledTo]).toEqual([4, 4]);
});

/** A source of notifications for a loop, and what is left in it. */
function source(signal?: AbortSignal) {
  const left: Waiting[] = [];
  const listeners = new Set<(n: never) => Promise<void>>();
  const listen = (listener: (n: never) => Promise<void>): (() => void) => {
    listeners.add(listener);
    return () => listeners.delete(listener);
  };
  const post = (seq: number): void => {
    for (const tell of listeners) void tell({ seq, id: `id-${seq}` } as never);
  };
  return { left, listeners, post, loop: () => iterate({ listen, signals: [signal], left }) };
}

test('a loop that was never started stops listening at its limit, and fails', async () => {
  const { left, listeners, post, loop } = source();
  const full = loop();
  for (let seq = 1; seq <= 100_050; seq++) post(seq);
  expect([listeners.size, left.length]).toEqual([0, 100_001]);
  await expect(full.next()).rejects.toMatchObject({ code: 'too_slow' });
});

test('a loop that was never started ends with its signal, and leaves what it has not seen to the next, once', async () => {
  const abort = new AbortController();
  const { left, listeners, post, loop } = source(abort.signal);
  loop();
  loop();
  post(1);
  post(2);
  expect(getEventListeners(abort.signal, 'abort').length).toBe(2);
  abort.abort();
  expect([listeners.size, left.length, getEventListeners(abort.signal, 'abort').length]).toEqual([0, 4, 0]);
  const next = iterate({ listen: () => () => {}, signals: [], left });
  expect([(await next.next()).value?.seq, (await next.next()).value?.seq]).toEqual([1, 2]);
  await next.return();
  expect(left).toEqual([]);
});

test('reads one frame a message, or several', () => {
  expect(parseFrames('{"type":"a"}')).toEqual([{ type: 'a' }]);
  expect(parseFrames('{"type":"a"}\n{"type":"b"}\n')).toEqual([{ type: 'a' }, { type: 'b' }]);
  expect(() => parseFrames('{"type":')).toThrow(SyntaxError);
});

test('reads events however they are cut', () => {
  const stream =
    'retry: 1000\nid: 4\nevent: x\ndata: {"type":\ndata: "é"}\n\n: comment\n\nid: 5\r\ndata:{"type":"b"}\r\n\r\n';
  for (let at = 0; at <= stream.length; at++) {
    const parser = new EventParser();
    const frames = [...parser.push(stream.slice(0, at)), ...parser.push(stream.slice(at))];
    expect(frames).toEqual([{ type: 'é' }, { type: 'b' }]);
  }
});

test('keeps the path of a hub, and refuses other schemes', () => {
  expect(new HubUrl('https://example.com/hub')).toMatchObject({
    http: 'https://example.com/hub/',
    ws: 'wss://example.com/hub/',
  });
  expect(new HubUrl('ws://127.0.0.1:8080')).toMatchObject({
    http: 'http://127.0.0.1:8080/',
    ws: 'ws://127.0.0.1:8080/',
  });
  expect(() => new RecadoClient({ url: 'ftp://example.com', getToken: () => null })).toThrow(/https, http, wss or ws/);
});

test('reads the claims of a token without verifying them', () => {
  expect(claimsOf(sign({ sub: 'zoë' }))).toMatchObject({ sub: 'zoë' });
  for (const opaque of ['', 'a.b.c', 'rct_123', 'x.bnVsbA.y']) expect(claimsOf(opaque)).toBeNull();
});

test('asks once more for a token that is expired, and then lets the hub decide', async () => {
  const reasons: string[] = [];
  const old = sign({ sub: '42' }, -60);
  const tokens = new Tokens(({ reason }) => {
    reasons.push(reason);
    return old;
  });
  const { signal } = new AbortController();
  expect(await tokens.connecting('again', signal)).toBe(old);
  expect(await tokens.connecting('again', signal)).toBe(old);
  expect(reasons).toEqual(['first', 'refused', 'again', 'refused']);
});

test('a getToken that hangs ends with the signal', async () => {
  const tokens = new Tokens(() => new Promise(() => {}));
  const abort = new AbortController();
  const asked = tokens.get('first', abort.signal);
  abort.abort();
  await expect(asked).rejects.toMatchObject({ code: 'token_failed', retryable: true });
});

test('tells subscribers of changes only, and keeps the object until then', () => {
  const failures: unknown[] = [];
  const store = new Store((cause) => failures.push(cause));
  let told = 0;
  store.subscribe(() => {
    throw 'a subscriber';
  });
  const stop = store.subscribe(() => told++);
  const before = store.get();
  store.set({ state: 'idle' });
  expect([told, store.get() === before]).toEqual([0, true]);
  store.set({ state: 'live' });
  expect([told, store.get().state, failures]).toEqual([1, 'live', ['a subscriber']]);
  stop();
  store.set({ state: 'closed' });
  expect(told).toBe(1);
});

/** A WebSocket whose events a test fires. */
class ScriptedSocket {
  static last: ScriptedSocket;
  onopen = (): void => {};
  onerror = (): void => {};
  onclose = (_: { code: number; reason: string }): void => {};
  constructor() {
    ScriptedSocket.last = this;
  }
}

test('a connection attempt that fails ends once, also where only an error event follows', () => {
  const ends: End[] = [];
  const events = { opened: () => {}, frames: () => {}, ended: (end: End) => void ends.push(end) };
  const dial = (): ScriptedSocket => {
    ends.length = 0;
    const request = { base: new HubUrl('http://hub'), query: {}, token: 't', events };
    openSocket(request, ScriptedSocket as unknown as typeof WebSocket);
    return ScriptedSocket.last;
  };
  const failed = { kind: 'websocket', code: 1006, reason: '', opened: false };
  // Node 22 fires no close event after a refused connection or a refused upgrade.
  dial().onerror();
  expect(ends).toEqual([failed]);
  const browser = dial();
  browser.onerror();
  browser.onclose({ code: 1006, reason: '' });
  expect(ends).toEqual([failed]);
  // After the opening the close event has the hub's code.
  const open = dial();
  open.onopen();
  open.onerror();
  expect(ends).toEqual([]);
  open.onclose({ code: 4001, reason: 'draining' });
  expect(ends).toEqual([{ kind: 'websocket', code: 4001, reason: 'draining', opened: true }]);
});
