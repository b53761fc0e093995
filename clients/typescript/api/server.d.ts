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
    readonly idempotency_key?: string;
}
/** Proof that a notification is committed. */
export interface Receipt {
    readonly seq: number;
    readonly id: string;
    /** RFC 3339 in UTC. */
    readonly created_at: string;
    /** True if the key was used before, also by an earlier attempt of the same call. */
    readonly duplicate: boolean;
}
/** What a call gives: a receipt, or null where a failure is logged. */
export type Posted<E extends 'throw' | 'log'> = E extends 'log' ? Receipt | null : Receipt;
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
/** Settings of a client. */
export interface NotificationClientOptions<E extends 'throw' | 'log' = 'throw'> {
    /** Address of the hub, with a path if it is behind one. */
    url: string | URL;
    /** Service key, from `recado key create NAME`. */
    apiKey: string;
    /** Most milliseconds of one attempt. Default 5,000. */
    timeoutMs?: number;
    /** Most milliseconds of all attempts of a request, with the waits between them. Default 20,000. */
    deadlineMs?: number;
    /** Most attempts after the first. Default 8. */
    retries?: number;
    /** `throw` (default): a call that fails rejects. `log`: it writes one warning and gives null. */
    onError?: E;
    /** Receives the warnings of `onError: 'log'`. Default `console`. */
    logger?: Pick<Console, 'warn'>;
    /** Titles and messages of the ten methods. Default: English. */
    texts?: Partial<Record<TextKind, Text>>;
    /** Sends the requests. Default: the global `fetch`. */
    fetch?: typeof fetch;
    clock?: Clock;
}
/** What each call takes besides its arguments. */
export interface CallOptions {
    /** 1 to 255 printable ASCII characters. Default: a random UUID. A repeat with the same key appends nothing. */
    idempotencyKey?: string;
    /** Ends the call: it rejects with the signal's reason, and the notification may be appended. */
    signal?: AbortSignal;
}
/** One broken rule. `pointer` is a JSON pointer into the body that was sent, such as `/items/3/title`. */
export interface FieldError {
    readonly pointer: string;
    readonly detail: string;
}
/** What an error knows about the call. */
export interface FailureFacts {
    /**
     * The hub's code (docs/reference/errors.md), or one of the client's own: `network_error`, `timeout`, `bad_answer`,
     * `unexpected_answer`, `invalid_argument`.
     */
    readonly code: string;
    /** The HTTP status of the last answer, if there was one. */
    readonly status: number | undefined;
    /** Finds the request in the hub's log. */
    readonly requestId: string | undefined;
    /** Repeat the call with this key, and nothing is appended a second time. */
    readonly idempotencyKey: string | undefined;
    /** Requests that were sent or tried. */
    readonly attempts: number;
    /** True if any attempt may have been appended. */
    readonly outcomeUnknown: boolean;
    /** Milliseconds that the hub asked to wait. */
    readonly retryAfterMs: number | undefined;
    /** Every broken rule that the hub listed, at most 100. */
    readonly errors: readonly FieldError[];
    /** `notifyMany` only: receipts of the requests that succeeded before this one, in the order of the list. */
    readonly receipts: readonly Receipt[];
}
/** A call without a receipt. The subclasses say what to do. */
export declare class NotificationError extends Error implements FailureFacts {
    readonly name: string;
    readonly code: string;
    /** What went wrong, without the facts that `message` adds. */
    readonly detail: string;
    readonly status: number | undefined;
    readonly requestId: string | undefined;
    readonly idempotencyKey: string | undefined;
    readonly attempts: number;
    readonly outcomeUnknown: boolean;
    readonly retryAfterMs: number | undefined;
    readonly errors: readonly FieldError[];
    readonly receipts: readonly Receipt[];
    constructor(detail: string, facts: Partial<FailureFacts> & {
        code: string;
    }, cause?: unknown);
}
/** The key is missing, revoked or may not post (401, 403). Give the service a valid key. */
export declare class CredentialError extends NotificationError {
    readonly name = "CredentialError";
}
/** The notification breaks a rule. `errors` lists what the hub found. A repeat will not help. */
export declare class InvalidNotificationError extends NotificationError {
    readonly name = "InvalidNotificationError";
}
/** The key was used before with a different body. Use a new key for a new notification. */
export declare class IdempotencyConflictError extends NotificationError {
    readonly name = "IdempotencyConflictError";
}
/** Nothing was appended, because the hub was away or too busy. Post again later. */
export declare class UnavailableError extends NotificationError {
    readonly name = "UnavailableError";
}
/** The notification may be appended or not. Post again with `idempotencyKey`, and it is appended once. */
export declare class OutcomeUnknownError extends NotificationError {
    readonly name = "OutcomeUnknownError";
}
/** The answer is not one of a hub, such as a redirect or 404. Check the address. */
export declare class UnexpectedAnswerError extends NotificationError {
    readonly name = "UnexpectedAnswerError";
}
/**
 * Posts notifications, and repeats a request with the same idempotency key until its outcome is known.
 *
 * It repeats after a network error, a timeout, 408, 429 or any 5xx. The waits have full jitter, up to 100 ms at first,
 * doubling up to 5 s, added to a `Retry-After` of up to 60 s. Keep one client for the life of the process.
 */
