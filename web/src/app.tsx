// Draws the frame of every page: sign-in, navigation, the page that the address names, and the keyboard.

import type { ComponentType } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { href, usePlace } from './address.ts';
import { Help, useKeyboard } from './keyboard.tsx';
import { Devices } from './pages/devices.tsx';
import { Instances } from './pages/instances.tsx';
import { Log } from './pages/log.tsx';
import { Overview } from './pages/overview.tsx';
import { Playground } from './pages/playground.tsx';
import { Sessions } from './pages/sessions.tsx';
import { SettingsPage } from './pages/settings.tsx';
import { SignIn } from './pages/sign-in.tsx';
import { LiveTail } from './pages/tail.tsx';
import { Upstream } from './pages/upstream.tsx';
import { User } from './pages/user.tsx';
import { Why } from './pages/why.tsx';
import { Empty } from './parts/problem.tsx';
import { credential, onCredential, signOut } from './session.ts';

/** A page: its name in the address, its title, the letter after `g`, and what draws it. */
export interface PageEntry {
  readonly name: string;
  readonly title: string;
  readonly letter: string;
  readonly view: ComponentType;
}

const PAGES: readonly PageEntry[] = [
  { name: 'overview', title: 'Overview', letter: 'o', view: Overview },
  { name: 'sessions', title: 'Sessions', letter: 's', view: Sessions },
  { name: 'devices', title: 'Devices', letter: 'd', view: Devices },
  { name: 'users', title: 'User', letter: 'u', view: User },
  { name: 'why', title: 'Why', letter: 'w', view: Why },
  { name: 'tail', title: 'Live tail', letter: 't', view: LiveTail },
  { name: 'playground', title: 'Playground', letter: 'p', view: Playground },
  { name: 'upstream', title: 'Upstream', letter: 'r', view: Upstream },
  { name: 'log', title: 'Log', letter: 'l', view: Log },
  { name: 'instances', title: 'Instances', letter: 'i', view: Instances },
  { name: 'settings', title: 'Settings', letter: 'c', view: SettingsPage },
];

export function App() {
  const [, draw] = useState(0);
  useEffect(() => onCredential(() => draw((n) => n + 1)), []);
  return credential() === null ? <SignIn /> : <Console />;
}

function Console() {
  const place = usePlace();
  const page = PAGES.find(({ name }) => name === place.page);
  const main = useRef<HTMLElement>(null);
  const [help, setHelp] = useState(false);
  const [open, setOpen] = useState(false);
  const first = useRef(true);
  useKeyboard(PAGES, () => setHelp(true));
  const key = `${place.page}/${place.rest}`;
  // Only another page moves the focus, not another filter.
  useEffect(() => {
    document.title = `${page?.title ?? 'Not found'}${place.rest ? ` ${place.rest}` : ''} · Recado`;
    setOpen(false);
    window.scrollTo(0, 0);
    // A reader of the screen hears the new page; the first page keeps the browser's own focus.
    if (!first.current) main.current?.querySelector<HTMLElement>('h1')?.focus();
    first.current = false;
  }, [key]);
  const View = page?.view;
  return (
    <>
      <button type="button" class="skip" onClick={() => main.current?.focus()}>
        Skip to the content
      </button>
      <header class="bar">
        <a class="brand" href={href('overview')}>
          Recado
        </a>
        <button type="button" class="menu" aria-expanded={open} aria-controls="pages" onClick={() => setOpen(!open)}>
          {page?.title ?? 'Menu'} <span aria-hidden="true">▾</span>
        </button>
        <nav id="pages" aria-label="Pages" data-open={open}>
          {PAGES.map(({ name, title }) => (
            <a
              key={name}
              href={href(name)}
              aria-current={name === place.page ? 'page' : undefined}
              onClick={() => setOpen(false)}
            >
              {title}
            </a>
          ))}
        </nav>
        <div class="bar-end">
          <button type="button" class="quiet" onClick={() => setHelp(true)} aria-label="Keyboard help">
            ?
          </button>
          <button type="button" class="quiet" onClick={() => signOut()}>
            Sign out
          </button>
        </div>
      </header>
      <main id="main" ref={main} tabIndex={-1}>
        {View ? (
          <View key={place.page} />
        ) : (
          <Empty title="There is no such page">
            <p>
              Go to the <a href={href('overview')}>overview</a>.
            </p>
          </Empty>
        )}
      </main>
      {help ? <Help pages={PAGES} close={() => setHelp(false)} /> : null}
    </>
  );
}
