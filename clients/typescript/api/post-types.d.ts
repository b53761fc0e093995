/** A user or account. A whole number is sent as its decimal digits. */
export type Id = string | number;
/**
 * The body of one post, with the field names of the wire. At most 64 KiB as JSON.
 *
 * At least one address is required: `user_id`, `user_ids` (at most 10,000), `account_id` or `broadcast`. An address
 * that is present without a value is refused, because the hub would take it for an absent one and widen the audience.
 */
export interface NewNotification {
    /** Matches `[a-z0-9][a-z0-9._-]{0,63}`. */
    readonly type: string;
    readonly title: string;
    readonly message: string;
    /** Any JSON. */
    readonly data?: unknown;
    readonly user_id?: string;
    readonly user_ids?: readonly string[];
    /** Alone: everyone in the account. Next to users: only their connections in that account. */
    readonly account_id?: string;
    readonly broadcast?: boolean;
    /** Seconds after which the notification is not replayed. */
    readonly ttl?: number;
    /** `false` reaches only clients that are connected now. */
    readonly replay?: boolean;
    /** `false` keeps it out of the inbox. A notification with a `ttl`, or without `replay`, is not in it anyway. */
    readonly inbox?: boolean;
    readonly idempotency_key?: string;
}
/** Makes title and message of a notification from its data. */
export type Text = (data: Readonly<Record<string, unknown>>) => {
    title: string;
    message: string;
};
/** The kinds of texts. `texts` of a client replaces any of them, for example with another language. */
export type TextKind = 'order_created_buyer' | 'order_created_seller' | 'payment_confirmed_buyer' | 'payment_confirmed_seller' | 'order_updated' | 'stock_alert' | 'product_added' | 'product_updated' | 'product_deleted' | 'cart_updated' | 'transaction_created' | 'profile_updated';
/** Time and chance. Tests replace it. */
export interface Clock {
    /** Milliseconds that never go backward. */
    now(): number;
    /** A number from 0 up to 1. */
    random(): number;
    /** Waits that many milliseconds, and rejects with the reason of the signal when it aborts. */
    sleep(ms: number, signal: AbortSignal | undefined): Promise<void>;
}
