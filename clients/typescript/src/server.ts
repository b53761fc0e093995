// Posts notifications to a hub, once each, from services in Node 20 or newer.

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
export type Text = (data: Readonly<Record<string, unknown>>) => { title: string; message: string };

/** The kinds of texts. `texts` of a client replaces any of them, for example with another language. */
export type TextKind =
  | 'order_created_buyer'
  | 'order_created_seller'
  | 'payment_confirmed_buyer'
  | 'payment_confirmed_seller'
  | 'order_updated'
  | 'stock_alert'
  | 'product_added'
  | 'product_updated'
  | 'product_deleted'
  | 'cart_updated'
  | 'transaction_created'
  | 'profile_updated';

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
export class NotificationError extends Error implements FailureFacts {
  override readonly name: string = 'NotificationError';
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

  constructor(detail: string, facts: Partial<FailureFacts> & { code: string }, cause?: unknown) {
    const { code, status, requestId, idempotencyKey, attempts = 0, outcomeUnknown = false, errors = [] } = facts;
    const rules = errors.map((error) => `; ${error.pointer} ${error.detail}`).join('');
    const known = [status && `status ${status}`, `attempts ${attempts}`, requestId && `request ${requestId}`];
    super(`${code}: ${detail}${rules} (${known.filter(Boolean).join(', ')})`, cause === undefined ? {} : { cause });
    this.code = code;
    this.detail = detail;
    this.status = status;
    this.requestId = requestId;
    this.idempotencyKey = idempotencyKey;
    this.attempts = attempts;
    this.outcomeUnknown = outcomeUnknown;
    this.retryAfterMs = facts.retryAfterMs;
    this.errors = errors;
    this.receipts = facts.receipts ?? [];
  }
}

/** The key is missing, revoked or may not post (401, 403). Give the service a valid key. */
export class CredentialError extends NotificationError {
  override readonly name = 'CredentialError';
}

/** The notification breaks a rule. `errors` lists what the hub found. A repeat will not help. */
export class InvalidNotificationError extends NotificationError {
  override readonly name = 'InvalidNotificationError';
}

/** The key was used before with a different body. Use a new key for a new notification. */
export class IdempotencyConflictError extends NotificationError {
  override readonly name = 'IdempotencyConflictError';
}

/** Nothing was appended, because the hub was away or too busy. Post again later. */
export class UnavailableError extends NotificationError {
  override readonly name = 'UnavailableError';
}

/** The notification may be appended or not. Post again with `idempotencyKey`, and it is appended once. */
export class OutcomeUnknownError extends NotificationError {
  override readonly name = 'OutcomeUnknownError';
}

/** The answer is not one of a hub, such as a redirect or 404. Check the address. */
export class UnexpectedAnswerError extends NotificationError {
  override readonly name = 'UnexpectedAnswerError';
}

const FIRST_WAIT_MS = 100;
const LONGEST_WAIT_MS = 5_000;
// A hub asks for some seconds. A longer wait is of a proxy, and counts as this.
const LONGEST_RETRY_AFTER_MS = 60_000;
// The hub's limit of a batch.
const MOST_ITEMS = 1_000;
const ADDRESSES = ['user_id', 'user_ids', 'account_id', 'broadcast'] as const;
// The hub accepts any printable ASCII. A header cannot carry spaces at its ends, and the hub removes outer quotes.
const KEY = /^[!#-~](?:[ -~]{0,253}[!-~])?$/;
// Refusals that a repeat may change, and that say that nothing was appended.
const NOT_APPENDED: readonly unknown[] = ['overloaded', 'unavailable', 'draining', 'full'];
// Failures of the network before a request can reach the hub.
const NOT_SENT =
  /^(ECONNREFUSED|ENOTFOUND|EAI_|EHOSTUNREACH|ENETUNREACH|UND_ERR_CONNECT_TIMEOUT)|(^|_)CERT(_|$)|^UNABLE_TO_/;
const INVALID = [400, 413, 414, 415, 422, 431];

const CLOCK: Clock = {
  now: () => performance.now(),
  random: Math.random,
  sleep: (ms, signal) =>
    new Promise((resolve, reject) => {
      const abort = (): void => {
        clearTimeout(timer);
        reject(signal?.reason);
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', abort);
        resolve();
      }, ms);
      signal?.addEventListener('abort', abort, { once: true });
    }),
};

type Data = Readonly<Record<string, unknown>>;

/** One request. Every attempt sends the same key and the same body. */
interface Post {
  readonly path: string;
  readonly key: string;
  readonly body: string;
  /** Receipts that the answer has. Null: one receipt, without a list. */
  readonly items: number | null;
}

