// Defines the one error type of the package.

/**
 * A failure that the SDK or the hub reports.
 *
 * `code` is a word for programs: a code of the hub (docs/reference/errors.md, docs/reference/close-codes.md), or one of
 * the SDK: `timeout`, `closed`, `unauthorized`, `unsupported`, `handler_failed`, `token_failed`, `network`,
 * `ack_ahead`, `too_slow`, `leader_lost`.
 */
export class RecadoError extends Error {
  override readonly name: string = 'RecadoError';
  /** Word for programs to compare. */
  declare readonly code: string;
  /** True if the same call may succeed later without a change. */
  declare readonly retryable: boolean;
  /** HTTP status, if an HTTP answer caused the error. */
  declare readonly status?: number;
  /** `X-Request-Id` of the answer, to find the request in the hub's log. */
  declare readonly requestId?: string;

  constructor(
    code: string,
    message: string,
    more: { retryable?: boolean; status?: number; requestId?: string | null; cause?: unknown } = {},
  ) {
    super(message, more);
    this.code = code;
    this.retryable = more.retryable ?? false;
    if (more.status) this.status = more.status;
    if (more.requestId) this.requestId = more.requestId;
  }
}
