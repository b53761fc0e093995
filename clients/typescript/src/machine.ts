// Decides what a client does with each frame and each end of a connection; performs nothing.
//
// Words: `place` is the last number that this page applied. `link` is the last number that the hub sent on the present
// connection; it is lower than `place` while the leader resumes on behalf of a tab that lags behind. Only `link` bounds
// an acknowledgement, because the hub refuses an `ack` above what it delivered on that connection.

import { type Gap, type Hello, isNotification, type Notification, type ServerFrame } from './frames.ts';
import type { RecadoOptions } from './options.ts';
import { textOf } from './transport.ts';

/** Where a page is in the log. */
export interface Place {
  readonly seq: number;
  readonly logId: string;
  /** Id of the notification at `seq`; null if the place comes from a heartbeat. */
  readonly lastId: string | null;
}

/** How one connection ended. */
export interface End {
  readonly kind: 'websocket' | 'sse';
  /** Close code of a WebSocket, status of an HTTP refusal, 0 for anything else. */
  readonly code: number;
  /** Word of the hub, or of the SDK. */
  readonly reason: string;
  /** True if the transport opened: an upgrade or a 200. */
  readonly opened: boolean;
  /** `Retry-After` of a refusal, in milliseconds. */
  readonly afterMs?: number | undefined;
}

/** What a frame means for this page. */
export type Step =
  | { readonly do: 'nothing' | 'moved' | 'goodbye' | 'control' }
  | { readonly do: 'break' }
  | { readonly do: 'apply'; readonly notification: Notification }
  | { readonly do: 'hello'; readonly hello: Hello; readonly gap: Gap | null }
  | { readonly do: 'caughtUp'; readonly seq: number; readonly replayed: number }
  | { readonly do: 'fail'; readonly reason: string };

/** What follows an end. */
export type Verdict =
  | { readonly next: 'again'; readonly afterMs: number; readonly reason: string }
  | { readonly next: 'token'; readonly reason: string }
  | { readonly next: 'stop'; readonly state: 'failed' | 'unauthorized'; readonly reason: string };

/** Settings of the machine. */
export interface MachineOptions {
  /** Where the first connection starts, as the hub reads it. */
  readonly since: string;
  readonly transport: 'auto' | 'websocket' | 'sse';
  readonly minMs: number;
  readonly maxMs: number;
  /** From 0 up to 1; `Math.random` unless a test says otherwise. */
  readonly random?: () => number;
}

const NOTHING: Step = { do: 'nothing' };
const MOVED: Step = { do: 'moved' };
const BREAK: Step = { do: 'break' };
const CONTROL: Step = { do: 'control' };
const GOODBYE: Step = { do: 'goodbye' };

/** Upgrades in a row that never opened before SSE is tried: one may be chance, three would cost seconds. */
const UPGRADES = 2;
/** How long SSE is used at first: upgrades also fail while a hub restarts, and SSE, tried next, may find it up again. */
const SSE_FIRST_MS = 5_000;
/** How long SSE is used when an upgrade fails although the hub is up: a bad proxy then costs next to nothing. */
const SSE_MS = 600_000;
/** Tokens that the hub may refuse in a row: one may have been cached by the application, two were not. */
const REFUSALS = 2;
/** Close codes of RFC 6455 that say that the client has a bug. Repeating would repeat it. */
const BUGS: readonly number[] = [1002, 1003, 1007, 1009];
/** Words of an HTTP refusal or of a `goodbye` on SSE, where there is no close code. */
const SSE_STOP: readonly string[] = [
  'session_replaced',
  'unauthorized',
  'identity_changed',
  'protocol_error',
  'bad_query',
  'forbidden',
  'foreign_origin',
  'not_found',
  'unknown_host',
  'closed_by_admin',
];
const SSE_TOKEN: readonly string[] = ['token_expired', 'token_revoked'];

/** The pure half of a client: place, gaps, back-off, transports. */
export class Machine {
  /** Null until the first `connection_established`, or the leader's first answer. */
  place: Place | null = null;
  /** Last number that the hub sent on the present connection; null between connections. */
  link: number | null = null;
  userId: string | null = null;
  readonly #o: MachineOptions;
  /** Lowest place of a tab that lags behind; the next connection starts there. */
  #rewind: Place | null = null;
  /** The rewind that the present connection began with. Compared by identity. */
  #asked: Place | null = null;
  #linkFrom = 0;
  #received = 0;
  #attempts = 0;
  #refusals = 0;
  #upgrades = 0;
  #sseUntil = 0;
  #sseMs = SSE_FIRST_MS;
  #goodbye: ServerFrame | null = null;
  /** This tab follows and lacks something that the leader's connection has passed already. */
  #isBehind = false;

