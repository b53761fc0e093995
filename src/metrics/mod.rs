//! What a hub counts. Whoever does the thing counts it, by one line; `GET /metrics` shows all of it.
//!
//! The numbers belong to the process, from its start: a hub is a process. `docs/metrics.md` has each name with its meaning,
//! and a test compares it with what a hub says.

mod meter;
mod text;

use std::sync::Mutex;
use std::time::{Duration, Instant};

pub use meter::{Counter, Counters, Gauge, Gauges, Histogram, Tally};
pub use text::{MEDIA_TYPE, Page};

/// Seconds: from a quick disk's commit to the deadline of a post.
const LATENCIES: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Rows of a commit.
const ROWS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

pub static APPENDED: Counter = Counter::zero();
pub static DUPLICATES: Counter = Counter::zero();
pub static APPEND_SECONDS: Histogram = Histogram::new(LATENCIES);
pub static COMMIT_ROWS: Histogram = Histogram::new(ROWS);
pub static NOT_APPENDED: Counters<5> = Counters::new(["other_body", "overloaded", "unacceptable", "unavailable", "unknown"]);
pub static REFUSED: Tally = Tally::empty();

pub static HEAD_SEEN: Gauge = Gauge::zero();
pub static PUBLISHED: Counter = Counter::zero();
pub static SENT: Counters<2> = Counters::new(["live", "replayed"]);
pub static FELL_BEHIND: Counter = Counter::zero();
pub static ACKS: Counter = Counter::zero();
pub static CONNECTED: Tally = Tally::empty();
pub static DISCONNECTED: Tally = Tally::empty();
pub static LISTENER_REPLACED: Counter = Counter::zero();

pub static MOVES: Gauge = Gauge::zero();
pub static MOVED: Counter = Counter::zero();
pub static MOVE_REFUSED: Counter = Counter::zero();
pub static MOVED_ALL: Since = Since::new();

pub static RETENTION: Tally = Tally::empty();

pub static UPSTREAM_SESSIONS: Gauges<5> = Gauges::new(["waiting", "signing_in", "connecting", "live", "backing_off"]);
pub static UPSTREAM_CLAIMED: Counters<2> = Counters::new(["free", "taken_over"]);
pub static UPSTREAM_STARTS: Counter = Counter::zero();
pub static UPSTREAM_SIGN_INS: Counters<3> = Counters::new(["signed_in", "refused", "later"]);
pub static UPSTREAM_MESSAGES: Counter = Counter::zero();
pub static UPSTREAM_FENCED: Counter = Counter::zero();
pub static UPSTREAM_COMMANDS: Counters<5> = Counters::new(["accepted", "sent", "rejected", "failed", "unknown"]);

/// How long ago something happened last.
#[derive(Debug)]
pub struct Since(Mutex<Option<Instant>>);

impl Since {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    pub fn now(&self) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now());
    }

    /// Zero: it never has.
    fn age(&self) -> Duration {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Duration::ZERO, |at| at.elapsed())
    }
}

/// Writes all that is counted here.
pub fn write(page: &mut Page) {
    page.counter("recado_appended_total", "Notifications that were posted to this hub and appended.", APPENDED.get());
    page.counter("recado_duplicates_total", "Posts whose idempotency key was known with the same body.", DUPLICATES.get());
    page.histogram("recado_append_seconds", "From a post's request to its commit, in seconds.", &APPEND_SECONDS);
    page.histogram("recado_commit_rows", "Notifications in one commit.", &COMMIT_ROWS);
    page.counters("recado_not_appended_total", "Requests to append that ended otherwise.", "reason", &NOT_APPENDED.all());
    page.counters("recado_refused_total", "HTTP requests that were answered with a problem, by its code.", "code", &REFUSED.all());

    page.counter("recado_published_total", "Notifications that were handed to the connections of this hub.", PUBLISHED.get());
    page.counters("recado_sent_total", "Notifications that were given to clients.", "how", &SENT.all());
    page.counter(
        "recado_fell_behind_total",
        "Times that a client was too slow for live delivery and read on from the table.",
        FELL_BEHIND.get(),
    );
    page.counter("recado_acks_total", "Acknowledgements that moved a client's place.", ACKS.get());
    page.counters("recado_connected_total", "Connections that were let in.", "transport", &CONNECTED.all());
    page.counters("recado_disconnected_total", "Connections that ended.", "reason", &DISCONNECTED.all());
    page.counter("recado_listener_replaced_total", "Times that the LISTEN connection was lost and made anew.", LISTENER_REPLACED.get());

    page.gauge("recado_outbox_moves", "1: this hub moves what SQL callers wrote into the log; 0: another one does.", MOVES.get() as f64);
    page.counter("recado_outbox_moved_total", "Notifications of SQL callers that this hub moved.", MOVED.get());
    page.counter("recado_outbox_refused_total", "Notifications of SQL callers that the log refused.", MOVE_REFUSED.get());
    let age = if MOVES.get() == 1 { MOVED_ALL.age().as_secs_f64() } else { 0.0 };
    page.gauge("recado_outbox_lag_seconds", "How long ago everything committed had been moved; 0 where another hub moves.", age);
    page.counters("recado_forgotten_total", "What retention of this hub has dropped.", "what", &RETENTION.all());

    page.gauges("recado_upstream_sessions", "Sessions with providers that this hub holds.", "state", &UPSTREAM_SESSIONS.all());
    page.counters(
        "recado_upstream_claimed_total",
        "Sessions that this hub took, free or left behind by a hub that was lost.",
        "how",
        &UPSTREAM_CLAIMED.all(),
    );
    page.counter("recado_upstream_starts_total", "Sign-ins and connections to providers that were begun.", UPSTREAM_STARTS.get());
    page.counters("recado_upstream_sign_ins_total", "Sign-ins that ended.", "outcome", &UPSTREAM_SIGN_INS.all());
    page.counter("recado_upstream_messages_total", "Messages of providers that this hub appended.", UPSTREAM_MESSAGES.get());
    page.counter(
        "recado_upstream_fenced_total",
        "Messages of providers that were not appended because the session was another hub's.",
        UPSTREAM_FENCED.get(),
    );
    page.counters(
        "recado_upstream_commands_total",
        "Commands of users that this hub stored (accepted) or settled.",
        "state",
        &UPSTREAM_COMMANDS.all(),
    );
}
