import type { Inbox } from './inbox.js';
import { type InboxListOptions, type InboxListState } from './inbox-list.js';
/** Options of `useInbox`. Another `filter` or `limit` makes another list. */
export type UseInboxOptions = InboxListOptions;
/**
 * What `useInbox` returns: the list, and what changes it. The functions stay the same between renders, and each rejects
 * with a RecadoError after the items are again what they were.
 */
export interface InboxView extends InboxListState, Pick<Inbox, 'markRead' | 'markUnread' | 'archive' | 'unarchive' | 'markSeen' | 'mute' | 'unmute'> {
    /** Appends the next older page, if there is one. Rejects with a RecadoError. */
    readonly loadMore: () => Promise<void>;
}
/**
 * The inbox of the user: items that stay live, and the counts of the hub. A new item comes on top, a change of any device
 * changes the items, and a gap or a reset loads the first page again. Renders at most once in 16 ms. On a server the list
 * is empty and `loading`, and nothing is requested.
 *
 * Throws without a provider, and if its client has no option `inbox`.
 */
export declare function useInbox({ filter, limit }?: UseInboxOptions): InboxView;
