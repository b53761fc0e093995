// Tests the pure decisions of the machine with scripted frames and ends.

import { describe, expect, test } from 'vitest';
import type { ServerFrame } from '../../src/frames.ts';
import { type End, Machine, type MachineOptions } from '../../src/machine.ts';

const make = (more: Partial<MachineOptions> = {}): Machine =>
  new Machine({ since: 'ack', transport: 'auto', minMs: 300, maxMs: 20_000, random: () => 1, ...more });

const hello = (resume: object, more: object = {}): ServerFrame =>
  ({ type: 'connection_established', user_id: '42', log_id: 'log-1', heartbeat_ms: 1_000, resume, ...more }) as never;
const item = (seq: number, prev: number, more: object = {}): ServerFrame => ({
  type: 'test',
  title: 't',
  id: `id-${seq}`,
  seq,
  prev,
  ...more,
});
const heartbeat = (seq: number, prev: number): ServerFrame => ({ type: 'heartbeat', seq, prev });
const caughtUp = (seq: number, replayed: number): ServerFrame => ({ type: 'caught_up', seq, replayed });
const end = (code: number, more: Partial<End> = {}): End => ({
  kind: 'websocket',
  code,
  reason: '',
  opened: true,
  ...more,
});

/** What a series of own frames does. */
const steps = (machine: Machine, frames: ServerFrame[], own = true): string[] =>
  frames.map((frame) => machine.frame(frame, own).do);

describe('place', () => {
  test('applies, moves by heartbeats, and drops duplicates', () => {
    const machine = make();
    const frames = [hello({ status: 'ok', from: 10 }), item(12, 10), item(12, 10), heartbeat(15, 12), item(14, 12)];
    expect(steps(machine, frames)).toEqual(['hello', 'apply', 'nothing', 'moved', 'nothing']);
    expect(machine.place).toEqual({ seq: 15, logId: 'log-1', lastId: null });
    expect(machine.start()).toEqual({ since: '15', log_id: 'log-1' });
  });

  test('names the notification at its place, and no other', () => {
    const machine = make();
    steps(machine, [hello({ status: 'live', from: 1 }), item(3, 1)]);
    expect(machine.start()).toEqual({ since: '3', log_id: 'log-1', last_id: 'id-3' });
    steps(machine, [heartbeat(3, 3)]);
    expect(machine.start().last_id).toBe('id-3');
    steps(machine, [heartbeat(4, 3)]);
    expect(machine.start().last_id).toBeUndefined();
  });

  test('breaks where a notification, a heartbeat or caught_up proves a hole', () => {
    for (const proof of [item(14, 12), heartbeat(13, 12), caughtUp(12, 2)]) {
      const machine = make();
      expect(steps(machine, [hello({ status: 'ok', from: 10 }), item(11, 10), proof])).toEqual([
        'hello',
        'apply',
        'break',
      ]);
      expect(machine.start().since).toBe('11');
    }
  });

  test('starts as asked, until there is a place', () => {
    expect(make({ since: 'earliest' }).start()).toEqual({ since: 'earliest' });
    expect(make({ since: '7' }).start()).toEqual({ since: '7' });
  });

  test('refuses a second user', () => {
    const machine = make();
    steps(machine, [hello({ status: 'live', from: 1 })]);
    expect(machine.frame(hello({ status: 'live', from: 1 }, { user_id: '43' }), true)).toEqual({
      do: 'fail',
      reason: 'identity_changed',
    });
  });
});

describe('gap and reset', () => {
  test('a gap is told with its range, and the place is after it', () => {
    const machine = make();
    steps(machine, [hello({ status: 'ok', from: 10 })]);
    const step = machine.frame(hello({ status: 'gap', from: 13, lost_from: 11, lost_to: 13 }), true);
    expect(step).toMatchObject({ do: 'hello', gap: { status: 'gap', lost_from: 11, lost_to: 13 } });
    expect(steps(machine, [item(14, 13)])).toEqual(['apply']);
  });

  test('a reset drops the place', () => {
    const machine = make();
    steps(machine, [hello({ status: 'ok', from: 10 }), item(11, 10)]);
    const step = machine.frame(hello({ status: 'reset', from: 0 }, { log_id: 'log-2' }), true);
    expect(step).toMatchObject({ do: 'hello', gap: { status: 'reset' } });
    expect(machine.place).toEqual({ seq: 0, logId: 'log-2', lastId: null });
    expect(steps(machine, [item(1, 0)])).toEqual(['apply']);
  });

  test('a hub that skips numbers without a word is told as a gap', () => {
    const machine = make();
    steps(machine, [hello({ status: 'ok', from: 10 })]);
    expect(machine.frame(hello({ status: 'ok', from: 12 }), true)).toMatchObject({
      gap: { status: 'gap', lost_from: 11, lost_to: 12 },
    });
  });
});

