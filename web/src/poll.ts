// Loads an answer again and again, and pauses while the page is hidden.

import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import { Problem } from './api.ts';

/** What a page shows of a polled answer. */
export interface Polled<A> {
  readonly data: A | null;
  readonly problem: Problem | null;
  /** When the answer arrived, by this browser's clock. */
  readonly at: number | null;
  readonly loading: boolean;
  /** Milliseconds between an answer and the next request; 0 while paused. */
  readonly every: number;
  setEvery(ms: number): void;
  refresh(): void;
}

export const asProblem = (error: unknown): Problem =>
  error instanceof Problem ? error : new Problem(0, { code: 'page', detail: String(error) });

/** Resolves once the page is visible. */
function visible(signal: AbortSignal): Promise<void> {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const look = (): void => {
      if (document.hidden) return;
      document.removeEventListener('visibilitychange', look);
      resolve();
    };
    document.addEventListener('visibilitychange', look, { signal });
  });
}

/** Waits, or less if the signal ends. */
export function wait(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

/** Polls `load`. A change of `key` starts anew; the old answer stays until the new one is there. */
export function usePoll<A>(load: (signal: AbortSignal) => Promise<A>, key: string, first = 5000): Polled<A> {
  const [state, set] = useState<{ data: A | null; problem: Problem | null; at: number | null }>({
    data: null,
    problem: null,
    at: null,
  });
  const [loading, setLoading] = useState(true);
  const [every, setEvery] = useState(first);
  const [round, setRound] = useState(0);
  const latest = useRef(load);
  latest.current = load;
  // `round` and `key` start anew; `every` does too, so that a shorter time counts at once.
  useEffect(() => {
    const abort = new AbortController();
    const { signal } = abort;
    const run = async (): Promise<void> => {
      for (;;) {
        await visible(signal);
        if (signal.aborted) return;
        setLoading(true);
        try {
          const data = await latest.current(signal);
          if (signal.aborted) return;
          set({ data, problem: null, at: Date.now() });
        } catch (error) {
          if (signal.aborted) return;
          set((old) => ({ ...old, problem: asProblem(error) }));
        }
        setLoading(false);
        if (every === 0) return;
        await wait(every, signal);
        if (signal.aborted) return;
      }
    };
    void run();
    return () => abort.abort();
  }, [key, round, every]);
  const refresh = useCallback(() => setRound((n) => n + 1), []);
  return { ...state, loading, every, setEvery, refresh };
}

/** Loads now and twice later: another hub closes its sessions within five seconds. */
export const refreshSoon = (refresh: () => void): void => {
  for (const ms of [0, 2000, 5000]) setTimeout(refresh, ms);
};
/** Ends the result of an act that other hubs perform later. */
export const SOON = '; those of other hubs go within five seconds.';

/** The value after it has not changed for `ms`. */
export function useSettled<V>(value: V, ms: number): V {
  const [settled, set] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => set(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return settled;
}

/** Components that show ages, by how often. One timer serves all of them: a table has a hundred. */
const clocks = new Map<number, Set<(now: number) => void>>();

function tick(ms: number, listeners: Set<(now: number) => void>): void {
  setTimeout(() => {
    const now = Date.now();
    if (!document.hidden) for (const listener of listeners) listener(now);
    if (listeners.size > 0) tick(ms, listeners);
    else clocks.delete(ms);
  }, ms);
}

/** The time; renders again every second, or as often as `ms` says. */
export function useNow(ms = 1000): number {
  const [now, set] = useState(Date.now);
  useEffect(() => {
    let listeners = clocks.get(ms);
    if (!listeners) {
      listeners = new Set();
      clocks.set(ms, listeners);
      tick(ms, listeners);
    }
    const mine = listeners;
    mine.add(set);
    return () => void mine.delete(set);
  }, [ms]);
  return now;
}
