// Defines what both transports offer, and the addresses of a hub.

import type { ServerFrame } from './frames.ts';
import type { End } from './machine.ts';

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
export class HubUrl {
  declare readonly http: string;
  declare readonly ws: string;

  /** Throws a TypeError if `url` is not http, https, ws or wss. */
  constructor(url: string | URL) {
    const at = new URL(url, globalThis.location?.href);
    const [, secure] = /^(?:http|ws)(s?):$/.exec(at.protocol) ?? [];
    if (secure === undefined) throw new TypeError(`url must be https, http, wss or ws, not ${at.protocol}`);
    const rest = `${secure}://${at.host}${at.pathname.replace(/\/*$/, '/')}`;
    this.http = `http${rest}`;
    this.ws = `ws${rest}`;
  }
}

/** Parameters of an address; those that are undefined are left out. */
export type Query = Record<string, string | number | undefined>;

/** Appends a query to an address. */
export function withQuery(url: string, query: Query): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined);
  return `${url}?${new URLSearchParams(given as [string, string][])}`;
}

/** The same filter in another order is the same text. An empty one would count as absent, and let everything pass. */
export function filterOf(types: readonly string[] | undefined): string | undefined {
  const text = types && [...new Set(types)].sort().join(',');
  if (text === '') throw new TypeError('types must name at least one type; leave it out to receive all');
  return text;
}

/** A place in time as the hub reads it. Throws a RangeError for an invalid Date. */
export const textOf = (since: string | number | Date): string =>
  since instanceof Date ? since.toISOString() : String(since);
