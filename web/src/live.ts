// Keeps the samples of all instances of the last hour, fed by one stream for all pages.

import { useEffect, useState } from 'preact/hooks';
import { events, type Problem } from './api.ts';
import { asProblem, wait } from './poll.ts';
import type { Sample } from './types.ts';

/** One sample each 5 s for 60 minutes. */
const MOST = 720;
/** Waits between tries after the stream broke. */
const AGAIN_MS = 3000;

export interface Live {
  readonly samples: readonly Sample[];
  readonly problem: Problem | null;
  readonly at: number | null;
}

/** Follows the stream while the page is shown and visible. */
export function useLive(window: string): Live {
  const [live, set] = useState<Live>({ samples: [], problem: null, at: null });
  useEffect(() => {
    let abort = new AbortController();
    let ended = false;
    const run = async (): Promise<void> => {
      const { signal } = abort;
      while (!signal.aborted) {
        // The stream begins with the past window, so each try begins with nothing. Samples are shown together.
        let samples: Sample[] = [];
        let due = false;
        const show = (): void => {
          due = false;
          if (!signal.aborted) set({ samples, problem: null, at: Date.now() });
        };
        try {
          await events(`/api/admin/live?window=${window}`, signal, (name, data) => {
            if (name !== 'sample') return;
            samples = [...samples.slice(-(MOST - 1)), JSON.parse(data) as Sample];
            if (!due) setTimeout(show, 50);
            due = true;
          });
        } catch (error) {
          if (signal.aborted) return;
          set((old) => ({ ...old, problem: asProblem(error) }));
        }
        await wait(AGAIN_MS, signal);
      }
    };
    const visibility = (): void => {
      abort.abort();
      if (document.hidden || ended) return;
      abort = new AbortController();
      void run();
    };
    document.addEventListener('visibilitychange', visibility);
    visibility();
    return () => {
      ended = true;
      abort.abort();
      document.removeEventListener('visibilitychange', visibility);
    };
  }, [window]);
  return live;
}
