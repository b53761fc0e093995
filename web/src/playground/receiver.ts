// Connects as a user with the SDK over a wire that can be cut, and keeps what the page shows of it.

import type { Notification, RecadoClient, Snapshot } from '@recado/client';
import { api, type Problem } from '../api.ts';
import { hubUrl, at as pathAt } from '../paths.ts';
import { asProblem } from '../poll.ts';
import { type Check, Place, type Resumed } from './place.ts';
import { frameOf, type Overrides, Wire } from './wire.ts';

/** Who connects, and how. */
export interface Identity {
  readonly user: string;
  readonly accounts: readonly string[];
  readonly clientId: string;
  readonly transport: 'websocket' | 'sse';
  readonly signIn: 'token' | 'ticket';
  readonly ack: 'auto' | 'manual';
}

/** One line of the list of raw frames. */
export interface FrameLine {
  readonly n: number;
  readonly at: number;
  readonly dir: '←' | '→' | '·';
  readonly text: string;
  readonly type: string;
  readonly check: string;
  readonly kind: Check['kind'];
}

/** What the page shows. A new object after each change. */
export interface Shown {
  readonly snapshot: Snapshot;
  readonly frames: readonly FrameLine[];
  /** Notifications that the SDK handed over, the newest first. */
  readonly received: readonly Notification[];
  readonly resumed: Resumed | null;
  readonly mine: number | null;
  readonly repeated: number;
  readonly twice: number;
  /** Notifications of the history that did not arrive; null until it was compared. */
  readonly missed: number | null;
  readonly compared: number;
  readonly acked: number | null;
  readonly isOffline: boolean;
  readonly wakesAt: number | null;
  readonly problem: Problem | null;
  /** Notifications that arrived after the last connection began. */
  readonly caughtUp: number;
}

const MOST_FRAMES = 500;
const MOST_RECEIVED = 200;
/** The history is compared this long after the last notification. */
const COMPARE_MS = 400;
const SLEEP_MS = 10_000;
/** A token is used again until this long before its end. */
const TOKEN_SLACK_MS = 60_000;

export class Receiver {
  readonly identity: Identity;
  readonly #listeners = new Set<() => void>();
  readonly #client: RecadoClient;
  readonly #wire: Wire;
  readonly #place = new Place();
  readonly #got = new Set<number>();
  #begin: number | null = null;
  #token: { readonly text: string; readonly until: number } | null = null;
  #count = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #wake: ReturnType<typeof setTimeout> | undefined;
  #due = false;
  #shown: Shown;

