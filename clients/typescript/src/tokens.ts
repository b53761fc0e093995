// Asks the application for tokens and reads their claims, without verifying them.

import { RecadoError } from './errors.ts';

/**
 * Why a token is wanted: for the first connection, for a later one, because the present one ends within a minute, or
 * because the hub refused the last one.
 */
export type TokenReason = 'first' | 'again' | 'expiring' | 'refused';

/** The application's source of tokens. */
export type GetToken = (context: {
  reason: TokenReason;
  signal: AbortSignal;
}) => string | null | Promise<string | null>;

/** Longest wait for the application. Beyond it the request counts as failed, and is repeated with back-off. */
const ASK_MS = 30_000;
/** A token that was fetched to learn the user is used for the connection if it is not older than this. */
const FRESH_MS = 10_000;

/** Claims of a JSON Web Token; null if it is none, for example an opaque token. */
export function claimsOf(token: string): { sub?: unknown; exp?: unknown } | null {
  try {
    const text = (token.split('.')[1] as string).replace(/-/g, '+').replace(/_/g, '/');
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const claims: unknown = JSON.parse(new TextDecoder().decode(bytes));
    return typeof claims === 'object' ? claims : null;
  } catch {
    return null;
  }
}

function isExpired(token: string): boolean {
  const exp = claimsOf(token)?.exp;
  return typeof exp === 'number' && exp * 1000 <= Date.now();
}

/** Gets tokens from the application and remembers the last one. */
export class Tokens {
  readonly #ask: GetToken;
  #last: string | null = null;
  #at = 0;
  /** No connection has used the last token. */
  #unused = false;
  #isFirst = true;

  constructor(ask: GetToken) {
    this.#ask = ask;
  }

  /** A token for a new connection; one that was got a moment ago is used. Null: the application has none. */
  connecting(reason: 'again' | 'refused', signal: AbortSignal): Promise<string | null> {
    const isFresh = this.#unused && reason === 'again' && Date.now() - this.#at < FRESH_MS;
    this.#unused = false;
    return isFresh ? this.current(signal) : this.#asking(reason, signal);
  }

  /** A token for an HTTP request: the last one while it is valid. */
  async current(signal: AbortSignal): Promise<string | null> {
    return this.#last !== null && !isExpired(this.#last) ? this.#last : this.#asking('again', signal);
  }

  async #asking(reason: TokenReason, signal: AbortSignal): Promise<string | null> {
    const token = await this.get(this.#isFirst ? 'first' : reason, signal);
    this.#unused = false;
    return token;
  }

  /**
   * Asks the application. A token that looks expired is asked for once more; then the hub decides, because this
   * machine's clock may be wrong. Throws `token_failed` if the callback throws, or gives nothing within 30 s.
   */
  async get(reason: TokenReason, signal: AbortSignal): Promise<string | null> {
    this.#isFirst = false;
    let token = await this.#once(reason, signal);
    if (token !== null && isExpired(token)) token = await this.#once('refused', signal);
    this.#last = token;
    this.#at = Date.now();
    this.#unused = token !== null;
    return token;
  }

  async #once(reason: TokenReason, signal: AbortSignal): Promise<string | null> {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(ASK_MS)]);
    let stop = (): void => {};
    try {
      return await new Promise<string | null>((resolve, reject) => {
        stop = (): void => reject(limit.reason);
        limit.addEventListener('abort', stop);
        // Within an async function a callback that throws is a promise that rejects.
        (async () => this.#ask({ reason, signal: limit }))().then(resolve, reject);
      });
    } catch (cause) {
      throw new RecadoError('token_failed', `getToken failed: ${cause}`, { retryable: true, cause });
    } finally {
      limit.removeEventListener('abort', stop);
    }
  }
}
