// Lets a newcomer post, watch the notification arrive, cut the connection, and see that nothing is missed.

import { useCallback, useEffect, useState } from 'preact/hooks';
import { usePlace } from '../address.ts';
import { api, type Problem } from '../api.ts';
import { Empty, ProblemNote } from '../parts/problem.tsx';
import { Head } from '../parts/texts.tsx';
import { Panel } from '../playground/panel.tsx';
import { Poster } from '../playground/poster.tsx';
import { asProblem } from '../poll.ts';

const STEPS = [
  ['connected', 'Connect a device'],
  ['posted', 'Post a notification, and watch it arrive'],
  ['cut', 'Cut the connection'],
  ['posted_offline', 'Post 5 more while it is away'],
  ['back', 'Come back: exactly the 5 arrive, missed 0, duplicates 0'],
] as const;
type Step = (typeof STEPS)[number][0];

export function Playground() {
  const { query } = usePlace();
  const user = query.get('user') ?? 'ann';
  const [allowed, setAllowed] = useState<boolean | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [done, setDone] = useState<ReadonlySet<Step>>(new Set());
  useEffect(() => {
    const abort = new AbortController();
    api.settings(abort.signal).then(
      ({ playground }) => setAllowed(playground),
      (error: unknown) => {
        if (!abort.signal.aborted) setProblem(asProblem(error));
      },
    );
    return () => abort.abort();
  }, []);
  const did = useCallback((step: Step | 'received'): void => {
    if (step !== 'received') setDone((old) => (old.has(step) ? old : new Set([...old, step])));
  }, []);
  const posted = (): void => did(done.has('cut') && !done.has('back') ? 'posted_offline' : 'posted');
  const next = STEPS.findIndex(([step]) => !done.has(step));
  return (
    <>
      <Head title="Playground" />
      <ProblemNote problem={problem} />
      <p class="lead">A client that loses its connection misses nothing. Try it in one minute:</p>
      <ol class="steps">
        {STEPS.map(([step, text], at) => (
          <li key={step} data-done={done.has(step)} aria-current={at === next ? 'step' : undefined}>
            {text}
            {done.has(step) ? <span class="hidden"> (done)</span> : null}
          </li>
        ))}
      </ol>
      {allowed === false ? (
        <Empty title="The playground is off on this hub">
          <p>
            A hub that others can reach does not make tokens of users. Set <code>RECADO_PLAYGROUND=on</code> and start
            it again to allow it. Posting works without it.
          </p>
        </Empty>
      ) : null}
      <div class="split">
        <Poster user={user} posted={posted} />
        {allowed ? (
          <div>
            <Panel
              title="Device 1"
              first={{
                user,
                accounts: [],
                clientId: 'playground-1',
                transport: 'websocket',
                signIn: 'token',
                ack: 'auto',
              }}
              did={did}
            />
            <Panel
              title="Device 2"
              first={{ user, accounts: [], clientId: 'playground-2', transport: 'sse', signIn: 'token', ack: 'auto' }}
              did={did}
            />
          </div>
        ) : null}
      </div>
    </>
  );
}
