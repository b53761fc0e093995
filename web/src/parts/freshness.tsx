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

interface AsOfProps {
  readonly at: number | null;
  /** Milliseconds between two answers; 0 while none is awaited. */
  readonly every: number;
  readonly what?: string;
  readonly none?: string;
  readonly failed?: boolean;
}

/** The age of an answer. After three missed answers it is a warning. */
export function AsOf({ at, every, what = 'answer', none = 'not loaded yet', failed = false }: AsOfProps) {
  const age = useNow() - (at ?? 0);
  if (at === null) return <span class={failed ? 'stale' : ''}>{none}</span>;
  const text = duration(age);
  return every > 0 && age > every * 3 ? (
    <span class="stale">
      no {what} for {text}
    </span>
  ) : (
    <span class={failed ? 'stale' : ''}>
      as of {text} ago{failed ? ', not current' : ''}
    </span>
  );
}

/** The line above each table that is polled. `once`: the answer is not asked for again. */
export function Freshness({ polled, label, once }: { polled: Polled<unknown>; label: string; once?: boolean }) {
  const { at, every, problem } = polled;
  const [chosen, choose] = useState(every || 5000);
  const paused = every === 0;
  return (
    <div class="freshness">
      <AsOf at={at} every={every} failed={problem !== null} />
      <button type="button" class="quiet" onClick={polled.refresh} aria-label={`Refresh ${label} now`}>
        Refresh
      </button>
      {once ? null : (
        <>
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
        </>
      )}
    </div>
  );
}
