// Posts notifications to a hub, once each, from services in Node 20 or newer.

import { CLOCK, Sender } from './post-attempts.ts';
import { NotificationError, type Receipt } from './post-errors.ts';
import { batchPosts, checkedData, checkedId, checkedKey, singlePost } from './post-requests.ts';
import { TEXTS } from './post-texts.ts';
import type { Clock, Id, NewNotification, Text, TextKind } from './post-types.ts';

export * from './post-errors.ts';
export type * from './post-types.ts';

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
export class NotificationClient<E extends 'throw' | 'log' = 'throw'> {
  readonly #sender: Sender;
  readonly #throws: boolean;
  readonly #logger: Pick<Console, 'warn'>;
  readonly #texts: Record<TextKind, Text>;

  /** Opens nothing. Throws a TypeError or RangeError for a setting that breaks a rule. */
  constructor(options: NotificationClientOptions<E>) {
    const url = new URL(options.url);
    if (!/^https?:$/.test(url.protocol) || url.username || url.password || url.search || url.hash) {
      throw new TypeError('url must be http or https, without user, query and fragment');
    }
    if (!/^[!-~]+$/.test(options.apiKey)) {
      throw new TypeError('apiKey must be a key of `recado key create NAME`, without spaces or line feeds');
    }
    const { timeoutMs = 5_000, deadlineMs = 20_000, retries = 8 } = options;
    for (const [name, ms] of Object.entries({ timeoutMs, deadlineMs })) {
      if (!(Number.isFinite(ms) && ms > 0)) throw new RangeError(`${name} must be a finite number above 0`);
    }
    if (!(Number.isInteger(retries) && retries >= 0)) throw new RangeError('retries must be a whole number, 0 or more');
    for (const kind of Object.keys(options.texts ?? {})) {
      if (!Object.hasOwn(TEXTS, kind)) throw new TypeError(`texts has the unknown kind ${kind}`);
    }
    const base = url.href.replace(/\/+$/, '');
    const { apiKey, fetch: given, clock = CLOCK } = options;
    const send = given ?? ((...request: Parameters<typeof fetch>) => fetch(...request));
    this.#sender = new Sender({ base, apiKey, timeoutMs, deadlineMs, retries, fetch: send, clock });
    this.#throws = options.onError !== 'log';
    this.#logger = options.logger ?? console;
    this.#texts = { ...TEXTS, ...options.texts };
  }

  /**
   * Posts one notification and gives its receipt.
   *
   * Without a key, neither in the options nor in the notification, a random one is made. Rejects with a subclass of
   * NotificationError, or with the reason of the signal.
   */
  notify(notification: NewNotification, options: CallOptions = {}): Promise<Posted<E>> {
    return this.#one(() => notification, options);
  }

  /**
   * Posts a list and gives one receipt for each item, in order.
   *
   * Up to 1,000 items are one request and one commit, of at most 8 MiB: all or none. A longer list is cut into requests
   * of 1,000 with the keys `K/0`, `K/1` …, each with a deadline of its own; the first that fails ends the call.
   * `error.receipts` lists the items that were appended before it. To retry, send the whole list again with
   * `error.idempotencyKey`: no item is appended twice. With `onError: 'log'` items without a receipt are null. Rejects
   * as `notify`.
   */
  notifyMany(notifications: readonly NewNotification[], options: CallOptions = {}): Promise<Posted<E>[]> {
    return this.#many(() => notifications, notifications.length, options);
  }

  /** Tells the buyer and the seller of a new order, in one commit. Receipts are in that order. */
  notifyOrderCreated(
    buyerId: Id,
    sellerId: Id,
    accountId: Id | null | undefined,
    orderData: object,
    options: CallOptions = {},
  ): Promise<Posted<E>[]> {
    return this.#many(() => this.#toBoth('order_created', buyerId, sellerId, accountId, orderData), 2, options);
  }

  /** Tells the buyer and the seller that an order is paid, in one commit. Receipts are in that order. */
  notifyPaymentConfirmed(
    buyerId: Id,
    sellerId: Id,
    accountId: Id | null | undefined,
    orderData: object,
    options: CallOptions = {},
  ): Promise<Posted<E>[]> {
    return this.#many(() => this.#toBoth('payment_confirmed', buyerId, sellerId, accountId, orderData), 2, options);
  }

  /** Tells a user the new status of an order; `data` holds it as `status`. */
  notifyOrderStatusUpdated(
    userId: Id,
    accountId: Id | null | undefined,
    orderData: object,
    status: string,
    options: CallOptions = {},
  ): Promise<Posted<E>> {
    const make = (): NewNotification =>
      this.#toOne('order_updated', userId, accountId, { ...checkedData(orderData), status });
    return this.#one(make, options);
  }

