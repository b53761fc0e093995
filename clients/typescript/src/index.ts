// Exports the public names of @recado/client.

export { type HistoryQuery, RecadoClient, type RecadoOptions, type Since } from './client.ts';
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
export type { Snapshot, State } from './store.ts';
export type { GetToken, TokenReason } from './tokens.ts';