  /** `Client`: the class of the SDK, which the hub serves. */
  constructor(identity: Identity, Client: typeof RecadoClient) {
    this.identity = identity;
    this.#wire = new Wire({
      opening: (text) => this.#line('·', `connects: ${text}`, '', { text: '', kind: 'none' }),
      ended: (text) => this.#line('·', text, '', { text: '', kind: 'none' }),
      outgoing: (text) => this.#outgoing(text),
      incoming: (text) => this.#incoming(text),
    });
    const quiet = { debug: (): void => {}, warn: (): void => {}, error: (): void => {} };
    this.#client = new Client({
      url: hubUrl(),
      getToken: ({ reason }) => this.#getToken(reason === 'refused' || reason === 'expiring'),
      userKey: identity.user,
      clientId: identity.clientId,
      transport: identity.transport,
      ack: identity.ack,
      tabs: 'own',
      WebSocket: this.#wire.socketClass,
      fetch: this.#wire.fetch,
      logger: quiet,
    });
    this.#shown = {
      snapshot: this.#client.snapshot(),
      frames: [],
      received: [],
      resumed: null,
      mine: null,
      repeated: 0,
      twice: 0,
      missed: null,
      compared: 0,
      acked: null,
      isOffline: false,
      wakesAt: null,
      problem: null,
      caughtUp: 0,
    };
    this.#client.subscribe(() => this.#set({ snapshot: this.#client.snapshot() }));
    this.#client.on('notification', (one) => this.#receive(one));
    this.#client.on('caughtUp', ({ replayed }) => {
      this.#set({ caughtUp: replayed });
      this.#compareSoon();
    });
    this.#client.on('gap', ({ status }) => {
      if (status !== 'reset') return;
      // What an application does: it drops its state, and the log begins anew.
      this.#got.clear();
      this.#begin = 0;
      this.#set({ received: [] });
    });
    this.#client.on('error', () => undefined);
  }

  get shown(): Shown {
    return this.#shown;
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Frames may come in thousands: the page is drawn once for all that arrived together. */
  #set(change: Partial<Shown>): void {
    this.#shown = { ...this.#shown, ...change };
    if (this.#due) return;
    this.#due = true;
    setTimeout(() => {
      this.#due = false;
      for (const listener of this.#listeners) listener();
    }, 30);
  }

  async #getToken(fresh: boolean): Promise<string | null> {
    const { user, accounts, signIn } = this.identity;
    try {
      if (fresh || !this.#token || this.#token.until < Date.now()) {
        const { token, expires_at } = await api.mint(user, accounts);
        this.#token = { text: token, until: Date.parse(expires_at) - TOKEN_SLACK_MS };
      }
      if (signIn === 'ticket' && !this.#wire.isOffline) {
        const headers = { authorization: `Bearer ${this.#token.text}` };
        const answer = await fetch(pathAt('/api/ws-ticket'), { method: 'POST', headers, credentials: 'omit' });
        if (answer.ok) this.#wire.ticket = ((await answer.json()) as { ticket: string }).ticket;
      }
      this.#set({ problem: null });
      return this.#token.text;
    } catch (error) {
      this.#set({ problem: asProblem(error) });
      // The role or the playground is missing: to try again is no use.
      return null;
    }
  }

  #line(dir: FrameLine['dir'], text: string, type: string, check: Check): void {
    const line = { n: ++this.#count, at: Date.now(), dir, text, type, check: check.text, kind: check.kind };
    this.#set({ frames: [line, ...this.#shown.frames].slice(0, MOST_FRAMES) });
  }

  #incoming(text: string): void {
    const frame = frameOf(text);
    const check = frame ? this.#place.take(frame) : ({ text: '', kind: 'none' } as const);
    this.#line('←', text, String(frame?.type ?? ''), check);
    const { mine, resumed, repeated } = this.#place;
    if (this.#begin === null && resumed) this.#begin = resumed.from;
    this.#set({ mine, resumed, repeated });
  }

  #outgoing(text: string): void {
    const frame = frameOf(text.replace(/^POST \S+ /, ''));
    this.#line('→', text, String(frame?.type ?? (text.includes('/ack') ? 'ack' : '')), { text: '', kind: 'none' });
    if (typeof frame?.seq === 'number') this.#set({ acked: frame.seq });
  }

  #receive(one: Notification): void {
    const { twice, received } = this.#shown;
    const again = this.#got.has(one.seq);
    this.#got.add(one.seq);
    this.#set({ twice: twice + (again ? 1 : 0), received: [one, ...received].slice(0, MOST_RECEIVED) });
    this.#compareSoon();
  }

  #compareSoon(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#compare(), COMPARE_MS);
  }

  /** Asks the history what this device should have, and counts what did not arrive. */
  async #compare(): Promise<void> {
    if (this.#wire.isOffline || this.#begin === null) return;
    try {
      const upto = this.#client.seq ?? 0;
      const page = await this.#client.history({ after: this.#begin, limit: 1000 });
      const due = page.notifications.filter(({ seq }) => seq <= upto);
      this.#set({ missed: due.filter(({ seq }) => !this.#got.has(seq)).length, compared: due.length });
    } catch {
      // The next notification compares again.
    }
  }

  connect(): void {
    this.#client.connect();
  }

  /** Breaks the connection, and stays offline until `comeBack`. */
  cut(): void {
    clearTimeout(this.#wake);
    this.#wire.isOffline = true;
    this.#line('·', 'the connection is cut; this device is offline', '', { text: '', kind: 'none' });
    this.#wire.cut();
    this.#set({ isOffline: true, wakesAt: null });
  }

  sleep(): void {
    this.cut();
    this.#wake = setTimeout(() => this.comeBack(), SLEEP_MS);
    this.#set({ wakesAt: Date.now() + SLEEP_MS });
  }

  comeBack(overrides: Overrides = {}): void {
    clearTimeout(this.#wake);
    this.#wire.override(overrides);
    // A device that is online breaks its connection, and comes back at another place.
    const wasOnline = !this.#wire.isOffline;
    this.#wire.isOffline = false;
    this.#set({ isOffline: false, wakesAt: null });
    if (wasOnline) this.#wire.cut();
    // What a browser says when the network is there again: the SDK does not wait any longer.
    setTimeout(() => window.dispatchEvent(new Event('online')), wasOnline ? 100 : 0);
  }

  /** Acknowledges everything up to this number. */
  ack(seq: number): void {
    try {
      this.#client.ack(seq);
    } catch (error) {
      this.#set({ problem: asProblem(error) });
    }
  }

  close(): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#wake);
    this.#client.close();
  }
}
