// Sends a request, and repeats it with the same key until its outcome is known.

import {
  CredentialError,
  type FailureFacts,
  IdempotencyConflictError,
  InvalidNotificationError,
  type NotificationError,
  OutcomeUnknownError,
  type Receipt,
  UnavailableError,
  UnexpectedAnswerError,
} from './post-errors.ts';
import type { Post } from './post-requests.ts';
import type { Clock } from './post-types.ts';

const FIRST_WAIT_MS = 100;
const LONGEST_WAIT_MS = 5_000;
// A hub asks for some seconds. A longer wait is of a proxy, and counts as this.
const LONGEST_RETRY_AFTER_MS = 60_000;
// Refusals that a repeat may change, and that say that nothing was appended.
const NOT_APPENDED: readonly unknown[] = ['overloaded', 'unavailable', 'draining', 'full'];
// Failures of the network before a request can reach the hub.
const NOT_SENT =
  /^(ECONNREFUSED|ENOTFOUND|EAI_|EHOSTUNREACH|ENETUNREACH|UND_ERR_CONNECT_TIMEOUT)|(^|_)CERT(_|$)|^UNABLE_TO_/;
const INVALID = [400, 413, 414, 415, 422, 431];

/** The clock of the machine. */
export const CLOCK: Clock = {
  now: () => performance.now(),
  random: Math.random,
  sleep: (ms, signal) =>
    new Promise((resolve, reject) => {
      const abort = (): void => {
        clearTimeout(timer);
        reject(signal?.reason);
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', abort);
        resolve();
      }, ms);
      signal?.addEventListener('abort', abort, { once: true });
    }),
};

/** What an attempt ended with. Status null: there was no answer; `sent` is false if the hub cannot have the request. */
type Outcome =
  | { readonly status: number; readonly headers: Headers; readonly body: unknown }
  | {
      readonly status: null;
      readonly code: string;
      readonly detail: string;
      readonly sent: boolean;
      readonly cause: unknown;
    };

/** How a sender sends. */
export interface SenderSettings {
  readonly base: string;
  readonly apiKey: string;
  readonly timeoutMs: number;
  readonly deadlineMs: number;
  readonly retries: number;
  readonly fetch: typeof fetch;
  readonly clock: Clock;
}

/** Sends the requests of a client. */
export class Sender {
  readonly #o: SenderSettings;

  constructor(settings: SenderSettings) {
    this.#o = settings;
  }

  /** Sends a request until its outcome is known. Throws a NotificationError, or the reason of the signal. */
  async post(post: Post, signal: AbortSignal | undefined): Promise<Receipt[]> {
    const end = this.#o.clock.now() + this.#o.deadlineMs;
    let outcomeUnknown = false;
    for (let attempts = 1; ; attempts += 1) {
      signal?.throwIfAborted();
      const timeoutMs = Math.max(1, Math.min(this.#o.timeoutMs, end - this.#o.clock.now()));
      const outcome = checkedOutcome(await this.#attempt(post, timeoutMs, signal), post);
      if (outcome.status === 200 || outcome.status === 201) return outcome.body as Receipt[];
      outcomeUnknown ||= isInDoubt(outcome);
      const retryAfterMs = retryAfter(outcome);
      const facts = { attempts, outcomeUnknown, retryAfterMs, idempotencyKey: post.key };
      if (!isRepeatable(outcome)) throw failure(refusalClass(outcome), outcome, facts);
      // Full jitter. After a Retry-After it is added, because a hub names the same second to all that it refuses.
      const jitterMs = this.#o.clock.random() * Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** (attempts - 1));
      const waitMs = (retryAfterMs ?? 0) + jitterMs;
      if (attempts > this.#o.retries || this.#o.clock.now() + waitMs >= end) {
        throw failure(outcomeUnknown ? OutcomeUnknownError : UnavailableError, outcome, facts);
      }
      await this.#o.clock.sleep(waitMs, signal);
    }
  }

  async #attempt(post: Post, timeoutMs: number, signal: AbortSignal | undefined): Promise<Outcome> {
    const attempt = new AbortController();
    const abort = (): void => attempt.abort(signal?.reason);
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      attempt.abort();
    }, timeoutMs);
    signal?.addEventListener('abort', abort, { once: true });
    try {
      const response = await this.#o.fetch(this.#o.base + post.path, {
        method: 'POST',
        headers: {
          Authorization: `Bearer ${this.#o.apiKey}`,
          'Content-Type': 'application/json',
          Accept: 'application/json, application/problem+json',
          'Idempotency-Key': post.key,
        },
        body: post.body,
        // The key must not follow a redirect to another address.
        redirect: 'manual',
        signal: attempt.signal,
      });
      return { status: response.status, headers: response.headers, body: parsed(await response.text()) };
    } catch (cause) {
      signal?.throwIfAborted();
      if (timedOut)
        return { status: null, code: 'timeout', detail: 'the hub did not answer in time', sent: true, cause };
      const { detail, sent } = networkError(cause);
      return { status: null, code: 'network_error', detail, sent, cause };
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    }
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function member(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}

