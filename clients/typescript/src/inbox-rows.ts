// Folds pages, new items and changes into the items of an inbox list; performs nothing.
//
// A row holds an item as the hub has it, and the number of the log at which it holds. A page and a change of the log apply
// to rows that hold at a lower number, so it does not matter in which order the two arrive. Changes that this page asked
// for lie on top until their own row of the log has arrived; a refused one is taken away, and the row shows through.

import type { InboxChange, InboxFilter, InboxItem, InboxPage } from './inbox-types.ts';

/** Most rows that new items may add up to. The oldest ones are dropped, and a later page has them. */
const ROWS_MOST = 1_000;

interface Row {
  readonly item: InboxItem;
  readonly at: number;
}

interface Asked {
  readonly change: InboxChange;
  /** Number of the log from which on the rows have it. */
  until: number;
}

const isMuted = (type: string, muted: readonly string[]): boolean =>
  muted.some((one) => (one.endsWith('*') ? type.startsWith(one.slice(0, -1)) : one === type));

/** The item after a change; the same object if the change does not concern it. */
export function changed(item: InboxItem, change: InboxChange): InboxItem {
  if ('muted' in change) {
    const muted = isMuted(item.type, change.muted);
    if (muted === (item.muted ?? false)) return item;
    const { muted: _, ...rest } = item;
    return muted ? { ...rest, muted } : rest;
  }
  const { op, seqs, up_to: upTo = 0 } = change;
  if (!(seqs ? seqs.includes(item.seq) : item.seq <= upTo)) return item;
  const read = op === 'read' || (op !== 'unread' && item.read);
  const archived = op === 'archive' || (op !== 'unarchive' && item.archived);
  return read === item.read && archived === item.archived ? item : { ...item, read, archived };
}

/** The items of a list, as the hub has them and as the page shows them. */
export class InboxRows {
  readonly #filter: InboxFilter;
  #rows = new Map<number, Row>();
  #asked: Asked[] = [];
  /** Changes of the log since the page that is on its way was asked for. */
  #late: { change: InboxChange; seq: number }[] = [];
  /** The rows have the changes up to here. */
  #at = 0;
  /** `before` of the next page; null if there is none. */
  next: number | null = null;

  constructor(filter: InboxFilter) {
    this.#filter = filter;
  }

  /** What the page shows: newest first. */
  items(): readonly InboxItem[] {
    const shown: InboxItem[] = [];
    for (const { item } of [...this.#rows.values()].sort((a, b) => b.item.seq - a.item.seq)) {
      const now = this.#asked.reduce((one, { change }) => changed(one, change), item);
      if (this.#passes(now)) shown.push(now);
    }
    return shown;
  }

  has(seq: number): boolean {
    return this.#rows.has(seq);
  }

  /** A page is asked for. Only one may be on its way. */
  asking(): void {
    this.#late = [];
  }

  /** The first page arrived: it replaces what is held, but for what is newer. */
  first(page: InboxPage): void {
    const before = this.#rows;
    this.#rows = new Map();
    this.#merge(page, before);
    for (const [seq, row] of before) {
      if (row.at > page.as_of && seq > (page.next ?? 0)) this.#rows.set(seq, row);
    }
    this.#passed(page.as_of);
  }

  /** The page below the last one arrived. */
  more(page: InboxPage): void {
    this.#merge(page, this.#rows);
  }

  /** A new item arrived. */
  add(item: InboxItem): void {
    if (this.#rows.has(item.seq)) return;
    this.#rows.set(item.seq, { item, at: item.seq });
    if (this.#rows.size <= ROWS_MOST) return;
    const oldest = Math.min(...this.#rows.keys());
    this.#rows.delete(oldest);
    this.next = oldest + 1;
  }

  /** A change of the log arrived. True if it may bring items into the list that are not held. */
  logged(change: InboxChange, seq: number): boolean {
    this.#late.push({ change, seq });
    this.#apply(change, seq);
    this.#passed(seq);
    if ('muted' in change) return this.#filter === 'unread';
    const { op, seqs } = change;
    const brings =
      this.#filter === 'archived'
        ? op === 'archive'
        : op === 'unarchive' || (op === 'unread' && this.#filter === 'unread');
    return brings && !seqs?.every((one) => this.#rows.has(one) || one < (this.next ?? 0));
  }

  /** This page asks for a change: the items show it from now on. */
  asked(change: InboxChange): void {
    this.#asked.push({ change, until: Number.POSITIVE_INFINITY });
  }

  /** The hub has a change, in its log up to `seq`. */
  accepted(change: InboxChange, seq: number): void {
    for (const one of this.#asked) if (one.change === change) one.until = seq;
    this.#passed(this.#at);
  }

  /** The hub does not have a change: the items are again what they were. */
  failed(change: InboxChange): void {
    this.#asked = this.#asked.filter((one) => one.change !== change);
  }

  /** Takes away what this page asked for: from now on the list does not hear of the answers. */
  forget(): void {
    this.#asked = [];
  }

  #merge({ items, as_of: at, next }: InboxPage, held: ReadonlyMap<number, Row>): void {
    for (const item of items) {
      const row = held.get(item.seq);
      this.#rows.set(item.seq, row && row.at > at ? row : { item, at });
    }
    this.next = next;
    for (const { change, seq } of this.#late) this.#apply(change, seq);
  }

  #apply(change: InboxChange, at: number): void {
    for (const [seq, row] of this.#rows) {
      if (row.at < at) this.#rows.set(seq, { item: changed(row.item, change), at });
    }
  }

  #passed(at: number): void {
    this.#at = Math.max(this.#at, at);
    this.#asked = this.#asked.filter(({ until }) => until > this.#at);
  }

  #passes({ read, archived, muted }: InboxItem): boolean {
    if (this.#filter === 'archived') return archived;
    return !archived && !(this.#filter === 'unread' && (read || muted));
  }
}
