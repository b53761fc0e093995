/**
 * Why a token is wanted: for the first connection, for a later one, because the present one ends within a minute, or
 * because the hub refused the last one.
 */
export type TokenReason = 'first' | 'again' | 'expiring' | 'refused';
/** The application's source of tokens. */
export type GetToken = (context: {
    reason: TokenReason;
    signal: AbortSignal;
}) => string | null | Promise<string | null>;
/** Claims of a JSON Web Token; null if it is none, for example an opaque token. */
export declare function claimsOf(token: string): {
    sub?: unknown;
    exp?: unknown;
} | null;
/** Gets tokens from the application and remembers the last one. */
export declare class Tokens {
    #private;
    constructor(ask: GetToken);
    /** A token for a new connection; one that was got a moment ago is used. Null: the application has none. */
    connecting(reason: 'again' | 'refused', signal: AbortSignal): Promise<string | null>;
    /** A token for an HTTP request: the last one while it is valid. */
    current(signal: AbortSignal): Promise<string | null>;
    /**
     * Asks the application. A token that looks expired is asked for once more; then the hub decides, because this
     * machine's clock may be wrong. Throws `token_failed` if the callback throws, or gives nothing within 30 s.
     */
    get(reason: TokenReason, signal: AbortSignal): Promise<string | null>;
}
