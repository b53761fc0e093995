import { type Receipt } from './post-errors.js';
import type { Clock, Id, NewNotification, Text, TextKind } from './post-types.js';
export * from './post-errors.js';
export type * from './post-types.js';
/** What a call gives: a receipt, or null where a failure is logged. */
export type Posted<E extends 'throw' | 'log'> = E extends 'log' ? Receipt | null : Receipt;
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
