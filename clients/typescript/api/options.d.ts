import type { Logger } from './handlers.js';
import type { GetToken } from './tokens.js';
/** Options of a client. */
export interface RecadoOptions {
    /** Address of the hub: https, http, wss or ws. A path is kept, so a hub behind `/hub/` works. */
    url: string | URL;
    /**
     * Gives a token. Called before each connection, a minute before the token expires (`expiring`), and when the hub
     * refused one (`refused`, at most twice in a row). Null stops the client in state `unauthorized`. A failure, or no
     * answer within 30 s, is repeated with back-off.
     */
    getToken: GetToken;
    /** Tells the users of one browser apart. Default: `sub` of the first token, read and not verified. */
    userKey?: string;
    /**
     * The device, `[A-Za-z0-9._:-]{1,64}`. Default in a browser: `web-` and a UUID, kept in localStorage for each origin,
     * hub and `userKey`; elsewhere `default`. Programs that run side by side need one each.
     */
    clientId?: string;
    /**
     * Where the first connection starts; later ones resume. Default `ack`: after the device's acknowledged position.
     * A duration such as `10m` (`s`, `m`, `h`, `d`, counted back from that connection), a Date or an RFC 3339 time: at the
     * first notification that was created then or later.
     */
    since?: Since;
    /**
     * Only notifications of these types: names, or beginnings with `*`, such as `order_*`. The position moves past the
     * others. An acknowledgement covers them, too, so a browser keeps a device for each filter. If you give `clientId`,
     * give each filter its own.
     */
    types?: readonly string[];
    /**
     * True: also receives the user's inbox: counts, and changes by any device. Default false. Not together with `types`: a
     * filter would leave out items that are counted. Tabs with and without it do not share a connection.
     */
    inbox?: boolean;
    /** `auto` (default) acknowledges what all listeners have handled. `manual`: the application calls `ack`. */
    ack?: 'auto' | 'manual';
    /** Shortest time between two acknowledgements, in milliseconds. Default 250. */
    ackDelayMs?: number;
    /** `share` (default where Web Locks exist): one connection for all tabs of a browser. `own`: one for this page. */
    tabs?: 'share' | 'own';
    /**
     * `auto` (default): WebSocket, and SSE after two upgrades that never opened: for five seconds, because the hub may just
     * have restarted, and for ten minutes after each further upgrade that fails.
     */
    transport?: 'auto' | 'websocket' | 'sse';
    /** Waits between failed tries: random below a limit that doubles from `minMs` (300) to `maxMs` (20,000). */
    backoff?: {
        minMs?: number;
        maxMs?: number;
    };
    /** Default: the global `WebSocket`. Node 20 has none: pass `WebSocket` of the package `ws`, or the client uses SSE. */
    WebSocket?: typeof WebSocket;
    /** Default: the global one. */
    fetch?: typeof fetch;
    /** Receives lost notifications and errors that no listener takes. Default: `console`. */
    logger?: Logger;
}
/** Start of a first connection: a word, a number, or a time. */
export type Since = 'ack' | 'live' | 'earliest' | number | Date | (string & Record<never, never>);
/** Query of `history`. */
export interface HistoryQuery {
    /** Continue after this number: `next` of the page before. */
    after?: number;
    /** Leaves out what was created before this: a duration such as `10m`, a Date or an RFC 3339 time. */
    since?: Date | string;
    /** 1 to 1000; default 100. */
    limit?: number;
    /** Only this type, whatever the client's `types` are. */
    type?: string;
    /** As the client's option, which is the default. */
    types?: readonly string[];
    /** Default `asc`: oldest first. */
    order?: 'asc' | 'desc';
}
