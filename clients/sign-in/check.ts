// Asks each page for tokens, and checks what the page takes from its SDK.

import assert from 'node:assert/strict';
import type { TokenReason } from '@recado/client';
import { createElement } from 'react';
import { renderToString } from 'react-dom/server';
import * as stubs from './stubs.js';

Object.assign(globalThis, { location: { origin: 'https://app.example.com' }, fetch: stubs.fetchFromBackend });

async function rendered(): Promise<unknown> {
  const { Notifications } = await import('./clerk.js');
  return renderToString(createElement(Notifications));
}

/** Each page, and the tokens that it takes when any token is good, and when it must be a new one. */
const pages: [string, () => Promise<unknown>, string, string][] = [
  ['auth0', () => import('./auth0.js'), 'access token', 'new access token'],
  ['keycloak', () => import('./keycloak.js'), 'access token', 'new access token'],
  ['cognito', () => import('./cognito.js'), 'access token', 'new access token'],
  ['firebase', () => import('./firebase.js'), 'access token', 'new access token'],
  ['supabase', () => import('./supabase.js'), 'access token', 'new access token'],
  ['clerk', rendered, 'access token', 'new access token'],
  // A backend makes a new one each time.
  ['backend', () => import('./backend.js'), 'new access token', 'new access token'],
];

for (const [name, load, any, fresh] of pages) {
  await load();
  assert.equal(String(stubs.made?.url), 'https://hub.example.com', name);
  const getToken = async (reason: TokenReason) => stubs.made?.getToken({ reason, signal: AbortSignal.timeout(1000) });
  stubs.session.state = 'signed in';
  const expected = { first: any, again: any, expiring: fresh, refused: fresh } as const;
  for (const [reason, token] of Object.entries(expected)) {
    assert.equal(await getToken(reason as TokenReason), token, `${name}: ${reason}`);
  }
  for (const reason of Object.keys(expected) as TokenReason[]) {
    stubs.session.state = 'signed out';
    assert.equal(await getToken(reason), null, `${name}: a user who has signed out stops the client`);
    stubs.session.state = 'offline';
    await assert.rejects(() => getToken(reason), `${name}: without a network the client tries again`);
  }
  stubs.session.state = 'signed in';
  assert.equal(await getToken('again'), any, `${name}: after the network is back`);
}
console.log(`${pages.length} pages give the right token, or none, for each reason`);
