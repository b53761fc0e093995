// Describes the answers of the admin routes, with the wire's own field names.

/** A time in RFC 3339, UTC. */
export type Time = string;

/** Body of a refusal. */
export interface ProblemBody {
  readonly status?: number;
  readonly code?: string;
  readonly title?: string;
  readonly detail?: string;
  readonly request_id?: string;
  readonly errors?: readonly { readonly pointer: string; readonly detail: string }[];
}

/** `GET /api/admin/sessions`. A row has a value for each name in `columns`. */
export interface SessionsAnswer {
  readonly as_of: Time;
  readonly head: number;
  readonly total: number;
  readonly matching: number;
  readonly columns: readonly string[];
  readonly instances: readonly string[];
  readonly rows: readonly (readonly unknown[])[];
}

/** What the close route and the sessions route filter by. */
export interface SessionFilter {
  user?: string;
  account?: string;
  client?: string;
  instance?: string;
  transport?: string;
  min_lag?: number;
}

export interface CloseAnswer {
  readonly success: boolean;
  readonly sessions: number;
}

/** A session in `GET /api/admin/users/{id}`. */
export interface UserSession {
  readonly session_id: string;
  readonly account_ids: readonly string[];
  readonly client_id: string;
  readonly instance: string;
  readonly transport: string;
  readonly connected_at: Time;
  readonly last_activity_at: Time;
  readonly sent: number;
  readonly acked: number;
  readonly upstream: boolean;
  /** Missing in answers of an earlier hub. */
  readonly playground?: boolean;
}

export interface Device {
  readonly client_id: string;
  readonly acked: number;
  readonly lag: number;
  readonly unacked: number;
  readonly unacked_more: boolean;
  readonly seen_at: Time | null;
  readonly connected: boolean;
  readonly why: string;
}

/** `GET /api/admin/devices`. A row has a value for each name in `columns`. */
export interface DevicesAnswer {
  readonly as_of: Time;
  readonly head: number;
  readonly more: boolean;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly unknown[])[];
}

/** A device, or the forgotten devices of a user. Times in milliseconds. */
export interface DeviceRow {
  readonly user_id: string;
  readonly client_id: string | null;
  readonly state: string;
  readonly lag: number;
  readonly unacked: number | null;
  readonly unacked_more: boolean | null;
  readonly seen_at: number | null;
  readonly why: string;
}

/** Devices whose positions were deleted because they were not seen for too long. */
export interface Forgotten {
  readonly from_seq: number;
  /** Null: more than the hub remembers one by one. */
  readonly devices: number | null;
}

export interface UserInbox {
  readonly unread: number;
  readonly unseen: number;
  readonly as_of: number;
  readonly seen_seq: number;
  readonly read_seq: number;
  readonly archived_seq: number;
  readonly marked: number;
  readonly muted: readonly string[];
  /** `*` for everyone, `a/ACCOUNT` for an account. */
  readonly since: readonly { readonly topic: string; readonly seq: number }[];
}

export interface UserAnswer {
  readonly user_id: string;
  readonly as_of: Time;
  readonly head: number;
  readonly devices: readonly Device[];
  readonly forgotten?: Forgotten | null;
  readonly sessions: readonly UserSession[];
  /** Provider sessions, with the names of `/stats`. The console only counts them. */
  readonly upstream?: readonly unknown[];
  readonly members_of?: readonly string[];
  /** Null: never opened. Absent: the hub keeps no inboxes. */
  readonly inbox?: UserInbox | null;
  readonly revoked_before?: Time | null;
  readonly revoked_reason?: string | null;
}

export interface UserNotification {
  readonly seq: number;
  readonly id: string;
  readonly type: string;
  readonly title: string;
  readonly message: string;
  readonly data: unknown;
  readonly created_at: Time;
  readonly devices: readonly { readonly client_id: string; readonly verdict: string }[];
}

export interface UserNotifications {
  readonly notifications: readonly UserNotification[];
  readonly next: number | null;
}

/** `GET /api/admin/why`. */
export interface Why {
  readonly user: string;
  readonly seq: number;
  readonly verdict: string;
  readonly text: string;
  readonly notification: null | {
    readonly type: string;
    readonly source: string;
    readonly created_at: Time;
    readonly to: string;
    readonly account_id: string | null;
    readonly replay: boolean;
    readonly expires_at: Time | null;
  };
  readonly accounts: readonly string[];
  readonly devices: readonly WhyDevice[];
  readonly sessions: readonly WhySession[];
}

export interface WhyDevice {
  readonly client_id: string;
  readonly verdict: string;
  readonly session_id: string | null;
  readonly sent_at: Time | null;
  readonly sent_after_ms: number | null;
  readonly sent_exact: boolean | null;
  readonly acked_at: Time | null;
  readonly acked_after_ms: number | null;
}

export interface WhySession {
  readonly session_id: string;
  readonly instance: string;
  readonly client_id: string;
  readonly transport: string;
  readonly account_ids: readonly string[];
  readonly from_seq: number;
  readonly sent_seq: number;
  readonly connected_at: Time;
  readonly ended_at: Time | null;
  readonly end_reason: string | null;
}