/** What an attempt ended with. Status null: there was no answer; `sent` is false if the hub cannot have the request. */
type Outcome =
  | { readonly status: number; readonly headers: Headers; readonly body: unknown }
  | {
      readonly status: null;
      readonly code: string;
      readonly detail: string;
      readonly sent: boolean;
      readonly cause: unknown;
    };

/**
 * Posts notifications, and repeats a request with the same idempotency key until its outcome is known.
 *
 * It repeats after a network error, a timeout, 408, 429 or any 5xx. The waits have full jitter, up to 100 ms at first,
 * doubling up to 5 s, added to a `Retry-After` of up to 60 s. Keep one client for the life of the process.
 */
export class NotificationClient<E extends 'throw' | 'log' = 'throw'> {
  readonly #base: string;
  readonly #apiKey: string;
  readonly #timeoutMs: number;
  readonly #deadlineMs: number;
  readonly #retries: number;
  readonly #throws: boolean;
  readonly #logger: Pick<Console, 'warn'>;
  readonly #texts: Record<TextKind, Text>;
  readonly #fetch: typeof fetch;
  readonly #clock: Clock;

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
    this.#base = url.href.replace(/\/+$/, '');
    this.#apiKey = options.apiKey;
    this.#timeoutMs = timeoutMs;
    this.#deadlineMs = deadlineMs;
    this.#retries = retries;
    this.#throws = options.onError !== 'log';
    this.#logger = options.logger ?? console;
    this.#texts = { ...TEXTS, ...options.texts };
    this.#fetch = options.fetch ?? ((...request) => fetch(...request));
    this.#clock = options.clock ?? CLOCK;
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
      const [receipt] = await this.#post(singlePost(make(), options.idempotencyKey), options.signal);
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
      for (const post of batchPosts(make(), key)) receipts.push(...(await this.#post(post, options.signal)));
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

  async #post(post: Post, signal: AbortSignal | undefined): Promise<Receipt[]> {
    const end = this.#clock.now() + this.#deadlineMs;
    let outcomeUnknown = false;
    for (let attempts = 1; ; attempts += 1) {
      signal?.throwIfAborted();
      const timeoutMs = Math.max(1, Math.min(this.#timeoutMs, end - this.#clock.now()));
      const outcome = checkedOutcome(await this.#attempt(post, timeoutMs, signal), post);
      if (outcome.status === 200 || outcome.status === 201) return outcome.body as Receipt[];
      outcomeUnknown ||= isInDoubt(outcome);
      const retryAfterMs = retryAfter(outcome);
      const facts = { attempts, outcomeUnknown, retryAfterMs, idempotencyKey: post.key };
      if (!isRepeatable(outcome)) throw failure(refusalClass(outcome), outcome, facts);
      // Full jitter. After a Retry-After it is added, because a hub names the same second to all that it refuses.
      const jitterMs = this.#clock.random() * Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** (attempts - 1));
      const waitMs = (retryAfterMs ?? 0) + jitterMs;
      if (attempts > this.#retries || this.#clock.now() + waitMs >= end) {
        throw failure(outcomeUnknown ? OutcomeUnknownError : UnavailableError, outcome, facts);
      }
      await this.#clock.sleep(waitMs, signal);
    }
  }

  async #attempt(post: Post, timeoutMs: number, signal: AbortSignal | undefined): Promise<Outcome> {
    const attempt = new AbortController();
    const abort = (): void => attempt.abort(signal?.reason);
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      attempt.abort();
    }, timeoutMs);
    signal?.addEventListener('abort', abort, { once: true });
    try {
      const response = await this.#fetch(this.#base + post.path, {
        method: 'POST',
        headers: {
          Authorization: `Bearer ${this.#apiKey}`,
          'Content-Type': 'application/json',
          Accept: 'application/json, application/problem+json',
          'Idempotency-Key': post.key,
        },
        body: post.body,
        // The key must not follow a redirect to another address.
        redirect: 'manual',
        signal: attempt.signal,
      });
      return { status: response.status, headers: response.headers, body: parsed(await response.text()) };
    } catch (cause) {
      signal?.throwIfAborted();
      if (timedOut)
        return { status: null, code: 'timeout', detail: 'the hub did not answer in time', sent: true, cause };
      const { detail, sent } = networkError(cause);
      return { status: null, code: 'network_error', detail, sent, cause };
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    }
  }
}

function refused(detail: string, idempotencyKey?: string): InvalidNotificationError {
  return new InvalidNotificationError(detail, { code: 'invalid_argument', idempotencyKey });
}

