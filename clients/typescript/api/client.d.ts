import type { CommandResult, Head, HistoryPage, Notification, NotificationTypes } from './frames.js';
import type { ClientEvents, Listener } from './handlers.js';
import { Inbox } from './inbox.js';
import type { HistoryQuery, RecadoOptions } from './options.js';
import type { Snapshot } from './store.js';
/**
 * Client of one hub for one user.
 *
 * Add the listeners, then call `connect()`. The client reconnects by itself and resumes where it was: each notification
 * is delivered to the listeners of this page once, in order. Delivery to the device is at least once: after a
 * reload the page receives what was not acknowledged again.
 */
export declare class RecadoClient {
    #private;
    /** The inbox of the user. Set the option `inbox` to receive its counts and changes. */
    readonly inbox: Inbox;
    /**
     * Opens nothing and reads no storage: safe on a server and at module level. Throws a TypeError for a bad `url` or for
     * `types` without a type or next to `inbox`, and a RangeError for an invalid Date.
     */
    constructor(options: RecadoOptions);
    /** Last number that this page received; null before the first connection. */
    get seq(): number | null;
    /** The present state. The same object until something changes. */
    snapshot(): Snapshot;
    /** Calls `fn` after each change of the snapshot. Returns the function that ends it. */
    subscribe(fn: () => void): () => void;
    /** Connects, and stays connected until `close()`. Leaves the end states `unauthorized`, `failed` and `closed`. */
    connect(): void;
    /** Acknowledges what was handled and closes. Commands without a result are rejected with `closed`. */
    close(): void;
    /** Resolves once the client is `live`. Rejects with a RecadoError in an end state, or with the signal's reason. */
    ready(options?: {
        signal?: AbortSignal;
    }): Promise<void>;
    /** Adds a listener. Returns the function that removes it. Add listeners before `connect()`. */
    on<E extends keyof ClientEvents>(event: E, fn: Listener<E>): () => void;
    /** Adds a listener for notifications of one type. */
    onType<T extends keyof NotificationTypes>(type: T, fn: (notification: Notification<NotificationTypes[T]>) => void | Promise<void>): () => void;
    onType(type: string, fn: (notification: Notification) => void | Promise<void>): () => void;
    /**
     * Notifications from now on, for `for await`. A notification counts as handled when the loop asks for the next, or
     * ends at it. The loop ends with `close()` and with the signal; it fails with `too_slow` when 100,000 notifications
     * wait. What waits when a loop ends stays unacknowledged; the next call begins with it.
     */
    notifications(options?: {
        signal?: AbortSignal;
    }): AsyncGenerator<Notification, void, void>;
    /**
     * Acknowledges everything up to `seq` for the device; needed with `ack: 'manual'` only, ignored otherwise.
     * Throws `ack_ahead` if this page has not received the number.
     */
    ack(seq: number): void;
    /**
     * Sends a command to a provider: now, or as soon as the client is connected. Sent at most once by the SDK; the
     * application may repeat it with the same `id`. Default `timeoutMs`: 15,000. Rejects with `timeout` (it may have been
     * sent), `unsupported` (on SSE), `closed`, `invalid_command` (not JSON), `command_id_conflict` (a command with this
     * `id` waits for its result), or the hub's code.
     */
    send(command: {
        type: string;
        payload?: unknown;
    }, options?: {
        id?: string;
        timeoutMs?: number;
    }): Promise<CommandResult>;
    /** One page of what the user was sent. Rejects with a RecadoError, for example `expired` or `reset`. */
    history(query?: HistoryQuery): Promise<HistoryPage>;
    /** The range of the log. */
    head(): Promise<Head>;
}
