// Keeps a list of inbox items live: loads it, adds new items, and changes the items that it holds.

import type { RecadoClient } from './client.ts';
import type { Notification, ServerFrame } from './frames.ts';
import { InboxRows } from './inbox-rows.ts';
import type { InboxEvent, InboxFilter, InboxItem } from './inbox-types.ts';
import { UNCOUNTED } from './store.ts';
import { paced } from './timers.ts';

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
export const EMPTY_INBOX: InboxListState = Object.freeze({
  items: Object.freeze([]),
  status: 'loading',
  hasMore: false,
  ...UNCOUNTED,
});

/** Largest page of the hub. */
const PAGE_MOST = 200;
/** Shortest time between two first pages: of changes that come together, one page has all. */
const LOAD_EVERY_MS = 1_000;
/** Wait before a page that failed is asked for again. */
const REPEAT_MS = 5_000;

/** A live notification that is an item has counts. The item is the notification without what belongs to its frame. */
function itemOf(notification: Notification): InboxItem {
  const { seq, id, type, title, message, data, to, account_id, created_at, muted } = notification;
  return {
    ...{ seq, id, type, title, message, data, to, created_at, read: false, archived: false },
    ...(account_id === undefined ? {} : { account_id }),
    ...(muted ? { muted } : {}),
  };
}

/**
 * A live list of the inbox, for pages without React; `useInbox` is the same with it. It loads its first page once it has a
 * subscriber and the client is live. New items come on top, changes of any device change the items, and what this page
 * asks of `client.inbox` shows at once. After a gap or a reset it loads the first page again.
 */
export class InboxList {
  readonly #client: RecadoClient;
  readonly #filter: InboxFilter;
  readonly #limit: number;
  readonly #subscribers = new Set<() => void>();
  #rows: InboxRows;
  #state: InboxListState = EMPTY_INBOX;
  #isDirty = true;
  #offs: (() => void)[] = [];
  #status: InboxListState['status'] = 'loading';
  /** A page is on its way. */
  #isLoading = false;
  /** Counts beginnings: an answer from before the last one is ignored. */
  #begun = 0;
  /** `as_of` of the last first page, and the lowest one that is enough. */
  #asOf = -1;
  #wanted = 0;
  /** Highest number of a replayed notification, which does not say whether it is an item. */
  #replayed = 0;
  /** No page is asked for before this time, in milliseconds since 1970. */
  #notBefore = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #userId: string | null = null;
  /** The client's number when the last subscriber left. */
  #leftAt: number | null = null;

  /** Opens nothing. Throws an Error if the client has no option `inbox`. */
  constructor(client: RecadoClient, { filter = 'all', limit = 50 }: InboxListOptions = {}) {
    if (!client.inbox.isOn) throw new Error('a list of the inbox needs a client with the option inbox: true');
    this.#client = client;
    this.#filter = filter;
    this.#limit = limit;
    this.#rows = new InboxRows(filter);
  }

  /** The present list. The same object until something changes. */
  readonly snapshot = (): InboxListState => {
    if (this.#isDirty) {
      this.#isDirty = false;
      const { unread, unseen, asOf } = this.#client.snapshot();
      const hasMore = this.#rows.next !== null;
      this.#state = Object.freeze({ items: this.#rows.items(), status: this.#status, hasMore, unread, unseen, asOf });
    }
    return this.#state;
  };

