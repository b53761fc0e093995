// Offers the notifications of a client to one `for await` loop.

import { RecadoError } from './errors.ts';
import type { Notification } from './frames.ts';

/** Most notifications that wait for a slow loop. Beyond it the loop fails: nothing is dropped silently. */
const WAITING_MOST = 100_000;

/** Where a loop gets its notifications from. */
export interface Source {
  /** Adds the listener; returns the function that removes it. */
  listen(listener: (notification: Notification) => Promise<void>): () => void;
  /** End the loop. */
  readonly signals: readonly (AbortSignal | undefined)[];
}

/** Listens from now on. A notification counts as handled when the loop asks for the next, or ends. */
export function iterate({ listen, signals }: Source): AsyncGenerator<Notification, void, void> {
  const waiting: { notification: Notification; handled: () => void }[] = [];
  const isOver = (): boolean => signals.some((signal) => signal?.aborted);
  let wake = (): void => {};
  const stop = listen((notification) => {
    const handled = new Promise<void>((resolve) => waiting.push({ notification, handled: resolve }));
    wake();
    return handled;
  });
  for (const signal of signals) signal?.addEventListener('abort', () => wake());
  return (async function* () {
    try {
      while (!isOver()) {
        if (waiting.length > WAITING_MOST) throw new RecadoError('too_slow', `${WAITING_MOST} notifications wait`);
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
    } finally {
      stop();
      for (const { handled } of waiting) handled();
    }
  })();
}
