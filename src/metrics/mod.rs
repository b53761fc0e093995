//! Defines the metrics of a hub; each is counted where its event happens.
//!
//! The numbers belong to the process, from its start. `GET /metrics` shows all of them. `docs/reference/metrics.md`
//! explains each name, and a test compares the page with a hub's output.

mod histogram;
mod meter;
pub mod process;
mod requests;
mod text;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use histogram::{Histogram, HistogramVec};
pub use meter::{Counter, CounterVec, Gauge, GaugeVec, LabelledCounter, PairCounter};
pub use requests::{NO_ROUTE, RequestCounter};
pub use text::{MetricsFormat, MetricsText};

/// Seconds: from the commit of a fast disk to the deadline of a post.
const LATENCIES: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Seconds: a client may take longer to acknowledge than a post may take.
const ACK_LATENCIES: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Rows of a commit.
const ROWS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

pub static APPENDED: Counter = Counter::zero();
pub static DUPLICATES: Counter = Counter::zero();
pub static APPEND_SECONDS: Histogram = Histogram::new(LATENCIES);
/// Of one statement that appends and commits, as this hub waits for it.
pub static COMMIT_SECONDS: Histogram = Histogram::new(LATENCIES);
pub static COMMIT_ROWS: Histogram = Histogram::new(ROWS);
/// How many new connections one commit holds.
pub static CONNECT_ROWS: Histogram = Histogram::new(ROWS);
pub static NOT_APPENDED: CounterVec<5> = CounterVec::new(["other_body", "overloaded", "unacceptable", "unavailable", "unknown"]);
pub static REQUESTS: RequestCounter = RequestCounter::empty();
pub static REFUSED: LabelledCounter = LabelledCounter::empty();
/// Requests beyond a rate limit.
pub static OVER_BUDGET: CounterVec<9> =
    CounterVec::new(["command", "connect", "frame", "message", "page", "publish", "request", "ticket", "unknown_ticket"]);
pub static CREDENTIAL_LOOKUPS: CounterVec<3> = CounterVec::new(["key", "ticket", "unknown_ticket"]);
/// Checks of tokens, by outcome and algorithm.
pub static TOKENS: PairCounter = PairCounter::empty();
/// Refused sign-ins of every transport and of services, by reason, and refused tokens for an open WebSocket.
pub static SIGN_INS_REFUSED: CounterVec<20> = CounterVec::new([
    "bad_signature",
    "expired",
    "foreign_address",
    "foreign_origin",
    "identity_changed",
    "invalid_token",
    "keys_unavailable",
    "link_expired",
    "link_forged",
    "link_used",
    "no_credential",
    "revoked",
    "ticket_expired",
    "ticket_forged",
    "ticket_used",
    "unknown_key",
    "unknown_service_key",
    "wrong_audience",
    "wrong_issuer",
    "wrong_role",
]);
pub static JWKS_FETCHES: CounterVec<7> =
    CounterVec::new(["malformed", "no_usable_key", "ok", "status", "timeout", "too_large", "unreachable"]);
/// When the oldest key set in use was fetched. Unknown without an issuer that publishes a key set.
pub static JWKS_FETCHED: OldestFetch = OldestFetch::new();
pub static CONNECTIONS_DROPPED: CounterVec<6> =
    CounterVec::new(["address_connections", "address_handshakes", "full", "made_room", "proxy_header", "reserved"]);

