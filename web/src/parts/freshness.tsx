// Shows how old an answer is, how often it is asked for again, and a button that pauses.

import { useState } from 'preact/hooks';
import { duration } from '../format.ts';
import type { Polled } from '../poll.ts';
import { useNow } from '../poll.ts';

const CHOICES: readonly [number, string][] = [
  [2000, '2 s'],
  [5000, '5 s'],
  [15_000, '15 s'],
  [60_000, '1 min'],
];

/** The line above each table that is polled. */
export function Freshness({ polled, label }: { polled: Polled<unknown>; label: string }) {
  const now = useNow();
  const { at, every, loading, problem } = polled;
  const [chosen, choose] = useState(every || 5000);
  const paused = every === 0;
  const age = at === null ? 'not loaded yet' : `as of ${duration(Math.max(0, now - at))} ago`;
  return (
    <div class="freshness">
      <span class={problem ? 'stale' : ''} data-loading={loading}>
        {age}
        {problem && at !== null ? ', not current' : ''}
      </span>
      <button type="button" class="quiet" onClick={polled.refresh} aria-label={`Refresh ${label} now`}>
        Refresh
      </button>
      <label>
        <span class="hidden">Refresh {label} every</span>
        <select
          value={chosen}
          disabled={paused}
          onChange={(event) => {
            const ms = Number(event.currentTarget.value);
            choose(ms);
            polled.setEvery(ms);
          }}
        >
          {CHOICES.map(([ms, text]) => (
            <option key={ms} value={ms}>
              every {text}
            </option>
          ))}
        </select>
      </label>
      <button
        type="button"
        class="quiet"
        aria-pressed={paused}
        aria-label={`Pause ${label}`}
        onClick={() => polled.setEvery(paused ? chosen : 0)}
      >
        {paused ? 'Resume' : 'Pause'}
      </button>
      <span class="hint">{paused ? 'paused' : 'pauses while this tab is hidden'}</span>
    </div>
  );
}
