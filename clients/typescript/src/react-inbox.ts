// Offers the inbox of the user to React components.

import { useMemo, useSyncExternalStore } from 'react';
import type { Inbox } from './inbox.ts';
import { EMPTY_INBOX, InboxList, type InboxListOptions, type InboxListState } from './inbox-list.ts';
import { useRecado } from './react-context.ts';

/** Options of `useInbox`. Another `filter` or `limit` makes another list. */
export type UseInboxOptions = InboxListOptions;

/**
 * What `useInbox` returns: the list, and what changes it. The functions stay the same between renders, and each rejects
 * with a RecadoError after the items are again what they were.
 */
export interface InboxView
  extends InboxListState,
    Pick<Inbox, 'markRead' | 'markUnread' | 'archive' | 'unarchive' | 'markSeen' | 'mute' | 'unmute'> {
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
export function useInbox({ filter, limit }: UseInboxOptions = {}): InboxView {
  const client = useRecado();
  const list = useMemo(() => new InboxList(client, { filter, limit }), [client, filter, limit]);
  const state = useSyncExternalStore(list.subscribe, list.snapshot, () => EMPTY_INBOX);
  const { markRead, markUnread, archive, unarchive, markSeen, mute, unmute } = client.inbox;
  const { loadMore } = list;
  return { ...state, markRead, markUnread, archive, unarchive, markSeen, mute, unmute, loadMore };
}
