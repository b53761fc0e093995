// Starts the console: takes a link from the address first, then draws the page.

import './styles/admin.css';
import { render } from 'preact';
import { api } from './api.ts';
import { App } from './app.tsx';
import { asProblem } from './poll.ts';
import { credential, signIn, signOut, takeLink } from './session.ts';

/** Exchanges a link for a token. A link that the hub refuses does not end a session that the tab has. */
async function enter(): Promise<void> {
  const link = takeLink();
  if (link === null) return;
  try {
    signIn((await api.signIn(link)).token);
  } catch (error) {
    const { status, message } = asProblem(error);
    if (credential() === null) signOut(status ? message : 'The hub does not answer. Run recado admin for a new link.');
  }
}

void enter();
window.addEventListener('hashchange', () => void enter());
render(<App />, document.getElementById('app')!);
