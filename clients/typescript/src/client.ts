// Offers the client of an application: connects, receives each notification once, in order, and acknowledges.

import { AckTracker } from './acks.ts';
import { Commands, randomId } from './commands.ts';
import { type Connection, openConnection } from './connection.ts';
import { storedDevice } from './device.ts';
import { RecadoError } from './errors.ts';
import type {
  CommandResult,
  Head,
  HistoryPage,
  Notification,
  NotificationTypes,
  ProviderStatus,
  ServerFrame,
} from './frames.ts';
import { type ClientEvents, Handlers, type Listener } from './handlers.ts';
import { request } from './http.ts';
import { iterate, type Waiting } from './iterator.ts';
import { Machine, type Place, type Step } from './machine.ts';
import type { HistoryQuery, RecadoOptions } from './options.ts';
import { IDLE, type Snapshot, type State, Store } from './store.ts';
import { canShare, type GroupHost, type Snap, TabGroup, type Word } from './tabs.ts';
import { claimsOf, Tokens } from './tokens.ts';
import { filterOf, HubUrl, type Query, textOf } from './transport.ts';

/** Longest wait for the result of a command, unless the call says otherwise. */
const COMMAND_MS = 15_000;
/** How often a follower looks whether the leader is silent. */
const WATCH_MS = 1_000;
/** A tab that lags behind repeats its request after this time. */
const BEHIND_EVERY_MS = 2_000;
/** Words of an old and a new leader cross. After this time a tab that is still behind lacks something. */
const CROSSING_MS = 300;
/**
 * A browser that leaves a page aborts its requests a moment before `pagehide`, which ends listeners whose work is not
 * done. A listener counts as finished this long after its end, so that the last acknowledgement does not cover those.
 */
const SETTLE_MS = 100;
/** Version of the words between tabs. Tabs with another one form a group of their own. */
const TABS_VERSION = 2;

/** A reason may go on after its word: `unauthorized: bad signature`. */
const wordOf = (reason: string): string => reason.split(':')[0] as string;
/** A copy as JSON. A payload that cannot be copied fails here, not later between tabs or on the socket. */
function plain(command: object): object {
  try {
    return JSON.parse(JSON.stringify(command));
  } catch (cause) {
    throw new RecadoError('invalid_command', `the command is not JSON: ${cause}`, { cause });
  }
}
const isEnd = ({ state }: Snapshot): boolean => state === 'unauthorized' || state === 'failed';

/**
 * Client of one hub for one user.
 *
 * Add the listeners, then call `connect()`. The client reconnects by itself and resumes where it was: each notification
 * is delivered to the listeners of this page once, in order. Delivery to the device is at least once: after a
 * reload the page receives what was not acknowledged again.
 */
export class RecadoClient {
  readonly #o: RecadoOptions;
  readonly #base: HubUrl;
  /** The filter as the hub reads it. */
  readonly #types: string | undefined;
  readonly #handlers: Handlers;
  readonly #store = new Store((cause) => this.#handlers.failed('snapshot', cause));
  readonly #tokens: Tokens;
  readonly #acks = new AckTracker();
  readonly #commands = new Commands();
  #machine: Machine;
  /** Ends with `close()`; `connect()` makes a new one. */
  #life: AbortController = new AbortController();
  #isOpen = false;
  #connection: Connection | null = null;
  #group: TabGroup | null = null;
  #join: (() => void) | null = null;
  /** The page is in the back-forward cache. */
  #isHidden = false;
  /** A leader is known: this tab, or one that answered. A command that is sent before would reach none. */
  #isLed = false;
  /** Commands from before a leader was known. */
  #early: (() => void)[] = [];
  /** Notifications that ended loops have not seen; the next loop takes them. */
  readonly #left: Waiting[] = [];
  /** The last status of each provider: the hub repeats it to connections, not to tabs that open later. */
  readonly #statuses = new Map<unknown, ServerFrame>();
  #leaderHeartbeatMs = 30_000;
  #behindAt = 0;

  /**
   * Opens nothing and reads no storage: safe on a server and at module level. Throws a TypeError for a bad `url` or for
   * `types` without a type, and a RangeError for an invalid Date.
   */
  constructor(options: RecadoOptions) {
    this.#o = options;
    this.#base = new HubUrl(options.url);
    this.#types = filterOf(options.types);
    this.#handlers = new Handlers(options.logger ?? console);
    this.#tokens = new Tokens(options.getToken);
    this.#machine = this.#newMachine();
  }

