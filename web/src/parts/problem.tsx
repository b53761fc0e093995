// Shows a refusal with what to do about it, and empty states.

import type { ComponentChildren } from 'preact';
import type { Problem } from '../api.ts';

const ADVICE: { readonly [code: string]: string } = {
  network: 'Check that the hub runs, then wait: the page tries again by itself.',
  scope_missing: 'Use a key without scopes, or give this key the scope.',
  forbidden: 'Sign in with a key or token of the role admin.',
  playground_off: 'Set RECADO_PLAYGROUND=on to allow it on a hub that others can reach.',
  other_count: 'The number has changed since you looked. Look again, then repeat.',
  not_found: 'This hub is older than the page, or the thing is gone.',
  rate_limited: 'Wait, or choose a longer time between refreshes.',
};

/** A problem in words. It is announced once, when it appears. */
export function ProblemNote({ problem }: { problem: Problem | null }) {
  if (!problem) return null;
  const { body, code, status } = problem;
  return (
    <div class="note bad" role="alert">
      <p>
        <strong>{problem.message}</strong>
      </p>
      {body.errors && body.errors.length > 0 ? (
        <ul>
          {body.errors.map((one) => (
            <li key={one.pointer + one.detail}>
              <code>{one.pointer}</code> {one.detail}
            </li>
          ))}
        </ul>
      ) : null}
      {Object.hasOwn(ADVICE, code) ? <p>{ADVICE[code]}</p> : null}
      <p class="hint">
        {status ? `${status} ` : ''}
        <code>{code}</code>
        {body.request_id ? ` · request ${body.request_id}` : ''}
      </p>
    </div>
  );
}

/** Says that there is nothing to show, and what to do. */
export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p>
        <strong>{title}</strong>
      </p>
      {children}
    </div>
  );
}

/** Short result of an act, announced politely. */
export function Said({ text }: { text: string | null }) {
  return (
    <p class="said" role="status">
      {text}
    </p>
  );
}
