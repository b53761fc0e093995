// Tells whether a client has ended, and waits until it is live or has.

import { RecadoError } from './errors.ts';
import type { Snapshot, Store } from './store.ts';

/** Whether the client has ended by itself, and waits for `connect()`. */
export const isEnd = ({ state }: Snapshot): boolean => state === 'unauthorized' || state === 'failed';

/** A reason may go on after its word: `unauthorized: bad signature`. */
export const wordOf = (reason: string): string => reason.split(':')[0] as string;

/** Rejects with a RecadoError in an end state, or with the signal's reason. */
export function untilLive(store: Store, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const abort = (): void => settle(() => reject(signal?.reason));
    const settle = (then: () => void): void => {
      stop();
      signal?.removeEventListener('abort', abort);
      then();
    };
    const look = (): void => {
      const now = store.get();
      const { state, reason } = now;
      if (state === 'live') settle(resolve);
      else if (state === 'closed' || isEnd(now)) {
        settle(() => reject(new RecadoError(wordOf(reason ?? state), `the client is ${state}: ${reason}`)));
      }
    };
    const stop = store.subscribe(look);
    signal?.addEventListener('abort', abort, { once: true });
    look();
  });
}
