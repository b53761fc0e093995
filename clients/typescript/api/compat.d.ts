import type { CommandResult, Gap, ProviderStatus } from './frames.js';
import type { RecadoOptions } from './options.js';
/** State of the connection, in the words of the old hooks. `error` lasts until `reconnect` or another token. */
export type ConnectionStatus = 'connecting' | 'connected' | 'disconnected' | 'error';
/** A notification, `status`, `error` or `command_result`, with the field names of the wire. */
export interface WebSocketMessage {
    readonly type: string;
    readonly title?: string;
    readonly message?: string;
    readonly data?: any;
    readonly [field: string]: unknown;
}
/** What a page sends: a command to a provider. A `ping` is not needed, and is not sent. */
export interface OutgoingMessage {
    readonly type: string;
    readonly payload?: unknown;
    /** Makes a repeat safe. Default: a random id. */
    readonly id?: string;
    readonly [field: string]: unknown;
}
/** Options of `useWebSocket`. Those of `RecadoClient` are read when it connects with another `url` or user. */
export interface UseWebSocketOptions extends Omit<Partial<RecadoOptions>, 'url' | 'getToken'> {
    /** Address of the hub, as the old hook had it: `/ws` at its end and a query are dropped. Default: the page's host. */
    url?: string | URL | undefined;
    /**
     * The user's token, or a function that gets one. Without a token nothing is opened. A string is enough while the
     * application renders with a new one before it expires. A function is asked for each connection; with it, set
     * `userKey` if another user can sign in while the component is mounted.
     */
    token: string | null | undefined | (() => string | null | Promise<string | null>);
    /** Receives each message once, in order. A promise delays the acknowledgement of a notification. */
    onMessage?: ((message: WebSocketMessage) => void | Promise<void>) | undefined;
    /** Receives what was lost. Without it a loss is logged. */
    onGap?: ((gap: Gap) => void) | undefined;
    /** False: stays unconnected. Default true. */
    enabled?: boolean | undefined;
}
/** What `useWebSocket` returns. The functions stay the same between renders. */
export interface UseWebSocket {
    readonly isConnected: boolean;
    readonly connectionStatus: ConnectionStatus;
    /** The last message. Messages that arrive within 16 ms cost one render, so this skips some; `onMessage` does not. */
    readonly lastMessage: WebSocketMessage | null;
    /**
     * Sends a command now; false if the client is not connected: nothing is sent later. Its result is a message
     * `command_result`; a refusal or a missing result is a message `error` with a `code`. Takes a JSON text, too.
     */
    readonly sendMessage: (message: OutgoingMessage | string) => boolean;
    /** Connects anew at once, also after `disconnect` and from `error`. Resumes where it was. */
    readonly reconnect: () => void;
    /** Closes until `reconnect`. */
    readonly disconnect: () => void;
}
/**
 * The hook of pages that connect to `/ws?token=…` by themselves, on `RecadoClient`: it misses nothing, resumes, and
 * shares one connection between tabs. The token does not go into the address. On a server it opens nothing.
 *
 * For pages that move from another hub. New code uses `@recado/client/react`.
 */
export declare function useWebSocket(options: UseWebSocketOptions): UseWebSocket;
/** Options of `useProviderWebSocket`. */
export interface UseProviderWebSocketOptions extends Omit<UseWebSocketOptions, 'onMessage'> {
    /** Type of the provider's messages in the log. Default `game-data`. */
    dataType?: string | undefined;
    /** Receives `data` of each message of the provider, once, in order. */
    onData?: ((data: any, message: WebSocketMessage) => void | Promise<void>) | undefined;
    /** Receives each change of the provider session, with a text for the user. */
    onStatus?: ((status: ProviderStatus) => void) | undefined;
    /** Receives the text of a failed connection to the provider, or of a refused command, which has a `code`. */
    onError?: ((message: string, code: string | undefined) => void) | undefined;
    /** Receives the result of each command. */
    onResult?: ((result: CommandResult) => void) | undefined;
}
/** What `useProviderWebSocket` returns. */
export interface UseProviderWebSocket extends Omit<UseWebSocket, 'lastMessage'> {
    /** Last known state of the provider session; null while the hub has not said, or is not connected. */
    readonly providerStatus: ProviderStatus | null;
}
/**
 * The hook of pages of a service that keeps a WebSocket to a provider for each user: the provider's messages, its
 * status, and commands such as `sendMessage({ type: 'bet', payload })`.
 *
 * For pages that move from such a service. New code uses `useUpstream` of `@recado/client/react`.
 */
export declare function useProviderWebSocket(options: UseProviderWebSocketOptions): UseProviderWebSocket;
