import { type Gap, type Hello, type Notification, type ServerFrame } from './frames.js';
import type { RecadoOptions } from './options.js';
/** Where a page is in the log. */
export interface Place {
    readonly seq: number;
    readonly logId: string;
    /** Id of the notification at `seq`; null if the place comes from a heartbeat. */
    readonly lastId: string | null;
}
/** How one connection ended. */
export interface End {
    readonly kind: 'websocket' | 'sse';
    /** Close code of a WebSocket, status of an HTTP refusal, 0 for anything else. */
    readonly code: number;
    /** Word of the hub, or of the SDK. */
    readonly reason: string;
    /** True if the transport opened: an upgrade or a 200. */
    readonly opened: boolean;
    /** `Retry-After` of a refusal, in milliseconds. */
    readonly afterMs?: number | undefined;
}
/** What a frame means for this page. */
export type Step = {
    readonly do: 'nothing' | 'moved' | 'goodbye' | 'control';
} | {
    readonly do: 'break';
} | {
    readonly do: 'apply';
    readonly notification: Notification;
} | {
    readonly do: 'hello';
    readonly hello: Hello;
    readonly gap: Gap | null;
} | {
    readonly do: 'caughtUp';
    readonly seq: number;
    readonly replayed: number;
} | {
    readonly do: 'fail';
    readonly reason: string;
};
/** What follows an end. */
export type Verdict = {
    readonly next: 'again';
    readonly afterMs: number;
    readonly reason: string;
} | {
    readonly next: 'token';
    readonly reason: string;
} | {
    readonly next: 'stop';
    readonly state: 'failed' | 'unauthorized';
    readonly reason: string;
};
/** Settings of the machine. */
export interface MachineOptions {
    /** Where the first connection starts, as the hub reads it. */
    readonly since: string;
    readonly transport: 'auto' | 'websocket' | 'sse';
    readonly minMs: number;
    readonly maxMs: number;
    /** From 0 up to 1; `Math.random` unless a test says otherwise. */
    readonly random?: () => number;
}
/** The pure half of a client: place, gaps, back-off, transports. */
export declare class Machine {
    #private;
    /** Null until the first `connection_established`, or the leader's first answer. */
    place: Place | null;
    /** Last number that the hub sent on the present connection; null between connections. */
    link: number | null;
    userId: string | null;
    constructor(options: MachineOptions);
    /** Query parameters that say where the next connection starts. */
    start(): Record<string, string>;
    /** Call before each connection: forgets what belonged to the one before. */
    opening(): void;
    /** The transport opened; call once for each connection. */
    opened(kind: 'websocket' | 'sse'): void;
    /** Which transport the next connection uses. `now` is in milliseconds. */
    transport(now: number): 'websocket' | 'sse';
    /** True when the time of the SSE fallback is over and a WebSocket is to be tried. */
    isFallbackOver(now: number): boolean;
    /** Forgets failures of the past: the network has just changed, or the user came back. */
    forgive(): void;
    /** Starts the next connection at the place of a tab that lags behind. False if the present one serves it already. */
    rewind(to: Place): boolean;
    /** First number that the present connection covers. */
    get linkFrom(): number;
    /**
     * Takes one frame. `own`: from this page's connection, not passed on by the leader.
     * The step says what the caller does; the place has moved already.
     */
    frame(frame: ServerFrame, own: boolean): Step;
    /** Adopts the leader's place in a tab that has none, or of another log. Returns what the tab has to be told. */
    adopt(place: Place): 'same' | 'behind' | 'reset';
    /** Decides what follows the end of the present connection. */
    ended(end: End): Verdict;
    /** The next wait in milliseconds: full jitter, doubling; the first is below `minMs`. */
    backoff(): number;
}
/** The machine of a page that has received nothing. */
export declare function machineOf({ since, transport, backoff }: RecadoOptions): Machine;
