// Tests the rules of the inbox without a hub: which counts win, and how changes apply to the items of a list.

import { describe, expect, test } from 'vitest';
import { newerCounts } from '../../src/inbox.ts';
import { changed, InboxRows } from '../../src/inbox-rows.ts';
import type { InboxFilter, InboxItem, InboxPage } from '../../src/inbox-types.ts';

const item = (seq: number, more: Partial<InboxItem> = {}): InboxItem => ({
  ...{ seq, id: `id-${seq}`, type: 'order_created', title: 't', message: '', data: null, to: 'user' as const },
  ...{ created_at: '2026-01-01T00:00:00.000Z', read: false, archived: false },
  ...more,
});

const page = (asOf: number, items: InboxItem[], next: number | null = null): InboxPage => ({
  ...{ items, next, unread: 0, unseen: 0, as_of: asOf, log_id: 'log-1' },
});

/** Rows that hold a first page as of 100. */
function rows(items: InboxItem[], filter: InboxFilter = 'all', next: number | null = null): InboxRows {
  const made = new InboxRows(filter);
  made.asking();
  made.first(page(100, items, next));
  return made;
}

/** The items of a list as `seq` and their marks. */
const shown = (of: InboxRows): string[] =>
  of
    .items()
    .map(({ seq, read, archived, muted }) => `${seq}${read ? 'r' : ''}${archived ? 'a' : ''}${muted ? 'm' : ''}`);

describe('counts', () => {
  const said = (asOf: number) => ({ unread: 7, unseen: 3, as_of: asOf });
  const at = (asOf: number | null) => ({ asOf });

  test('the newest as_of wins, and of two frames with the same the later one', () => {
    const taken = { unread: 7, unseen: 3, asOf: 12 };
    expect(newerCounts(at(null), said(12), true)).toEqual(taken);
    expect(newerCounts(at(11), said(12), true)).toEqual(taken);
    expect(newerCounts(at(12), said(12), true)).toEqual(taken);
    expect(newerCounts(at(13), said(12), true)).toBeNull();
  });

  test('an answer with the as_of of a frame may be older, and loses', () => {
    expect(newerCounts(at(12), said(12), false)).toBeNull();
    expect(newerCounts(at(11), said(12), false)).toMatchObject({ asOf: 12 });
  });

  test('a frame without counts changes none', () => {
    expect(newerCounts(at(null), {}, true)).toBeNull();
  });
});

describe('one item', () => {
  test('each operation changes its own mark, by number or up to a number', () => {
    const fresh = item(5);
    expect(changed(fresh, { op: 'read', seqs: [5] })).toMatchObject({ read: true, archived: false });
    expect(changed(fresh, { op: 'archive', up_to: 5 })).toMatchObject({ read: false, archived: true });
    const done = item(5, { read: true, archived: true });
    expect(changed(done, { op: 'unread', seqs: [5] })).toMatchObject({ read: false, archived: true });
    expect(changed(done, { op: 'unarchive', seqs: [5] })).toMatchObject({ read: true, archived: false });
  });

  test('what a change does not concern is the same object', () => {
    const fresh = item(5);
    const others = [
      { op: 'read', seqs: [4] },
      { op: 'read', up_to: 4 },
      { op: 'seen', up_to: 9 },
      { op: 'unread', seqs: [5] },
      { muted: ['stock_*'] },
    ] as const;
    for (const change of others) expect(changed(fresh, change)).toBe(fresh);
  });

  test('a type is muted by its name or by the beginning of it', () => {
    for (const muted of [['order_created'], ['order_*'], ['*']]) {
      expect(changed(item(5), { muted })).toMatchObject({ muted: true });
    }
    for (const muted of [[], ['order'], ['order_created_*']]) {
      expect('muted' in changed(item(5, { muted: true }), { muted })).toBe(false);
    }
  });
});

