// Draws small texts that many pages share: links to things, times, states, JSON.

import type { ComponentChildren } from 'preact';
import { href } from '../address.ts';
import { ago, clock } from '../format.ts';
import { useNow } from '../poll.ts';

export const UserLink = ({ id }: { id: string }) => (
  <a href={href('users', id)} class="id">
    {id}
  </a>
);

export const WhyLink = ({ user, seq, children }: { user: string; seq: number; children?: ComponentChildren }) => (
  <a href={href('why', '', { user, seq })}>{children ?? seq}</a>
);

/** A time with its age; the exact time is in the title. */
export function Age({ time }: { time: string | number | null | undefined }) {
  const now = useNow(5000);
  if (time === null || time === undefined) return <span class="hint">–</span>;
  const ms = typeof time === 'number' ? time : Date.parse(time);
  if (Number.isNaN(ms)) return <span class="hint">–</span>;
  const text = ms > now + 1500 ? clock(ms) : ago(ms, now);
  return (
    <time dateTime={new Date(ms).toISOString()} title={new Date(ms).toISOString()}>
      {text}
    </time>
  );
}

const TONES: { readonly [word: string]: string } = {
  acked: 'good',
  live: 'good',
  ready: 'good',
  connected: 'good',
  sent: 'fair',
  behind: 'fair',
  connecting: 'fair',
  signing_in: 'fair',
  waiting: 'fair',
  draining: 'fair',
  backing_off: 'bad',
  refused: 'bad',
  failed: 'bad',
  dropped: 'bad',
  'not ready': 'bad',
  'killed or cut off': 'bad',
};

/** A state as a coloured word. The word says it; the colour only helps. */
export const State = ({ word }: { word: string }) => (
  <span class={`state ${Object.hasOwn(TONES, word) ? TONES[word] : ''}`}>{word.replaceAll('_', ' ')}</span>
);

/** JSON, indented. It is a text node, whatever it holds. */
export const Json = ({ value, label }: { value: unknown; label: string }) => (
  <pre class="json" tabIndex={0} role="region" aria-label={label}>
    {JSON.stringify(value, null, 2)}
  </pre>
);

/** Heading of a page, with its line about freshness or its buttons at the right. */
export function Head({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <header class="head">
      <h1 tabIndex={-1}>{title}</h1>
      {children}
    </header>
  );
}