pub static HEAD_SEEN: Gauge = Gauge::zero();
pub static DISPATCHED: Counter = Counter::zero();
pub static UNREADABLE: Counter = Counter::zero();
/// Rows of other hubs that a NOTIFY brought, so that they were not read.
pub static NOTIFIED: Counter = Counter::zero();
pub static SENT: CounterVec<2> = CounterVec::new(["live", "replayed"]);
/// Of these, the ones that were written into a socket without waking the connection's task.
pub static SENT_DIRECTLY: Counter = Counter::zero();
/// Pages of resuming streams and of the history, by the server that read them.
pub static PAST_READS: CounterVec<2> = CounterVec::new(["primary", "standby"]);
/// Measured by every hub, of all consumers.
pub static CONSUMERS_LAG: Measured = Measured::new(Duration::from_secs(60));
pub static CONSUMERS_STOPPED: Measured = Measured::new(Duration::from_secs(60));
/// Rows that consumers fetched, also those that came again.
pub static CONSUMED: Counter = Counter::zero();
/// Attempts to post to the addresses of webhooks, by outcome.
pub static WEBHOOK_POSTS: CounterVec<4> = CounterVec::new(["accepted", "dead", "failed", "gone"]);
/// Changes of inboxes and preferences that clients asked this hub for, by outcome.
pub static INBOX_CHANGES: CounterVec<4> = CounterVec::new(["done", "failed", "refused", "unchanged"]);
/// Of one statement that counts an inbox, as this hub waits for it.
pub static INBOX_COUNT_SECONDS: Histogram = Histogram::new(LATENCIES);
/// Measured by every hub, of all webhooks.
pub static WEBHOOKS_LAG: Measured = Measured::new(Duration::from_secs(60));
pub static WEBHOOKS_DEAD: Measured = Measured::new(Duration::from_secs(60));
pub static WEBHOOKS_STOPPED: Measured = Measured::new(Duration::from_secs(60));
/// Of notifications that were posted to this hub, so that one clock measures.
pub static POST_TO_SOCKET_SECONDS: Histogram = Histogram::new(LATENCIES);
pub static POST_TO_ACK_SECONDS: Histogram = Histogram::new(ACK_LATENCIES);
pub static FELL_BEHIND: Counter = Counter::zero();
pub static ACKS: Counter = Counter::zero();
pub static CONNECTED: LabelledCounter = LabelledCounter::empty();
pub static DISCONNECTED: LabelledCounter = LabelledCounter::empty();
pub static LISTENER_REPLACED: Counter = Counter::zero();
pub static CONNECTIONS_REPLACED: Counter = Counter::zero();
/// How long a call waited for a connection of its pool, the opening of a new one included.
pub static DATABASE_WAIT_SECONDS: HistogramVec<7> = HistogramVec::new(
    ["commands", "consumers", "keys", "reader", "standby reader", "tickets", "webhooks"],
    [const { Histogram::new(LATENCIES) }; 7],
);

pub static MOVES: Gauge = Gauge::zero();
pub static MOVED: Counter = Counter::zero();
pub static MOVE_REFUSED: Counter = Counter::zero();
/// Measured by every hub. Unknown for a long time does not mean zero.
pub static OUTBOX_LAG: Measured = Measured::new(Duration::from_secs(10));

pub static RETENTION: LabelledCounter = LabelledCounter::empty();

pub static LOG_DROPPED: CounterVec<2> = CounterVec::new(["queue_full", "unwritable"]);

/// Spans that did not reach the collector.
pub static OTEL_FAILED: CounterVec<2> = CounterVec::new(["export", "queue_full"]);

pub static UPSTREAM_SESSIONS: GaugeVec<5> = GaugeVec::new(["waiting", "signing_in", "connecting", "live", "backing_off"]);
pub static UPSTREAM_CLAIMED: CounterVec<2> = CounterVec::new(["free", "taken_over"]);
pub static UPSTREAM_STARTS: Counter = Counter::zero();
pub static UPSTREAM_SIGN_INS: CounterVec<3> = CounterVec::new(["signed_in", "refused", "later"]);
pub static UPSTREAM_MESSAGES: Counter = Counter::zero();
pub static UPSTREAM_TOO_LARGE: Counter = Counter::zero();
pub static UPSTREAM_FENCED: Counter = Counter::zero();
pub static UPSTREAM_COMMANDS: CounterVec<5> = CounterVec::new(["accepted", "sent", "rejected", "failed", "unknown"]);

/// A value that is measured from time to time.
#[derive(Debug)]
pub struct Measured {
    last: Mutex<Option<(f64, Instant)>>,
    /// An older value is not shown.
    good_for: Duration,
}

impl Measured {
    const fn new(good_for: Duration) -> Self {
        Self { last: Mutex::new(None), good_for }
    }

    fn inside(&self) -> MutexGuard<'_, Option<(f64, Instant)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, value: f64) {
        *self.inside() = Some((value, Instant::now()));
    }

    pub fn forget(&self) {
        *self.inside() = None;
    }

    /// The value; `None` if it is unknown.
    fn get(&self) -> Option<f64> {
        self.inside().filter(|(_, at)| at.elapsed() < self.good_for).map(|(value, _)| value)
    }
}

/// The time of the last successful fetch of each key set, by the name of its issuer.
#[derive(Debug)]
pub struct OldestFetch(Mutex<BTreeMap<String, Instant>>);

impl OldestFetch {
    const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    pub fn fetched(&self, issuer: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(issuer.to_owned(), Instant::now());
    }

