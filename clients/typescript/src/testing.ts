// Fakes a hub inside the test's process, with a script, drops, gaps and a clock of its own.

import { type CommandResult, isInboxRow, type Notification, type ServerFrame } from './frames.ts';
import type { InboxChange } from './inbox-types.ts';
import type { RecadoOptions } from './options.ts';
import { FakeInbox } from './testing-inbox.ts';

/** Settings of a fake hub. */
export interface FakeHubOptions {
  /** User of every connection. Default `42`. */
  userId?: string;
  /** Time between two heartbeats of the fake clock, in milliseconds. Default 30,000. */
  heartbeatMs?: number;
  /** Start of the fake clock. Default 2026-01-01T00:00:00.000Z. */
  now?: Date;
}

/** A command that a client sent. */
export interface FakeCommand {
  readonly id: string;
  readonly type: string;
  readonly payload?: unknown;
}

/** What is posted: everything but `type` has a default. With `inbox` false it is no item of the inbox. */
export type FakePost = Pick<Notification, 'type'> &
  Partial<Pick<Notification, 'title' | 'message' | 'data' | 'to' | 'account_id'>> & { inbox?: boolean };

/**
 * A hub without a network: spread `options()` into a client's options.
 *
 * It keeps a log, a position for each device, and delivers by WebSocket only. Frames arrive in microtasks, so no timer
 * has to be mocked. Nothing happens by itself: `advance` moves its clock.
 */
export class FakeHub {
  /** Commands that clients sent, oldest first. */
  readonly commands: FakeCommand[] = [];
  /** Answers a command. Default: `sent`. Null: no answer, so the command times out. With a `code`: the hub refuses it. */
  onCommand: (command: FakeCommand) => Omit<CommandResult, 'id'> | { code: string; message: string } | null = () => ({
    status: 'sent',
  });
  /** Connections that were ever opened. */
  opened = 0;
  readonly #userId: string;
  readonly #heartbeatMs: number;
  readonly #sockets = new Set<FakeSocket>();
  readonly #acked = new Map<string, number>();
  #log: Notification[] = [];
  #head = 0;
  #floor = 0;
  #logNumber = 1;
  #now: number;
  #swallow = 0;
  #refusals: { code: number; reason: string }[] = [];
  #isAway = false;
  #inbox = new FakeInbox();
  readonly #refusedRequests: { status: number; code: string }[] = [];

  constructor(options: FakeHubOptions = {}) {
    this.#userId = options.userId ?? '42';
    this.#heartbeatMs = options.heartbeatMs ?? 30_000;
    this.#now = (options.now ?? new Date('2026-01-01T00:00:00Z')).getTime();
  }

