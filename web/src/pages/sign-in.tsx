// Asks for an admin's key or token, and checks it with the hub before the page opens.

import { useState } from 'preact/hooks';
import { api, type Problem } from '../api.ts';
import { ProblemNote } from '../parts/problem.tsx';
import { asProblem } from '../poll.ts';
import { lastRefusal, signIn, signOut } from '../session.ts';

export function SignIn() {
  const [value, setValue] = useState('');
  const [problem, setProblem] = useState<Problem | null>(null);
  const [busy, setBusy] = useState(false);
  const why = lastRefusal();
  const enter = async (event: Event): Promise<void> => {
    event.preventDefault();
    if (value.trim() === '') return;
    setBusy(true);
    setProblem(null);
    signIn(value);
    try {
      await api.settings();
    } catch (error) {
      const found = asProblem(error);
      // A 401 has signed out already, with the reason.
      if (found.status === 403) signOut(found.message);
      else if (found.status !== 401) setProblem(found);
    }
    setBusy(false);
  };
  return (
    <main class="sign-in">
      <form onSubmit={enter}>
        <h1>Recado console</h1>
        {why ? (
          <div class="note bad" role="alert">
            <p>
              <strong>{why}</strong>
            </p>
          </div>
        ) : null}
        <ProblemNote problem={problem} />
        <label class="field">
          <span>Admin key or token</span>
          <input
            type="password"
            value={value}
            onInput={(event) => setValue(event.currentTarget.value)}
            autocomplete="off"
            spellcheck={false}
            placeholder="rck_…"
            required
            autofocus
          />
        </label>
        <button type="submit" class="main" disabled={busy}>
          Sign in
        </button>
        <p class="hint">
          <code>recado admin</code> on the hub's machine prints a link that signs you in. A key for longer:{' '}
          <code>recado key create NAME --role admin</code>. This page does not store the key: a reload asks for it
          again.
        </p>
      </form>
    </main>
  );
}