export declare class NotificationClient<E extends 'throw' | 'log' = 'throw'> {
    #private;
    /** Opens nothing. Throws a TypeError or RangeError for a setting that breaks a rule. */
    constructor(options: NotificationClientOptions<E>);
    /**
     * Posts one notification and gives its receipt.
     *
     * Without a key, neither in the options nor in the notification, a random one is made. Rejects with a subclass of
     * NotificationError, or with the reason of the signal.
     */
    notify(notification: NewNotification, options?: CallOptions): Promise<Posted<E>>;
    /**
     * Posts a list and gives one receipt for each item, in order.
     *
     * Up to 1,000 items are one request and one commit, of at most 8 MiB: all or none. A longer list is cut into requests
     * of 1,000 with the keys `K/0`, `K/1` …, each with a deadline of its own; the first that fails ends the call.
     * `error.receipts` lists the items that were appended before it. To retry, send the whole list again with
     * `error.idempotencyKey`: no item is appended twice. With `onError: 'log'` items without a receipt are null. Rejects
     * as `notify`.
     */
    notifyMany(notifications: readonly NewNotification[], options?: CallOptions): Promise<Posted<E>[]>;
    /** Tells the buyer and the seller of a new order, in one commit. Receipts are in that order. */
    notifyOrderCreated(buyerId: Id, sellerId: Id, accountId: Id | null | undefined, orderData: object, options?: CallOptions): Promise<Posted<E>[]>;
    /** Tells the buyer and the seller that an order is paid, in one commit. Receipts are in that order. */
    notifyPaymentConfirmed(buyerId: Id, sellerId: Id, accountId: Id | null | undefined, orderData: object, options?: CallOptions): Promise<Posted<E>[]>;
    /** Tells a user the new status of an order; `data` holds it as `status`. */
    notifyOrderStatusUpdated(userId: Id, accountId: Id | null | undefined, orderData: object, status: string, options?: CallOptions): Promise<Posted<E>>;
    /** Tells a seller that a product is low in stock. */
    notifyStockAlert(sellerId: Id, accountId: Id | null | undefined, productData: object, options?: CallOptions): Promise<Posted<E>>;
    /** Tells a seller that a product was added. */
    notifyProductAdded(sellerId: Id, accountId: Id | null | undefined, productData: object, options?: CallOptions): Promise<Posted<E>>;
    /** Tells a seller that a product was updated. */
    notifyProductUpdated(sellerId: Id, accountId: Id | null | undefined, productData: object, options?: CallOptions): Promise<Posted<E>>;
    /** Tells a seller that a product was deleted. */
    notifyProductDeleted(sellerId: Id, accountId: Id | null | undefined, productData: object, options?: CallOptions): Promise<Posted<E>>;
    /** Tells a user that their cart was updated. */
    notifyCartUpdated(userId: Id, accountId: Id | null | undefined, cartData: object, options?: CallOptions): Promise<Posted<E>>;
    /** Tells a user of a new transaction. */
    notifyTransactionCreated(userId: Id, accountId: Id | null | undefined, transactionData: object, options?: CallOptions): Promise<Posted<E>>;
    /** Tells a user that their profile was updated. */
    notifyProfileUpdated(userId: Id, accountId: Id | null | undefined, profileData: object, options?: CallOptions): Promise<Posted<E>>;
}
