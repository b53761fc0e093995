// Keeps a page connected for its user, alone or with the other tabs of its browser.

import { AckTracker } from './acks.ts';
import { Commands } from './commands.ts';
import { type Connection, type ConnectionHost, openConnection } from './connection.ts';
import { RecadoError } from './errors.ts';
import { type CommandResult, isInboxRow, type Notification, type ProviderStatus, type ServerFrame } from './frames.ts';
import { type ClientEvents, Handlers } from './handlers.ts';
import { request } from './http.ts';
import { type Identity, identify } from './identity.ts';
import { type InboxHost, newerCounts } from './inbox.ts';
import type { CountsAnswer, InboxChange, InboxCounts, InboxEvent } from './inbox-types.ts';
import type { Waiting } from './iterator.ts';
import { type Machine, machineOf, type Step } from './machine.ts';
import type { RecadoOptions } from './options.ts';
import { listenToPage, whenPageStays } from './page.ts';
import { isEnd, wordOf } from './ready.ts';
import { IDLE, type State, Store, UNCOUNTED } from './store.ts';
import { type GroupHost, type Snap, TabGroup, type Word } from './tabs.ts';
import { Tokens } from './tokens.ts';
import { filterOf, HubUrl, type Query } from './transport.ts';

/** A tab that lags behind repeats its request after this time. */
const BEHIND_EVERY_MS = 2_000;
/** Words of an old and a new leader cross. After this time a tab that is still behind lacks something. */
const CROSSING_MS = 300;

/** The state behind a client. Its connection and its group of tabs call it back. */
export class Session implements ConnectionHost, GroupHost, InboxHost {
  readonly options: RecadoOptions;
  readonly base: HubUrl;
  /** The filter as the hub reads it. */
  readonly types: string | undefined;
  readonly tokens: Tokens;
  readonly handlers: Handlers;
  readonly store: Store = new Store((cause) => this.handlers.failed('snapshot', cause));
  /** Notifications that ended loops have not seen; the next loop takes them. */
  readonly left: Waiting[] = [];
  machine: Machine;
  clientId = '';
  readonly #acks = new AckTracker();
  readonly #commands = new Commands();
  /** Ends with `close()`; `connect()` makes a new one. */
  life: AbortController = new AbortController();
  #isOpen = false;
  #connection: Connection | null = null;
  #group: TabGroup | null = null;
  #join: (() => void) | null = null;
  /** The page is in the back-forward cache. */
  #isCached = false;
  /** A leader is known: this tab, or one that answered. A command that is sent before would reach none. */
  #isLed = false;
  /** Commands from before a leader was known. */
  #early: (() => void)[] = [];
  /** The last status of each provider: the hub repeats it to connections, not to tabs that open later. */
  readonly #statuses = new Map<unknown, ServerFrame>();
  #leaderHeartbeatMs = 30_000;
  #behindAt = 0;

  /** Opens nothing. Throws a TypeError or a RangeError for a bad option. */
  constructor(options: RecadoOptions) {
    this.options = options;
    this.base = new HubUrl(options.url);
    this.types = filterOf(options.types);
    if (options.inbox && this.types) throw new TypeError('inbox counts every type: leave out types, or inbox');
    this.handlers = new Handlers(options.logger ?? console);
    this.tokens = new Tokens(options.getToken);
    this.machine = machineOf(this.options);
  }

  get seq(): number | null {
    return this.machine.place?.seq ?? null;
  }

  get hasInbox(): boolean {
    return this.options.inbox === true;
  }

  get logId(): string | undefined {
    return this.machine.place?.logId;
  }

  counts(): InboxCounts | undefined {
    const { unread, unseen, asOf } = this.store.get();
    return asOf === null ? undefined : ({ unread, unseen, asOf } as InboxCounts);
  }

  count(said: Partial<CountsAnswer>, isFrame = true): void {
    const counts = newerCounts(this.store.get(), said, isFrame);
    if (counts) this.store.set(counts, true);
  }

  tell(event: InboxEvent): void {
    this.handlers.emit('inbox', event);
  }

  connect(): void {
    if (!this.#isOpen) {
      this.#isOpen = true;
      listenToPage(
        this.life.signal,
        () => this.#nudge(),
        () => this.#connection?.flush(),
        () => this.#watchLeader(),
        (isIn) => this.#cached(isIn),
      );
      void this.#begin(this.life.signal);
    } else if (isEnd(this.store.get())) {
      this.#revive();
    }
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#end();
    this.life.abort();
    this.life = new AbortController();
    this.#commands.refuseAll(new RecadoError('closed', 'the client was closed; the command may have been sent'));
    this.store.set({ ...IDLE, state: 'closed', userId: this.store.get().userId });
  }

