// Keeps the inbox of a fake hub: which items are read, archived, seen and muted.

import type { Notification } from './frames.ts';
import type { CountsAnswer, InboxChange, InboxItem, InboxPage } from './inbox-types.ts';

/** Highest count; it stands for this many or more. */
const COUNT_MOST = 1_000;

interface Marks {
  read: boolean;
  archived: boolean;
}

/** Marks of each item, and the rules of the hub for changing them. */
export class FakeInbox {
  #items = new Map<number, Notification & Marks>();
  #seen = 0;
  muted: readonly string[] = [];

  /** A notification of the log is an item. */
  add(notification: Notification): void {
    this.#items.set(notification.seq, { ...notification, read: false, archived: false });
  }

  has(seq: number): boolean {
    return this.#items.has(seq);
  }

  /** Retention: items up to a number are no longer kept. True if counts changed. */
  trim(seq: number): boolean {
    const before = JSON.stringify(this.counts(0));
    for (const one of [...this.#items.keys()]) if (one <= seq) this.#items.delete(one);
    return JSON.stringify(this.counts(0)) !== before;
  }

  isMuted(type: string): boolean {
    return this.muted.some((one) => (one.endsWith('*') ? type.startsWith(one.slice(0, -1)) : one === type));
  }

  counts(head: number): CountsAnswer {
    let [unread, unseen] = [0, 0];
    for (const { seq, type, read, archived } of this.#items.values()) {
      if (archived || this.isMuted(type)) continue;
      if (!read && unread < COUNT_MOST) unread++;
      if (seq > this.#seen && unseen < COUNT_MOST) unseen++;
      if (unread === COUNT_MOST && unseen === COUNT_MOST) break;
    }
    return { unread, unseen, as_of: head };
  }

  /** Applies a change. False if it changes nothing. */
  apply(change: InboxChange): boolean {
    const before = this.#text();
    if ('muted' in change) {
      this.muted = [...new Set(change.muted)].sort();
      return this.#text() !== before;
    }
    const { op, seqs, up_to: upTo = 0 } = change;
    if (!seqs) this.#seen = Math.max(this.#seen, upTo);
    for (const one of this.#items.values()) {
      if (!(seqs ? seqs.includes(one.seq) : one.seq <= upTo)) continue;
      if (op === 'read' || op === 'unread') one.read = op === 'read';
      if (op === 'archive' || op === 'unarchive') one.archived = op === 'archive';
    }
    return this.#text() !== before;
  }

  page(query: URLSearchParams, head: number): Omit<InboxPage, 'log_id'> {
    const filter = query.get('filter') ?? 'all';
    const before = Number(query.get('before') ?? Number.POSITIVE_INFINITY);
    const limit = Number(query.get('limit') ?? 50);
    const found = [...this.#items.values()].reverse().filter(({ seq, read, archived, type }) => {
      if (seq >= before || archived !== (filter === 'archived')) return false;
      return filter !== 'unread' || !(read || this.isMuted(type));
    });
    const items = found
      .slice(0, limit)
      .map((one): InboxItem => ({ ...one, ...(this.isMuted(one.type) ? { muted: true } : {}) }));
    const next = found.length > limit ? (items.at(-1)?.seq ?? null) : null;
    return { items, ...this.counts(head), next };
  }

  #text(): string {
    const marks = [...this.#items.values()].map(({ seq, read, archived }) => [seq, read, archived]);
    return JSON.stringify([this.#seen, this.muted, marks]);
  }
}
