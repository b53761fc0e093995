// Exports the public names of @recado/client.

export { RecadoClient } from './client.ts';
export { RecadoError } from './errors.ts';
export type {
  CommandResult,
  Gap,
  Head,
  HistoryPage,
  Notification,
  NotificationTypes,
  ProviderStatus,
} from './frames.ts';
export type { ClientEvents, Listener, Logger } from './handlers.ts';
export type { Inbox } from './inbox.ts';
export { InboxList, type InboxListOptions, type InboxListState } from './inbox-list.ts';
export type {
  CountsAnswer,
  InboxAnswer,
  InboxChange,
  InboxCounts,
  InboxEvent,
  InboxFilter,
  InboxItem,
  InboxPage,
  InboxQuery,
  InboxSelection,
  Preferences,
  PreferencesAnswer,
} from './inbox-types.ts';
export type { HistoryQuery, RecadoOptions, Since } from './options.ts';
export type { Snapshot, State } from './store.ts';
export type { GetToken, TokenReason } from './tokens.ts';
