//! Moves the outbox into the log, in the order of the calls, on one instance.
//!
//! The instance that moves has a lease ([`lease`]), renewed every second or two; the others ask for it when it ends,
//! and every two seconds. A second relay, such as one that was frozen past its lease, does no harm:
//! `recado.outbox_move` has its own lock, and commits the moved rows together with its position. So no outcome needs to
//! be known here: after any failure the next look starts from the stored state. The commit wakes every instance's
//! tailer, as any append does.
//!
//! While rows arrive, the relay looks every 5 ms, and callers do not wake it: a NOTIFY would make all callers commit
//! one after the other. After some seconds without a row it sleeps, and the next caller wakes it
//! ([`super::relay_sleep`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::relay_sleep::{DOZE_STEP, DozeStep, RelaySleep};
use super::write_health::WriteHealth;
use crate::backoff::{Backoff, jitter};
use crate::domain::{CommitOrigin, InstanceId, LogId};
use crate::metrics;
use crate::store::append::{self, AppendFailure};
use crate::store::dedicated_connection::DedicatedConnection;
use crate::store::log_watermark::LogWatermark;
use crate::store::outbox::{self, RelayedRows};
use crate::store::outbox_calls::OutboxCalls;
use crate::store::{Database, StoreError, lease, read};
use crate::tasks::Stop;

/// Interval between looks while rows arrive.
const BUSY: Duration = Duration::from_millis(5);
/// Longest interval between looks while awake.
const IDLE: Duration = Duration::from_millis(80);
/// The outbox counts as busy for this long after its last row.
const STAYS_BUSY: Duration = Duration::from_secs(1);
/// Interval between renewals of the lease, and between looks at waiting rows, while awake.
const TURN: Duration = Duration::from_secs(1);
/// The same while asleep, and for an instance without the lease. A row whose NOTIFY is lost waits for as long. A lease
/// outlives one renewal that is late by a statement's limit.
const SLOW_TURN: Duration = Duration::from_secs(2);
/// The lease of another instance is requested up to this time after its end, so that several do not ask at once.
const AFTER_LEASE: Duration = Duration::from_millis(200);
/// Another instance takes over after this time when the holder of the lease is gone.
const LEASE: Duration = Duration::from_secs(5);
const LEASE_NAME: &str = "outbox";
/// Most rows of one move, as of one append.
const MOVE_ROWS: i32 = 1000;
/// Interval between attempts to empty partitions.
const TIDY: Duration = Duration::from_secs(5);
/// The same while there is nothing to empty: refused rows expire as well.
const TIDY_IDLE: Duration = Duration::from_secs(60);
/// Interval between whole looks while asleep. A whole look also finds old transactions and records how far the relay
/// is.
const LOOK_ASLEEP: Duration = Duration::from_secs(20);
/// After this time without a row, the partition in use is emptied as well.
const QUIET: Duration = Duration::from_secs(30);
/// A writing transaction that is open for longer is logged.
const OLD_TRANSACTION: Duration = Duration::from_secs(60);

/// The task that moves the outbox, or waits for the lease.
pub struct OutboxRelay {
    dedicated: DedicatedConnection,
    seen: Arc<LogWatermark>,
    /// Neither this instance's own origin, whose rows its tailer expects from the appender, nor that of an appender,
    /// for whose commit turn other instances would wait.
    origin: CommitOrigin,
    holder: Uuid,
    work: Arc<WriteHealth>,
    leads: bool,
    calls: Arc<OutboxCalls>,
    sleep: RelaySleep,
    /// When the lease was requested or renewed last, and when it is next.
    asked_at: Instant,
    ask_at: Instant,
    /// The last whole look.
    looked_at: Instant,
    /// Rows of the next move. Halved when a move does not finish in time.
    rows: i32,
    wait: Duration,
    last_row: Instant,
    tidied: Instant,
    /// Whether rows were moved since everything was emptied.
    is_used: bool,
    old: Option<OldTransaction>,
    backoff: Backoff,
}

struct OldTransaction {
    number: String,
    since: Instant,
    is_named: bool,
}

impl OutboxRelay {
    /// `work` receives the oldest waiting row. `calls` gives what the listener hears.
    pub fn new(database: Database, seen: Arc<LogWatermark>, work: Arc<WriteHealth>, calls: Arc<OutboxCalls>) -> Self {
        let now = Instant::now();
        Self {
            dedicated: DedicatedConnection::new(database, "outbox relay"),
            seen,
            origin: CommitOrigin::OutboxRelay(InstanceId::new()),
            holder: InstanceId::new().0,
            work,
            leads: false,
            calls,
            sleep: RelaySleep::new(now),
            asked_at: now,
            ask_at: now,
            looked_at: now,
            rows: MOVE_ROWS,
            wait: BUSY,
            last_row: now,
            tidied: now,
            is_used: true,
            old: None,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
        }
    }

