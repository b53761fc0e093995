import type { RecadoClient } from './client.js';
import type { InboxFilter, InboxItem } from './inbox-types.js';
/** Options of a list. */
export interface InboxListOptions {
    /** Default `all`: everything that is not archived. */
    filter?: InboxFilter | undefined;
    /** Items of a page, 1 to 200. Default 50. */
    limit?: number | undefined;
}
/** What a page may show of a list. */
export interface InboxListState {
    /** Newest first, each number once. */
    readonly items: readonly InboxItem[];
    /** `loading`: the first page is on its way. `failed`: it could not be loaded; the list tries again every 5 s. */
    readonly status: 'loading' | 'ready' | 'failed';
    /** True if `loadMore` has an older page. */
    readonly hasMore: boolean;
    /** As `InboxCounts`; null until the hub has sent them. */
    readonly unread: number | null;
    readonly unseen: number | null;
    readonly asOf: number | null;
}
/** A list before its first page, and on a server. */
export declare const EMPTY_INBOX: InboxListState;
/**
 * A live list of the inbox, for pages without React; `useInbox` is the same with it. It loads its first page once it has a
 * subscriber and the client is live. New items come on top, changes of any device change the items, and what this page
 * asks of `client.inbox` shows at once. After a gap or a reset it loads the first page again.
 */
export declare class InboxList {
    #private;
    /** Opens nothing. Throws an Error if the client has no option `inbox`. */
    constructor(client: RecadoClient, { filter, limit }?: InboxListOptions);
    /** The present list. The same object until something changes. */
    readonly snapshot: () => InboxListState;
    /** Calls `fn` after changes, at most once in 16 ms. Returns the function that ends it. */
    readonly subscribe: (fn: () => void) => (() => void);
    /** Appends the next older page, if there is one. Rejects with a RecadoError. */
    readonly loadMore: () => Promise<void>;
}
