// Shows an action or a table as a command line and as curl, with buttons that copy.

import { useState } from 'preact/hooks';
import { shell } from '../format.ts';
import { hubUrl } from '../paths.ts';

/** A request in the two forms that a shell understands. */
export interface CommandForms {
  /** Arguments of `recado`; absent where the command line cannot do it. */
  readonly recado?: readonly string[];
  readonly method?: string;
  readonly path: string;
  readonly body?: unknown;
}

/** The request as curl. The key stays in a variable, so that it is in no shell history. */
export function curlOf({ method = 'GET', path, body }: CommandForms): string {
  const words = ['curl', '-sS', '-H', '"Authorization: Bearer $RECADO_KEY"'];
  if (method !== 'GET') words.push('-X', method);
  if (body !== undefined) words.push('-H', "'Content-Type: application/json'", '-d', shell(JSON.stringify(body)));
  words.push(shell(hubUrl() + path));
  return words.join(' ');
}

export const recadoOf = (words: readonly string[]): string => ['recado', ...words].map(shell).join(' ');

/** Preformatted text with a button that copies it. */
export function Copyable({ text, label }: { text: string; label: string }) {
  const [copied, setCopied] = useState(false);
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without a secure context there is no clipboard; the text can still be selected.
      return;
    }
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return (
    <div class="copyable">
      <pre tabIndex={0}>{text}</pre>
      <button type="button" class="quiet" onClick={copy} aria-label={`Copy ${label}`}>
        {copied ? 'Copied' : 'Copy'}
      </button>
    </div>
  );
}

/** A line that opens and shows the same request for a shell. */
export function ShowAs({ forms, what = 'this table' }: { forms: CommandForms; what?: string }) {
  return (
    <details class="showas">
      <summary>Show {what} as a command</summary>
      {forms.recado ? (
        <>
          <p class="hint">Command line</p>
          <Copyable text={recadoOf(forms.recado)} label="the command" />
        </>
      ) : null}
      <p class="hint">curl, with an admin key in RECADO_KEY</p>
      <Copyable text={curlOf(forms)} label="the curl command" />
    </details>
  );
}
