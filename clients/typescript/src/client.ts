// Offers the client of an application: connects, receives each notification once, in order, and acknowledges.

import { randomId } from './commands.ts';
import { RecadoError } from './errors.ts';
import type { CommandResult, Head, HistoryPage, Notification, NotificationTypes } from './frames.ts';
import type { ClientEvents, Listener } from './handlers.ts';
import { Inbox } from './inbox.ts';
import { iterate } from './iterator.ts';
import type { HistoryQuery, RecadoOptions } from './options.ts';
import { untilLive } from './ready.ts';
import { Session } from './session.ts';
import type { Snapshot } from './store.ts';
import { filterOf, textOf } from './transport.ts';

/** Longest wait for the result of a command, unless the call says otherwise. */
const COMMAND_MS = 15_000;

/** A copy as JSON. A payload that cannot be copied fails here, not later between tabs or on the socket. */
function plain(command: object): object {
  try {
    return JSON.parse(JSON.stringify(command));
  } catch (cause) {
    throw new RecadoError('invalid_command', `the command is not JSON: ${cause}`, { cause });
  }
}

/**
 * Client of one hub for one user.
 *
 * Add the listeners, then call `connect()`. The client reconnects by itself and resumes where it was: each notification
 * is delivered to the listeners of this page once, in order. Delivery to the device is at least once: after a
 * reload the page receives what was not acknowledged again.
 */
export class RecadoClient {
  readonly #session: Session;
  /** The inbox of the user. Set the option `inbox` to receive its counts and changes. */
  readonly inbox: Inbox;

  /**
   * Opens nothing and reads no storage: safe on a server and at module level. Throws a TypeError for a bad `url` or for
   * `types` without a type or next to `inbox`, and a RangeError for an invalid Date.
   */
  constructor(options: RecadoOptions) {
    this.#session = new Session(options);
    this.inbox = new Inbox(this.#session);
  }

  /** Last number that this page received; null before the first connection. */
  get seq(): number | null {
    return this.#session.seq;
  }

  /** The present state. The same object until something changes. */
  snapshot(): Snapshot {
    return this.#session.store.get();
  }

  /** Calls `fn` after each change of the snapshot. Returns the function that ends it. */
  subscribe(fn: () => void): () => void {
    return this.#session.store.subscribe(fn);
  }

  /** Connects, and stays connected until `close()`. Leaves the end states `unauthorized`, `failed` and `closed`. */
  connect(): void {
    this.#session.connect();
  }

  /** Acknowledges what was handled and closes. Commands without a result are rejected with `closed`. */
  close(): void {
    this.#session.close();
  }

  /** Resolves once the client is `live`. Rejects with a RecadoError in an end state, or with the signal's reason. */
  ready(options: { signal?: AbortSignal } = {}): Promise<void> {
    return untilLive(this.#session.store, options.signal);
  }

  /** Adds a listener. Returns the function that removes it. Add listeners before `connect()`. */
  on<E extends keyof ClientEvents>(event: E, fn: Listener<E>): () => void {
    return this.#session.handlers.on(event, fn);
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
    const signals = [options.signal, this.#session.life.signal];
    return iterate({ listen: (listener) => this.on('notification', listener), signals, left: this.#session.left });
  }

  /**
   * Acknowledges everything up to `seq` for the device; needed with `ack: 'manual'` only, ignored otherwise.
   * Throws `ack_ahead` if this page has not received the number.
   */
  ack(seq: number): void {
    const mine = this.seq ?? 0;
    if (!(seq <= mine)) throw new RecadoError('ack_ahead', `cannot acknowledge ${seq}: received up to ${mine}`);
    this.#session.ack(seq);
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
    return this.#session.send(id, plain({ ...command, id }), timeoutMs);
  }

  /** One page of what the user was sent. Rejects with a RecadoError, for example `expired` or `reset`. */
  async history(query: HistoryQuery = {}): Promise<HistoryPage> {
    // The hub refuses `type` next to `types`.
    const types = query.type === undefined ? (filterOf(query.types) ?? this.#session.types) : undefined;
    const since = query.since && textOf(query.since);
    return this.#session.request('api/notifications', { ...query, since, types });
  }

  /** The range of the log. */
  head(): Promise<Head> {
    return this.#session.request('api/notifications/head');
  }
}
