// Defines the receipt of a post, and the errors of a call without one.

/** Proof that a notification is committed. */
export interface Receipt {
  readonly seq: number;
  readonly id: string;
  /** RFC 3339 in UTC. */
  readonly created_at: string;
  /** True if the key was used before, also by an earlier attempt of the same call. */
  readonly duplicate: boolean;
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
