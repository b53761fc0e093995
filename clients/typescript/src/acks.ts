// Tracks which notifications are handled, and up to which number the device may acknowledge.

import type { Place } from './machine.ts';

/** Handled and unhandled notifications of this page, in order. */
export class AckTracker {
  /** Numbers whose handlers have not finished, ascending: a Set keeps the order of insertion. */
  #pending = new Set<number>();
  #place = 0;
  #manual = 0;

  /** Starts over: after `reset` the numbers belong to another log. */
  reset(place: number): void {
    // Not cleared: handlers of the old log still end, and must not end the wait for a number of the new one.
    this.#pending = new Set();
    this.#place = place;
    this.#manual = 0;
  }

  /** The page's place moved, by a notification or by a heartbeat. */
  moved(place: number): void {
    if (place > this.#place) this.#place = place;
  }

  /** The handlers of a notification go on after the call. Returns the function that ends the wait. */
  begin(seq: number): () => void {
    const pending = this.#pending.add(seq);
    return () => pending.delete(seq);
  }

  /** The application acknowledged everything up to `seq` by itself. */
  manual(seq: number): void {
    if (seq > this.#manual) this.#manual = seq;
  }

  /** Number before the first notification whose handlers have not finished; null if there is none. */
  get handledTo(): number | null {
    for (const first of this.#pending) return first - 1;
    return null;
  }

  /** Where a joining tab starts: at what this tab has handled, so that it receives the rest if this tab dies. */
  handled(at: Place | null, mode: 'auto' | 'manual' | undefined): Place | null {
    const to = mode === 'manual' ? null : this.handledTo;
    return at && to !== null && to < at.seq ? { seq: to, logId: at.logId, lastId: null } : at;
  }

  /** Highest number that may be acknowledged; 0 for none. */
  ready(mode: 'auto' | 'manual' | undefined): number {
    if (mode === 'manual') return this.#manual;
    return this.handledTo ?? this.#place;
  }
}