    /// Runs until stopped. A move that has begun is finished.
    pub async fn run(mut self, mut stop: Stop) {
        loop {
            let wait = match self.step().await {
                Ok(wait) => {
                    self.backoff.succeeded();
                    wait
                }
                Err(error) => {
                    tracing::warn!(%error, "outbox relay failed; retrying");
                    self.dedicated.discard();
                    self.follow(Instant::now());
                    self.backoff.failed()
                }
            };
            tokio::select! {
                biased;
                () = stop.wait() => break,
                // A relay that polls anyway needs no call.
                () = self.calls.called(), if !self.leads || !self.sleep.is_awake() => self.called(),
                () = tokio::time::sleep(wait) => {}
            }
        }
        if self.leads
            && let Ok(connection) = self.dedicated.get().await
        {
            let _ = lease::give_back(connection, LEASE_NAME, self.holder).await;
        }
    }

    /// A caller has committed a row, or the lease of another instance was given back.
    fn called(&mut self) {
        let now = Instant::now();
        if self.leads {
            self.sleep.wake(now);
        } else {
            // Any login of the database can send the NOTIFY.
            self.ask_at = self.ask_at.min(now.max(self.asked_at + AFTER_LEASE));
        }
    }

    /// Another instance moves, or may. The lease is requested at `ask_at`.
    fn follow(&mut self, ask_at: Instant) {
        self.leads = false;
        self.ask_at = ask_at;
        self.sleep.follow(Instant::now());
        metrics::MOVES.set(0);
    }

    /// Looks once. Returns how long to wait before the next look.
    async fn step(&mut self) -> Result<Duration, StoreError> {
        if Instant::now() < self.ask_at && !self.leads {
            return Ok(self.ask_at.saturating_duration_since(Instant::now()));
        }
        if Instant::now() >= self.ask_at {
            let was_leading = self.leads;
            let asked = self.ask().await;
            if asked.is_err() {
                // The result of an earlier look is outdated.
                self.work.waits(None);
                metrics::OUTBOX_LAG.forget();
            }
            if !asked? {
                self.follow(self.ask_at);
                return Ok(self.ask_at.saturating_duration_since(Instant::now()));
            }
            if !was_leading {
                self.take_over().await?;
            }
        }
        let look_at = self.looked_at + if self.is_used { TIDY } else { LOOK_ASLEEP };
        if self.sleep.is_awake() || Instant::now() >= look_at {
            return self.look().await;
        }
        if self.sleep.is_asleep() {
            return Ok(look_at.min(self.ask_at).saturating_duration_since(Instant::now()));
        }
        self.doze().await
    }

    /// Renews or requests the lease, and looks at waiting rows, whichever instance moves them.
    async fn ask(&mut self) -> Result<bool, StoreError> {
        let turn = outbox::turn(self.dedicated.get().await?, self.holder, LEASE).await?;
        self.work.waits(turn.waiting.map(|waiting| waiting.place));
        metrics::OUTBOX_LAG.set(turn.waiting.map_or(0.0, |waiting| waiting.age_seconds));
        self.asked_at = Instant::now();
        if !turn.is_ours {
            let left = Duration::try_from_secs_f64(turn.left_seconds.max(0.0)).unwrap_or(SLOW_TURN);
            self.ask_at = self.asked_at + (left + jitter(AFTER_LEASE)).min(SLOW_TURN * 3 / 4 + jitter(SLOW_TURN / 4));
            return Ok(false);
        }
        self.sleep.compare(turn.is_asleep, self.asked_at);
        if turn.waiting.is_some() && !self.sleep.is_awake() {
            self.sleep.wake(self.asked_at);
        }
        self.ask_at = self.asked_at + if self.sleep.is_awake() { TURN } else { SLOW_TURN };
        Ok(true)
    }

    /// Moves what there is, then ends an announced sleep: the row that woke the relay comes first.
    async fn look(&mut self) -> Result<Duration, StoreError> {
        self.looked_at = Instant::now();
        let (log_id, end) = self.seen.end();
        let moving = outbox::move_rows(self.dedicated.get().await?, end, self.origin, self.rows);
        let wait = match moving.await {
            Ok(moved) => self.moved(moved).await?,
            Err(failure) => self.failed(failure, log_id).await?,
        };
        if self.sleep.must_end() {
            outbox::end_sleep(self.dedicated.get().await?, self.holder).await?;
            self.sleep.ended();
        }
        Ok(wait)
    }

