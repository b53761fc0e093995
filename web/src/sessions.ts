// Holds the rows of the sessions table: reads the compact answer, filters and sorts it in the browser.

import type { SessionFilter, SessionsAnswer } from './types.ts';

export interface SessionRow {
  readonly id: string;
  readonly user: string;
  readonly accounts: readonly string[];
  readonly client: string;
  readonly instance: string;
  readonly transport: string;
  readonly connectedAt: number;
  readonly activeAt: number;
  readonly sent: number;
  readonly acked: number;
  readonly lag: number;
  /** The types that the client asked for; empty: all. */
  readonly types: string;
  readonly playground: boolean;
}

const COLUMNS = [
  'session_id',
  'user_id',
  'account_ids',
  'client_id',
  'instance',
  'transport',
  'connected_at',
  'last_activity_at',
  'sent',
  'acked',
  'types',
  'playground',
];

/** Rows by the names of the columns, so that a hub with more columns, or in another order, is read rightly. */
export function readRows({ columns, rows, instances, head }: SessionsAnswer): SessionRow[] {
  const places = COLUMNS.map((name) => columns.indexOf(name));
  return rows.map((row) => {
    const [id, user, accounts, client, instance, transport, connectedAt, activeAt, sent, acked, types, playground] =
      places.map((at) => row[at]) as [
        string,
        string,
        string[] | null,
        string,
        number,
        string,
        number,
        number,
        number,
        number,
        string | null,
        boolean,
      ];
    return {
      id,
      user,
      accounts: accounts ?? [],
      client,
      instance: instances[instance] ?? '',
      transport,
      connectedAt,
      activeAt,
      sent,
      acked,
      lag: Math.max(0, head - acked),
      types: types ?? '',
      playground,
    };
  });
}

/** Matches exactly, or by a beginning that ends with `*`. An empty pattern matches all. */
export function matches(pattern: string, value: string): boolean {
  if (pattern === '') return true;
  return pattern.endsWith('*') ? value.startsWith(pattern.slice(0, -1)) : value === pattern;
}

export type FilterTexts = {
  readonly [name in 'user' | 'account' | 'client' | 'instance' | 'transport' | 'min_lag']: string;
};

/** Whether the lag of the filter is a number that the hub takes. */
export const lagOf = (text: string): number | undefined =>
  /^\d{1,15}$/.test(text.trim()) ? Number(text.trim()) : undefined;

/** The filter, without empty parts. */
export function filterOf(texts: FilterTexts): SessionFilter {
  const filter: { [name: string]: string | number } = {};
  for (const name of ['user', 'account', 'client', 'instance', 'transport'] as const) {
    const text = texts[name].trim();
    if (text !== '' && text !== '*') filter[name] = text;
  }
  const lag = lagOf(texts.min_lag);
  if (lag !== undefined && lag > 0) filter.min_lag = lag;
  return filter as SessionFilter;
}

const isPattern = (value: unknown): boolean => typeof value === 'string' && value.endsWith('*');

/** The part that the hub takes: it matches whole names only. The page matches patterns itself. */
export const hubPart = (filter: SessionFilter): SessionFilter =>
  Object.fromEntries(Object.entries(filter).filter(([, value]) => !isPattern(value)));

/** The part for a hub whose sessions all fit into one answer: only it knows the members of accounts. */
export const accountPart = ({ account }: SessionFilter): SessionFilter =>
  account === undefined || isPattern(account) ? {} : { account };

/** Up to 20 values of a column that begin with the typed text, to complete it. */
export function offers(rows: readonly SessionRow[], name: 'user' | 'account' | 'client', typed: string): string[] {
  const found = new Set<string>();
  for (const row of rows) {
    for (const value of name === 'account' ? row.accounts : [row[name]]) if (value.startsWith(typed)) found.add(value);
    if (found.size >= 20) break;
  }
  return [...found];
}

/** The part that is not in `applied`, the filter of the answer at hand. */
export const newPart = (filter: SessionFilter, applied: SessionFilter): SessionFilter =>
  Object.fromEntries(Object.entries(filter).filter(([name, value]) => applied[name as keyof SessionFilter] !== value));

export function filterRows(rows: readonly SessionRow[], filter: SessionFilter): readonly SessionRow[] {
  const { user = '', account = '', client = '', instance = '', transport = '', min_lag = 0 } = filter;
  if (Object.keys(filter).length === 0) return rows;
  return rows.filter(
    (row) =>
      row.lag >= min_lag &&
      matches(user, row.user) &&
      matches(client, row.client) &&
      matches(instance, row.instance) &&
      matches(transport, row.transport) &&
      (account === '' || row.accounts.some((one) => matches(account, one))),
  );
}

const KEYS: { readonly [name: string]: (row: SessionRow) => string | number } = {
  lag: (row) => row.lag,
  user: (row) => row.user,
  connected_at: (row) => row.connectedAt,
  last_activity_at: (row) => row.activeAt,
  sent: (row) => row.sent,
  acked: (row) => row.acked,
};

/** The sort that an address names, or the worst lag first. */
export const sortOf = (text: string): string => (Object.hasOwn(KEYS, text.replace(/^-/, '')) ? text : '-lag');

export function sortRows(rows: readonly SessionRow[], sort: string): readonly SessionRow[] {
  const key = KEYS[sort.replace(/^-/, '')] ?? KEYS.lag!;
  const sign = sort.startsWith('-') ? -1 : 1;
  // The keys are read once for each row, not once for each comparison.
  const keys = rows.map(key);
  // Ties stay in the order of the answer, so that rows do not jump between two refreshes.
  const order = Array.from(rows.keys()).sort((a, b) => {
    const [x, y] = [keys[a] as string | number, keys[b] as string | number];
    return x < y ? -sign : x > y ? sign : 0;
  });
  return order.map((at) => rows[at] as SessionRow);
}
