// Asks before an action, shows its command forms, and performs it.

import type { ComponentChildren } from 'preact';
import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import type { Problem } from '../api.ts';
import { asProblem } from '../poll.ts';
import { type CommandForms, ShowAs } from './command.tsx';
import { ProblemNote } from './problem.tsx';
import { Json } from './texts.tsx';

/** What a dialog asks. */
export interface Question {
  readonly title: string;
  readonly text: ComponentChildren;
  /** Text of the button that acts. */
  readonly verb: string;
  readonly forms: CommandForms | ((note: string) => CommandForms);
  /** A text that the admin types before the button works, such as the number of sessions. */
  readonly typed?: string;
  readonly typedLabel?: string;
  /** Label of a text of the admin that the action takes. */
  readonly noteLabel?: string;
  /** Performs the action. The result is shown on the page. */
  act(note: string): Promise<string>;
}

function useModal() {
  const box = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = box.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  return box;
}

/** Shows a value. The focus is on it, so that the arrow keys scroll it. */
export function JsonDialog({ value, title, done }: { value: unknown; title: string; done: () => void }) {
  return (
    <dialog ref={useModal()} aria-label={title} onClose={done}>
      <form method="dialog">
        <h2>{title}</h2>
        <Json value={value} label={`${title} as JSON`} />
        <div class="buttons">
          <button type="submit">Close</button>
        </div>
      </form>
    </dialog>
  );
}

/** A modal dialog. The browser keeps the focus inside, and Escape closes it. */
export function Confirm({ question, done }: { question: Question; done: (said: string | null) => void }) {
  const box = useModal();
  const [typed, setTyped] = useState('');
  const [note, setNote] = useState('');
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const ready = question.typed === undefined || typed.trim() === question.typed;
  const act = async (event: Event): Promise<void> => {
    event.preventDefault();
    if (!ready || busy) return;
    setBusy(true);
    setProblem(null);
    try {
      done(await question.act(note));
    } catch (error) {
      setProblem(asProblem(error));
      setBusy(false);
    }
  };
  return (
    <dialog ref={box} aria-labelledby="ask-title" onClose={() => done(null)}>
      <form onSubmit={act}>
        <h2 id="ask-title">{question.title}</h2>
        <div>{question.text}</div>
        {question.typed === undefined ? null : (
          <label class="field">
            <span>
              {question.typedLabel ?? 'Type to confirm:'} <strong>{question.typed}</strong>
            </span>
            <input
              value={typed}
              onInput={(event) => setTyped(event.currentTarget.value)}
              autocomplete="off"
              inputMode="numeric"
            />
          </label>
        )}
        {question.noteLabel ? (
          <label class="field">
            <span>{question.noteLabel}</span>
            <input
              value={note}
              onInput={(event) => setNote(event.currentTarget.value)}
              maxLength={500}
              autocomplete="off"
            />
          </label>
        ) : null}
        <ProblemNote problem={problem} />
        <ShowAs
          forms={typeof question.forms === 'function' ? question.forms(note) : question.forms}
          what="this action"
        />
        <div class="buttons">
          <button type="button" onClick={() => done(null)}>
            Cancel
          </button>
          <button type="submit" class="danger" disabled={!ready || busy}>
            {question.verb}
          </button>
        </div>
      </form>
    </dialog>
  );
}

/** State of a page with one dialog: ask, and the result of the last action. */
export function useQuestion(): {
  readonly ask: (question: Question) => void;
  readonly said: string | null;
  readonly dialog: ComponentChildren;
} {
  const [asked, setAsked] = useState<{ readonly n: number; readonly question: Question | null }>({
    n: 0,
    question: null,
  });
  const [said, setSaid] = useState<string | null>(null);
  const { n, question } = asked;
  // A browser tells of a closed dialog a moment later. By then the next question may be there, which must stay.
  const done = (text: string | null): void => {
    setAsked((old) => (old.n === n ? { n, question: null } : old));
    if (text !== null) setSaid(text);
  };
  const ask = useCallback((next: Question) => setAsked((old) => ({ n: old.n + 1, question: next })), []);
  const dialog = question ? <Confirm key={n} question={question} done={done} /> : null;
  return { ask, said, dialog };
}
