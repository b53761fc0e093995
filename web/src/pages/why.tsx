// Says why a user has a notification, or does not: a sentence, then what happened on each device.

import type { ComponentChildren } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { href, setQuery, usePlace } from '../address.ts';
import { api, type Problem } from '../api.ts';
import { clock, duration, number, shortDuration } from '../format.ts';
import { ShowAs } from '../parts/command.tsx';
import { Empty, ProblemNote } from '../parts/problem.tsx';
import { Head, State, UserLink } from '../parts/texts.tsx';
import { asProblem, useNow } from '../poll.ts';
import type { Why as Answer, WhyDevice } from '../types.ts';

/** The number without spaces and commas. */
const seqOf = (text: string): string => text.replace(/[\s,]/g, '');
const isSeq = (text: string): boolean => /^[1-9]\d{0,17}$/.test(seqOf(text));

export function Why() {
  const { query } = usePlace();
  const user = query.get('user') ?? '';
  const seq = query.get('seq') ?? '';
  const [typed, setTyped] = useState({ user, seq });
  const [answer, setAnswer] = useState<{ readonly of: Answer; readonly at: number } | null>(null);
  const [round, setRound] = useState(0);
  const [problem, setProblem] = useState<Problem | null>(null);
  useEffect(() => {
    setTyped({ user, seq });
    setAnswer(null);
    setProblem(null);
    if (user === '' || !isSeq(seq)) return;
    const abort = new AbortController();
    api.why(user, seqOf(seq), abort.signal).then(
      (of) => setAnswer({ of, at: Date.now() }),
      (error: unknown) => {
        if (!abort.signal.aborted) setProblem(asProblem(error));
      },
    );
    return () => abort.abort();
  }, [user, seq, round]);
  const wrong = typed.seq.trim() !== '' && !isSeq(typed.seq);
  return (
    <>
      <Head title="Why">{answer ? <Asked at={answer.at} again={() => setRound(round + 1)} /> : null}</Head>
      <p class="lead">Did a user get a notification, and if not, why?</p>
      <form
        class="filters"
        onSubmit={(event) => {
          event.preventDefault();
          setQuery({ user: typed.user.trim(), seq: seqOf(typed.seq) });
        }}
      >
        <label class="field">
          <span>User id</span>
          <input
            value={typed.user}
            onInput={(event) => setTyped({ ...typed, user: event.currentTarget.value })}
            data-search=""
            autocomplete="off"
            spellcheck={false}
            required
          />
        </label>
        <label class="field">
          <span>Number (seq)</span>
          <input
            value={typed.seq}
            onInput={(event) => setTyped({ ...typed, seq: event.currentTarget.value })}
            inputMode="numeric"
            autocomplete="off"
            required
          />
        </label>
        <button type="submit" class="main" disabled={wrong}>
          Ask
        </button>
      </form>
      {wrong ? <p class="note fair">The number must be a whole number of at least 1.</p> : null}
      <ProblemNote problem={problem} />
      {answer ? (
        <Result answer={answer.of} />
      ) : problem || wrong ? null : user !== '' && seq !== '' ? (
        <p class="hint">Asking…</p>
      ) : (
        <Empty title="Type a user and a number">
          <p>
            Every notification has a number. It is in the answer to the post, on the <a href="#/tail">Live tail</a>, and
            in the frames that clients receive.
          </p>
        </Empty>
      )}
      {user !== '' && isSeq(seq) ? (
        <ShowAs
          what="this question"
          forms={{ recado: ['why', user, seq], path: `/api/admin/why?${new URLSearchParams({ user, seq })}` }}
        />
      ) : null}
    </>
  );
}

/** The answer is of one moment: a device may have acknowledged since. */
function Asked({ at, again }: { at: number; again: () => void }) {
  const now = useNow();
  return (
    <div class="freshness">
      <span>as of {duration(now - at)} ago</span>
      <button type="button" class="quiet" onClick={again}>
        Ask again
      </button>
    </div>
  );
}

function Result({ answer }: { answer: Answer }) {
  const { notification: about, devices, sessions } = answer;
  // The hub lists devices and sessions only of a user whom the notification concerns.
  const listed = devices.length + sessions.length > 0 || answer.verdict === 'never_connected';
  return (
    <article>
      <div class="verdict" role="status">
        <State word={answer.verdict} />
        {answer.text.split('\n').map((line, at) => (
          <p key={at}>{line}</p>
        ))}
      </div>
      <dl class="facts">
        <dt>User</dt>
        <dd>
          <UserLink id={answer.user} />
        </dd>
        {about ? (
          <>
            <dt>Notification</dt>
            <dd>
              {number(answer.seq)} · {about.type} · to {about.to}
              {about.account_id ? ` ${about.account_id}` : ''} · from {about.source}
            </dd>
            <dt>Created</dt>
            <dd>
              {clock(about.created_at, true)}
              {about.replay ? '' : ' · only for clients that were connected'}
              {about.expires_at ? ` · expires ${clock(about.expires_at)}` : ''}
            </dd>
          </>
        ) : null}
      </dl>
      {listed ? (
        <>
          <h2>Devices</h2>
          {devices.length === 0 ? <p class="hint">No device of this user is stored.</p> : null}
          <ol class="timeline">
            {devices.map((device) => (
              <Moment key={device.client_id} title={device.client_id} word={device.verdict}>
                <DeviceText device={device} />
              </Moment>
            ))}
          </ol>
          <h2>Sessions since then</h2>
          {sessions.length === 0 ? <p class="hint">None is kept.</p> : null}
          <ol class="timeline">
            {sessions.map((one) => (
              <Moment
                key={one.session_id}
                title={`${one.client_id} · ${one.transport}`}
                word={one.ended_at ? 'ended' : 'connected'}
              >
                {clock(one.connected_at)} to{' '}
                {one.ended_at ? `${clock(one.ended_at)} (${one.end_reason ?? 'no reason'})` : 'now'} · began after{' '}
                {number(one.from_seq)}, sent up to {number(one.sent_seq)}
                {one.account_ids.length > 0 ? ` · accounts ${one.account_ids.join(', ')}` : ''}
              </Moment>
            ))}
          </ol>
        </>
      ) : (
        <p>
          <a href={href('users', answer.user)}>Devices and sessions of {answer.user}</a>
        </p>
      )}
    </article>
  );
}

function Moment({ title, word, children }: { title: string; word: string; children: ComponentChildren }) {
  return (
    <li>
      <b>{title}</b> <State word={word} />
      <div>{children}</div>
    </li>
  );
}

function DeviceText({ device }: { device: WhyDevice }) {
  const { sent_at, sent_after_ms, sent_exact, acked_at, acked_after_ms } = device;
  const after = (ms: number | null): string => (ms === null ? '' : ` (${shortDuration(ms)} after it was posted)`);
  return (
    <>
      {sent_at
        ? `sent ${sent_exact === false ? 'at the latest ' : ''}${clock(sent_at, true)}${after(sent_after_ms)}`
        : 'not sent, as far as is known'}
      {acked_at ? ` · acknowledged ${clock(acked_at, true)}${after(acked_after_ms)}` : ''}
    </>
  );
}
