import { RecadoError } from './errors.js';
import type { Gap, Notification, ProviderStatus } from './frames.js';
import type { InboxEvent } from './inbox-types.js';
/** Events of a client and what their listeners receive. */
export interface ClientEvents {
    /** Each notification once, in order. A returned promise delays the acknowledgement, not the next notification. */
    notification: Notification;
    /** Notifications that cannot be received any more. */
    gap: Gap;
    /** Everything up to `seq` was received. Once for each connection. */
    caughtUp: {
        readonly seq: number;
        readonly replayed: number;
    };
    /** State of the user's provider session. */
    status: ProviderStatus;
    /** A try of the hub to connect to the provider failed. */
    upstreamError: {
        readonly message: string;
        readonly provider?: string;
    };
    /** The inbox changes or changed: by this page, or by any device of the user. Only with the option `inbox`. */
    inbox: InboxEvent;
    /** A listener threw, a token could not be got, the hub refused a frame, or the client ended. */
    error: RecadoError;
}
/** Function that receives one event. */
export type Listener<E extends keyof ClientEvents> = (event: ClientEvents[E]) => void | Promise<void>;
/** Where failures go that no listener takes. */
export type Logger = Pick<Console, 'debug' | 'warn' | 'error'>;
/** Registry of listeners. */
export declare class Handlers {
    #private;
    constructor(logger: Logger);
    /** Adds a listener; the same function may be added twice. Returns the function that removes it. */
    on<E extends keyof ClientEvents>(event: E, listener: Listener<E>): () => void;
    /**
     * Calls the listeners in the order of their registration. Returns the promise of those that go on; null if all are
     * done. A failure goes to `error` and ends nothing: one poisonous notification must not stop the stream.
     */
    emit<E extends keyof ClientEvents>(event: E, value: ClientEvents[E]): Promise<unknown> | null;
    /** Reports what a listener threw. */
    failed(event: keyof ClientEvents | 'snapshot', cause: unknown): void;
}
