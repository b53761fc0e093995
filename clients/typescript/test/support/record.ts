// Makes clients for tests and records what their listeners see.

import { expect } from 'vitest';
import { WebSocket as NodeWebSocket } from 'ws';
import { type Gap, type Notification, RecadoClient, type RecadoError, type RecadoOptions } from '../../src/index.ts';
import { userToken } from './hub.ts';

/** Longest wait for a condition. */
const PATIENCE_MS = 30_000;

/** Waits until a condition holds; fails with the text and `state` after 30 s. */
export async function until(
  what: string,
  holds: () => boolean | Promise<boolean>,
  state?: () => unknown,
): Promise<void> {
  const end = Date.now() + PATIENCE_MS;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`not within ${PATIENCE_MS} ms: ${what} ${JSON.stringify(state?.() ?? '')}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A client and everything that it told its listeners. */
export class Recorded {
  readonly client: RecadoClient;
  readonly got: Notification[] = [];
  readonly gaps: Gap[] = [];
  readonly errors: RecadoError[] = [];
  readonly states: string[] = [];
  readonly asked: string[] = [];
  caughtUp = 0;

  constructor(url: string, user: string, options: Partial<RecadoOptions> = {}) {
    const getToken = options.getToken ?? ((): string => userToken(user));
    this.client = new RecadoClient({
      url,
      WebSocket: NodeWebSocket as unknown as typeof WebSocket,
      ...options,
      getToken: (context) => {
        this.asked.push(context.reason);
        return getToken(context);
      },
    });
    this.client.on('notification', (n) => void this.got.push(n));
    this.client.on('gap', (gap) => void this.gaps.push(gap));
    this.client.on('error', (error) => void this.errors.push(error));
    this.client.on('caughtUp', () => void this.caughtUp++);
    this.client.subscribe(() => {
      const { state, reason } = this.client.snapshot();
      const text = reason ? `${state} ${reason}` : state;
      if (this.states.at(-1) !== text) this.states.push(text);
    });
  }

  get seqs(): number[] {
    return this.got.map((n) => n.seq);
  }

  /** Connects and waits for `live`. */
  async live(): Promise<this> {
    this.client.connect();
    await this.client.ready({ signal: AbortSignal.timeout(PATIENCE_MS) });
    return this;
  }

  /** Waits for the notifications with these numbers, and checks that nothing else came, and in order. */
  async expectExactly(seqs: number[]): Promise<void> {
    const last = seqs.at(-1) ?? 0;
    await until(
      `notification ${last}`,
      () => (this.seqs.at(-1) ?? 0) >= last,
      () => [this.states, this.seqs.length],
    );
    expect(this.seqs).toEqual(seqs);
  }

  async untilState(state: string): Promise<void> {
    await until(
      `state ${state}`,
      () => this.client.snapshot().state === state,
      () => this.states,
    );
  }
}