    /// Seconds since the oldest of the last fetches.
    fn age(&self) -> Option<f64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().min().map(|at| at.elapsed().as_secs_f64())
    }
}

/// Writes all metrics of this module.
pub fn write(page: &mut MetricsText) {
    page.counter("recado_appended_total", "Notifications that were posted to this hub and appended.", APPENDED.get() as f64);
    page.counter("recado_duplicates_total", "Posts whose idempotency key was used before with the same body.", DUPLICATES.get() as f64);
    page.histogram("recado_append_seconds", "Time from the request of a post to its commit, in seconds.", &APPEND_SECONDS);
    page.histogram("recado_commit_seconds", "Time of a statement that appends, with its commit, in seconds.", &COMMIT_SECONDS);
    page.histogram("recado_commit_rows", "Notifications in one commit.", &COMMIT_ROWS);
    page.histogram("recado_connect_rows", "New connections in one commit.", &CONNECT_ROWS);
    page.counters("recado_not_appended_total", "Posts that were not appended, by reason.", "reason", &NOT_APPENDED.all());
    let requests: Vec<_> =
        REQUESTS.all().into_iter().map(|(route, status, count)| ([route.to_owned(), status.to_string()], count as f64)).collect();
    page.pairs("recado_requests_total", "HTTP requests that were answered, by route and status.", ["route", "status"], &requests);
    page.counters("recado_refused_total", "HTTP requests that were refused, by the code of the problem.", "code", &REFUSED.all());
    page.counters(
        "recado_over_budget_total",
        "Times that a rate limit was exceeded. Pages and frames wait; other requests are refused.",
        "what",
        &OVER_BUDGET.all(),
    );
    page.counters(
        "recado_connections_dropped_total",
        "TCP connections that were dropped on arrival, or closed to make room for another.",
        "reason",
        &CONNECTIONS_DROPPED.all(),
    );
    page.counters(
        "recado_credential_lookups_total",
        "Database statements that looked up tickets or service keys.",
        "kind",
        &CREDENTIAL_LOOKUPS.all(),
    );
    page.pairs("recado_tokens_total", "Tokens that were checked, by outcome and algorithm.", ["outcome", "alg"], &TOKENS.all());
    page.counters(
        "recado_sign_ins_refused_total",
        "Sign-ins of users and services that were refused, by reason.",
        "reason",
        &SIGN_INS_REFUSED.all(),
    );
    page.counters("recado_jwks_fetches_total", "Fetches of key sets, by outcome.", "outcome", &JWKS_FETCHES.all());
    page.gauge_if_known(
        "recado_jwks_age_seconds",
        "Time since the last successful fetch of a key set; with several issuers, of the oldest set.",
        JWKS_FETCHED.age(),
    );

    page.counter("recado_dispatched_total", "Notifications that this hub dispatched to its connections.", DISPATCHED.get() as f64);
    page.counter(
        "recado_notified_total",
        "Of the dispatched, notifications of other hubs that came with a NOTIFY and were not read from the table.",
        NOTIFIED.get() as f64,
    );
    page.counter("recado_unreadable_rows_total", "Rows of the log that break its rules and were skipped.", UNREADABLE.get() as f64);
    page.counters("recado_sent_total", "Notifications that were delivered to clients.", "how", &SENT.all());
    page.counter(
        "recado_sent_directly_total",
        "Notifications that were written to clients without waking the tasks of their connections.",
        SENT_DIRECTLY.get() as f64,
    );
    page.histogram(
        "recado_post_to_socket_seconds",
        "Time from a post to this hub until a live connection of this hub was given the notification, in seconds.",
        &POST_TO_SOCKET_SECONDS,
    );
    page.histogram(
        "recado_post_to_ack_seconds",
        "Time from a post to this hub until a client of this hub acknowledged that number, in seconds.",
        &POST_TO_ACK_SECONDS,
    );
    page.counters("recado_past_reads_total", "Pages of the past that were read, by server.", "source", &PAST_READS.all());
    page.gauge_if_known(
        "recado_consumers_lag_seconds",
        "Age of the oldest notification after the position of a consumer, over all consumers.",
        CONSUMERS_LAG.get(),
    );
    page.gauge_if_known(
        "recado_consumers_stopped",
        "Consumers whose position is of another log, or before the rows that are kept.",
        CONSUMERS_STOPPED.get(),
    );
    page.counters(
        "recado_inbox_changes_total",
        "Changes of inboxes and preferences that clients asked this hub for, by outcome.",
        "outcome",
        &INBOX_CHANGES.all(),
    );
    page.histogram("recado_inbox_count_seconds", "Time of a statement that counts an inbox, in seconds.", &INBOX_COUNT_SECONDS);
    page.counter("recado_consumed_total", "Rows that consumers fetched from this hub, repeats included.", CONSUMED.get() as f64);
    page.counters(
        "recado_webhook_posts_total",
        "Attempts of this hub to post to webhooks, by outcome. dead: the last attempt failed. gone: 410.",
        "outcome",
        &WEBHOOK_POSTS.all(),
    );
    page.gauge_if_known(
        "recado_webhooks_lag_seconds",
        "Time for which the oldest notification of a webhook has been due, over all active webhooks.",
        WEBHOOKS_LAG.get(),
    );
    page.gauge_if_known("recado_webhooks_dead", "Dead letters of all webhooks.", WEBHOOKS_DEAD.get());
    page.gauge_if_known(
        "recado_webhooks_stopped",
        "Webhooks that are disabled, or whose position is of another log.",
        WEBHOOKS_STOPPED.get(),
    );
    page.counter(
        "recado_fell_behind_total",
        "Times that a client was too slow for live delivery and returned to replay.",
        FELL_BEHIND.get() as f64,
    );
    page.counter("recado_acks_total", "Acknowledgements that moved a position.", ACKS.get() as f64);
    page.counters("recado_connected_total", "Connections that were accepted.", "transport", &CONNECTED.all());
    page.counters("recado_disconnected_total", "Connections that ended.", "reason", &DISCONNECTED.all());
    page.counter(
        "recado_listener_replaced_total",
        "Times that the LISTEN connection was lost and replaced.",
        LISTENER_REPLACED.get() as f64,
    );
    page.counters("recado_log_dropped_total", "Lines of the hub's own log that were dropped.", "reason", &LOG_DROPPED.all());
    page.counters("recado_otel_failed_total", "Spans that did not reach the collector of traces, by reason.", "reason", &OTEL_FAILED.all());
    page.counter(
        "recado_database_connections_replaced_total",
        "Idle database connections that had died and were replaced before a statement was sent.",
        CONNECTIONS_REPLACED.get() as f64,
    );
    page.histograms(
        "recado_database_wait_seconds",
        "Time that a call waited for a database connection of its pool, in seconds.",
        "pool",
        DATABASE_WAIT_SECONDS.all(),
    );

    page.gauge("recado_outbox_moves", "1: this hub relays the SQL outbox into the log. 0: another hub does.", MOVES.get() as f64);
    page.counter("recado_outbox_moved_total", "Notifications from SQL that this hub moved into the log.", MOVED.get() as f64);
    page.counter("recado_outbox_refused_total", "Notifications from SQL that the log refused.", MOVE_REFUSED.get() as f64);
    page.gauge_if_known(
        "recado_outbox_lag_seconds",
        "Age of the oldest committed outbox row, whichever hub relays. Absent while it cannot be measured.",
        OUTBOX_LAG.get(),
    );
    page.counters("recado_forgotten_total", "Rows and partitions that retention of this hub removed, by kind.", "what", &RETENTION.all());

    page.gauges("recado_upstream_sessions", "Provider sessions that this hub holds, by state.", "state", &UPSTREAM_SESSIONS.all());
    page.counters(
        "recado_upstream_claimed_total",
        "Provider sessions that this hub claimed: free ones, or ones of a lost hub.",
        "how",
        &UPSTREAM_CLAIMED.all(),
    );
    page.counter("recado_upstream_starts_total", "Sign-ins and provider connections that were started.", UPSTREAM_STARTS.get() as f64);
    page.counters("recado_upstream_sign_ins_total", "Sign-ins that ended, by outcome.", "outcome", &UPSTREAM_SIGN_INS.all());
    page.counter("recado_upstream_messages_total", "Provider messages that this hub appended.", UPSTREAM_MESSAGES.get() as f64);
    page.counter(
        "recado_upstream_too_large_total",
        "Provider messages that were too large for the log. The user gets upstream_gap instead.",
        UPSTREAM_TOO_LARGE.get() as f64,
    );
    page.counter(
        "recado_upstream_fenced_total",
        "Provider messages that were not appended because another hub owned the session.",
        UPSTREAM_FENCED.get() as f64,
    );
    page.counters(
        "recado_upstream_commands_total",
        "Commands that this hub stored (accepted) or settled.",
        "state",
        &UPSTREAM_COMMANDS.all(),
    );
}
