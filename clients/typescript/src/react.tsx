// Offers a client to React components: a provider and hooks, for React 18 and 19.

import {
  createElement,
  type FunctionComponentElement,
  type ProviderProps,
  type ReactNode,
  useCallback,
  useEffect,
  useInsertionEffect,
  useRef,
  useState,
  useSyncExternalStore,
} from 'react';
import { RecadoClient } from './client.ts';
import type { CommandResult, Gap, Notification, NotificationTypes, ProviderStatus } from './frames.ts';
import type { RecadoOptions } from './options.ts';
import { Context, useRecado } from './react-context.ts';
import { IDLE, type Snapshot } from './store.ts';

export { useRecado } from './react-context.ts';
export { type InboxView, type UseInboxOptions, useInbox } from './react-inbox.ts';

/** Users of each client, and the timer that closes it after the last one. */
const mounts = new WeakMap<RecadoClient, { count: number; timer?: ReturnType<typeof setTimeout> }>();
/** StrictMode and hot reloads unmount and mount again at once; the connection outlives that. */
const CLOSE_AFTER_MS = 1_000;
/** A list tells React at most once in this time: one frame of a screen. */
const FLUSH_MS = 16;

/** Properties of the provider: a client of your own, or options for one that the provider makes once. */
export interface RecadoProviderProps {
  client?: RecadoClient;
  /** Read at the first render only; change `key` to make another client. */
  options?: RecadoOptions;
  /** False: stays unconnected, for example without a signed-in user. Default true. */
  enabled?: boolean;
  children?: ReactNode;
}

/**
 * Connects a client while it is mounted, and closes it one second after the last provider of that client is gone.
 * On a server it opens nothing. Throws if it has neither `client` nor `options`.
 */
export function RecadoProvider(
  props: RecadoProviderProps,
): FunctionComponentElement<ProviderProps<RecadoClient | null>> {
  const { options, enabled = true, children } = props;
  const [own] = useState(() => (props.client || !options ? null : new RecadoClient(options)));
  const client = props.client ?? own;
  if (!client) throw new Error('RecadoProvider needs client or options');
  useEffect(() => {
    if (!enabled) return;
    const mount = mounts.get(client) ?? { count: 0 };
    mounts.set(client, mount);
    clearTimeout(mount.timer);
    mount.count++;
    upstreamOf(client);
    client.connect();
    return () => {
      if (--mount.count === 0) mount.timer = setTimeout(() => client.close(), CLOSE_AFTER_MS);
    };
  }, [client, enabled]);
  return createElement(Context.Provider, { value: client }, children);
}

/** The state of the connection. It changes with the state, not with each notification. */
export function useConnection(): Snapshot {
  const client = useRecado();
  return useSyncExternalStore(
    useCallback((tell) => client.subscribe(tell), [client]),
    () => client.snapshot(),
    () => IDLE,
  );
}

/** Calls the latest `handler` for each notification of a type, or of all with `*`, exactly once. */
export function useOnNotification<T extends keyof NotificationTypes>(
  type: T,
  handler: (notification: Notification<NotificationTypes[T]>) => void | Promise<void>,
): void;
export function useOnNotification(type: string, handler: (notification: Notification) => void | Promise<void>): void;
export function useOnNotification(type: string, handler: (notification: never) => void | Promise<void>): void {
  const client = useRecado();
  const latest = useRef(handler);
  useInsertionEffect(() => {
    latest.current = handler;
  });
  useEffect(
    () => client.on('notification', (n) => (type === '*' || n.type === type ? latest.current(n as never) : undefined)),
    [client, type],
  );
}

/** Options of `useNotifications`. */
export interface UseNotificationsOptions {
  /** Only this type. */
  type?: string;
  /** Most notifications in the list, and the size of a page of `loadMore`. Default 100. */
  limit?: number;
  /** Load so many of the history at the first mount. Default 0. */
  history?: number;
}

/** List of `useNotifications`. */
export interface NotificationList<D = unknown> {
  /** Newest first, each number once. */
  readonly items: readonly Notification<D>[];
  readonly loading: boolean;
  /** False once the history has no older ones. */
  readonly hasMore: boolean;
  /** The last gap, until `clear`. After a reset the list is empty. */
  readonly gap: Gap | null;
  /** Appends the next older page of the history. Rejects with a RecadoError. */
  loadMore(): Promise<void>;
  /** Empties the list. `loadMore` then begins with the newest, or below what has arrived since. */
  clear(): void;
}

type ListState = Pick<NotificationList, 'items' | 'loading' | 'hasMore' | 'gap'>;
const EMPTY: ListState = Object.freeze({ items: Object.freeze([]), loading: false, hasMore: true, gap: null });

/** A list outside of React: it takes every notification, and tells React of the first at once, then every 16 ms. */
class ListStore {
  state: ListState = EMPTY;
  readonly #client: RecadoClient;
  readonly #type: string | undefined;
  readonly #page: number;
  #most: number;
  #rows = new Map<number, Notification>();
  #next: number | undefined;
  /** Counts beginnings: a page of the history that was asked before the last one is ignored. */
  #begun = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isDirty = false;
  #tell = (): void => {};