  /** Tells a seller that a product is low in stock. */
  notifyStockAlert(
    sellerId: Id,
    accountId: Id | null | undefined,
    productData: object,
    options: CallOptions = {},
  ): Promise<Posted<E>> {
    return this.#one(() => this.#toOne('stock_alert', sellerId, accountId, productData), options);
  }

  /** Tells a seller that a product was added. */
  notifyProductAdded(
    sellerId: Id,
    accountId: Id | null | undefined,
    productData: object,
    options: CallOptions = {},
  ): Promise<Posted<E>> {
    return this.#one(() => this.#toOne('product_added', sellerId, accountId, productData), options);
  }

  /** Tells a seller that a product was updated. */
  notifyProductUpdated(
    sellerId: Id,
    accountId: Id | null | undefined,
    productData: object,
    options: CallOptions = {},
  ): Promise<Posted<E>> {
    return this.#one(() => this.#toOne('product_updated', sellerId, accountId, productData), options);
  }

  /** Tells a seller that a product was deleted. */
  notifyProductDeleted(
    sellerId: Id,
    accountId: Id | null | undefined,
    productData: object,
    options: CallOptions = {},
  ): Promise<Posted<E>> {
    return this.#one(() => this.#toOne('product_deleted', sellerId, accountId, productData), options);
  }

  /** Tells a user that their cart was updated. */
  notifyCartUpdated(
    userId: Id,
    accountId: Id | null | undefined,
    cartData: object,
    options: CallOptions = {},
  ): Promise<Posted<E>> {
    return this.#one(() => this.#toOne('cart_updated', userId, accountId, cartData), options);
  }

  /** Tells a user of a new transaction. */
  notifyTransactionCreated(
    userId: Id,
    accountId: Id | null | undefined,
    transactionData: object,
    options: CallOptions = {},
  ): Promise<Posted<E>> {
    return this.#one(() => this.#toOne('transaction_created', userId, accountId, transactionData), options);
  }

  /** Tells a user that their profile was updated. */
  notifyProfileUpdated(
    userId: Id,
    accountId: Id | null | undefined,
    profileData: object,
    options: CallOptions = {},
  ): Promise<Posted<E>> {
    return this.#one(() => this.#toOne('profile_updated', userId, accountId, profileData), options);
  }

  /** Makes a notification for one user, narrowed to an account if there is one. */
  #toOne(
    type: string,
    userId: Id,
    accountId: Id | null | undefined,
    data: object,
    kind: string = type,
  ): NewNotification {
    const checked = checkedData(data);
    const { title, message } = this.#texts[kind as TextKind](checked);
    const address = { user_id: checkedId('user', userId) };
    const account = accountId == null ? {} : { account_id: checkedId('account', accountId) };
    return { type, title, message, data: checked, ...address, ...account };
  }

  #toBoth(type: string, buyer: Id, seller: Id, account: Id | null | undefined, data: object): NewNotification[] {
    return [
      this.#toOne(type, buyer, account, data, `${type}_buyer`),
      this.#toOne(type, seller, account, data, `${type}_seller`),
    ];
  }

  async #one(make: () => NewNotification, options: CallOptions): Promise<Posted<E>> {
    try {
      const [receipt] = await this.#sender.post(singlePost(make(), options.idempotencyKey), options.signal);
      return receipt as Posted<E>;
    } catch (error) {
      this.#fail(error);
      return null as Posted<E>;
    }
  }

  async #many(make: () => readonly NewNotification[], count: number, options: CallOptions): Promise<Posted<E>[]> {
    const receipts: (Receipt | null)[] = [];
    let key = options.idempotencyKey;
    try {
      key = checkedKey(key);
      for (const post of batchPosts(make(), key)) receipts.push(...(await this.#sender.post(post, options.signal)));
    } catch (error) {
      this.#fail(error, { idempotencyKey: key, receipts: receipts as Receipt[] });
      while (receipts.length < count) receipts.push(null);
    }
    return receipts as Posted<E>[];
  }

  /** Throws the error, or logs it. The warning never holds the key, title, message, data or addresses. */
  #fail(error: unknown, list?: { idempotencyKey: string | undefined; receipts: readonly Receipt[] }): void {
    if (!(error instanceof NotificationError)) throw error;
    if (list) Object.assign(error, list);
    if (this.#throws) throw error;
    const { code, status, attempts, outcomeUnknown, requestId, idempotencyKey } = error;
    const facts = { code, status, attempts, outcomeUnknown, requestId, idempotencyKey };
    this.#logger.warn(`recado: notification not posted ${JSON.stringify(facts)}`);
  }
}