describe('after an end', () => {
  const first = (one: End): string => {
    const verdict = make().ended(one);
    return verdict.next === 'stop' ? verdict.state : verdict.next;
  };

  test('each close code has its consequence', () => {
    const codes: Record<string, number[]> = {
      again: [0, 1000, 1001, 1005, 1006, 1011, 1012, 3000, 4000, 4001, 4002, 4003, 4029, 4400, 4999],
      token: [4401],
      failed: [1002, 1003, 1007, 1009, 4004, 4501, 4502, 4504, 4505, 4510],
    };
    for (const [expected, list] of Object.entries(codes)) {
      for (const code of list) expect([code, first(end(code))]).toEqual([code, expected]);
    }
    expect(first(end(4500, { reason: 'unauthorized: bad signature' }))).toBe('unauthorized');
  });

  test('each word of SSE has its consequence', () => {
    const words: Record<string, string[]> = {
      again: ['draining', 'slow_consumer', 'server_error', 'full', 'too_many_connections', 'network', 'ended'],
      token: ['token_expired', 'token_revoked'],
      failed: ['session_replaced', 'foreign_origin', 'bad_query', 'forbidden'],
      unauthorized: ['unauthorized'],
    };
    for (const [expected, list] of Object.entries(words)) {
      for (const reason of list) expect([reason, first(end(0, { kind: 'sse', reason }))]).toEqual([reason, expected]);
    }
  });

  test('waits double up to a limit, and start over with caught_up', () => {
    const machine = make();
    const waits = Array.from({ length: 9 }, () => machine.ended(end(1006)));
    expect(waits.map((w) => w.next === 'again' && w.afterMs)).toEqual([
      300, 600, 1_200, 2_400, 4_800, 9_600, 19_200, 20_000, 20_000,
    ]);
    steps(machine, [hello({ status: 'live', from: 1 })]);
    expect(machine.ended(end(1006))).toMatchObject({ afterMs: 20_000 });
    steps(machine, [hello({ status: 'live', from: 1 }), caughtUp(1, 0)]);
    expect(machine.ended(end(1006))).toMatchObject({ afterMs: 300 });
  });

  test('waits are random below the limit', () => {
    const machine = make({ random: () => 0.25 });
    expect([machine.backoff(), machine.backoff(), machine.backoff()]).toEqual([75, 150, 300]);
  });

  test('the goodbye of the hub wins over the back-off, once', () => {
    const machine = make();
    steps(machine, [{ type: 'goodbye', reason: 'draining', after_ms: 1_830 }]);
    expect(machine.ended(end(4000))).toMatchObject({ next: 'again', afterMs: 1_830 });
    expect(machine.ended(end(1006))).toMatchObject({ afterMs: 300 });
    expect(machine.ended(end(503, { kind: 'sse', reason: 'full', afterMs: 6_000 }))).toMatchObject({ afterMs: 6_000 });
  });

  test('two refused tokens are replaced, a third stops; a connection in between counts anew', () => {
    const machine = make();
    expect(machine.ended(end(4401)).next).toBe('token');
    steps(machine, [hello({ status: 'live', from: 1 })]);
    expect([1, 2, 3].map(() => machine.ended(end(4401)).next)).toEqual(['token', 'token', 'stop']);
    expect(machine.ended(end(4401))).toMatchObject({ state: 'unauthorized' });
  });
});

describe('transports', () => {
  const refused = end(1006, { opened: false });

  test('two upgrades that never opened lead to SSE for five seconds, and then for ten minutes', () => {
    const machine = make();
    expect(machine.transport(0)).toBe('websocket');
    machine.ended(refused);
    expect(machine.transport(0)).toBe('websocket');
    machine.ended(refused);
    for (const [from, until] of [
      [1_000, 6_000],
      [7_000, 607_000],
      [608_000, 1_208_000],
    ] as const) {
      expect(machine.transport(from)).toBe('sse');
      machine.opened('sse');
      machine.ended(end(0, { kind: 'sse' }));
      expect(machine.transport(until - 1)).toBe('sse');
      expect(machine.isFallbackOver(until - 1)).toBe(false);
      expect(machine.isFallbackOver(until)).toBe(true);
      expect(machine.transport(until)).toBe('websocket');
      // One more failure is enough now: SSE has shown that the hub is up.
      machine.ended(refused);
    }
  });

  test('an upgrade that opens after SSE shows that the hub was away: the next fallback is short again', () => {
    const machine = make();
    for (const at of [0, 100_000]) {
      machine.ended(refused);
      machine.ended(refused);
      expect(machine.transport(at)).toBe('sse');
      machine.opened('sse');
      machine.ended(end(0, { kind: 'sse' }));
      expect(machine.isFallbackOver(at + 5_000)).toBe(true);
      expect(machine.transport(at + 5_000)).toBe('websocket');
      machine.opened('websocket');
      machine.ended(end(1006));
    }
  });

  test('an upgrade that opens starts the count over', () => {
    const machine = make();
    machine.ended(refused);
    machine.opened('websocket');
    machine.ended(end(1006));
    machine.ended(refused);
    expect(machine.transport(0)).toBe('websocket');
  });

  test('SSE that does not get through either says that the hub is away', () => {
    const machine = make();
    machine.ended(refused);
    machine.ended(refused);
    expect(machine.transport(0)).toBe('sse');
    machine.ended(end(0, { kind: 'sse', opened: false }));
    expect(machine.transport(1)).toBe('websocket');
    expect(machine.isFallbackOver(1e12)).toBe(false);
  });

  test('a fixed transport stays', () => {
    const machine = make({ transport: 'websocket' });
    for (let i = 0; i < 5; i++) machine.ended(refused);
    expect(machine.transport(0)).toBe('websocket');
    expect(make({ transport: 'sse' }).transport(0)).toBe('sse');
  });
});

