// Offers the notifications of a client to one `for await` loop.

import { RecadoError } from './errors.ts';
import type { Notification } from './frames.ts';

/** Most notifications that wait for a slow loop. Beyond it the loop fails: nothing is dropped silently. */
const WAITING_MOST = 100_000;

/** A notification that no loop has seen. It stays unacknowledged until `handled` is called. */
export interface Waiting {
  readonly notification: Notification;
  handled(): void;
}

/** Where a loop gets its notifications from. */
export interface Source {
  /** Adds the listener; returns the function that removes it. */
  listen(listener: (notification: Notification) => Promise<void>): () => void;
  /** End the loop. */
  readonly signals: readonly (AbortSignal | undefined)[];
  /** Notifications that ended loops have not seen. A loop takes them at its start, and leaves its own here. */
  readonly left: Waiting[];
}

/** Takes what ended loops left, in order. Two loops may have left the same notification. */
function take(left: Waiting[]): Waiting[] {
  const taken: Waiting[] = [];
  for (const one of left.splice(0).sort((a, b) => a.notification.seq - b.notification.seq)) {
    const last = taken.at(-1);
    if (last?.notification.id === one.notification.id) {
      const handled = (): void => {
        last.handled();
        one.handled();
      };
      taken[taken.length - 1] = { ...one, handled };
    } else {
      taken.push(one);
    }
  }
  return taken;
}

/** Listens from now on. A notification counts as handled when the loop asks for the next, or ends at it. */
export function iterate({ listen, signals, left }: Source): AsyncGenerator<Notification, void, void> {
  const waiting = take(left);
  const most = waiting.length + WAITING_MOST;
  const over = new AbortController();
  let isFull = false;
  let wake = (): void => {};
  const stop = listen((notification) => {
    const handled = new Promise<void>((resolve) => waiting.push({ notification, handled: resolve }));
    // Checked here and not in the loop: a loop that was never started would let the queue grow without limit.
    if (waiting.length > most) {
      isFull = true;
      end();
    }
    wake();
    return handled;
  });
  function end(): void {
    if (over.signal.aborted) return;
    over.abort();
    stop();
    for (const one of waiting.splice(0)) left.push(one);
    wake();
  }
  for (const signal of signals) {
    signal?.addEventListener('abort', end, { signal: over.signal });
    if (signal?.aborted) end();
  }
  return (async function* () {
    try {
      while (!over.signal.aborted) {
        const next = waiting.shift();
        if (next) {
          try {
            yield next.notification;
          } finally {
            next.handled();
          }
        } else {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
      }
      if (isFull) throw new RecadoError('too_slow', `${WAITING_MOST} notifications wait`);
    } finally {
      end();
    }
  })();
}
