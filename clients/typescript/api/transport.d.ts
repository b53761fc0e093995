import type { ServerFrame } from './frames.js';
import type { End } from './machine.js';
/** One connection to the hub. It calls `end` exactly once, unless `close` was called before. */
export interface Link {
    readonly kind: 'websocket' | 'sse';
    /** Sends a client frame. False if this transport cannot, or is not open. */
    send(frame: object): boolean;
    /** Closes without a further event. */
    close(): void;
}
/** What a connection reports. */
export interface LinkEvents {
    opened(): void;
    /** Frames that arrived together, in order; none if bytes arrived that are no frames, such as an SSE comment. */
    frames(frames: ServerFrame[]): void;
    ended(end: End): void;
}
/** What a transport needs to connect. */
export interface LinkRequest {
    readonly base: HubUrl;
    readonly query: Query;
    readonly token: string;
    readonly events: LinkEvents;
}
/** Addresses of a hub, from the `url` option. A path is kept, so a hub behind `/hub/` works. */
export declare class HubUrl {
    readonly http: string;
    readonly ws: string;
    /** Throws a TypeError if `url` is not http, https, ws or wss. */
    constructor(url: string | URL);
}
/** Parameters of an address; those that are undefined are left out. */
export type Query = Record<string, string | number | undefined>;
/** Appends a query to an address. */
export declare function withQuery(url: string, query: Query): string;
/** The same filter in another order is the same text. An empty one would count as absent, and let everything pass. */
export declare function filterOf(types: readonly string[] | undefined): string | undefined;
/** A place in time as the hub reads it. Throws a RangeError for an invalid Date. */
export declare const textOf: (since: string | number | Date) => string;