  /** Options that connect a client to this hub. */
  options(): Pick<RecadoOptions, 'url' | 'getToken' | 'WebSocket' | 'fetch' | 'tabs' | 'transport'> {
    const hub = this;
    class Socket extends FakeSocket {
      constructor(url: string | URL) {
        super();
        queueMicrotask(() => hub.#accept(this, new URL(url)));
      }
    }
    return {
      url: 'ws://fake.invalid/',
      getToken: () => 'fake-token',
      WebSocket: Socket as unknown as typeof WebSocket,
      fetch: (input, init) => Promise.resolve(this.#answer(new URL(String(input)), init)),
      tabs: 'own',
      transport: 'websocket',
    };
  }

  /** Open connections. */
  get connections(): number {
    return this.#sockets.size;
  }

  /** Last number of the log. */
  get head(): number {
    return this.#head;
  }

  /** Acknowledged position of a device; 0 if there is none. */
  acked(clientId = 'default'): number {
    return this.#acked.get(clientId) ?? 0;
  }

  /** The fake clock. */
  get now(): Date {
    return new Date(this.#now);
  }

  /** Appends a notification and delivers it to every connection. */
  post({ inbox = true, ...post }: FakePost): Notification {
    const seq = ++this.#head;
    const notification: Notification = {
      title: 'title',
      message: '',
      data: null,
      to: 'user',
      ...post,
      seq,
      id: `fake-${this.#logNumber}-${seq}`,
      created_at: this.now.toISOString(),
    };
    if (inbox) this.#inbox.add(notification);
    this.#log.push(notification);
    for (const socket of this.#sockets) this.#deliver(socket, notification);
    return notification;
  }

  /** Changes the inbox, as another device of the user does. Returns the number of the change; null if it changes nothing. */
  change(change: InboxChange): number | null {
    if (!this.#inbox.apply(change)) return null;
    const type = 'muted' in change ? 'preferences' : 'inbox';
    return this.post({ type, title: '', data: change, inbox: false }).seq;
  }

  /** Uses up numbers, as notifications to other users do. */
  skip(count = 1): void {
    this.#head += count;
  }

  /** The next frames with a number are written and never arrive, as on a path that loses bytes. */
  swallow(count = 1): void {
    this.#swallow += count;
  }

  /** Sends any frame to every connection, as it is. */
  frame(frame: ServerFrame): void {
    for (const socket of this.#sockets) socket.receive(frame);
  }

  /** Breaks every connection without a word (1006). */
  drop(): void {
    this.close(1006, '');
  }

  /** Closes every connection with a code. With `afterMs` a `goodbye` precedes the close. */
  close(code: number, reason: string, afterMs?: number): void {
    if (afterMs !== undefined) this.frame({ type: 'goodbye', reason, after_ms: afterMs });
    for (const socket of [...this.#sockets]) socket.end(code, reason);
    this.#sockets.clear();
  }

  /** The next connection is opened and closed with this code, for example 4401. Several calls queue up. */
  refuse(code: number, reason: string): void {
    this.#refusals.push({ code, reason });
  }

  /** The next HTTP request is refused, for example with 503 `unavailable`. Several calls queue up. */
  refuseRequest(status: number, code: string): void {
    this.#refusedRequests.push({ status, code });
  }

  /** The hub is away: connections break and cannot be opened until `start`. */
  stop(): void {
    this.#isAway = true;
    this.drop();
  }

  start(): void {
    this.#isAway = false;
  }

  /** Retention: rows up to `seq` are no longer kept. A device that lacks them is told `gap`. */
  trim(seq: number): void {
    this.#floor = Math.max(this.#floor, Math.min(seq, this.#head));
    this.#log = this.#log.filter((row) => row.seq > this.#floor);
    if (!this.#inbox.trim(this.#floor)) return;
    for (const socket of this.#sockets) {
      if (socket.hasInbox) socket.receive({ type: 'inbox_counts', ...this.#inbox.counts(this.#head) });
    }
  }

  /** Another log: it is empty, and every client is told `reset` when it comes back. */
  reset(): void {
    this.#logNumber++;
    this.#log = [];
    this.#head = 0;
    this.#floor = 0;
    this.#acked.clear();
    this.#inbox = new FakeInbox();
    this.close(4003, 'server_error');
  }

  /** Moves the fake clock, and sends the heartbeats that are due. */
  advance(ms: number): void {
    const before = Math.floor(this.#now / this.#heartbeatMs);
    this.#now += ms;
    for (let due = Math.floor(this.#now / this.#heartbeatMs) - before; due > 0; due--) {
      for (const socket of this.#sockets) {
        this.#number(socket, { type: 'heartbeat', seq: this.#head, prev: socket.delivered });
      }
    }
  }

  get #logId(): string {
    return `fake-log-${this.#logNumber}`;
  }

  #accept(socket: FakeSocket, url: URL): void {
    if (socket.readyState === 3) return;
    if (this.#isAway) return socket.end(1006, '');
    socket.open((text) => this.#hear(socket, JSON.parse(text)));
    const refusal = this.#refusals.shift();
    if (refusal) return socket.end(refusal.code, refusal.reason);
    this.opened++;
    this.#sockets.add(socket);
    socket.onGone = (): void => void this.#sockets.delete(socket);
    const { searchParams: query } = url;
    socket.clientId = query.get('client_id') ?? 'default';
    socket.hasInbox = query.get('inbox') === '1';
    const passes = filter(query.get('types'));
    socket.passes = (type): boolean => (isInboxRow({ type }) ? socket.hasInbox : passes(type));
    const counts = socket.hasInbox ? this.#inbox.counts(this.#head) : {};
    const resume = this.#resume(query, socket.clientId);
    socket.delivered = resume.from;
    socket.receive({
      type: 'connection_established',
      session_id: `fake-session-${Math.random()}`,
      user_id: this.#userId,
      account_ids: [],
      client_id: socket.clientId,
      log_id: this.#logId,
      head: this.#head,
      earliest: this.#floor + 1,
      resume,
      heartbeat_ms: this.#heartbeatMs,
      ...counts,
    } as unknown as ServerFrame);
    const missed = this.#log.filter((row) => row.seq > resume.from && socket.passes(row.type));
    for (const row of missed) this.#deliver(socket, { ...row, replayed: true });
    socket.delivered = this.#head;
    socket.receive({ type: 'caught_up', seq: this.#head, replayed: missed.length, ...counts });
  }

  #resume(query: URLSearchParams, clientId: string): { status: string; from: number } & Record<string, unknown> {
    const since = query.get('since') || 'ack';
    const logId = query.get('log_id');
    if (since === 'live') return { status: 'live', from: this.#head };
    if (since === 'earliest') return { status: 'ok', from: this.#floor };
    const time = this.#timeOf(since);
    if (time !== null) {
      const first = this.#log.find((row) => Date.parse(row.created_at) >= time);
      return first ? { status: 'ok', from: first.seq - 1 } : { status: 'live', from: this.#head };
    }
    const stored = this.#acked.get(clientId);
    if (since === 'ack' && stored === undefined) {
      this.#acked.set(clientId, this.#head);
      return { status: 'live', from: this.#head };
    }
    const from = since === 'ack' ? (stored as number) : Number(since);
    const row = this.#log.find((one) => one.seq === from);
    const lastId = query.get('last_id');
    const isOther = (logId && logId !== this.#logId) || (lastId && row && row.id !== lastId);
    if (isOther || from > this.#head) return { status: 'reset', from: this.#floor };
    if (from < this.#floor) return { status: 'gap', from: this.#floor, lost_from: from + 1, lost_to: this.#floor };
    return { status: 'ok', from };
  }

  /** A duration counts back from the fake clock. Null: not a time. */
  #timeOf(since: string): number | null {
    const [, count, unit] = /^(\d+)([smhd])$/.exec(since) ?? [];
    if (unit !== undefined) return this.#now - Number(count) * { s: 1e3, m: 6e4, h: 36e5, d: 864e5 }[unit]!;
    return since.includes('T') ? Date.parse(since) : null;
  }

  #deliver(socket: FakeSocket, notification: Notification): void {
    const { type, seq, replayed } = notification;
    if (!socket.passes(type)) return;
    const isMuted = socket.hasInbox && this.#inbox.isMuted(type);
    const isCounted = socket.hasInbox && !replayed && (this.#inbox.has(seq) ? !isMuted : isInboxRow(notification));
    const counts = isCounted ? this.#inbox.counts(seq) : {};
    this.#number(socket, { prev: socket.delivered, ...(isMuted ? { muted: true } : {}), ...counts, ...notification });
  }

  #number(socket: FakeSocket, frame: ServerFrame): void {
    socket.delivered = frame.seq as number;
    if (this.#swallow > 0) this.#swallow--;
    else socket.receive(frame);
  }

  #hear(socket: FakeSocket, frame: ServerFrame & { payload?: unknown }): void {
    const { type } = frame;
    if (type === 'ack') {
      this.#ack(socket.clientId, frame.seq as number);
    } else if (type === 'ping') {
      socket.receive({ type: 'pong', timestamp: this.#now, id: frame.id } as unknown as ServerFrame);
    } else if (type === 'auth') {
      socket.receive({ type: 'auth_ok', expires_at: this.now.toISOString() } as unknown as ServerFrame);
    } else {
      const command = { ...frame, id: frame.id as string };
      this.commands.push(command);
      const result = this.onCommand(command);
      const type = result && 'code' in result ? 'error' : 'command_result';
      if (result) socket.receive({ type, id: command.id, ...result });
    }
  }

  #ack(clientId: string, seq: number): number {
    const stored = Math.max(this.acked(clientId), seq);
    this.#acked.set(clientId, stored);
    return stored;
  }

  #answer(url: URL, init?: RequestInit): Response {
    if (this.#isAway) throw new TypeError('fetch failed');
    const refused = this.#refusedRequests.shift();
    if (refused) return Response.json({ code: refused.code }, { status: refused.status });
    const { pathname, searchParams: query } = url;
    if (pathname === '/api/inbox' || pathname === '/api/preferences') return this.#answerInbox(pathname, query, init);
    const bounds = { head: this.#head, earliest: this.#floor + 1, log_id: this.#logId };
    if (pathname === '/api/notifications/head') return Response.json(bounds);
    if (pathname === '/api/notifications/ack') {
      const { client_id: clientId, seq } = JSON.parse(String(init?.body)) as { client_id: string; seq: number };
      return Response.json({ acked: this.#ack(clientId, seq) });
    }
    if (pathname !== '/api/notifications') return Response.json({ code: 'not_found' }, { status: 404 });
    const isDown = query.get('order') === 'desc';
    const after = Number(query.get('after') ?? (isDown ? Number.POSITIVE_INFINITY : 0));
    const limit = Number(query.get('limit') ?? 100);
    const log = this.#log.filter((row) => !isInboxRow(row));
    const rows = isDown ? log.reverse() : log;
    const left = rows.filter((row) => (isDown ? row.seq < after : row.seq > after));
    const passes = filter(query.get('types') ?? query.get('type'));
    const since = this.#timeOf(query.get('since') ?? '') ?? 0;
    const found = left.filter((row) => passes(row.type) && Date.parse(row.created_at) >= since);
    const notifications = found.slice(0, limit);
    const next = found.length > limit ? (notifications.at(-1)?.seq ?? null) : null;
    return Response.json({ notifications, next, ...bounds });
  }

  #answerInbox(pathname: string, query: URLSearchParams, init?: RequestInit): Response {
    const isInbox = pathname === '/api/inbox';
    if (init?.method !== 'POST') {
      const page = { ...this.#inbox.page(query, this.#head), log_id: this.#logId };
      return Response.json(isInbox ? page : { muted: this.#inbox.muted, required: [] });
    }
    const { log_id: logId = this.#logId, ...change } = JSON.parse(String(init.body)) as InboxChange & {
      log_id?: string;
    };
    if (logId !== this.#logId) return Response.json({ code: 'reset' }, { status: 409 });
    const seqs = 'seqs' in change ? change.seqs : undefined;
    const wrong = seqs?.findIndex((seq) => !this.#inbox.has(seq)) ?? -1;
    if (wrong !== -1) return Response.json({ code: 'invalid_field', pointer: `/seqs/${wrong}` }, { status: 422 });
    if ('up_to' in change && Number(change.up_to) > this.#head) {
      return Response.json({ code: 'invalid_field', pointer: '/up_to' }, { status: 422 });
    }
    const seq = this.change(change);
    const muted = isInbox ? {} : { muted: this.#inbox.muted };
    return Response.json({ ...muted, seq, ...this.#inbox.counts(this.#head) });
  }
}

/** Reads `types`: names, or beginnings with `*`. */
function filter(types: string | null): (type: string) => boolean {
  const patterns = types?.split(',');
  return (type) => !patterns?.every((one) => (one.endsWith('*') ? !type.startsWith(one.slice(0, -1)) : type !== one));
}

/** The client's side of a fake connection: as much of a WebSocket as the SDK uses. */
class FakeSocket {
  readyState = 0;
  onopen: (() => void) | null = null;
  onmessage: ((message: { data: string }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onerror: (() => void) | null = null;
  clientId = 'default';
  delivered = 0;
  passes: (type: string) => boolean = () => true;
  hasInbox = false;
  onGone: () => void = () => {};
  #hear: (text: string) => void = () => {};

  open(hear: (text: string) => void): void {
    this.#hear = hear;
    this.readyState = 1;
    this.onopen?.();
  }

  receive(frame: ServerFrame): void {
    const data = JSON.stringify(frame);
    queueMicrotask(() => this.readyState === 1 && this.onmessage?.({ data }));
  }

  send(text: string): void {
    queueMicrotask(() => this.#hear(text));
  }

  /** Ends after the frames that are on the way. */
  end(code: number, reason: string): void {
    queueMicrotask(() => {
      if (this.readyState === 3) return;
      this.readyState = 3;
      this.onclose?.({ code, reason });
    });
  }

  close(): void {
    this.readyState = 3;
    this.onGone();
  }
}
