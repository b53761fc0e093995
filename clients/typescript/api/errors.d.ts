/**
 * A failure that the SDK or the hub reports.
 *
 * `code` is a word for programs: a code of the hub (docs/reference/errors.md, docs/reference/close-codes.md), or one of
 * the SDK: `timeout`, `closed`, `unauthorized`, `unsupported`, `handler_failed`, `token_failed`, `network`,
 * `ack_ahead`, `too_slow`, `leader_lost`.
 */
export declare class RecadoError extends Error {
    readonly name: string;
    /** Word for programs to compare. */
    readonly code: string;
    /** True if the same call may succeed later without a change. */
    readonly retryable: boolean;
    /** HTTP status, if an HTTP answer caused the error. */
    readonly status?: number;
    /** `X-Request-Id` of the answer, to find the request in the hub's log. */
    readonly requestId?: string;
    constructor(code: string, message: string, more?: {
        retryable?: boolean;
        status?: number;
        requestId?: string | null;
        cause?: unknown;
    });
}
