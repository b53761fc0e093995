// Moves between pages and to the search field by keys, and lists the keys.

import { useEffect, useRef } from 'preact/hooks';
import { go, href } from './address.ts';

interface Target {
  readonly name: string;
  readonly title: string;
  readonly letter: string;
}

/** The second key follows within this time. */
const SECOND_MS = 1200;

const isTyping = (target: EventTarget | null): boolean =>
  target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));

export function useKeyboard(pages: readonly Target[], help: () => void): void {
  const latest = useRef(help);
  latest.current = help;
  useEffect(() => {
    let asked = 0;
    const pressed = (event: KeyboardEvent): void => {
      if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
      if (isTyping(event.target)) {
        if (event.key === 'Escape') (event.target as HTMLElement).blur();
        return;
      }
      if (event.key === '/') {
        const field = document.querySelector<HTMLElement>('[data-search]');
        if (!field) return;
        event.preventDefault();
        field.focus();
        if (field instanceof HTMLInputElement) field.select();
      } else if (event.key === '?') {
        event.preventDefault();
        latest.current();
      } else if (event.key === 'g') {
        asked = Date.now();
      } else if (Date.now() - asked < SECOND_MS) {
        asked = 0;
        const page = pages.find(({ letter }) => letter === event.key);
        if (page) {
          event.preventDefault();
          go(href(page.name));
        }
      }
    };
    document.addEventListener('keydown', pressed);
    return () => document.removeEventListener('keydown', pressed);
  }, [pages]);
}

export function Help({ pages, close }: { pages: readonly Target[]; close: () => void }) {
  const box = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = box.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  return (
    <dialog ref={box} aria-labelledby="help-title" onClose={close}>
      <h2 id="help-title">Keys</h2>
      <dl class="keys">
        <dt>
          <kbd>/</kbd>
        </dt>
        <dd>to the first filter</dd>
        <dt>
          <kbd>?</kbd>
        </dt>
        <dd>this help</dd>
        <dt>
          <kbd>Esc</kbd>
        </dt>
        <dd>leave a field, close a dialog</dd>
        {pages.map(({ name, title, letter }) => (
          <>
            <dt key={`${name} key`}>
              <kbd>g</kbd> <kbd>{letter}</kbd>
            </dt>
            <dd key={name}>{title}</dd>
          </>
        ))}
      </dl>
      <div class="buttons">
        <button type="button" class="main" onClick={close}>
          Close
        </button>
      </div>
    </dialog>
  );
}