/** Replaces the body of a committed post by its receipts. An answer without them is one that is not of a hub. */
function checkedOutcome(outcome: Outcome, post: Post): Outcome {
  if (outcome.status !== 200 && outcome.status !== 201) return outcome;
  const listed = post.items === null ? [outcome.body] : member(outcome.body, 'items');
  const receipts = Array.isArray(listed) ? listed.map(receipt) : [];
  if (receipts.length === (post.items ?? 1) && !receipts.includes(null)) return { ...outcome, body: receipts };
  const detail = 'the answer has no receipt for each notification';
  return { status: null, code: 'bad_answer', detail, sent: true, cause: undefined };
}

function receipt(entry: unknown): Receipt | null {
  const [seq, id] = [member(entry, 'seq'), member(entry, 'id')];
  const [created_at, duplicate] = [member(entry, 'created_at'), member(entry, 'duplicate')];
  const isWhole = Number.isSafeInteger(seq) && typeof id === 'string' && typeof created_at === 'string';
  return isWhole && typeof duplicate === 'boolean' ? { seq: seq as number, id, created_at, duplicate } : null;
}

function isRepeatable(outcome: Outcome): boolean {
  const { status } = outcome;
  return status === null || status >= 500 || status === 408 || status === 429;
}

/** Whether this attempt may have been appended. */
function isInDoubt(outcome: Outcome): boolean {
  if (outcome.status === null) return outcome.sent;
  return outcome.status >= 500 && !(outcome.status === 503 && NOT_APPENDED.includes(member(outcome.body, 'code')));
}

function refusalClass(outcome: Outcome): typeof NotificationError {
  const status = outcome.status ?? 0;
  const code = outcome.status === null ? outcome.code : member(outcome.body, 'code');
  if (code === 'idempotency_conflict') return IdempotencyConflictError;
  if (status === 401 || status === 403) return CredentialError;
  return INVALID.includes(status) ? InvalidNotificationError : UnexpectedAnswerError;
}

function failure(kind: typeof NotificationError, outcome: Outcome, facts: Partial<FailureFacts>): NotificationError {
  if (outcome.status === null) return new kind(outcome.detail, { ...facts, code: outcome.code }, outcome.cause);
  const { status, headers, body } = outcome;
  const [code, detail, errors] = [member(body, 'code'), member(body, 'detail'), member(body, 'errors')];
  const listed: unknown[] = Array.isArray(errors) ? errors : [];
  return new kind(typeof detail === 'string' ? detail : `the answer with status ${status} is not of a hub`, {
    ...facts,
    code: typeof code === 'string' ? code : 'unexpected_answer',
    status,
    requestId: headers.get('x-request-id') ?? undefined,
    errors: listed.map((each) => ({
      pointer: String(member(each, 'pointer') ?? ''),
      detail: String(member(each, 'detail') ?? ''),
    })),
  });
}

/** The wait that an answer asks for, in seconds or as an HTTP date. */
function retryAfter(outcome: Outcome): number | undefined {
  const text = outcome.status === null ? null : outcome.headers.get('retry-after');
  if (text === null) return undefined;
  // Date.parse alone takes nearly anything for a date.
  const date = /GMT$/.test(text) ? Date.parse(text) - Date.now() : Number.NaN;
  const ms = /^[0-9]{1,9}$/.test(text) ? Number(text) * 1_000 : date;
  return Number.isNaN(ms) ? undefined : Math.min(Math.max(0, ms), LONGEST_RETRY_AFTER_MS);
}

/** What a rejection of fetch tells: undici keeps the code of the system in one of the causes. */
function networkError(error: unknown): { detail: string; sent: boolean } {
  let last: unknown = error;
  for (let inner = error; inner; inner = member(inner, 'cause')) {
    const code = member(inner, 'code');
    if (typeof code === 'string' && NOT_SENT.test(code))
      return { detail: `the hub cannot be reached: ${code}`, sent: false };
    last = inner;
  }
  return {
    detail: `the connection broke: ${String(member(last, 'code') ?? member(last, 'message') ?? last)}`,
    sent: true,
  };
}
