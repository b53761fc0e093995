// Holds the client's state as an immutable snapshot and tells subscribers of changes.

import { paced } from './timers.ts';

/**
 * State of a client.
 *
 * - `idle`: not connected yet.
 * - `connecting`, `replaying`, `live`: on the way, receiving what was missed, up to date.
 * - `waiting`: the connection broke; the next try is at `retryAt`.
 * - `unauthorized`, `failed`, `closed`: ended; `connect()` starts again.
 */
export type State = 'idle' | 'connecting' | 'replaying' | 'live' | 'waiting' | 'unauthorized' | 'failed' | 'closed';

/** What a page may show of its connection. The running number is not part of it: see `RecadoClient.seq`. */
export interface Snapshot {
  readonly state: State;
  /** Why the client waits or has ended: a word of the hub or of the SDK. */
  readonly reason: string | null;
  /** Time of the next try, in milliseconds since 1970. */
  readonly retryAt: number | null;
  /** True in the tab that holds the connection. Use it for work that one tab should do. */
  readonly isLeader: boolean;
  readonly userId: string | null;
  readonly transport: 'websocket' | 'sse' | null;
  /** Counts of the inbox as `InboxCounts` has them; null until the hub has sent them. Only with the option `inbox`. */
  readonly unread: number | null;
  readonly unseen: number | null;
  readonly asOf: number | null;
}

/** The snapshot without counts. */
export const UNCOUNTED: Pick<Snapshot, 'unread' | 'unseen' | 'asOf'> = { unread: null, unseen: null, asOf: null };

/** The snapshot before `connect()`, and on a server. */
export const IDLE: Snapshot = Object.freeze({
  state: 'idle',
  reason: null,
  retryAt: null,
  isLeader: false,
  userId: null,
  transport: null,
  ...UNCOUNTED,
});

/** The snapshot and its subscribers. A new object is made only if something changed. */
export class Store {
  #now: Snapshot = IDLE;
  readonly #subscribers = new Set<() => void>();
  readonly #failed: (cause: unknown) => void;

  /** `failed` is told what a subscriber throws: it must not stop the client that changes its state. */
  constructor(failed: (cause: unknown) => void) {
    this.#failed = failed;
  }

  get(): Snapshot {
    return this.#now;
  }

  /** `isFrequent`: counts change with each notification, and subscribers are told of them at most once in 16 ms. */
  set(change: Partial<Snapshot>, isFrequent?: boolean): void {
    const next = { ...this.#now, ...change };
    const keys = Object.keys(next) as (keyof Snapshot)[];
    if (keys.every((key) => next[key] === this.#now[key])) return;
    this.#now = Object.freeze(next);
    if (isFrequent) this.#tellPaced();
    else this.#tell();
  }

  readonly #tell = (): void => {
    for (const tell of [...this.#subscribers]) {
      try {
        tell();
      } catch (cause) {
        this.#failed(cause);
      }
    }
  };

  readonly #tellPaced: () => void = paced(this.#tell);

  subscribe(tell: () => void): () => void {
    this.#subscribers.add(tell);
    return () => this.#subscribers.delete(tell);
  }
}
