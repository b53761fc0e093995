// Starts the console: takes a token from the address first, then draws the page.

import './styles/admin.css';
import { render } from 'preact';
import { App } from './app.tsx';
import { takeToken } from './session.ts';

takeToken();
window.addEventListener('hashchange', takeToken);
render(<App />, document.getElementById('app')!);
