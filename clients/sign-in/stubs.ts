// Stands for the SDKs of identity providers: a session that is signed in, signed out or offline.

import type { Auth0Client } from '@auth0/auth0-spa-js';
import type { useClerk as realUseClerk } from '@clerk/react';
import type { SupabaseClient } from '@supabase/supabase-js';
import type { AuthSession, FetchAuthSessionOptions } from 'aws-amplify/auth';
import type { Auth, User } from 'firebase/auth';
import type { KeycloakConfig } from 'keycloak-js';
import type { RecadoOptions } from '@recado/client';
import { createElement, Fragment, type ReactNode } from 'react';

type Part<T, Names extends keyof T> = { [Name in Names]: T[Name] };

/** What the SDKs find. A stale token is in their cache; a new one must be asked for. */
export const session: { state: 'signed in' | 'signed out' | 'offline' } = { state: 'signed in' };

const offline = () => new TypeError('Failed to fetch');

/** The token of the session. */
function tokenOf(isForced: boolean | undefined): string | null {
  if (session.state === 'signed out') return null;
  // The cache of an SDK needs no network.
  if (session.state === 'offline') throw offline();
  return isForced ? 'new access token' : 'access token';
}

// @auth0/auth0-spa-js

export async function createAuth0Client(): Promise<Part<Auth0Client, 'getTokenSilently'>> {
  const getTokenSilently = async (options: { cacheMode?: 'on' | 'off' | 'cache-only' } = {}) => {
    const token = tokenOf(options.cacheMode === 'off');
    if (token === null) throw Object.assign(new Error('Login required'), { error: 'login_required' });
    return token;
  };
  return { getTokenSilently: getTokenSilently as Auth0Client['getTokenSilently'] };
}

// keycloak-js

export default class Keycloak {
  token: string | undefined = 'access token';
  idToken: string | undefined = 'ID token';
  constructor(readonly config: KeycloakConfig) {}
  get authenticated(): boolean {
    return session.state !== 'signed out';
  }
  async init(): Promise<boolean> {
    return this.authenticated;
  }
  async updateToken(minValidity = 5): Promise<boolean> {
    this.token = tokenOf(minValidity === -1) ?? undefined;
    return minValidity === -1;
  }
}

// aws-amplify

export const Amplify = { configure(): void {} };

export async function fetchAuthSession(options: FetchAuthSessionOptions = {}): Promise<AuthSession> {
  const token = tokenOf(options.forceRefresh);
  if (token === null) return {};
  const jwt = (text: string) => ({ payload: {}, toString: () => text });
  return { tokens: { accessToken: jwt(token), idToken: jwt('ID token') } };
}

// firebase

export const initializeApp = (): object => ({});

export function getAuth(): Part<Auth, 'authStateReady'> & { currentUser: Part<User, 'getIdToken'> | null } {
  let isReady = false;
  return {
    async authStateReady() {
      isReady = true;
    },
    get currentUser() {
      if (!isReady || session.state === 'signed out') return null;
      return { getIdToken: async (isForced?: boolean) => tokenOf(isForced) ?? '' };
    },
  };
}

// @supabase/supabase-js

export const isAuthRetryableFetchError = (error: unknown): boolean => error instanceof TypeError;

type SupabaseAuth = SupabaseClient['auth'];

export function createClient(): { auth: Part<SupabaseAuth, 'getSession' | 'refreshSession'> } {
  const answer = async (isForced: boolean) => {
    if (session.state === 'offline') return { data: { session: null, user: null }, error: offline() };
    const token = tokenOf(isForced);
    const missing = isForced ? new Error('Auth session missing!') : null;
    if (token === null) return { data: { session: null, user: null }, error: missing };
    return { data: { session: { access_token: token }, user: null }, error: null };
  };
  return {
    auth: {
      getSession: () => answer(false) as unknown as ReturnType<SupabaseAuth['getSession']>,
      refreshSession: () => answer(true) as unknown as ReturnType<SupabaseAuth['refreshSession']>,
    },
  };
}

// @clerk/react

type ClerkSession = NonNullable<ReturnType<typeof realUseClerk>['session']>;

export function useClerk(): { session: Part<ClerkSession, 'getToken'> | null } {
  return {
    get session() {
      if (session.state === 'signed out') return null;
      return { getToken: async (options: { skipCache?: boolean } = {}) => tokenOf(options.skipCache) };
    },
  };
}

// The application's own backend

export const fetchFromBackend = (async () => {
  const token = tokenOf(true);
  return token === null ? new Response('', { status: 401 }) : Response.json({ token });
}) satisfies typeof fetch;

// @recado/client

/** The options of the client that the page made last. */
export let made: RecadoOptions | undefined;

export class RecadoClient {
  constructor(options: RecadoOptions) {
    made = options;
  }
}

export const RecadoProvider = ({ children }: { children?: ReactNode }) => createElement(Fragment, null, children);
