import type { CountsAnswer, InboxAnswer, InboxCounts, InboxEvent, InboxPage, InboxQuery, InboxSelection, Preferences, PreferencesAnswer } from './inbox-types.js';
import type { Snapshot } from './store.js';
import type { Query } from './transport.js';
/** What the inbox needs from its client. */
export interface InboxHost {
    /** Whether the client has the option `inbox`. */
    readonly hasInbox: boolean;
    /** Log of the present connection, or of the last one. */
    readonly logId: string | undefined;
    counts(): InboxCounts | undefined;
    /** An answer had counts. */
    count(said: CountsAnswer, isFrame: false): void;
    tell(event: InboxEvent): void;
    request<T>(path: string, query?: Query, body?: object): Promise<T>;
}
/**
 * The counts after the hub said some: the newest `as_of` wins, and of two frames with the same the later one. Null: the
 * present ones stay. An answer of HTTP with the same `as_of` as a frame may be older than the frame, and loses.
 */
export declare function newerCounts(now: Pick<Snapshot, 'asOf'>, { unread, unseen, as_of: asOf }: Partial<CountsAnswer>, isFrame: boolean): Pick<Snapshot, 'unread' | 'unseen' | 'asOf'> | null;
/**
 * The inbox of the user: which notifications are unread, and what marks them. Needs the option `inbox` of the client for
 * counts and for the event `inbox`; the requests work without it.
 *
 * Every function that returns a promise rejects with a RecadoError: `invalid_field` (422, for example a number that is no
 * item of the user), `inbox_full` (409, more than 1000 items marked one by one: use `upTo`), `reset` (409, the log is
 * another one), a refusal of the token, `unavailable` (503) or `network`. Repeating a call is harmless.
 */
export declare class Inbox {
    #private;
    constructor(host: InboxHost);
    /** True if the client has the option `inbox`. */
    get isOn(): boolean;
    /**
     * The counts that the hub sent last: those with the highest `asOf`. Undefined before the first, after `close()`, and
     * from a reset until the next. `snapshot()` has them as well.
     */
    readonly counts: () => InboxCounts | undefined;
    /** One page of items, newest first. */
    readonly list: (query?: InboxQuery) => Promise<InboxPage>;
    /** Marks items as read: by their numbers, or all up to a number, which marks these as seen, too. */
    readonly markRead: (which: InboxSelection) => Promise<InboxAnswer>;
    /** Marks items as unread. */
    readonly markUnread: (seqs: readonly number[]) => Promise<InboxAnswer>;
    /** Archives items: by their numbers, or all up to a number, which marks these as seen, too. */
    readonly archive: (which: InboxSelection) => Promise<InboxAnswer>;
    /** Takes items out of the archive. */
    readonly unarchive: (seqs: readonly number[]) => Promise<InboxAnswer>;
    /**
     * Marks everything up to a number as seen, for example when the list is opened. Default: `counts().asOf`, or the end of
     * the log as long as there are no counts.
     */
    readonly markSeen: (upTo?: number | undefined) => Promise<InboxAnswer>;
    /** The muted types, and those that cannot be muted. */
    readonly preferences: () => Promise<Preferences>;
    /**
     * Mutes types: names, or beginnings with `*` such as `product_*`; at most 100 in all. A muted notification is still
     * delivered, with `muted`, and not counted. Rejects with `invalid_field` for a bad entry and for one that covers a type
     * that cannot be muted. Reads the set and writes it back: of two pages that do so at once, the later one wins.
     */
    readonly mute: (types: readonly string[]) => Promise<PreferencesAnswer>;
    /** Removes entries from the muted types. A type that another entry covers, such as `product_*`, stays muted. */
    readonly unmute: (types: readonly string[]) => Promise<PreferencesAnswer>;
}