function checkedKey(key: string | undefined): string {
  if (key === undefined) return crypto.randomUUID();
  if (!KEY.test(key)) {
    throw refused('idempotencyKey must be 1 to 255 printable ASCII characters, without a space at its ends');
  }
  return key;
}

function checkedId(name: string, id: unknown): string {
  // A missing user must not be left out: the rest of the address would reach the whole account.
  if (typeof id === 'string' && id !== '') return id;
  if (Number.isSafeInteger(id)) return String(id);
  throw refused(`the ${name} id must be a string or a whole number`);
}

function checkedData(data: unknown): Data {
  if (typeof data !== 'object' || data === null || Array.isArray(data)) throw refused('data must be an object');
  return data as Data;
}

function checkedFields(notification: NewNotification, name: string): NewNotification {
  checkedData(notification);
  for (const field of ADDRESSES) {
    // The hub takes null for an absent field: a lost user_id next to an account_id would reach the whole account.
    if (field in notification && notification[field] == null) {
      throw refused(`${name}: ${field} has no value; leave the field out if it is not meant to address anyone`);
    }
  }
  return Object.fromEntries(
    Object.entries(notification).filter(([, value]) => value != null),
  ) as unknown as NewNotification;
}

function singlePost(notification: NewNotification, given: string | undefined): Post {
  const { idempotency_key: own, ...fields } = checkedFields(notification, 'notification');
  if (given !== undefined && own !== undefined && given !== own) {
    throw refused('idempotencyKey differs from the field of the notification; give one of them');
  }
  const key = checkedKey(given ?? own);
  return { path: '/api/internal/notify', key, body: json(fields, key), items: null };
}

/** One request with the key K, or for more than 1,000 items K/0, K/1 … The hub appends `/INDEX` for each item. */
function batchPosts(notifications: readonly NewNotification[], key: string): Post[] {
  const items = notifications.map((item, at) => checkedFields(item, `notifications[${at}]`));
  const posts: Post[] = [];
  for (let start = 0; start < items.length; start += MOST_ITEMS) {
    const part = items.slice(start, start + MOST_ITEMS);
    const own = items.length > MOST_ITEMS ? checkedKey(`${key}/${start / MOST_ITEMS}`) : key;
    posts.push({ path: '/api/internal/notify/batch', key: own, body: json({ items: part }, key), items: part.length });
  }
  return posts;
}

