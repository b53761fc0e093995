// Calls the hub's routes with the admin's credential, and turns refusals into problems.

import { at } from './paths.ts';
import { credential, signOut } from './session.ts';
import type * as T from './types.ts';

/** A refusal of the hub, or no answer. */
export class Problem extends Error {
  readonly status: number;
  readonly code: string;
  readonly body: T.ProblemBody;

  constructor(status: number, body: T.ProblemBody) {
    super(body.detail ?? body.title ?? `the hub answered ${status}`);
    this.status = status;
    this.code = body.code ?? `status_${status}`;
    this.body = body;
  }
}

export type Query = { readonly [name: string]: string | number | boolean | undefined | null };

/** Appends the parameters that have a value. */
export function withQuery(path: string, query: Query = {}): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== '');
  if (given.length === 0) return path;
  return `${path}${path.includes('?') ? '&' : '?'}${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}`;
}

interface Init {
  readonly method?: string;
  readonly body?: unknown;
  readonly signal?: AbortSignal | undefined;
  readonly accept?: string;
  /** Without the credential. */
  readonly open?: boolean;
}

async function request(
  path: string,
  { method = 'GET', body, signal, accept = 'application/json', open }: Init,
): Promise<Response> {
  const used = credential();
  const headers: Record<string, string> = { accept };
  if (!open) headers.authorization = `Bearer ${used ?? ''}`;
  if (body !== undefined) headers['content-type'] = 'application/json';
  let answer: Response;
  try {
    answer = await fetch(at(path), {
      method,
      headers,
      cache: 'no-store',
      credentials: 'omit',
      redirect: 'error',
      signal: signal ?? null,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, { code: 'network', detail: 'The hub does not answer. The page tries again.' });
  }
  if (answer.ok) return answer;
  const said = (await answer.json().catch(() => ({}))) as T.ProblemBody;
  const problem = new Problem(answer.status, said);
  // A refusal of an older key must not end the session of a newer one.
  if (answer.status === 401 && !open && used === credential()) signOut(problem.message);
  throw problem;
}

/** Requests JSON. */
export async function call<A>(path: string, init: Init = {}): Promise<A> {
  return (await (await request(path, init)).json()) as A;
}

/** Reads a streamed answer and hands over each complete line. Returns when the stream ends. */
export async function lines(
  path: string,
  accept: string,
  signal: AbortSignal,
  take: (line: string) => void,
): Promise<void> {
  const answer = await request(path, { accept, signal });
  const reader = answer.body?.getReader();
  if (!reader) return;
  const decoder = new TextDecoder();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done || signal.aborted) return;
    const pieces = (rest + decoder.decode(value, { stream: true })).split('\n');
    rest = pieces.pop() ?? '';
    for (const piece of pieces) take(piece.endsWith('\r') ? piece.slice(0, -1) : piece);
  }
}

/** Reads a stream of events. */
export function events(path: string, signal: AbortSignal, take: (name: string, data: string) => void): Promise<void> {
  let name = 'message';
  let data: string[] = [];
  return lines(path, 'text/event-stream', signal, (line) => {
    if (line === '') {
      if (data.length > 0) take(name, data.join('\n'));
      name = 'message';
      data = [];
    } else if (line.startsWith('event:')) name = line.slice(6).trim();
    else if (line.startsWith('data:')) data.push(line.slice(line[5] === ' ' ? 6 : 5));
  });
}

const id = encodeURIComponent;
/** The path of a user. Browsers remove `.` and `..`, so `-` takes such an id from the query. */
export const userPath = (before: string, user: string, after = ''): string =>
  /^\.\.?$/.test(user) ? `${before}/-${after}?user=${user}` : `${before}/${id(user)}${after}`;
export const USERS = '/api/admin/users';
export const REVOCATIONS = '/api/admin/revocations';
const post = <A>(path: string, body: unknown): Promise<A> => call<A>(path, { method: 'POST', body });

/** The routes by name. */
export const api = {
  settings: (signal?: AbortSignal) => call<T.SettingsAnswer>('/api/admin/settings', { signal }),
  sessions: (query: Query, signal?: AbortSignal) =>
    call<T.SessionsAnswer>(withQuery('/api/admin/sessions', query), { signal }),
  closeSessions: (body: object) => post<T.CloseAnswer>('/api/admin/sessions/close', body),
  /** With its query. Rows become objects with the names of the columns. */
  devices: async (path: string, signal?: AbortSignal) => {
    const { columns, rows, ...rest } = await call<T.DevicesAnswer>(path, { signal });
    const named = rows.map((row) => Object.fromEntries(columns.map((name, at) => [name, row[at]])));
    return { ...rest, rows: named as unknown as T.DeviceRow[] };
  },
  user: (user: string, signal?: AbortSignal) => call<T.UserAnswer>(userPath(USERS, user), { signal }),
  userNotifications: (user: string, query: Query, signal?: AbortSignal) =>
    call<T.UserNotifications>(withQuery(userPath(USERS, user, '/notifications'), query), { signal }),
  ackDevice: (user: string, body: { client_id: string; seq: number }) =>
    post<{ acked: number }>(userPath(USERS, user, '/ack'), body),
  why: (user: string, seq: string, signal?: AbortSignal) =>
    call<T.Why>(withQuery('/api/admin/why', { user, seq }), { signal }),
  partitions: (signal?: AbortSignal) => call<T.PartitionsAnswer>('/api/admin/log/partitions', { signal }),
  instances: (signal?: AbortSignal) => call<T.InstancesAnswer>('/api/admin/instances', { signal }),
  drain: (instance: string, window_seconds: number) =>
    post<{ connections: number }>(`/api/admin/instances/${id(instance)}/drain`, { window_seconds }),
  upstream: (query: Query, signal?: AbortSignal) =>
    call<T.UpstreamAnswer>(withQuery('/api/admin/upstream', query), { signal }),
  upstreamAct: (provider: string, user: string, action: string) =>
    post<{ success: boolean }>(userPath(`/api/admin/upstream/${id(provider)}`, user), { action }),
  keys: (signal?: AbortSignal) => call<{ keys: readonly T.Key[] }>('/api/admin/keys', { signal }),
  analysts: (signal?: AbortSignal) => call<{ analysts: readonly T.Analyst[] }>('/api/admin/analysts', { signal }),
  audit: (query: Query, signal?: AbortSignal) => call<T.AuditAnswer>(withQuery('/api/admin/audit', query), { signal }),
  revoke: (user_id: string, reason: string) => post<{ not_before: string }>(REVOCATIONS, { user_id, reason }),
  lift: (user: string) => call<{ lifted: boolean }>(userPath(REVOCATIONS, user), { method: 'DELETE' }),
  mint: (user_id: string, account_ids: readonly string[]) =>
    post<{ token: string; expires_at: string }>('/api/admin/tokens', { user_id, account_ids, ttl_seconds: 900 }),
  signIn: (link: string) =>
    call<{ token: string }>('/api/admin/sign-in', { method: 'POST', body: { link }, open: true }),
  notify: (body: unknown) => post<T.PostAnswer>('/api/internal/notify', body),
};
