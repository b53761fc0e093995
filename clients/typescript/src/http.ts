// Sends authenticated requests to the hub and turns refusals into errors.

import { RecadoError } from './errors.ts';
import type { Tokens } from './tokens.ts';
import { type HubUrl, type Query, withQuery } from './transport.ts';

/** Longest wait for an answer. */
const ANSWER_MS = 15_000;

/**
 * Requests a path of the hub and returns the answer's JSON. An expired token is replaced once.
 * Throws RecadoError: the hub's code, `network`, or `unauthorized` if the application has no token.
 */
export async function request<T>(
  base: HubUrl,
  tokens: Tokens,
  fetch: typeof globalThis.fetch,
  path: string,
  query: Query,
  body?: object,
): Promise<T> {
  const signal = AbortSignal.timeout(ANSWER_MS);
  let token = await tokens.current(signal);
  for (let isSecond = false; ; isSecond = true) {
    if (token === null) throw new RecadoError('unauthorized', 'getToken gave no token');
    const headers: Record<string, string> = { accept: 'application/json', authorization: `Bearer ${token}` };
    if (body) headers['content-type'] = 'application/json';
    // An acknowledgement is sent while the page closes; keepalive lets it outlive the page.
    const post = body && { method: 'POST', body: JSON.stringify(body), keepalive: true };
    let answer: Response;
    try {
      answer = await fetch(withQuery(base.http + path, query), { headers, cache: 'no-store', signal, ...post });
    } catch (cause) {
      throw new RecadoError('network', `cannot reach ${base.http}: ${cause}`, { retryable: true, cause });
    }
    if (answer.ok) return (await answer.json()) as T;
    const error = await problem(answer);
    if (error.status !== 401 || error.code === 'unauthorized' || isSecond) throw error;
    token = await tokens.get('refused', signal);
  }
}

async function problem(answer: Response): Promise<RecadoError> {
  const said = (await answer.json().catch(() => ({}))) as { code?: string; detail?: string };
  const { status, headers } = answer;
  return new RecadoError(said.code ?? `status_${status}`, said.detail ?? `the hub answered ${status}`, {
    status,
    retryable: status === 429 || status >= 500,
    requestId: headers.get('x-request-id'),
  });
}