  constructor(client: RecadoClient, type: string | undefined, limit: number) {
    this.#client = client;
    this.#type = type;
    this.#page = limit;
    this.#most = limit;
  }

  readonly subscribe = (tell: () => void): (() => void) => {
    this.#tell = tell;
    const offs = [
      this.#client.on('notification', (n) => {
        if (this.#type !== undefined && n.type !== this.#type) return;
        this.#rows.set(n.seq, n);
        this.#change();
      }),
      this.#client.on('gap', (gap) => {
        gap.status === 'reset' ? this.#begin(gap) : this.#now({ gap });
      }),
    ];
    return () => {
      for (const off of offs) off();
      clearTimeout(this.#timer);
      this.#timer = undefined;
    };
  };

  readonly load = async (count: number = this.#page): Promise<void> => {
    if (this.state.loading) return;
    this.#now({ loading: true });
    let hasMore = true;
    const begun = this.#begun;
    try {
      const after = this.#next ?? this.state.items.at(-1)?.seq;
      const query = { order: 'desc' as const, limit: count, type: this.#type, after };
      const page = await this.#client.history(query as object);
      if (begun !== this.#begun) return;
      for (const n of page.notifications) this.#rows.set(n.seq, n);
      this.#most = Math.max(this.#most, this.#rows.size);
      this.#next = page.next ?? undefined;
      hasMore = page.next !== null;
    } finally {
      if (begun === this.#begun) this.#now({ loading: false, hasMore });
    }
  };

  readonly clear = (): void => this.#begin(null);

  /** Begins anew: a page that is on its way is ignored. */
  #begin(gap: Gap | null): void {
    this.#rows.clear();
    this.#begun++;
    this.#more();
    this.#now({ gap, loading: false });
  }

  /** The next page of the history begins at the oldest row. */
  #more(): void {
    this.#next = undefined;
    this.state = { ...this.state, hasMore: true };
  }

  #change(): void {
    this.#isDirty = true;
    if (this.#timer !== undefined) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.#isDirty) this.#change();
    }, FLUSH_MS);
    this.#now({});
  }

  #now(change: Partial<ListState>): void {
    this.#isDirty = false;
    const all = [...this.#rows.values()].sort((a, b) => b.seq - a.seq);
    // Nothing is dropped while a page is on its way: it continues below the oldest row.
    const items = this.state.loading ? all : all.slice(0, this.#most);
    this.#rows = new Map(items.map((n) => [n.seq, n]));
    this.state = { ...this.state, ...change, items };
    // The next page has to begin at the oldest row that is left, or the dropped ones would be a hole.
    if (items.length < all.length) this.#more();
    this.#tell();
  }
}

/** A list of notifications, newest first: those that arrive while it is mounted, merged with the history. */
export function useNotifications<T extends keyof NotificationTypes>(
  options: UseNotificationsOptions & { type: T },
): NotificationList<NotificationTypes[T]>;
export function useNotifications<D = unknown>(options?: UseNotificationsOptions): NotificationList<D>;
export function useNotifications({
  type,
  limit = 100,
  history = 0,
}: UseNotificationsOptions = {}): NotificationList<never> {
  const client = useRecado();
  const make = (): ListStore => new ListStore(client, type, limit);
  const [held, hold] = useState(() => ({ client, type, store: make() }));
  let { store } = held;
  if (held.client !== client || held.type !== type) {
    store = make();
    hold({ client, type, store });
  }
  useEffect(() => {
    // A failed first page is reported by the state: hasMore stays true, and loadMore can be called.
    if (history > 0) store.load(history).catch(() => {});
  }, [store, history]);
  const state = useSyncExternalStore(
    store.subscribe,
    () => store.state,
    () => EMPTY,
  );
  return { ...state, loadMore: () => store.load(), clear: store.clear } as NotificationList<never>;
}

/** State of the user's provider session, and how to send a command to it. */
export interface Upstream {
  /** `connected` or `disconnected`; null until the hub has said. */
  readonly status: string | null;
  readonly message: string | null;
  /** As `RecadoClient.send`. */
  readonly send: (command: { type: string; payload?: unknown }) => Promise<CommandResult>;
}

interface UpstreamStore {
  status: ProviderStatus | null;
  readonly tells: Set<() => void>;
}

/** The last status of each client. It is kept outside of React, for components that mount after it arrived. */
const upstreams = new WeakMap<RecadoClient, UpstreamStore>();

function upstreamOf(client: RecadoClient): UpstreamStore {
  const found = upstreams.get(client);
  if (found) return found;
  const store: UpstreamStore = { status: null, tells: new Set() };
  upstreams.set(client, store);
  client.on('status', (status) => {
    store.status = status;
    for (const tell of [...store.tells]) tell();
  });
  return store;
}

/** The provider session of the user, for hubs that hold one. */
export function useUpstream(): Upstream {
  const client = useRecado();
  const status = useSyncExternalStore(
    useCallback(
      (tell) => {
        const { tells } = upstreamOf(client);
        tells.add(tell);
        return () => tells.delete(tell);
      },
      [client],
    ),
    () => upstreams.get(client)?.status ?? null,
    () => null,
  );
  const send = useCallback((command: { type: string; payload?: unknown }) => client.send(command), [client]);
  return { status: status?.status ?? null, message: status?.message ?? null, send };
}