  #newMachine(): Machine {
    const { since = 'ack', transport = 'auto', backoff } = this.#o;
    return new Machine({
      since: textOf(since),
      transport,
      minMs: backoff?.minMs ?? 300,
      maxMs: backoff?.maxMs ?? 20_000,
    });
  }

  /** Last number that this page received; null before the first connection. */
  get seq(): number | null {
    return this.#machine.place?.seq ?? null;
  }

  /** The present state. The same object until something changes. */
  snapshot(): Snapshot {
    return this.#store.get();
  }

  /** Calls `fn` after each change of the snapshot. Returns the function that ends it. */
  subscribe(fn: () => void): () => void {
    return this.#store.subscribe(fn);
  }

  /** Connects, and stays connected until `close()`. Leaves the end states `unauthorized`, `failed` and `closed`. */
  connect(): void {
    if (!this.#isOpen) {
      this.#isOpen = true;
      this.#listenToPage(this.#life.signal);
      void this.#begin(this.#life.signal);
    } else if (isEnd(this.#store.get())) {
      this.#revive();
    }
  }

  /** Acknowledges what was handled and closes. Commands without a result are rejected with `closed`. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#leave();
    this.#connection = null;
    this.#join = null;
    this.#early = [];
    this.#life.abort();
    this.#life = new AbortController();
    this.#commands.refuseAll(new RecadoError('closed', 'the client was closed; the command may have been sent'));
    this.#store.set({ ...IDLE, state: 'closed', userId: this.#store.get().userId });
  }

  /** Resolves once the client is `live`. Rejects with a RecadoError in an end state, or with the signal's reason. */
  ready(options: { signal?: AbortSignal } = {}): Promise<void> {
    const { signal } = options;
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const abort = (): void => settle(() => reject(signal?.reason));
      const settle = (then: () => void): void => {
        stop();
        signal?.removeEventListener('abort', abort);
        then();
      };
      const look = (): void => {
        const { state, reason } = this.#store.get();
        if (state === 'live') settle(resolve);
        else if (state === 'closed' || isEnd(this.#store.get())) {
          settle(() => reject(new RecadoError(wordOf(reason ?? state), `the client is ${state}: ${reason}`)));
        }
      };
      const stop = this.#store.subscribe(look);
      signal?.addEventListener('abort', abort, { once: true });
      look();
    });
  }

  /** Adds a listener. Returns the function that removes it. Add listeners before `connect()`. */
  on<E extends keyof ClientEvents>(event: E, fn: Listener<E>): () => void {
    return this.#handlers.on(event, fn);
  }

  /** Adds a listener for notifications of one type. */
  onType<T extends keyof NotificationTypes>(
    type: T,
    fn: (notification: Notification<NotificationTypes[T]>) => void | Promise<void>,
  ): () => void;
  onType(type: string, fn: (notification: Notification) => void | Promise<void>): () => void;
  onType(type: string, fn: (notification: Notification<never>) => void | Promise<void>): () => void {
    return this.on('notification', (n) => (n.type === type ? fn(n as Notification<never>) : undefined));
  }

  /**
   * Notifications from now on, for `for await`. A notification counts as handled when the loop asks for the next, or
   * ends at it. The loop ends with `close()` and with the signal; it fails with `too_slow` when 100,000 notifications
   * wait. What waits when a loop ends stays unacknowledged; the next call begins with it.
   */
  notifications(options: { signal?: AbortSignal } = {}): AsyncGenerator<Notification, void, void> {
    const signals = [options.signal, this.#life.signal];
    return iterate({ listen: (listener) => this.on('notification', listener), signals, left: this.#left });
  }

  /**
   * Acknowledges everything up to `seq` for the device; needed with `ack: 'manual'` only, ignored otherwise.
   * Throws `ack_ahead` if this page has not received the number.
   */
  ack(seq: number): void {
    const mine = this.seq ?? 0;
    if (!(seq <= mine)) throw new RecadoError('ack_ahead', `cannot acknowledge ${seq}: received up to ${mine}`);
    this.#ack(seq);
    if (this.#group && !this.#group.isLeader) this.#group.say({ w: 'ack', seq, logId: this.#machine.place?.logId });
  }

  #ack(seq: number): void {
    this.#acks.manual(seq);
    this.#connection?.scheduleAck();
  }

  /**
   * Sends a command to a provider: now, or as soon as the client is connected. Sent at most once by the SDK; the
   * application may repeat it with the same `id`. Default `timeoutMs`: 15,000. Rejects with `timeout` (it may have been
   * sent), `unsupported` (on SSE), `closed`, `invalid_command` (not JSON), `command_id_conflict` (a command with this
   * `id` waits for its result), or the hub's code.
   */
  async send(
    command: { type: string; payload?: unknown },
    options: { id?: string; timeoutMs?: number } = {},
  ): Promise<CommandResult> {
    const { id = randomId(), timeoutMs = COMMAND_MS } = options;
    if (!this.#isOpen) throw new RecadoError('closed', 'the client is not connected');
    const frame = plain({ ...command, id });
    const until = Date.now() + timeoutMs;
    const result = this.#commands.wait(id, timeoutMs);
    const pass = (): void => {
      if (this.#group && !this.#group.isLeader) this.#group.say({ w: 'send', id, frame, until });
      else this.#connection?.command(id, frame, until);
    };
    if (this.#isLed) pass();
    else this.#early.push(pass);
    return result;
  }

  /** One page of what the user was sent. Rejects with a RecadoError, for example `expired` or `reset`. */
  async history(query: HistoryQuery = {}): Promise<HistoryPage> {
    // The hub refuses `type` next to `types`.
    const types = query.type === undefined ? (filterOf(query.types) ?? this.#types) : undefined;
    const since = query.since && textOf(query.since);
    return this.#request('api/notifications', { ...query, since, types });
  }

  /** The range of the log. */
  head(): Promise<Head> {
    return this.#request('api/notifications/head', {});
  }

  #request<T>(path: string, query: Query, body?: object): Promise<T> {
    return request({ base: this.#base, tokens: this.#tokens, fetch: this.#fetch }, path, query, body);
  }

  /** Called as a plain function: a browser's fetch refuses another `this`. */
  get #fetch(): typeof fetch {
    const given = this.#o.fetch ?? globalThis.fetch;
    return (input, init) => given(input, init);
  }

  async #begin(signal: AbortSignal): Promise<void> {
    this.#set('connecting');
    const share = this.#o.tabs !== 'own' && canShare();
    // Not a look at localStorage: where storage is denied, its name alone throws.
    const canStore = typeof document !== 'undefined';
    let userKey = this.#o.userKey;
    if (userKey === undefined && (share || (canStore && this.#o.clientId === undefined))) {
      try {
        const token = await this.#tokens.get('first', signal);
        if (signal.aborted) return;
        if (token === null) return this.#fail('unauthorized', 'no_token');
        userKey = String(claimsOf(token)?.sub ?? '');
      } catch (error) {
        if (!signal.aborted) this.#beginAgain(signal, error as RecadoError);
        return;
      }
    }
    // Tabs with another filter cannot use the frames of this one, and must not acknowledge what it has not received.
    const filter = this.#types === undefined ? '' : `?types=${this.#types}`;
    const key = `recado:client:${this.#base.http}:${userKey}${filter}`;
    const stored = this.#o.clientId ?? (canStore ? await storedDevice(key) : 'default');
    if (signal.aborted) return;
    const clientId = stored ?? `web-${randomId()}`;
    this.#connection = this.#newConnection(clientId);
    const name = `recado:${TABS_VERSION}:${this.#base.http}:${userKey}:${clientId}${filter}`;
    this.#join = (): void => this.#start(share && stored !== null ? name : null);
    // A page in the back-forward cache joins when it is shown again.
    if (!this.#isHidden) this.#join();
  }

  #beginAgain(signal: AbortSignal, error: RecadoError): void {
    this.#handlers.emit('error', error);
    const afterMs = this.#machine.backoff();
    this.#set('waiting', error.code, Date.now() + afterMs);
    setTimeout(() => void (signal.aborted || this.#begin(signal)), afterMs);
  }

  /** Changes the state, and tells the other tabs if this one leads. */
  #set(state: State, reason: string | null = null, retryAt: number | null = null): void {
    const { transport = null } = this.#connection ?? {};
    this.#store.set({ state, reason, retryAt, transport, userId: this.#machine.userId });
    if (this.#group?.isLeader) this.#group.say(this.#snap());
  }

  #fail(state: State, reason: string): void {
    this.#set(state, reason);
    this.#handlers.emit('error', new RecadoError(wordOf(reason), `the client is ${state}: ${reason}`));
  }

  #newConnection(clientId: string): Connection {
    return openConnection({
      base: this.#base,
      clientId,
      types: this.#types,
      machine: this.#machine,
      tokens: this.#tokens,
      ackDelayMs: this.#o.ackDelayMs ?? 250,
      WebSocket: this.#o.WebSocket ?? globalThis.WebSocket,
      fetch: this.#fetch,
      pass: (frames) => this.#group?.say({ w: 'frames', frames }),
      apply: (step, frame) => this.#apply(step, frame, true),
      state: (state, reason, retryAt) => this.#set(state, reason, retryAt),
      fail: (state, reason) => this.#fail(state, reason),
      error: (error) => void this.#handlers.emit('error', error),
      refused: (id, error) => {
        this.#commands.settle(id, error);
        this.#group?.say({ w: 'refused', id, code: error.code, message: error.message });
      },
      ackable: () => this.#acks.ready(this.#o.ack ?? 'auto'),
      post: (path, body) => this.#request(path, {}, body),
    });
  }

  /** Joins the group of tabs, or connects alone. */
  #start(group: string | null): void {
    if (group === null) {
      this.#store.set({ isLeader: true });
      this.#connection?.start();
      return this.#led();
    }
    const host: GroupHost = {
      lead: () => {
        this.#store.set({ isLeader: true });
        // An end state outlives its tab: a replaced or refused client must not connect again by itself.
        if (!isEnd(this.#store.get())) this.#connection?.start();
        this.#led();
      },
      follow: () => {
        this.#isLed = false;
        this.#connection?.stop();
        this.#store.set({ isLeader: false });
        this.#set('connecting');
      },
      snap: () => this.#snap(),
      heard: (word) => this.#heard(word),
      alone: () => {
        this.#group?.leave();
        this.#group = null;
        this.#start(null);
      },
    };
    try {
      this.#group = new TabGroup(group, host);
    } catch {
      // A BroadcastChannel is refused where storage is.
      this.#start(null);
    }
  }

  /** Sends what waited for a leader. */
  #led(): void {
    this.#isLed = this.#isOpen;
    for (const pass of this.#early.splice(0)) pass();
  }

  #doubt(): void {
    this.#isLed = false;
    this.#group?.doubt();
  }

  #leave(): void {
    this.#isLed = false;
    this.#connection?.stop();
    this.#group?.leave();
    this.#group = null;
  }

  #revive(): void {
    if (this.#store.get().reason === 'identity_changed') {
      // Another user signed in: the place, the device and the group are those of the user before.
      this.#leave();
      this.#machine = this.#newMachine();
      this.#acks.reset(0);
      this.#left.length = 0;
      this.#early = [];
      this.#statuses.clear();
      this.#connection = null;
      this.#join = null;
    }
    if (!this.#connection) {
      void this.#begin(this.#life.signal);
    } else if (!this.#group) {
      // Not `start`: a page that left its group may not connect without the lock. And not in an end state, which
      // a tab that comes to lead would keep.
      this.#set('connecting');
      this.#join?.();
    } else if (this.#group.isLeader) {
      this.#connection.start();
    } else {
      // An end state until the leader answers would reject `ready()`.
      this.#set('connecting');
      this.#group.say({ w: 'poke' });
      this.#doubt();
    }
  }

  /** Where a tab that joins starts: before what is not handled here, so that it gets that if this tab dies. */
  get #handledPlace(): Place | null {
    const at = this.#machine.place;
    const to = this.#o.ack === 'manual' ? null : this.#acks.handledTo;
    return at && to !== null && to < at.seq ? { seq: to, logId: at.logId, lastId: null } : at;
  }

  #snap(): Snap {
    const heartbeatMs = this.#connection?.heartbeatMs ?? this.#leaderHeartbeatMs;
    return {
      w: 'snap',
      state: this.#store.get(),
      place: this.#handledPlace,
      heartbeatMs,
      statuses: [...this.#statuses.values()],
    };
  }

  #heard(word: Word): void {
    if (this.#group?.isLeader) {
      if (word.w === 'behind') this.#connection?.rewind(word.place);
      else if (word.w === 'ack' && word.logId === this.#machine.place?.logId) this.#ack(word.seq);
      else if (word.w === 'send') this.#connection?.command(word.id, word.frame, word.until);
      else if (word.w === 'poke') isEnd(this.#store.get()) ? this.#revive() : this.#connection?.nudge();
    } else if (word.w === 'snap') {
      this.#adopt(word);
    } else if (word.w === 'frames') {
      this.#follow(word.frames);
    } else if (word.w === 'refused') {
      this.#commands.settle(word.id, new RecadoError(word.code, word.message));
    }
  }

  #follow(frames: ServerFrame[]): void {
    const group = this.#group;
    for (const frame of frames) {
      // A listener may have closed the client.
      if (this.#group !== group) return;
      const step = this.#machine.frame(frame, false);
      if (step.do === 'break') this.#behind();
      else if (step.do === 'fail') return this.#fail('failed', step.reason);
      else this.#apply(step, frame, false);
    }
  }

  #adopt(snap: Snap): void {
    this.#leaderHeartbeatMs = snap.heartbeatMs;
    if (!this.#isLed) this.#led();
    this.#store.set({ ...snap.state, isLeader: false });
    for (const frame of snap.statuses) {
      const known = this.#statuses.get(frame.provider);
      if (known?.status !== frame.status || known?.message !== frame.message) this.#control(frame);
    }
    // So that another user is noticed although this tab has not seen a first frame.
    this.#machine.userId ??= snap.state.userId;
    if (!snap.place) return;
    const was = this.#machine.adopt(snap.place);
    if (was === 'reset') this.#gap({ status: 'reset' });
    if (was === 'same') return this.#acks.moved(this.seq ?? 0);
    const before = this.seq;
    const group = this.#group;
    setTimeout(() => {
      if (this.#group === group && !group?.isLeader && this.seq === before) this.#behind();
    }, CROSSING_MS);
  }

  #behind(): void {
    const place = this.#machine.place;
    const now = Date.now();
    if (!place || Math.abs(now - this.#behindAt) < BEHIND_EVERY_MS) return;
    this.#behindAt = now;
    this.#group?.say({ w: 'behind', place });
  }

  #gap(gap: ClientEvents['gap']): void {
    if (gap.status === 'reset') {
      this.#acks.reset(this.seq ?? 0);
      this.#left.length = 0;
    }
    this.#handlers.emit('gap', gap);
  }

  /** Performs a step. `own`: from this page's connection, which then also sets the state. */
  #apply(step: Step, frame: ServerFrame, own: boolean): void {
    if (step.do === 'hello') {
      if (own) this.#set('replaying');
      if (step.gap) this.#gap(step.gap);
    } else if (step.do === 'apply') {
      this.#deliver(step.notification);
    } else if (step.do === 'caughtUp') {
      if (own) this.#set('live');
      this.#handlers.emit('caughtUp', { seq: step.seq, replayed: step.replayed });
    } else if (step.do === 'control') {
      this.#control(frame);
    }
    this.#acks.moved(this.seq ?? 0);
  }

  #deliver(notification: Notification): void {
    const going = this.#handlers.emit('notification', notification);
    if (going) {
      const handled = this.#acks.begin(notification.seq);
      const finish = (): void => {
        handled();
        this.#connection?.scheduleAck();
      };
      void going.then(() => (typeof document === 'undefined' ? finish() : setTimeout(finish, SETTLE_MS)));
    }
  }

  #control(frame: ServerFrame): void {
    if (frame.type === 'status') {
      this.#statuses.set(frame.provider, frame);
      this.#handlers.emit('status', frame as unknown as ProviderStatus);
    } else if (frame.type === 'command_result')
      this.#commands.settle(frame.id as string, frame as unknown as CommandResult);
    else if (frame.type === 'error' && frame.code === undefined) {
      this.#handlers.emit('upstreamError', frame as unknown as ClientEvents['upstreamError']);
    }
  }

  /** Timers of hidden pages are throttled and stop with the machine, so the page's own events wake the client. */
  #listenToPage(signal: AbortSignal): void {
    if (typeof document === 'undefined') return;
    const watch = setInterval(() => this.#watchLeader(), WATCH_MS);
    signal.addEventListener('abort', () => clearInterval(watch));
    const nudge = (): void => this.#nudge();
    const changed = (): void => {
      if (document.visibilityState === 'hidden') this.#connection?.flush();
      else nudge();
    };
    document.addEventListener('visibilitychange', changed, { signal });
    for (const event of ['online', 'focus']) window.addEventListener(event, nudge, { signal });
    // A page in the back-forward cache must not hold the lock.
    const hide = ({ persisted }: PageTransitionEvent): void => {
      this.#isHidden = persisted;
      if (persisted) this.#leave();
      else this.#connection?.flush();
    };
    const show = ({ persisted }: PageTransitionEvent): void => {
      this.#isHidden = false;
      if (persisted && !isEnd(this.#store.get())) this.#join?.();
    };
    window.addEventListener('pagehide', hide, { signal });
    window.addEventListener('pageshow', show, { signal });
  }

  #nudge(): void {
    if (!this.#group || this.#group.isLeader) return this.#connection?.nudge();
    this.#doubt();
    if (this.#store.get().state === 'waiting') this.#group.say({ w: 'poke' });
  }

  #watchLeader(): void {
    const group = this.#group;
    if (!group || group.isLeader) return;
    const silentMs = Math.abs(Date.now() - group.heardAt);
    if (silentMs > 2 * this.#leaderHeartbeatMs + 5_000) this.#doubt();
  }
}
