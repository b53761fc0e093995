/**
 * Types of notifications and the shape of their `data`. An application extends it:
 *
 * ```ts
 * declare module '@recado/client' {
 *   interface NotificationTypes { order_created: { order_id: string } }
 * }
 * ```
 */
export interface NotificationTypes {
}
/** One notification, as the hub sends it. */
export interface Notification<D = unknown> {
    /** Number of the row in the log, from 1 up. It identifies a repeat. */
    readonly seq: number;
    readonly id: string;
    readonly type: string;
    readonly title: string;
    readonly message: string;
    readonly data: D;
    /** Whom the notification is addressed to. */
    readonly to: 'user' | 'account' | 'everyone';
    /** Present only if an account is addressed. */
    readonly account_id?: string;
    /** RFC 3339, UTC, milliseconds. */
    readonly created_at: string;
    /** True for a notification of the first replay of a connection. */
    readonly replayed?: boolean;
    /** True if the user muted this type: show no toast. Only with the option `inbox`. */
    readonly muted?: boolean;
}
/** How the hub resumes a stream. */
export interface Resume {
    readonly status: 'live' | 'ok' | 'gap' | 'reset';
    /** The stream begins after this number. */
    readonly from: number;
    readonly lost_from?: number;
    readonly lost_to?: number;
    readonly shared?: boolean;
}
/** First frame of each connection. */
export interface Hello {
    readonly type: 'connection_established';
    readonly session_id: string;
    readonly user_id: string;
    readonly client_id: string;
    readonly log_id: string;
    readonly resume: Resume;
    readonly heartbeat_ms: number;
}
/** State of the user's provider session. */
export interface ProviderStatus {
    readonly status: string;
    readonly message?: string;
    /** Present if the hub holds several providers. */
    readonly provider?: string;
}
/** Result of a command. `rejected` and `failed`: not sent. `unknown`: it may have been sent. */
export interface CommandResult {
    readonly id: string;
    readonly status: 'sent' | 'rejected' | 'failed' | 'unknown';
    /** Reason in one word. */
    readonly detail?: string;
}
/** A page of `GET /api/notifications`. */
export interface HistoryPage {
    readonly notifications: readonly Notification[];
    /** `after` of the next page; null at the end. */
    readonly next: number | null;
    readonly head: number;
    readonly earliest: number;
    readonly log_id: string;
}
/** Range of the log. */
export interface Head {
    readonly head: number;
    readonly earliest: number;
    readonly log_id: string;
}
/** Notifications that the client cannot receive any more. */
export interface Gap {
    /**
     * `gap`: `lost_from` to `lost_to` are no longer kept; load the current state from your own API.
     * `reset`: the log is another one; drop all local state.
     */
    readonly status: 'gap' | 'reset';
    /** First lost number, for `gap`. */
    readonly lost_from?: number;
    /** Last lost number, for `gap`. */
    readonly lost_to?: number;
}
/** Any server frame: one flat JSON object with a `type`. */
export interface ServerFrame {
    readonly type: string;
    readonly seq?: number;
    readonly prev?: number;
    readonly title?: string;
    readonly id?: string | number;
    readonly code?: string;
    readonly message?: string;
    readonly reason?: string;
    readonly after_ms?: number;
    readonly replayed?: boolean | number;
    readonly status?: string;
    readonly provider?: string;
    /** Counts of the inbox at `as_of`, on frames of a connection with `inbox`. */
    readonly unread?: number;
    readonly unseen?: number;
    readonly as_of?: number;
}
/** Tells notifications from control frames: only a notification has a title. */
export declare function isNotification(frame: ServerFrame): boolean;
/** Tells changes of the inbox, which are rows of the log, from notifications. Services cannot post these types. */
export declare function isInboxRow({ type }: {
    readonly type: string;
}): boolean;
/**
 * Reads one WebSocket message: one frame, or several separated by line feeds (`frames=lines`).
 * A JSON text never contains a raw line feed, so splitting is safe. Throws on malformed JSON.
 */
export declare function parseFrames(text: string): ServerFrame[];
