// Makes requests from notifications, and refuses those whose audience would be wider than meant.

import { InvalidNotificationError } from './post-errors.ts';
import type { Data } from './post-texts.ts';
import type { NewNotification } from './post-types.ts';

// The hub's limit of a batch.
const MOST_ITEMS = 1_000;
const ADDRESSES = ['user_id', 'user_ids', 'account_id', 'broadcast'] as const;
// The hub accepts any printable ASCII. A header cannot carry spaces at its ends, and the hub removes outer quotes.
const KEY = /^[!#-~](?:[ -~]{0,253}[!-~])?$/;

/** One request. Every attempt sends the same key and the same body. */
export interface Post {
  readonly path: string;
  readonly key: string;
  readonly body: string;
  /** Receipts that the answer has. Null: one receipt, without a list. */
  readonly items: number | null;
}

function refused(detail: string, idempotencyKey?: string): InvalidNotificationError {
  return new InvalidNotificationError(detail, { code: 'invalid_argument', idempotencyKey });
}

export function checkedKey(key: string | undefined): string {
  if (key === undefined) return crypto.randomUUID();
  if (!KEY.test(key)) {
    throw refused('idempotencyKey must be 1 to 255 printable ASCII characters, without a space at its ends');
  }
  return key;
}

export function checkedId(name: string, id: unknown): string {
  // A missing user must not be left out: the rest of the address would reach the whole account.
  if (typeof id === 'string' && id !== '') return id;
  if (Number.isSafeInteger(id)) return String(id);
  throw refused(`the ${name} id must be a string or a whole number`);
}

export function checkedData(data: unknown): Data {
  if (typeof data !== 'object' || data === null || Array.isArray(data)) throw refused('data must be an object');
  return data as Data;
}

function checkedFields(notification: NewNotification, name: string): NewNotification {
  checkedData(notification);
  for (const field of ADDRESSES) {
    // The hub takes null for an absent field: a lost user_id next to an account_id would reach the whole account.
    if (field in notification && notification[field] == null) {
      throw refused(`${name}: ${field} has no value; leave the field out if it is not meant to address anyone`);
    }
  }
  return Object.fromEntries(
    Object.entries(notification).filter(([, value]) => value != null),
  ) as unknown as NewNotification;
}

export function singlePost(notification: NewNotification, given: string | undefined): Post {
  const { idempotency_key: own, ...fields } = checkedFields(notification, 'notification');
  if (given !== undefined && own !== undefined && given !== own) {
    throw refused('idempotencyKey differs from the field of the notification; give one of them');
  }
  const key = checkedKey(given ?? own);
  return { path: '/api/internal/notify', key, body: json(fields, key), items: null };
}

/** One request with the key K, or for more than 1,000 items K/0, K/1 … The hub appends `/INDEX` for each item. */
export function batchPosts(notifications: readonly NewNotification[], key: string): Post[] {
  const items = notifications.map((item, at) => checkedFields(item, `notifications[${at}]`));
  const posts: Post[] = [];
  for (let start = 0; start < items.length; start += MOST_ITEMS) {
    const part = items.slice(start, start + MOST_ITEMS);
    const own = items.length > MOST_ITEMS ? checkedKey(`${key}/${start / MOST_ITEMS}`) : key;
    posts.push({ path: '/api/internal/notify/batch', key: own, body: json({ items: part }, key), items: part.length });
  }
  return posts;
}

function json(value: unknown, key: string): string {
  try {
    return JSON.stringify(value, (_, part) => {
      // JSON.stringify would make it null.
      if (typeof part === 'number' && !Number.isFinite(part)) throw new TypeError(`${part} is not a JSON number`);
      return part;
    });
  } catch (error) {
    throw refused(`the notification cannot be written as JSON: ${(error as Error).message}`, key);
  }
}
