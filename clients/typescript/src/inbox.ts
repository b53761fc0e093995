// Offers the inbox of the user: counts, pages of items, and the changes that a user makes.

import type {
  CountsAnswer,
  InboxAnswer,
  InboxChange,
  InboxCounts,
  InboxEvent,
  InboxPage,
  InboxQuery,
  InboxSelection,
  Preferences,
  PreferencesAnswer,
} from './inbox-types.ts';
import type { Snapshot } from './store.ts';
import type { Query } from './transport.ts';

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
export function newerCounts(
  now: Pick<Snapshot, 'asOf'>,
  { unread, unseen, as_of: asOf }: Partial<CountsAnswer>,
  isFrame: boolean,
): Pick<Snapshot, 'unread' | 'unseen' | 'asOf'> | null {
  if (asOf === undefined || unread === undefined || unseen === undefined) return null;
  const isOld = now.asOf !== null && (isFrame ? asOf < now.asOf : asOf <= now.asOf);
  return isOld ? null : { unread, unseen, asOf };
}

/**
 * The inbox of the user: which notifications are unread, and what marks them. Needs the option `inbox` of the client for
 * counts and for the event `inbox`; the requests work without it.
 *
 * Every function that returns a promise rejects with a RecadoError: `invalid_field` (422, for example a number that is no
 * item of the user), `inbox_full` (409, more than 1000 items marked one by one: use `upTo`), `reset` (409, the log is
 * another one), a refusal of the token, `unavailable` (503) or `network`. Repeating a call is harmless.
 */
export class Inbox {
  readonly #host: InboxHost;
  /** The last `mute` or `unmute`. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(host: InboxHost) {
    this.#host = host;
  }

  /** True if the client has the option `inbox`. */
  get isOn(): boolean {
    return this.#host.hasInbox;
  }

  /**
   * The counts that the hub sent last: those with the highest `asOf`. Undefined before the first, after `close()`, and
   * from a reset until the next. `snapshot()` has them as well.
   */
  readonly counts = (): InboxCounts | undefined => this.#host.counts();

  /** One page of items, newest first. */
  readonly list = (query: InboxQuery = {}): Promise<InboxPage> => this.#ask('api/inbox', { ...query });

  /** Marks items as read: by their numbers, or all up to a number, which marks these as seen, too. */
  readonly markRead = (which: InboxSelection): Promise<InboxAnswer> => this.#mark('read', which);

  /** Marks items as unread. */
  readonly markUnread = (seqs: readonly number[]): Promise<InboxAnswer> => this.#mark('unread', seqs);

  /** Archives items: by their numbers, or all up to a number, which marks these as seen, too. */
  readonly archive = (which: InboxSelection): Promise<InboxAnswer> => this.#mark('archive', which);

  /** Takes items out of the archive. */
  readonly unarchive = (seqs: readonly number[]): Promise<InboxAnswer> => this.#mark('unarchive', seqs);

  /**
   * Marks everything up to a number as seen, for example when the list is opened. Default: `counts().asOf`, or the end of
   * the log as long as there are no counts.
   */
  readonly markSeen = async (upTo: number | undefined = this.counts()?.asOf): Promise<InboxAnswer> =>
    this.#mark('seen', { upTo: upTo ?? (await this.list({ limit: 1 })).as_of });

  /** The muted types, and those that cannot be muted. */
  readonly preferences = (): Promise<Preferences> => this.#host.request('api/preferences');

  /**
   * Mutes types: names, or beginnings with `*` such as `product_*`; at most 100 in all. A muted notification is still
   * delivered, with `muted`, and not counted. Rejects with `invalid_field` for a bad entry and for one that covers a type
   * that cannot be muted. Reads the set and writes it back: of two pages that do so at once, the later one wins.
   */
  readonly mute = (types: readonly string[]): Promise<PreferencesAnswer> => this.#edit((muted) => [...muted, ...types]);

  /** Removes entries from the muted types. A type that another entry covers, such as `product_*`, stays muted. */
  readonly unmute = (types: readonly string[]): Promise<PreferencesAnswer> =>
    this.#edit((muted) => muted.filter((one) => !types.includes(one)));

  #mark(op: 'read' | 'unread' | 'archive' | 'unarchive' | 'seen', which: InboxSelection): Promise<InboxAnswer> {
    const change = 'upTo' in which ? { op, up_to: which.upTo } : { op, seqs: [...which] };
    return this.#change(change, 'api/inbox', { ...change, log_id: this.#host.logId });
  }

  #edit(edit: (muted: readonly string[]) => readonly string[]): Promise<PreferencesAnswer> {
    const edited = this.#turn.then(async () => {
      const { muted } = await this.preferences();
      const change = { muted: [...new Set(edit(muted))] };
      return this.#change<PreferencesAnswer>(change, 'api/preferences', change);
    });
    // One at a time: the next one reads what this one wrote.
    this.#turn = edited.catch(() => {});
    return edited;
  }

  async #change<T extends InboxAnswer>(change: InboxChange, path: string, body: object): Promise<T> {
    const host = this.#host;
    host.tell({ state: 'asked', change });
    try {
      const answer = await this.#ask<T>(path, {}, body);
      host.tell({ state: 'accepted', change, seq: answer.seq ?? answer.as_of });
      return answer;
    } catch (error) {
      host.tell({ state: 'failed', change });
      throw error;
    }
  }

  async #ask<T extends CountsAnswer & { log_id?: string }>(path: string, query: Query, body?: object): Promise<T> {
    const host = this.#host;
    const before = host.logId;
    const answer = await host.request<T>(path, query, body);
    // The counts of another log cannot be compared by their numbers.
    const logId = answer.log_id ?? before;
    if (logId !== undefined && logId === host.logId) host.count(answer, false);
    return answer;
  }
}
