//! The mover: one instance at a time moves the outbox into the log, in the order of the calls.
//!
//! Who moves has a lock of its session; the others ask for it each second. A second mover, such as one whose connection
//! is believed dead and is not, does no harm: `recado.outbox_move` has a lock of its own, and what it moved and how far
//! it is are one commit. So no outcome needs to be known here: after any failure the next look starts from what is
//! written. The commit wakes every instance's tailer as any append does.
//!
//! There is no wake-up from the caller: a NOTIFY would make all callers commit one after the other. While rows come,
//! the mover looks every 5 ms, else less and less often.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::append::{self, Failure};
use super::lane::Lane;
use super::outbox::{self, Moved};
use super::seen::Seen;
use super::{Database, StoreError, read};
use crate::backoff::{Backoff, jitter};
use crate::domain::{InstanceId, LogId};
use crate::metrics;
use crate::tasks::Stop;

/// Between two looks while rows come.
const BUSY: Duration = Duration::from_millis(5);
/// Between two looks at most.
const IDLE: Duration = Duration::from_millis(80);
/// So long after the last row it counts as busy.
const STAYS_BUSY: Duration = Duration::from_secs(1);
/// Between two tries to become the mover.
const CANDIDATE: Duration = Duration::from_secs(1);
/// Most rows of one move, as of one append.
const MOVE_ROWS: i32 = 1000;
/// Between two looks at what can be emptied.
const TIDY: Duration = Duration::from_secs(5);
/// The same while there is nothing to empty: refused rows get old as well.
const TIDY_IDLE: Duration = Duration::from_secs(60);
/// After this time without a row, the partition in use is emptied as well.
const QUIET: Duration = Duration::from_secs(30);
/// A transaction that writes for longer is named in the log.
const OLD_TRANSACTION: Duration = Duration::from_secs(60);

/// The task that moves the outbox, or waits to.
pub struct Mover {
    lane: Lane,
    seen: Arc<Seen>,
    /// Not this instance's own, whose rows its tailer expects by the short way; and no appender's, for whom others would wait.
    origin: String,
    leads: bool,
    /// Rows of the next move. Halved where a move is refused, until the row at fault stands alone.
    rows: i32,
    set_aside: bool,
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

impl Mover {
    pub fn new(database: Database, seen: Arc<Seen>) -> Self {
        let now = Instant::now();
        Self {
            lane: Lane::new(database, "mover"),
            seen,
            origin: format!("{}/outbox", InstanceId::new()),
            leads: false,
            rows: MOVE_ROWS,
            set_aside: false,
            wait: BUSY,
            last_row: now,
            tidied: now,
            is_used: true,
            old: None,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
        }
    }

