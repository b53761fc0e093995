// Describes the inbox: items, counts, changes, and the hub's answers, with the wire's own field names.

import type { Notification } from './frames.ts';

/** Counts of the inbox, exactly as the hub sent them. The client never computes a count. */
export interface InboxCounts {
  /** Items that are neither read nor archived and whose type is not muted. Exact up to 999; 1000 means 1000 or more. */
  readonly unread: number;
  /** Items that arrived after the user last saw the inbox, not archived and not muted. 1000 means 1000 or more. */
  readonly unseen: number;
  /** Sequence number of the log at which the counts hold. */
  readonly asOf: number;
}

/** Counts in an answer or a frame of the hub. */
export interface CountsAnswer {
  /** As `InboxCounts.unread`. */
  readonly unread: number;
  /** As `InboxCounts.unseen`. */
  readonly unseen: number;
  /** Sequence number of the log at which the counts hold. */
  readonly as_of: number;
}

/** A notification in the inbox: one that is kept, has no `ttl`, and was not posted with `inbox` false. */
export interface InboxItem<D = unknown> extends Omit<Notification<D>, 'replayed'> {
  readonly read: boolean;
  readonly archived: boolean;
}

/** Which items a list has: `all` is everything that is not archived; `unread` also leaves out muted types. */
export type InboxFilter = 'unread' | 'all' | 'archived';

/** Query of `inbox.list`. */
export interface InboxQuery {
  /** Default `all`: everything that is not archived. */
  filter?: InboxFilter;
  /** Only items below this number: `next` of the page before. */
  before?: number;
  /** 1 to 200; default 50. */
  limit?: number;
}

/** A page of `GET /api/inbox`. */
export interface InboxPage extends CountsAnswer {
  /** Newest first. */
  readonly items: readonly InboxItem[];
  /** `before` of the next page; null at the end. */
  readonly next: number | null;
  readonly log_id: string;
}

/** Items by their numbers, 1 to 1000 of them, or everything up to a number. */
export type InboxSelection = readonly number[] | { readonly upTo: number };

/** The hub's answer to a change. */
export interface InboxAnswer extends CountsAnswer {
  /** Number of the change in the log; null if nothing changed. */
  readonly seq: number | null;
}

/** Answer of `GET /api/preferences`. Each entry is a type, or a beginning of types with `*` at its end. */
export interface Preferences {
  /** Types that the user muted. They are delivered with `muted` and not counted. */
  readonly muted: readonly string[];
  /** Types that cannot be muted. */
  readonly required: readonly string[];
}

/** The hub's answer to `mute` and `unmute`. */
export interface PreferencesAnswer extends InboxAnswer {
  /** The whole set of muted types. */
  readonly muted: readonly string[];
}

/** One change of an inbox, as it is written in the log. */
export type InboxChange =
  | {
      /** `seen` has `up_to`; `unread` and `unarchive` have `seqs`; `read` and `archive` have either. */
      readonly op: 'read' | 'unread' | 'archive' | 'unarchive' | 'seen';
      readonly seqs?: readonly number[];
      readonly up_to?: number;
    }
  /** The whole set of muted types. */
  | { readonly muted: readonly string[] };

/** Event `inbox` of a client. */
export interface InboxEvent {
  /**
   * - `asked`: this page asked for the change; show it at once.
   * - `accepted`: the hub has it. Its row comes as `logged` unless it came before.
   * - `failed`: the hub refused it, or could not be reached; show the state of before. If the hub made the change although
   *   its answer was lost, the change still comes as `logged`.
   * - `logged`: the row of the log arrived, from any device of the user.
   */
  readonly state: 'asked' | 'accepted' | 'failed' | 'logged';
  /** The same object in `asked`, `accepted` and `failed` of one call. */
  readonly change: InboxChange;
  /** Number of the row for `logged`; for `accepted` a number up to which the change is in the log. */
  readonly seq?: number;
}
