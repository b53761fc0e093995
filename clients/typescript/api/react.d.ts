import { type FunctionComponentElement, type ProviderProps, type ReactNode } from 'react';
import { RecadoClient } from './client.js';
import type { CommandResult, Gap, Notification, NotificationTypes } from './frames.js';
import type { RecadoOptions } from './options.js';
import { type Snapshot } from './store.js';
export { useRecado } from './react-context.js';
export { type InboxView, type UseInboxOptions, useInbox } from './react-inbox.js';
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
export declare function RecadoProvider(props: RecadoProviderProps): FunctionComponentElement<ProviderProps<RecadoClient | null>>;
/** The state of the connection. It changes with the state, not with each notification. */
export declare function useConnection(): Snapshot;
/** Calls the latest `handler` for each notification of a type, or of all with `*`, exactly once. */
export declare function useOnNotification<T extends keyof NotificationTypes>(type: T, handler: (notification: Notification<NotificationTypes[T]>) => void | Promise<void>): void;
export declare function useOnNotification(type: string, handler: (notification: Notification) => void | Promise<void>): void;
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
/** A list of notifications, newest first: those that arrive while it is mounted, merged with the history. */
export declare function useNotifications<T extends keyof NotificationTypes>(options: UseNotificationsOptions & {
    type: T;
}): NotificationList<NotificationTypes[T]>;
export declare function useNotifications<D = unknown>(options?: UseNotificationsOptions): NotificationList<D>;
/** State of the user's provider session, and how to send a command to it. */
export interface Upstream {
    /** `connected` or `disconnected`; null until the hub has said. */
    readonly status: string | null;
    readonly message: string | null;
    /** As `RecadoClient.send`. */
    readonly send: (command: {
        type: string;
        payload?: unknown;
    }) => Promise<CommandResult>;
}
/** The provider session of the user, for hubs that hold one. */
export declare function useUpstream(): Upstream;