describe('a list', () => {
  test('shows what this page asks for at once, and the row of the log confirms it', () => {
    const list = rows([item(9), item(8)]);
    const change = { op: 'read', seqs: [9] } as const;
    list.asked(change);
    expect(shown(list)).toEqual(['9r', '8']);
    list.accepted(change, 101);
    expect(shown(list)).toEqual(['9r', '8']);
    list.logged(change, 101);
    expect(shown(list)).toEqual(['9r', '8']);
    list.logged({ op: 'unread', seqs: [9] }, 102);
    expect(shown(list)).toEqual(['9', '8']);
  });

  test('a row that arrives before the answer settles it, too', () => {
    const list = rows([item(9)]);
    const change = { op: 'read', seqs: [9] } as const;
    list.asked(change);
    list.logged({ op: 'read', seqs: [9] }, 101);
    list.logged({ op: 'unread', seqs: [9] }, 102);
    // The answer is on its way, and what this page asked for shows until it arrives.
    expect(shown(list)).toEqual(['9r']);
    list.accepted(change, 101);
    expect(shown(list)).toEqual(['9']);
  });

  test('an earlier change of another device does not undo an accepted one that is not logged yet', () => {
    const list = rows([item(9)]);
    const change = { op: 'archive', seqs: [9] } as const;
    list.asked(change);
    list.accepted(change, 103);
    list.logged({ op: 'unarchive', seqs: [9] }, 102);
    expect(shown(list)).toEqual([]);
    list.logged(change, 103);
    expect(shown(list)).toEqual([]);
  });

  test('an error takes away what was asked for, and what others changed meanwhile stays', () => {
    const list = rows([item(9), item(8)]);
    const change = { op: 'archive', up_to: 9 } as const;
    list.asked(change);
    expect(shown(list)).toEqual([]);
    list.logged({ op: 'read', seqs: [8] }, 101);
    list.failed(change);
    expect(shown(list)).toEqual(['9', '8r']);
  });

  test('two changes in flight are undone one by one', () => {
    const list = rows([item(9)]);
    const [first, second] = [
      { op: 'read', seqs: [9] },
      { op: 'archive', seqs: [9] },
    ] as const;
    list.asked(first);
    list.asked(second);
    list.failed(second);
    expect(shown(list)).toEqual(['9r']);
    list.failed(first);
    expect(shown(list)).toEqual(['9']);
  });

  test('a filter takes items out, and an error brings them back', () => {
    const list = rows([item(9), item(8)], 'unread');
    const change = { op: 'read', seqs: [9] } as const;
    list.asked(change);
    expect(shown(list)).toEqual(['8']);
    list.failed(change);
    expect(shown(list)).toEqual(['9', '8']);
    list.logged({ muted: ['order_*'] }, 101);
    expect(shown(list)).toEqual([]);
  });

  test('a change of the log applies to rows that hold at a lower number only', () => {
    const list = rows([item(9, { read: true })]);
    // The page is of 100, so it has this already.
    list.logged({ op: 'unread', seqs: [9] }, 99);
    expect(shown(list)).toEqual(['9r']);
  });

  test('a page that is older than a change of the log gets the change', () => {
    const list = rows([item(9)], 'all', 9);
    list.asking();
    list.logged({ op: 'read', up_to: 9 }, 105);
    list.more(page(103, [item(8), item(7)]));
    expect(shown(list)).toEqual(['9r', '8r', '7r']);
    list.asking();
    list.logged({ op: 'archive', seqs: [8] }, 106);
    list.first(page(105, [item(9, { read: true }), item(8, { read: true })], 8));
    expect(shown(list)).toEqual(['9r']);
  });

  test('a first page replaces what is held, but for items that are newer', () => {
    const list = rows([item(9), item(8), item(7)]);
    list.add(item(110));
    list.asking();
    list.first(page(105, [item(9), item(7)]));
    expect(shown(list)).toEqual(['110', '9', '7']);
    list.add(item(110, { title: 'again' }));
    expect(list.items()[0]?.title).toBe('t');
  });

  test('asks for a page if a change may bring items in that are not held', () => {
    const all = rows([item(9)], 'all', 9);
    expect(all.logged({ op: 'unarchive', seqs: [9] }, 101)).toBe(false);
    expect(all.logged({ op: 'unarchive', seqs: [10] }, 102)).toBe(true);
    // An older page has it.
    expect(all.logged({ op: 'unarchive', seqs: [3] }, 103)).toBe(false);
    expect(all.logged({ op: 'unread', seqs: [10] }, 104)).toBe(false);
    const unread = rows([item(9)], 'unread');
    expect(unread.logged({ op: 'unread', seqs: [3] }, 101)).toBe(true);
    expect(unread.logged({ muted: [] }, 102)).toBe(true);
    const archived = rows([item(9, { archived: true })], 'archived');
    expect(archived.logged({ op: 'archive', up_to: 50 }, 101)).toBe(true);
    expect(archived.logged({ op: 'unarchive', seqs: [3] }, 102)).toBe(false);
  });

  test('holds at most 1,000 rows of new items, and a later page has the others', () => {
    const list = rows([item(9)]);
    for (let seq = 101; seq <= 1_101; seq++) list.add(item(seq));
    expect(list.items().length).toBe(1_000);
    expect(list.next).toBe(102);
  });
});
