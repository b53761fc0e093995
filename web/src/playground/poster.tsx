// Draws the form that posts notifications, and the same post for a shell, a service and SQL.

import { useState } from 'preact/hooks';
import { api, type Problem } from '../api.ts';
import { number, plural } from '../format.ts';
import { Copyable } from '../parts/command.tsx';
import { ProblemNote, Said } from '../parts/problem.tsx';
import { asProblem } from '../poll.ts';
import { asCurl, asRecado, asSql, asTypeScript, bodyOf, type Draft, FIRST } from './forms.ts';

const FORMS = [
  ['curl', 'curl', asCurl],
  ['ts', 'TypeScript', asTypeScript],
  ['sql', 'SQL', asSql],
  ['cli', 'Command line', asRecado],
] as const;

export function Poster({ user, posted }: { user: string; posted: (count: number) => void }) {
  const [draft, setDraft] = useState<Draft>({ ...FIRST, id: user });
  const [shownAs, setShownAs] = useState<string>('curl');
  const [problem, setProblem] = useState<Problem | null>(null);
  const [said, setSaid] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const { body, wrong } = bodyOf(draft);
  const set = (change: Partial<Draft>): void => setDraft({ ...draft, ...change });

  const post = async (count: number): Promise<void> => {
    if (!body || busy) return;
    setBusy(true);
    setProblem(null);
    try {
      let first = 0;
      let last = 0;
      for (let n = 1; n <= count; n++) {
        const answer = await api.notify(
          count === 1 ? body : { ...body, message: `${draft.message} (${n} of ${count})` },
        );
        first ||= answer.seq;
        last = answer.seq;
      }
      posted(count);
      setSaid(
        count === 1
          ? `Posted as number ${number(first)}.`
          : `Posted ${plural(count, 'notification')}, numbers ${number(first)} to ${number(last)}.`,
      );
    } catch (error) {
      setProblem(asProblem(error));
    }
    setBusy(false);
  };

  const field = (name: 'id' | 'type' | 'title' | 'message', label: string, disabled = false) => (
    <label class="field">
      <span>{label}</span>
      <input
        value={draft[name]}
        disabled={disabled}
        onInput={(event) => set({ [name]: event.currentTarget.value })}
        autocomplete="off"
        spellcheck={false}
        name={`post-${name}`}
      />
    </label>
  );
  const write = FORMS.find(([name]) => name === shownAs)?.[2] ?? asCurl;
  return (
    <section class="panel" aria-labelledby="post-title">
      <h2 id="post-title">Post a notification</h2>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void post(1);
        }}
      >
        <div class="grid">
          <label class="field">
            <span>To</span>
            <select value={draft.to} onChange={(event) => set({ to: event.currentTarget.value as Draft['to'] })}>
              <option value="user">a user</option>
              <option value="account">an account</option>
              <option value="everyone">everyone</option>
            </select>
          </label>
          {field('id', draft.to === 'account' ? 'Account id' : 'User id', draft.to === 'everyone')}
          {field('type', 'Type')}
          {field('title', 'Title')}
          {field('message', 'Message')}
        </div>
        <label class="field">
          <span>Data (JSON, or nothing)</span>
          <textarea
            rows={3}
            value={draft.data}
            onInput={(event) => set({ data: event.currentTarget.value })}
            spellcheck={false}
            aria-invalid={wrong !== null}
          />
        </label>
        {wrong ? <p class="note fair">{wrong}</p> : null}
        <div class="buttons">
          <button type="submit" class="main" disabled={!body || busy}>
            Post
          </button>
          <button type="button" disabled={!body || busy} onClick={() => void post(5)}>
            Post 5
          </button>
        </div>
      </form>
      <Said text={said} />
      <ProblemNote problem={problem} />
      <div class="tabs" role="group" aria-label="The same post as">
        {FORMS.map(([name, label]) => (
          <button key={name} type="button" aria-pressed={name === shownAs} onClick={() => setShownAs(name)}>
            {label}
          </button>
        ))}
      </div>
      {body ? <Copyable text={write(body)} label="the post" /> : null}
    </section>
  );
}
