export { RecadoClient } from './client.js';
export { RecadoError } from './errors.js';
export type { CommandResult, Gap, Head, HistoryPage, Notification, NotificationTypes, ProviderStatus, } from './frames.js';
export type { ClientEvents, Listener, Logger } from './handlers.js';
export type { HistoryQuery, RecadoOptions, Since } from './options.js';
export type { Snapshot, State } from './store.js';
export type { GetToken, TokenReason } from './tokens.js';