function json(value: unknown, key: string): string {
  try {
    return JSON.stringify(value, (_, part) => {
      // JSON.stringify would make it null.
      if (typeof part === 'number' && !Number.isFinite(part)) throw new TypeError(`${part} is not a JSON number`);
      return part;
    });
  } catch (error) {
    throw refused(`the notification cannot be written as JSON: ${(error as Error).message}`, key);
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function member(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}

/** Replaces the body of a committed post by its receipts. An answer without them is one that is not of a hub. */
function checkedOutcome(outcome: Outcome, post: Post): Outcome {
  if (outcome.status !== 200 && outcome.status !== 201) return outcome;
  const listed = post.items === null ? [outcome.body] : member(outcome.body, 'items');
  const receipts = Array.isArray(listed) ? listed.map(receipt) : [];
  if (receipts.length === (post.items ?? 1) && !receipts.includes(null)) return { ...outcome, body: receipts };
  const detail = 'the answer has no receipt for each notification';
  return { status: null, code: 'bad_answer', detail, sent: true, cause: undefined };
}

function receipt(entry: unknown): Receipt | null {
  const [seq, id] = [member(entry, 'seq'), member(entry, 'id')];
  const [created_at, duplicate] = [member(entry, 'created_at'), member(entry, 'duplicate')];
  const isWhole = Number.isSafeInteger(seq) && typeof id === 'string' && typeof created_at === 'string';
  return isWhole && typeof duplicate === 'boolean' ? { seq: seq as number, id, created_at, duplicate } : null;
}

function isRepeatable(outcome: Outcome): boolean {
  const { status } = outcome;
  return status === null || status >= 500 || status === 408 || status === 429;
}

/** Whether this attempt may have been appended. */
function isInDoubt(outcome: Outcome): boolean {
  if (outcome.status === null) return outcome.sent;
  return outcome.status >= 500 && !(outcome.status === 503 && NOT_APPENDED.includes(member(outcome.body, 'code')));
}

function refusalClass(outcome: Outcome): typeof NotificationError {
  const status = outcome.status ?? 0;
  const code = outcome.status === null ? outcome.code : member(outcome.body, 'code');
  if (code === 'idempotency_conflict') return IdempotencyConflictError;
  if (status === 401 || status === 403) return CredentialError;
  return INVALID.includes(status) ? InvalidNotificationError : UnexpectedAnswerError;
}

function failure(kind: typeof NotificationError, outcome: Outcome, facts: Partial<FailureFacts>): NotificationError {
  if (outcome.status === null) return new kind(outcome.detail, { ...facts, code: outcome.code }, outcome.cause);
  const { status, headers, body } = outcome;
  const [code, detail, errors] = [member(body, 'code'), member(body, 'detail'), member(body, 'errors')];
  const listed: unknown[] = Array.isArray(errors) ? errors : [];
  return new kind(typeof detail === 'string' ? detail : `the answer with status ${status} is not of a hub`, {
    ...facts,
    code: typeof code === 'string' ? code : 'unexpected_answer',
    status,
    requestId: headers.get('x-request-id') ?? undefined,
    errors: listed.map((each) => ({
      pointer: String(member(each, 'pointer') ?? ''),
      detail: String(member(each, 'detail') ?? ''),
    })),
  });
}

/** The wait that an answer asks for, in seconds or as an HTTP date. */
function retryAfter(outcome: Outcome): number | undefined {
  const text = outcome.status === null ? null : outcome.headers.get('retry-after');
  if (text === null) return undefined;
  // Date.parse alone takes nearly anything for a date.
  const date = /GMT$/.test(text) ? Date.parse(text) - Date.now() : Number.NaN;
  const ms = /^[0-9]{1,9}$/.test(text) ? Number(text) * 1_000 : date;
  return Number.isNaN(ms) ? undefined : Math.min(Math.max(0, ms), LONGEST_RETRY_AFTER_MS);
}

/** What a rejection of fetch tells: undici keeps the code of the system in one of the causes. */
function networkError(error: unknown): { detail: string; sent: boolean } {
  let last: unknown = error;
  for (let inner = error; inner; inner = member(inner, 'cause')) {
    const code = member(inner, 'code');
    if (typeof code === 'string' && NOT_SENT.test(code))
      return { detail: `the hub cannot be reached: ${code}`, sent: false };
    last = inner;
  }
  return {
    detail: `the connection broke: ${String(member(last, 'code') ?? member(last, 'message') ?? last)}`,
    sent: true,
  };
}

// Fields that hold the number of an order or transaction, and the name of a product, in the order of preference.
const NUMBERS = [
  'number',
  'order_number',
  'orderNumber',
  'order_id',
  'orderId',
  'transaction_id',
  'transactionId',
  'id',
];
const NAMES = ['name', 'product_name', 'productName', 'title', 'sku', 'id'];

function first(data: Data, fields: readonly string[]): string | undefined {
  const values = fields.map((field) => data[field]);
  const found = values.find((value) => (typeof value === 'string' && value !== '') || Number.isInteger(value));
  return found === undefined ? undefined : String(found);
}

function numbered(noun: string, data: Data): string {
  const number = first(data, NUMBERS);
  return number === undefined ? noun : `${noun} #${number}`;
}

function product(data: Data): string {
  return first(data, NAMES) ?? 'A product';
}

const TEXTS: Record<TextKind, Text> = {
  order_created_buyer: (data) => ({ title: 'Order placed', message: `${numbered('Your order', data)} was placed` }),
  order_created_seller: (data) => ({ title: 'New order', message: numbered('Order', data) }),
  payment_confirmed_buyer: (data) => ({
    title: 'Payment confirmed',
    message: `${numbered('Your order', data)} is paid`,
  }),
  payment_confirmed_seller: (data) => ({ title: 'Payment received', message: `${numbered('Order', data)} is paid` }),
  order_updated: (data) => ({ title: 'Order updated', message: `${numbered('Your order', data)}: ${data.status}` }),
  stock_alert: (data) => ({ title: 'Low stock', message: `${product(data)} is low in stock` }),
  product_added: (data) => ({ title: 'Product added', message: `${product(data)} was added` }),
  product_updated: (data) => ({ title: 'Product updated', message: `${product(data)} was updated` }),
  product_deleted: (data) => ({ title: 'Product deleted', message: `${product(data)} was deleted` }),
  cart_updated: () => ({ title: 'Cart updated', message: 'Your cart was updated' }),
  transaction_created: (data) => ({ title: 'New transaction', message: numbered('Transaction', data) }),
  profile_updated: () => ({ title: 'Profile updated', message: 'Your profile was updated' }),
};