    /// Runs until stopped. A move that was begun is finished.
    pub async fn run(mut self, mut stop: Stop) {
        loop {
            let wait = match self.step().await {
                Ok(wait) => {
                    self.backoff.succeeded();
                    wait
                }
                Err(error) => {
                    tracing::warn!(%error, "the outbox is not moved for now");
                    // The lock goes with the connection.
                    self.lane.discard();
                    self.leads = false;
                    metrics::MOVES.set(0);
                    self.backoff.failed()
                }
            };
            tokio::select! {
                biased;
                () = stop.wait() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One look; says how long to wait for the next.
    async fn step(&mut self) -> Result<Duration, StoreError> {
        if !self.leads && !self.take_over().await? {
            return Ok(CANDIDATE / 2 + jitter(CANDIDATE / 2));
        }
        let (log_id, end) = self.seen.end();
        let moving = outbox::move_rows(self.lane.get().await?, end, &self.origin, self.rows, self.set_aside);
        match moving.await {
            Ok(moved) => self.moved(moved).await,
            Err(failure) => self.failed(failure, log_id).await,
        }
    }

    async fn take_over(&mut self) -> Result<bool, StoreError> {
        let connection = self.lane.get().await?;
        if !outbox::lead(connection).await? {
            return Ok(false);
        }
        if outbox::adopt(connection).await? {
            tracing::warn!("the database came from another cluster; what its outbox still held was taken over");
        }
        tracing::info!("this instance moves the outbox now");
        self.leads = true;
        metrics::MOVES.set(1);
        metrics::MOVED_ALL.now();
        Ok(true)
    }

    async fn moved(&mut self, moved: Moved) -> Result<Duration, StoreError> {
        let now = Instant::now();
        metrics::MOVED.add(usize::try_from(moved.rows).unwrap_or(0).saturating_sub(moved.refused.len()));
        metrics::MOVE_REFUSED.add(moved.refused.len());
        if !moved.refused.is_empty() {
            let ids: Vec<String> = moved.refused.iter().map(ToString::to_string).collect();
            tracing::warn!(ids = ids.join(" "), "notifications of SQL callers were refused; see recado.outbox_refused");
        }
        if moved.rows > 0 {
            (self.last_row, self.is_used) = (now, true);
            if std::mem::take(&mut self.set_aside) {
                self.rows = MOVE_ROWS;
            }
        }
        if moved.is_more {
            return Ok(Duration::ZERO);
        }
        self.rows = MOVE_ROWS;
        metrics::MOVED_ALL.now();
        self.look_for_old(moved.oldest_running).await?;
        if now.duration_since(self.tidied) >= if self.is_used { TIDY } else { TIDY_IDLE } {
            self.tidied = now;
            self.tidy().await?;
        }
        self.wait = if self.last_row.elapsed() < STAYS_BUSY { BUSY } else { (self.wait * 2).min(IDLE) };
        Ok(self.wait)
    }

    async fn tidy(&mut self) -> Result<(), StoreError> {
        let quiet = self.last_row.elapsed() >= QUIET;
        let emptied = outbox::tidy(self.lane.get().await?, quiet).await?;
        if emptied > 0 {
            tracing::debug!(emptied, "partitions of the outbox were emptied");
        }
        // Another round is due as long as somebody's transaction was in the way.
        self.is_used = !quiet || emptied > 0;
        Ok(())
    }

    async fn failed(&mut self, failure: Failure, log_id: LogId) -> Result<Duration, StoreError> {
        match failure {
            Failure::LogWentBack(error) => {
                tracing::error!(%error, "the log went back; it gets a new id, and the outbox is moved to its present end");
                read::start_over(self.lane.get().await?, &self.seen, log_id).await?;
                Ok(Duration::ZERO)
            }
            Failure::Again(StoreError::Broken(_)) => {
                append::ensure_partitions(self.lane.get().await?).await?;
                Ok(BUSY)
            }
            Failure::Refused(error) if self.rows > 1 => {
                self.rows /= 2;
                tracing::warn!(%error, rows = self.rows, "the log refuses a row of the outbox; looking for it");
                Ok(Duration::ZERO)
            }
            Failure::Refused(_) if !self.set_aside => {
                self.set_aside = true;
                Ok(Duration::ZERO)
            }
            Failure::Again(error) | Failure::Unknown(error) | Failure::Refused(error) => Err(error),
            Failure::OtherBodies(_) => Ok(BUSY),
        }
    }

    /// A transaction that is left open: its own notifications wait for its end, and so does the emptying.
    async fn look_for_old(&mut self, running: Option<String>) -> Result<(), StoreError> {
        match (&mut self.old, running) {
            (_, None) => self.old = None,
            (Some(old), Some(number)) if old.number == number => {
                if old.since.elapsed() >= OLD_TRANSACTION && !old.is_named {
                    old.is_named = true;
                    let process = outbox::process_of(self.lane.get().await?, &number).await?;
                    tracing::warn!(
                        transaction = number,
                        ?process,
                        "a writing transaction has been open for over a minute; it delays only its own notifications, and the outbox grows"
                    );
                }
            }
            (old, Some(number)) => *old = Some(OldTransaction { number, since: Instant::now(), is_named: false }),
        }
        Ok(())
    }
}
