import { type CommandResult, type Notification, type ServerFrame } from './frames.js';
import type { InboxChange } from './inbox-types.js';
import type { RecadoOptions } from './options.js';
/** Settings of a fake hub. */
export interface FakeHubOptions {
    /** User of every connection. Default `42`. */
    userId?: string;
    /** Time between two heartbeats of the fake clock, in milliseconds. Default 30,000. */
    heartbeatMs?: number;
    /** Start of the fake clock. Default 2026-01-01T00:00:00.000Z. */
    now?: Date;
}
/** A command that a client sent. */
export interface FakeCommand {
    readonly id: string;
    readonly type: string;
    readonly payload?: unknown;
}
/** What is posted: everything but `type` has a default. With `inbox` false it is no item of the inbox. */
export type FakePost = Pick<Notification, 'type'> & Partial<Pick<Notification, 'title' | 'message' | 'data' | 'to' | 'account_id'>> & {
    inbox?: boolean;
};
/**
 * A hub without a network: spread `options()` into a client's options.
 *
 * It keeps a log, a position for each device, and delivers by WebSocket only. Frames arrive in microtasks, so no timer
 * has to be mocked. Nothing happens by itself: `advance` moves its clock.
 */
export declare class FakeHub {
    #private;
    /** Commands that clients sent, oldest first. */
    readonly commands: FakeCommand[];
    /** Answers a command. Default: `sent`. Null: no answer, so the command times out. With a `code`: the hub refuses it. */
    onCommand: (command: FakeCommand) => Omit<CommandResult, 'id'> | {
        code: string;
        message: string;
    } | null;
    /** Connections that were ever opened. */
    opened: number;
    constructor(options?: FakeHubOptions);
    /** Options that connect a client to this hub. */
    options(): Pick<RecadoOptions, 'url' | 'getToken' | 'WebSocket' | 'fetch' | 'tabs' | 'transport'>;
    /** Open connections. */
    get connections(): number;
    /** Last number of the log. */
    get head(): number;
    /** Acknowledged position of a device; 0 if there is none. */
    acked(clientId?: string): number;
    /** The fake clock. */
    get now(): Date;
    /** Appends a notification and delivers it to every connection. */
    post({ inbox, ...post }: FakePost): Notification;
    /** Changes the inbox, as another device of the user does. Returns the number of the change; null if it changes nothing. */
    change(change: InboxChange): number | null;
    /** Uses up numbers, as notifications to other users do. */
    skip(count?: number): void;
    /** The next frames with a number are written and never arrive, as on a path that loses bytes. */
    swallow(count?: number): void;
    /** Sends any frame to every connection, as it is. */
    frame(frame: ServerFrame): void;
    /** Breaks every connection without a word (1006). */
    drop(): void;
    /** Closes every connection with a code. With `afterMs` a `goodbye` precedes the close. */
    close(code: number, reason: string, afterMs?: number): void;
    /** The next connection is opened and closed with this code, for example 4401. Several calls queue up. */
    refuse(code: number, reason: string): void;
    /** The next HTTP request is refused, for example with 503 `unavailable`. Several calls queue up. */
    refuseRequest(status: number, code: string): void;
    /** The hub is away: connections break and cannot be opened until `start`. */
    stop(): void;
    start(): void;
    /** Retention: rows up to `seq` are no longer kept. A device that lacks them is told `gap`. */
    trim(seq: number): void;
    /** Another log: it is empty, and every client is told `reset` when it comes back. */
    reset(): void;
    /** Moves the fake clock, and sends the heartbeats that are due. */
    advance(ms: number): void;
}