  constructor(options: MachineOptions) {
    this.#o = options;
  }

  /** Query parameters that say where the next connection starts. */
  start(): Record<string, string> {
    this.#asked = this.#rewind;
    const place = this.#rewind ?? this.place;
    if (!place) return { since: this.#o.since };
    const query: Record<string, string> = { since: String(place.seq), log_id: place.logId };
    if (place.lastId !== null) query.last_id = place.lastId;
    return query;
  }

  /** Call before each connection: forgets what belonged to the one before. */
  opening(): void {
    this.link = null;
    this.#goodbye = null;
  }

  /** The transport opened; call once for each connection. */
  opened(kind: 'websocket' | 'sse'): void {
    if (kind === 'sse') return;
    this.#upgrades = 0;
    this.#sseMs = SSE_FIRST_MS;
  }

  /** Which transport the next connection uses. `now` is in milliseconds. */
  transport(now: number): 'websocket' | 'sse' {
    if (this.#o.transport !== 'auto') return this.#o.transport;
    if (now < this.#sseUntil) return 'sse';
    if (this.#upgrades < UPGRADES) return 'websocket';
    // One more failure after this time falls back again at once.
    this.#upgrades = UPGRADES - 1;
    this.#sseUntil = now + this.#sseMs;
    this.#sseMs = SSE_MS;
    return 'sse';
  }

  /** True when the time of the SSE fallback is over and a WebSocket is to be tried. */
  isFallbackOver(now: number): boolean {
    return this.#sseUntil !== 0 && now >= this.#sseUntil;
  }

  /** Forgets failures of the past: the network has just changed, or the user came back. */
  forgive(): void {
    this.#attempts = 0;
    this.#refusals = 0;
  }

  /** Starts the next connection at the place of a tab that lags behind. False if the present one serves it already. */
  rewind(to: Place): boolean {
    if (this.place && to.logId !== this.place.logId) return false;
    if (this.link !== null && to.seq >= this.link) return false;
    if (!this.#rewind || to.seq < this.#rewind.seq) this.#rewind = to;
    return true;
  }

  /** First number that the present connection covers. */
  get linkFrom(): number {
    return this.#linkFrom;
  }

  /**
   * Takes one frame. `own`: from this page's connection, not passed on by the leader.
   * The step says what the caller does; the place has moved already.
   */
  frame(frame: ServerFrame, own: boolean): Step {
    if (frame.type === 'connection_established') return this.#hello(frame as unknown as Hello, own);
    if (frame.type === 'goodbye') {
      this.#goodbye = frame;
      return GOODBYE;
    }
    const seq = frame.seq;
    if (seq === undefined) return CONTROL;
    if (own) this.link = seq;
    if (frame.type === 'caught_up') return this.#caughtUp(seq, Number(frame.replayed ?? 0), own);
    const news = isNotification(frame);
    if (own && news) this.#received++;
    if (!this.place || seq <= this.place.seq) return NOTHING;
    if (frame.prev !== undefined && frame.prev > this.place.seq) return this.#behind();
    this.#isBehind = false;
    this.place = { seq, logId: this.place.logId, lastId: news ? (frame.id as string) : null };
    return news ? { do: 'apply', notification: frame as unknown as Notification } : MOVED;
  }

  /** `caught_up` has no `prev`, but a count: fewer notifications than the hub replayed means that some were lost. */
  #caughtUp(seq: number, replayed: number, own: boolean): Step {
    if (own && this.#received < replayed) return BREAK;
    if (!this.place) return NOTHING;
    if (seq > this.place.seq) {
      // A tab that lacks a part of the replay must not jump to its end.
      if (!own && this.#isBehind) return BREAK;
      this.place = { seq, logId: this.place.logId, lastId: null };
    }
    if (own) {
      // A tab asked between the request and the hub's first frame: the present connection began too late for it.
      if (this.#rewind && this.#rewind !== this.#asked && this.#rewind.seq < this.#linkFrom) return BREAK;
      this.#attempts = 0;
      this.#rewind = null;
    }
    return { do: 'caughtUp', seq, replayed };
  }

  #hello(hello: Hello, own: boolean): Step {
    if (this.userId !== null && this.userId !== hello.user_id) return { do: 'fail', reason: 'identity_changed' };
    this.userId = hello.user_id;
    const { resume } = hello;
    if (own) {
      this.link = resume.from;
      this.#linkFrom = resume.from;
      this.#received = 0;
      this.#refusals = 0;
    }
    const gap = this.#resume(hello, own);
    if (gap === 'behind') return this.#behind();
    this.#isBehind = false;
    return { do: 'hello', hello, gap };
  }

  #behind(): Step {
    this.#isBehind = true;
    return BREAK;
  }

  #resume({ resume, log_id: logId }: Hello, own: boolean): Gap | null | 'behind' {
    const at = (seq: number): Place => ({ seq, logId, lastId: null });
    const before = this.place;
    if (resume.status === 'reset' || (before && before.logId !== logId)) {
      // A tab that learns of another log late has missed its beginning, and resumes from there.
      this.place = at(own || resume.status === 'reset' ? resume.from : 0);
      this.#rewind = null;
      return { status: 'reset' };
    }
    if (resume.status === 'gap') {
      const from = resume.lost_from ?? (before?.seq ?? 0) + 1;
      const to = resume.lost_to ?? resume.from;
      if (before && to <= before.seq) return null;
      if (!own && before && from > before.seq + 1) return 'behind';
      this.place = at(Math.max(resume.from, before?.seq ?? 0));
      return { status: 'gap', lost_from: from, lost_to: to };
    }
    if (!before) {
      this.place = at(resume.from);
      return null;
    }
    if (resume.from <= before.seq) return null;
    if (!own) return 'behind';
    // The hub never does this. If it did, the numbers in between would be lost without a word.
    this.place = at(resume.from);
    return { status: 'gap', lost_from: before.seq + 1, lost_to: resume.from };
  }

  /** Adopts the leader's place in a tab that has none, or of another log. Returns what the tab has to be told. */
  adopt(place: Place): 'same' | 'behind' | 'reset' {
    if (!this.place) {
      this.place = place;
      return 'same';
    }
    if (this.place.logId !== place.logId) {
      this.place = { seq: 0, logId: place.logId, lastId: null };
      this.#isBehind = true;
      return 'reset';
    }
    if (place.seq <= this.place.seq) return 'same';
    this.#isBehind = true;
    return 'behind';
  }

  /** Decides what follows the end of the present connection. */
  ended(end: End): Verdict {
    const { code, kind } = end;
    const goodbye = this.#goodbye;
    const reason = (kind === 'sse' && goodbye?.reason) || end.reason || `code_${code}`;
    this.opening();
    if (!end.opened) this.#notOpened(kind);
    const word = reason.split(':')[0] as string;
    const isToken = kind === 'sse' ? SSE_TOKEN.includes(word) : code === 4401;
    if (isToken) {
      if (++this.#refusals > REFUSALS) return { next: 'stop', state: 'unauthorized', reason };
      return { next: 'token', reason };
    }
    const isStop =
      kind === 'sse' ? SSE_STOP.includes(word) : code === 4004 || BUGS.includes(code) || (code >= 4500 && code <= 4599);
    if (isStop) return { next: 'stop', state: word === 'unauthorized' ? 'unauthorized' : 'failed', reason };
    return { next: 'again', afterMs: goodbye?.after_ms ?? end.afterMs ?? this.backoff(), reason };
  }

  #notOpened(kind: 'websocket' | 'sse'): void {
    if (kind === 'websocket') {
      this.#upgrades++;
    } else {
      // SSE does not get through either: the hub or the network is away, not the WebSocket.
      this.#upgrades = 0;
      this.#sseUntil = 0;
      this.#sseMs = SSE_FIRST_MS;
    }
  }

  /** The next wait in milliseconds: full jitter, doubling; the first is below `minMs`. */
  backoff(): number {
    const most = Math.min(this.#o.maxMs, this.#o.minMs * 2 ** Math.min(this.#attempts++, 20));
    return Math.round((this.#o.random ?? Math.random)() * most);
  }
}

/** The machine of a page that has received nothing. */
export function machineOf({ since = 'ack', transport = 'auto', backoff }: RecadoOptions): Machine {
  return new Machine({
    since: textOf(since),
    transport,
    minMs: backoff?.minMs ?? 300,
    maxMs: backoff?.maxMs ?? 20_000,
  });
}