    /// Looks whether the announced sleep can begin.
    async fn doze(&mut self) -> Result<Duration, StoreError> {
        let Some(announced) = self.sleep.dozing().cloned() else { return Ok(Duration::ZERO) };
        let seen = outbox::doze(self.dedicated.get().await?, &announced.bound).await?;
        let has_heard = self.calls.has_heard(announced.number);
        Ok(match self.sleep.dozed(seen, has_heard, Instant::now()) {
            DozeStep::Look => Duration::ZERO,
            DozeStep::Wait => DOZE_STEP,
            DozeStep::Sleep => {
                tracing::debug!("outbox relay sleeps until a caller wakes it");
                self.ask_at.saturating_duration_since(Instant::now())
            }
            DozeStep::Deaf => {
                tracing::debug!("outbox relay does not hear its own NOTIFY; it polls on");
                Duration::ZERO
            }
        })
    }

    /// Announces the sleep of a relay that has had nothing to do.
    async fn announce(&mut self) -> Result<(), StoreError> {
        self.calls.forget().await;
        let announced = outbox::announce_sleep(self.dedicated.get().await?, self.holder).await?;
        self.sleep.announced(announced, Instant::now());
        Ok(())
    }

    async fn take_over(&mut self) -> Result<(), StoreError> {
        if outbox::adopt(self.dedicated.get().await?).await? {
            tracing::warn!("database was copied from another cluster; took over the rows in its outbox");
        }
        tracing::info!("this instance runs the outbox relay now");
        self.leads = true;
        metrics::MOVES.set(1);
        Ok(())
    }

    async fn moved(&mut self, moved: RelayedRows) -> Result<Duration, StoreError> {
        let now = Instant::now();
        metrics::MOVED.add(usize::try_from(moved.rows).unwrap_or(0).saturating_sub(moved.refused.len()));
        metrics::MOVE_REFUSED.add(moved.refused.len());
        if !moved.refused.is_empty() {
            let ids: Vec<String> = moved.refused.iter().map(ToString::to_string).collect();
            tracing::warn!(ids = ids.join(" "), "notifications of SQL callers were refused; see recado.outbox_refused");
        }
        if moved.rows > 0 {
            (self.last_row, self.is_used) = (now, true);
            self.sleep.wake(now);
        }
        if moved.is_more {
            self.rows = (self.rows * 2).min(MOVE_ROWS);
            return Ok(Duration::ZERO);
        }
        self.rows = MOVE_ROWS;
        self.look_for_old(moved.oldest_running).await?;
        if now.duration_since(self.tidied) >= if self.is_used { TIDY } else { TIDY_IDLE } {
            self.tidied = now;
            self.tidy().await?;
        }
        if !self.sleep.is_awake() {
            return Ok(DOZE_STEP);
        }
        self.wait = if self.sleep.idle_for(now) < STAYS_BUSY { BUSY } else { (self.wait * 2).min(IDLE) };
        if self.sleep.is_due(now) {
            self.announce().await?;
        }
        Ok(self.wait)
    }

    async fn tidy(&mut self) -> Result<(), StoreError> {
        let quiet = self.last_row.elapsed() >= QUIET;
        let emptied = outbox::tidy(self.dedicated.get().await?, quiet).await?;
        if emptied > 0 {
            tracing::debug!(emptied, "emptied partitions of the outbox");
        }
        // Another round is due as long as a transaction was in the way.
        self.is_used = !quiet || emptied > 0;
        Ok(())
    }

    async fn failed(&mut self, failure: AppendFailure, log_id: LogId) -> Result<Duration, StoreError> {
        match failure {
            AppendFailure::LogWentBack(error) => {
                tracing::error!(%error, "log was truncated or restored; giving it a new id and moving the outbox to its present head");
                read::start_over(self.dedicated.get().await?, &self.seen, log_id).await?;
                Ok(Duration::ZERO)
            }
            AppendFailure::Again(StoreError::Broken(_)) => {
                append::ensure_partitions(self.dedicated.get().await?, append::PARTITIONS_LIMIT).await?;
                Ok(BUSY)
            }
            AppendFailure::Again(error) | AppendFailure::Unknown(error) | AppendFailure::Refused(error) => {
                // A move that did not finish may do so with fewer rows.
                self.rows = (self.rows / 2).max(1);
                Err(error)
            }
            AppendFailure::OtherBodies(_) => Ok(BUSY),
        }
    }

    /// Logs a transaction that is left open: its own notifications wait for its end, and so does the emptying.
    async fn look_for_old(&mut self, running: Option<String>) -> Result<(), StoreError> {
        match (&mut self.old, running) {
            (_, None) => self.old = None,
            (Some(old), Some(number)) if old.number == number => {
                if old.since.elapsed() >= OLD_TRANSACTION && !old.is_named {
                    old.is_named = true;
                    let process = outbox::process_of(self.dedicated.get().await?, &number).await?;
                    tracing::warn!(
                        transaction = number,
                        ?process,
                        "writing transaction open for over a minute; it delays only its own notifications, but the outbox grows"
                    );
                }
            }
            (old, Some(number)) => *old = Some(OldTransaction { number, since: Instant::now(), is_named: false }),
        }
        Ok(())
    }
}