  /** Acknowledges a number that the page has received. */
  ack(seq: number): void {
    this.#ack(seq);
    if (this.#group && !this.#group.isLeader) this.#group.say({ w: 'ack', seq, logId: this.machine.place?.logId });
  }

  #ack(seq: number): void {
    this.#acks.manual(seq);
    this.#connection?.scheduleAck();
  }

  /** Sends a command once, and waits for its result. */
  async send(id: string, frame: object, timeoutMs: number): Promise<CommandResult> {
    if (!this.#isOpen) throw new RecadoError('closed', 'the client is not connected');
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

  request<T>(path: string, query: Query = {}, body?: object): Promise<T> {
    return request(this.base, this.tokens, this.fetch, path, query, body);
  }

  /** Called as a plain function: a browser's fetch refuses another `this`. */
  readonly fetch: typeof fetch = (...request) => (this.options.fetch ?? globalThis.fetch)(...request);

  pass(frames: ServerFrame[]): void {
    this.#group?.say({ w: 'frames', frames });
  }

  error(error: RecadoError): void {
    this.handlers.emit('error', error);
  }

  refused(id: string, error: RecadoError): void {
    this.#commands.settle(id, error);
    this.#group?.say({ w: 'refused', id, code: error.code, message: error.message });
  }

  ackable(): number {
    return this.#acks.ready(this.options.ack);
  }

  lead(): void {
    this.store.set({ isLeader: true });
    // An end state outlives its tab: a replaced or refused client must not connect again by itself.
    if (!isEnd(this.store.get())) this.#connection?.start();
    this.#led();
  }

  follow(): void {
    this.#isLed = false;
    this.#connection?.stop();
    this.store.set({ isLeader: false });
    this.state('connecting');
  }

  alone(): void {
    this.#group?.leave();
    this.#group = null;
    this.#start(null);
  }

  async #begin(signal: AbortSignal): Promise<void> {
    this.state('connecting');
    let who: Identity | null;
    try {
      who = await identify(this.options, this.types, this.base, this.tokens, signal);
    } catch (error) {
      if (!signal.aborted) this.#beginAgain(signal, error as RecadoError);
      return;
    }
    if (signal.aborted) return;
    if (!who) return this.fail('unauthorized', 'no_token');
    const { clientId, group } = who;
    this.clientId = clientId;
    this.#connection = openConnection(this);
    this.#join = (): void => this.#start(group);
    // A page in the back-forward cache joins when it is shown again.
    if (!this.#isCached) this.#join();
  }

  #beginAgain(signal: AbortSignal, error: RecadoError): void {
    this.error(error);
    const afterMs = this.machine.backoff();
    this.state('waiting', error.code, Date.now() + afterMs);
    setTimeout(() => void (signal.aborted || this.#begin(signal)), afterMs);
  }

  /** Changes the state, and tells the other tabs if this one leads. */
  state(state: State, reason: string | null = null, retryAt: number | null = null): void {
    const { transport = null } = this.#connection ?? {};
    this.store.set({ state, reason, retryAt, transport, userId: this.machine.userId });
    if (this.#group?.isLeader) this.#group.say(this.snap());
  }

  fail(state: State, reason: string): void {
    this.state(state, reason);
    this.error(new RecadoError(wordOf(reason), `the client is ${state}: ${reason}`));
  }

  /** Joins the group of tabs, or connects alone. */
  #start(group: string | null): void {
    if (group === null) {
      this.store.set({ isLeader: true });
      this.#connection?.start();
      return this.#led();
    }
    try {
      this.#group = new TabGroup(group, this);
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

  /** Lets go of the connection, and of who the page is. */
  #end(): void {
    this.#leave();
    this.#early = [];
    this.#connection = null;
    this.#join = null;
  }

  #revive(): void {
    if (this.store.get().reason === 'identity_changed') {
      // Another user signed in: the place, the device and the group are those of the user before.
      this.#end();
      this.machine = machineOf(this.options);
      this.#acks.reset(0);
      this.left.length = 0;
      this.#statuses.clear();
      this.store.set(UNCOUNTED);
    }
    if (!this.#connection) return void this.#begin(this.life.signal);
    if (this.#group?.isLeader) return this.#connection.start();
    // A tab that comes to lead would keep an end state, and `ready()` would reject until the leader answers.
    this.state('connecting');
    // Not `start`: a page that left its group may not connect without the lock.
    if (!this.#group) return this.#join?.();
    this.#group.say({ w: 'poke' });
    this.#doubt();
  }

  snap(): Snap {
    const heartbeatMs = this.#connection?.heartbeatMs ?? this.#leaderHeartbeatMs;
    return {
      w: 'snap',
      state: this.store.get(),
      place: this.#acks.handled(this.machine.place, this.options.ack),
      heartbeatMs,
      statuses: [...this.#statuses.values()],
    };
  }

  heard(word: Word): void {
    if (this.#group?.isLeader) {
      if (word.w === 'behind') this.#connection?.rewind(word.place);
      else if (word.w === 'ack' && word.logId === this.machine.place?.logId) this.#ack(word.seq);
      else if (word.w === 'send') this.#connection?.command(word.id, word.frame, word.until);
      else if (word.w === 'poke') isEnd(this.store.get()) ? this.#revive() : this.#connection?.nudge();
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
      const step = this.machine.frame(frame, false);
      if (step.do === 'break') this.#behind();
      else if (step.do === 'fail') return this.fail('failed', step.reason);
      else this.apply(step, frame, false);
    }
  }

  #adopt(snap: Snap): void {
    this.#leaderHeartbeatMs = snap.heartbeatMs;
    if (!this.#isLed) this.#led();
    const { unread, unseen, asOf, ...state } = snap.state;
    this.store.set({ ...state, isLeader: false });
    for (const frame of snap.statuses) {
      const known = this.#statuses.get(frame.provider);
      if (known?.status !== frame.status || known?.message !== frame.message) this.#control(frame);
    }
    // So that another user is noticed although this tab has not seen a first frame.
    this.machine.userId ??= snap.state.userId;
    const was = snap.place && this.machine.adopt(snap.place);
    if (was === 'reset') this.#gap({ status: 'reset' });
    // After a reset: the counts of before belong to the log of before.
    if (asOf !== null) this.count({ unread, unseen, as_of: asOf } as CountsAnswer, false);
    if (!was) return;
    if (was === 'same') return this.#acks.moved(this.seq ?? 0);
    const before = this.seq;
    const group = this.#group;
    setTimeout(() => {
      if (this.#group === group && !group?.isLeader && this.seq === before) this.#behind();
    }, CROSSING_MS);
  }

  #behind(): void {
    const place = this.machine.place;
    const now = Date.now();
    if (!place || Math.abs(now - this.#behindAt) < BEHIND_EVERY_MS) return;
    this.#behindAt = now;
    this.#group?.say({ w: 'behind', place });
  }

  #gap(gap: ClientEvents['gap']): void {
    if (gap.status === 'reset') {
      this.#acks.reset(this.seq ?? 0);
      this.left.length = 0;
      this.store.set(UNCOUNTED);
    }
    this.handlers.emit('gap', gap);
  }

  /** Performs a step. `own`: from this page's connection, which then also sets the state. */
  apply(step: Step, frame: ServerFrame, own = true): void {
    if (step.do === 'hello') {
      if (own) this.state('replaying');
      if (step.gap) this.#gap(step.gap);
    }
    // Before the listeners: they may read the counts.
    this.count(frame);
    if (step.do === 'apply') {
      if (isInboxRow(frame)) this.#logged(step.notification);
      else this.#deliver(step.notification);
    } else if (step.do === 'caughtUp') {
      if (own) this.state('live');
      this.handlers.emit('caughtUp', { seq: step.seq, replayed: step.replayed });
    } else if (step.do === 'control') {
      this.#control(frame);
    }
    this.#acks.moved(this.seq ?? 0);
  }

  #logged({ data, seq }: Notification): void {
    this.tell({ state: 'logged', change: data as InboxChange, seq });
  }

  #deliver(notification: Notification): void {
    const going = this.handlers.emit('notification', notification);
    if (going) {
      const handled = this.#acks.begin(notification.seq);
      const finish = (): void => {
        handled();
        this.#connection?.scheduleAck();
      };
      void going.then(() => whenPageStays(finish));
    }
  }

  #control(frame: ServerFrame): void {
    if (frame.type === 'status') {
      this.#statuses.set(frame.provider, frame);
      this.handlers.emit('status', frame as unknown as ProviderStatus);
    } else if (frame.type === 'command_result')
      this.#commands.settle(frame.id as string, frame as unknown as CommandResult);
    else if (frame.type === 'error' && frame.code === undefined) {
      this.handlers.emit('upstreamError', frame as unknown as ClientEvents['upstreamError']);
    }
  }

  #cached(isIn: boolean): void {
    this.#isCached = isIn;
    // A page in the back-forward cache must not hold the lock.
    if (isIn) this.#leave();
    else if (!isEnd(this.store.get())) this.#join?.();
  }

  #nudge(): void {
    if (!this.#group || this.#group.isLeader) return this.#connection?.nudge();
    this.#doubt();
    if (this.store.get().state === 'waiting') this.#group.say({ w: 'poke' });
  }

  #watchLeader(): void {
    const group = this.#group;
    if (!group || group.isLeader) return;
    const silentMs = Math.abs(Date.now() - group.heardAt);
    if (silentMs > 2 * this.#leaderHeartbeatMs + 5_000) this.#doubt();
  }
}
