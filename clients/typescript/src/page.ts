// Listens to the page: its own events wake a client, because timers of hidden pages are throttled or stop.

/** How often `watch` is called. */
const WATCH_MS = 1_000;
/**
 * A browser that leaves a page aborts its requests a moment before `pagehide`, which ends listeners whose work is not
 * done. A listener counts as finished this long after its end, so that the last acknowledgement does not cover those.
 */
const SETTLE_MS = 100;

/** Calls the function unless the page is about to end; at once outside a browser. */
export function whenPageStays(then: () => void): void {
  if (typeof document === 'undefined') then();
  else setTimeout(then, SETTLE_MS);
}

/**
 * Calls `nudge` when the page becomes visible or the network comes back, `flush` when the page may be about to end,
 * `watch` each second, and `cached` when the page enters or leaves the back-forward cache. Until the signal; not at all
 * outside a browser.
 */
export function listenToPage(
  signal: AbortSignal,
  nudge: () => void,
  flush: () => void,
  watch: () => void,
  cached: (isIn: boolean) => void,
): void {
  if (typeof document === 'undefined') return;
  const timer = setInterval(watch, WATCH_MS);
  signal.addEventListener('abort', () => clearInterval(timer));
  const on = (target: EventTarget, event: string, then: (event: Event) => void): void =>
    target.addEventListener(event, then, { signal });
  on(document, 'visibilitychange', () => (document.visibilityState === 'hidden' ? flush() : nudge()));
  on(window, 'online', nudge);
  on(window, 'focus', nudge);
  const isCached = (event: Event): boolean => (event as PageTransitionEvent).persisted;
  on(window, 'pagehide', (event) => (isCached(event) ? cached(true) : flush()));
  on(window, 'pageshow', (event) => isCached(event) && cached(false));
}