describe('a tab that follows', () => {
  test('adopts the place of the leader and applies what comes after it', () => {
    const machine = make();
    expect(steps(machine, [item(5, 4)], false)).toEqual(['nothing']);
    expect(machine.adopt({ seq: 7, logId: 'log-1', lastId: null })).toBe('same');
    expect(steps(machine, [item(7, 6), item(8, 7)], false)).toEqual(['nothing', 'apply']);
  });

  test('asks for what it lacks, and does not jump to the end of a replay', () => {
    const machine = make();
    machine.adopt({ seq: 7, logId: 'log-1', lastId: null });
    expect(machine.adopt({ seq: 9, logId: 'log-1', lastId: null })).toBe('behind');
    expect(steps(machine, [hello({ status: 'ok', from: 9 }), item(11, 9), caughtUp(11, 1)], false)).toEqual([
      'break',
      'break',
      'break',
    ]);
    expect(machine.place?.seq).toBe(7);
    expect(steps(machine, [hello({ status: 'ok', from: 7 }), item(9, 7), item(11, 9), caughtUp(11, 2)], false)).toEqual(
      ['hello', 'apply', 'apply', 'caughtUp'],
    );
  });

  test('learns late of another log, and resumes from its beginning', () => {
    const machine = make();
    machine.adopt({ seq: 70, logId: 'log-1', lastId: null });
    expect(machine.adopt({ seq: 5, logId: 'log-2', lastId: null })).toBe('reset');
    expect(machine.place).toEqual({ seq: 0, logId: 'log-2', lastId: null });
    expect(steps(machine, [item(6, 5)], false)).toEqual(['break']);
  });

  test('a rewind that is asked before the first frame of a connection is not forgotten', () => {
    const machine = make();
    steps(machine, [hello({ status: 'ok', from: 10 }), item(20, 10), caughtUp(20, 1)]);
    machine.opening();
    machine.start();
    machine.rewind({ seq: 12, logId: 'log-1', lastId: null });
    expect(steps(machine, [hello({ status: 'ok', from: 20 }), caughtUp(20, 0)])).toEqual(['hello', 'break']);
    machine.ended(end(0));
    expect(machine.start().since).toBe('12');
    expect(steps(machine, [hello({ status: 'ok', from: 12 }), caughtUp(20, 0)])).toEqual(['hello', 'caughtUp']);
    expect(machine.start().since).toBe('20');
  });

  test('a leader rewinds for it to the lowest place, and acknowledges no more than it was sent', () => {
    const machine = make();
    steps(machine, [hello({ status: 'ok', from: 10 }), item(20, 10)]);
    expect(machine.rewind({ seq: 20, logId: 'log-1', lastId: null })).toBe(false);
    expect(machine.rewind({ seq: 15, logId: 'log-2', lastId: null })).toBe(false);
    expect(machine.rewind({ seq: 15, logId: 'log-1', lastId: null })).toBe(true);
    expect(machine.rewind({ seq: 12, logId: 'log-1', lastId: 'id-12' })).toBe(true);
    expect(machine.rewind({ seq: 14, logId: 'log-1', lastId: null })).toBe(true);
    expect(machine.start()).toEqual({ since: '12', log_id: 'log-1', last_id: 'id-12' });
    expect(steps(machine, [hello({ status: 'ok', from: 12 }), item(15, 12)])).toEqual(['hello', 'nothing']);
    expect([machine.place?.seq, machine.link]).toEqual([20, 15]);
    steps(machine, [item(20, 15), caughtUp(20, 2)]);
    expect(machine.start().since).toBe('20');
  });
});