  /** Calls `fn` after changes, at most once in 16 ms. Returns the function that ends it. */
  readonly subscribe = (fn: () => void): (() => void) => {
    const subscriber = (): void => fn();
    this.#subscribers.add(subscriber);
    if (this.#offs.length === 0) this.#start();
    return () => {
      this.#subscribers.delete(subscriber);
      if (this.#subscribers.size === 0) this.#stop();
    };
  };

  /** Appends the next older page, if there is one. Rejects with a RecadoError. */
  readonly loadMore = async (): Promise<void> => {
    const { next } = this.#rows;
    if (next === null || this.#isLoading) return;
    await this.#load({ before: next, limit: this.#limit });
    this.#look();
  };

  #start(): void {
    const client = this.#client;
    // What came while the list had no subscriber did not reach it.
    if (client.seq !== this.#leftAt) this.#wanted = client.seq ?? 0;
    this.#offs = [
      client.on('notification', (notification) => this.#arrived(notification)),
      client.on('inbox', (event) => this.#heard(event)),
      client.on('caughtUp', () => this.#want(this.#replayed)),
      client.on('gap', ({ status }) => (status === 'reset' ? this.#begin() : this.#want(client.seq ?? 0))),
      client.subscribe(() => this.#look()),
    ];
    this.#look();
  }

  #stop(): void {
    for (const off of this.#offs.splice(0)) off();
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#leftAt = this.#client.seq;
    this.#rows.forget();
  }

  /** Starts over: after a reset, or with another user. */
  #begin(): void {
    this.#begun++;
    this.#rows = new InboxRows(this.#filter);
    this.#isLoading = false;
    this.#status = 'loading';
    this.#asOf = -1;
    this.#wanted = 0;
    this.#replayed = 0;
    this.#notBefore = 0;
    this.#look();
  }

  #arrived(notification: Notification): void {
    const { seq, replayed, muted } = notification;
    if (!replayed && (notification as ServerFrame).unread !== undefined) {
      this.#rows.add(itemOf(notification));
      this.#change();
    } else if (!this.#rows.has(seq)) {
      // Without counts it may still be an item: the first page says.
      if (replayed) this.#replayed = seq;
      else if (muted || seq <= (this.#client.inbox.counts()?.asOf ?? 0)) this.#want(seq);
    }
  }

  #heard({ state, change, seq = 0 }: InboxEvent): void {
    if (state === 'asked') this.#rows.asked(change);
    else if (state === 'failed') this.#rows.failed(change);
    else if (state === 'accepted') this.#rows.accepted(change, seq);
    else if (this.#rows.logged(change, seq)) this.#want(seq);
    this.#change();
  }

  /** Loads the first page again, unless the last one holds at this number or later. */
  #want(seq: number): void {
    this.#wanted = Math.max(this.#wanted, seq);
    this.#look();
  }

  /** The client's state changed, or a page is wanted. */
  #look(): void {
    const { state, userId } = this.#client.snapshot();
    const isOther = userId !== null && this.#userId !== null && userId !== this.#userId;
    this.#userId = userId ?? this.#userId;
    if (isOther) return this.#begin();
    if (state === 'live' && this.#asOf < this.#wanted && !this.#isLoading && this.#offs.length > 0) this.#reload();
    this.#change();
  }

  #reload(): void {
    const now = Date.now();
    clearTimeout(this.#timer);
    if (now < this.#notBefore) {
      this.#timer = setTimeout(() => this.#look(), this.#notBefore - now);
      return;
    }
    this.#notBefore = now + LOAD_EVERY_MS;
    const begun = this.#begun;
    const limit = Math.min(PAGE_MOST, Math.max(this.#limit, this.#rows.items().length));
    this.#load({ limit }).then(
      () => this.#look(),
      () => {
        if (begun !== this.#begun) return;
        this.#notBefore = Date.now() + REPEAT_MS;
        if (this.#asOf < 0) this.#status = 'failed';
        this.#look();
      },
    );
  }

  async #load(query: { limit: number; before?: number }): Promise<void> {
    const begun = this.#begun;
    this.#isLoading = true;
    this.#rows.asking();
    try {
      const page = await this.#client.inbox.list({ filter: this.#filter, ...query });
      if (begun !== this.#begun) return;
      if (query.before !== undefined) return this.#rows.more(page);
      this.#rows.first(page);
      this.#asOf = page.as_of;
      this.#status = 'ready';
    } finally {
      if (begun === this.#begun) this.#isLoading = false;
      this.#change();
    }
  }

  #change(): void {
    this.#isDirty = true;
    this.#tell();
  }

  readonly #tell: () => void = paced(() => {
    for (const subscriber of [...this.#subscribers]) subscriber();
  });
}