/** A line of `GET /api/admin/log`. */
export interface LogRow {
  readonly seq: number;
  readonly id: string;
  readonly type: string;
  readonly title: string;
  readonly message: string;
  readonly data: unknown;
  readonly created_at: Time;
  readonly user_ids: readonly string[] | null;
  readonly account_id: string | null;
  readonly broadcast: boolean;
  readonly source: string | null;
  readonly expires_at: Time | null;
  readonly replay: boolean;
  readonly bytes: number;
}

/** Other lines of the followed log. */
export interface LogSignal {
  readonly head?: number;
  readonly skipped?: { readonly from: number; readonly to: number };
  /** Why the hub ends the stream: `draining`, `unauthorized`, `reset` or `unavailable`. */
  readonly end?: string;
}

export interface Partition {
  readonly name: string;
  readonly lo: number;
  readonly hi: number;
  readonly rows: number;
  readonly bytes: number;
  readonly from: Time | null;
  readonly to: Time | null;
  readonly drops_at: Time | null;
}

export interface PartitionsAnswer {
  readonly log_id: string;
  readonly floor: number;
  readonly head: number;
  readonly earliest: number;
  readonly bytes: number;
  readonly partitions: readonly Partition[];
  readonly settings: { readonly [name: string]: unknown };
}

/** Counters of one instance since its start. */
export interface Counters {
  readonly appended: number;
  readonly delivered_live: number;
  readonly delivered_replayed: number;
  readonly acked: number;
  readonly connected: number;
  readonly disconnected: number;
  readonly slow: number;
  readonly refused: number;
  /** Absent: a hub of an earlier version. */
  readonly closed_no_pong?: number;
  readonly closed_slow?: number;
}

/** What an instance tells of itself with each sign of life. */
interface Report {
  readonly ready: boolean;
  readonly reasons: readonly string[];
  readonly draining: boolean;
  readonly counters: Counters;
  readonly gauges: {
    readonly connections: number;
    readonly max_lag: number;
    readonly head: number;
    readonly floor: number;
    readonly rss_bytes: number | null;
  };
  /** Posts up to each bound in seconds; `count` includes those above the last one. */
  readonly append_buckets: {
    readonly le: readonly number[];
    readonly counts: readonly number[];
    readonly count: number;
    readonly sum: number;
  };
  readonly upstream: { readonly [state: string]: number };
  readonly listen_reconnects: number;
}

interface InstanceRow {
  readonly instance: string;
  readonly address: string;
  readonly version: string;
  readonly started_at: Time;
  readonly seen_at: Time;
}

/** An instance that reports. */
export type ToldInstance = InstanceRow & Report;
/** Any instance; one of an earlier version reports nothing. */
export type InstanceSample = InstanceRow & { readonly [name in keyof Report]: Report[name] | null };

export const isTold = (one: InstanceSample): one is ToldInstance => one.counters !== null && one.gauges !== null;

/** One event of `GET /api/admin/live`. */
export interface Sample {
  readonly at: Time;
  readonly instances: readonly InstanceSample[];
}

export interface StoppedInstance {
  readonly instance: string;
  readonly address: string;
  readonly version: string;
  readonly started_at: Time;
  readonly stopped_at: Time;
  readonly clean: boolean;
}

export interface InstancesAnswer {
  readonly as_of: Time;
  readonly instances: readonly InstanceSample[];
  readonly stopped: readonly StoppedInstance[];
}

export interface UpstreamCommand {
  readonly command_id: string;
  readonly client_id: string;
  readonly id: string;
  readonly type: string;
  readonly state: string;
  readonly detail: string | null;
  readonly accepted_at: Time;
  readonly settled_at: Time | null;
}

export interface UpstreamSession {
  readonly provider: string;
  readonly user_id: string;
  readonly state: string;
  readonly is_live: boolean;
  readonly attempts: number;
  readonly owner: string | null;
  readonly term: number;
  readonly lease_until: Time | null;
  readonly wanted_until: Time | null;
  readonly next_try_at: Time | null;
  readonly connected_at: Time | null;
  readonly last_message_at: Time | null;
  readonly error: string | null;
  readonly asked: string | null;
  /** Null or absent: the request named no user. */
  readonly commands?: readonly UpstreamCommand[] | null;
}

export interface UpstreamAnswer {
  readonly sessions: readonly UpstreamSession[];
}

export interface Setting {
  readonly name: string;
  readonly value: unknown;
  readonly source: string;
  readonly secret: boolean;
}

export interface SettingsAnswer {
  readonly settings: readonly Setting[];
  readonly playground: boolean;
}

export interface Key {
  readonly name: string;
  readonly role: string;
  readonly scopes: unknown;
  readonly created_at: Time;
  readonly last_used_at: Time | null;
  readonly revoked_at: Time | null;
}

export interface Analyst {
  readonly name: string;
  /** Empty or null: the login reads everything. */
  readonly accounts: readonly string[] | null;
  readonly connections: number | null;
  readonly made_here: boolean;
}

export interface Act {
  readonly audit_id: number;
  readonly at: Time;
  readonly who: string;
  readonly login: string;
  readonly via: string;
  readonly address: string | null;
  readonly what: string;
  readonly object: string | null;
  readonly user_id: string | null;
  readonly outcome: string;
  readonly reason: string | null;
  readonly count: number;
  readonly details: unknown;
}

export interface AuditAnswer {
  readonly acts: readonly Act[];
  readonly next: number | null;
}

/** Answer to a post. */
export interface PostAnswer {
  readonly seq: number;
  readonly id: string;
  readonly created_at: Time;
  readonly duplicate: boolean;
}
