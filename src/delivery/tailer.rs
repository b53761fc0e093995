//! Follows the log and publishes it: the only way by which a notification becomes live.
//!
//! Looks at the table when it is told that the log has grown, and once a second in any case. What this instance has
//! just committed and what follows directly on the published number is taken as it is; everything else is read.
//! Numbers are published without a hole or not at all: a hole would mean that the log's promise is broken, and
//! delivery stops, aloud, rather than skip.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::due::until;
use super::event::Event;
use super::registry::{Position, Registry};
use crate::backoff::{Backoff, jitter};
use crate::domain::{InstanceId, Notification, NotificationId, Seq};
use crate::metrics;
use crate::store::appender::Committed;
use crate::store::lane::Lane;
use crate::store::listener::Hint;
use crate::store::read::{self, LogState, Tail};
use crate::store::seen::Seen;
use crate::store::{Database, StoreError};
use crate::tasks::Stop;

/// How long our own commit may take to come by the short way before the table is read for it.
const OWN_COMMIT_GRACE: Duration = Duration::from_millis(20);
/// A page that comes in this time leaves room for one of twice its size, within the limit of three seconds.
const QUICK_PAGE: Duration = Duration::from_millis(500);

/// When the log was last confirmed read to its end, for the health check.
#[derive(Debug)]
pub struct Pulse {
    start: Instant,
    confirmed_ms: AtomicI64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { start: Instant::now(), confirmed_ms: AtomicI64::new(0) }
    }
}

impl Pulse {
    fn beat(&self) {
        let now = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.confirmed_ms.store(now, Ordering::Relaxed);
    }

    /// How long ago the table was last read to its end.
    pub fn age(&self) -> Duration {
        let confirmed = u64::try_from(self.confirmed_ms.load(Ordering::Relaxed)).unwrap_or(0);
        self.start.elapsed().saturating_sub(Duration::from_millis(confirmed))
    }
}

/// The task that reads the end of the log.
pub struct Tailer {
    lane: Lane,
    registry: Arc<Registry>,
    seen: Arc<Seen>,
    origin: String,
    pulse: Arc<Pulse>,
    poll: Duration,
    due: Instant,
    /// Our own commit, announced to us before it came by the short way: up to where, and when the table is read for it.
    own_due: Option<(Seq, Instant)>,
    check_due: bool,
    /// How much the next page may hold. A page that does not come in time over a slow link would not come the next time
    /// either: less is asked for then, and more again when pages come quickly.
    page_bytes: i64,
    /// The notification at the published number, where it is known: the log must still hold it.
    last: Option<(Seq, NotificationId)>,
    backoff: Backoff,
}

/// Why a look at the table did not come to its end.
#[derive(Debug, thiserror::Error)]
enum TailError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the log has a hole: {found} follows {last}; delivery stops here until it is filled")]
    Hole { last: Seq, found: Seq },
    #[error("the log does not hold {last}, which was published, though it goes on after it; delivery stops here")]
    Gone { last: Seq },
    #[error("the server is a standby, which may lack the end of the log and stores nothing; the next try may find the primary")]
    Standby,
}

impl Tailer {
    /// `seen` is told how far the log was followed; `poll` is the longest time between two looks at the table.
    pub fn new(
        database: Database,
        registry: Arc<Registry>,
        seen: Arc<Seen>,
        instance: InstanceId,
        pulse: Arc<Pulse>,
        poll: Duration,
    ) -> Self {
        Self {
            lane: Lane::new(database, "tailer"),
            registry,
            seen,
            origin: instance.to_string(),
            pulse,
            poll,
            due: Instant::now(),
            own_due: None,
            check_due: true,
            page_bytes: read::TAIL_BYTES,
            last: None,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(1)),
        }
    }

    /// Runs until stopped.
    pub async fn run(mut self, mut committed: mpsc::Receiver<Committed>, mut hints: mpsc::Receiver<Hint>, mut stop: Stop) {
        let mut checked = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stop.wait() => return,
                // Before the rest: a stream of our own commits must not keep us from looking at the table.
                () = until(self.next_look()) => {
                    self.own_due = None;
                    self.check_due |= checked.elapsed() >= self.poll / 2;
                    let check = self.check_due;
                    match self.look(check).await {
                        Ok(()) => {
                            if check {
                                checked = Instant::now();
                                self.check_due = false;
                            }
                            self.backoff.succeeded();
                            self.due = Instant::now() + self.poll.mul_f64(0.8) + jitter(self.poll.mul_f64(0.2));
                            #[cfg(feature = "mutants")]
                            if crate::mutants::is("no-poll") || crate::mutants::is("reload-early") {
                                self.due += Duration::from_secs(3600);
                            }
                        }
                        Err(error) => {
                            tracing::error!(%error, "the end of the log could not be read");
                            self.lane.discard();
                            self.due = Instant::now() + self.backoff.failed();
                        }
                    }
                }
                Some(own) = committed.recv() => {
                    #[cfg(feature = "points")]
                    crate::points::at("fanout.before_local").await;
                    self.take_own(own);
                }
                Some(hint) = hints.recv() => self.take_hint(&hint),
            }
        }
    }

    fn next_look(&self) -> Instant {
        self.own_due.map_or(self.due, |(_, at)| at.min(self.due))
    }

    fn published(&self) -> Seq {
        self.registry.position().published
    }

    fn publish(&mut self, rows: impl Iterator<Item = Notification>) {
        let mut events = Vec::new();
        for row in rows {
            self.last = Some((row.seq, row.id));
            events.push(Event::of(row));
        }
        self.registry.publish(&events);
        self.note_last();
    }

    /// Appends ask from now on whether the log still holds what was published last.
    fn note_last(&self) {
        if let Some((seq, id)) = self.last {
            self.seen.raise(self.registry.position().log_id, seq, id);
        }
    }

    /// Rows that this instance has committed a moment ago.
    fn take_own(&mut self, own: Committed) {
        let position = self.registry.position();
        if own.log_id != position.log_id {
            // The appender has found out that the history is another one; we have yet to look.
            self.check_due = true;
            self.due = Instant::now();
            return;
        }
        let mut new = own.rows.into_iter().skip_while(|row| row.seq <= position.published).peekable();
        match new.peek() {
            None => {}
            Some(first) if first.seq == position.published.next() => {
                self.publish(new);
                let published = self.published();
                self.own_due = self.own_due.filter(|(head, _)| *head > published);
            }
            // Another instance's rows lie between; the table has them all.
            Some(_) => self.due = Instant::now(),
        }
    }

    fn take_hint(&mut self, hint: &Hint) {
        if let Hint::Grown { head, .. } = hint {
            metrics::HEAD_SEEN.raise(head.get());
        }
        match hint {
            Hint::Grown { head, .. } if *head <= self.published() => {}
            Hint::Grown { head, origin } if *origin == self.origin => {
                let at = self.own_due.map_or_else(|| Instant::now() + OWN_COMMIT_GRACE, |(_, at)| at);
                self.own_due = Some((*head, at));
            }
            Hint::Grown { .. } | Hint::Listening => self.due = Instant::now(),
        }
    }

    /// Reads to the end of the log. `check` also asks whether it is still the same log.
    async fn look(&mut self, check: bool) -> Result<(), TailError> {
        if check {
            let state = read::state(self.lane.get().await?).await?;
            self.follow(state).await?;
        }
        while self.read_on().await? {}
        self.pulse.beat();
        Ok(())
    }

    async fn page(&mut self, from: Seq) -> Result<Tail, StoreError> {
        let connection = self.lane.get().await?;
        let asked = Instant::now();
        let page = read::tail(connection, from, self.page_bytes).await;
        self.page_bytes = match &page {
            Err(StoreError::TimedOut(_)) => (self.page_bytes / 4).max(read::TAIL_LEAST_BYTES),
            Ok(_) if asked.elapsed() < QUICK_PAGE => (self.page_bytes * 2).min(read::TAIL_BYTES),
            _ => self.page_bytes,
        };
        page
    }

    /// Reads and publishes a page; `false` when it reached the end of the log. What is appended while the page is read
    /// has its own hint: to go on until nothing comes would never end on a log that grows without a pause.
    async fn read_on(&mut self) -> Result<bool, TailError> {
        let position = self.registry.position();
        let Tail { mut rows, is_end } = self.page(position.published).await?;
        match rows.first() {
            Some(first) if first.seq == position.published => {
                // The row that was published last stands first: it must be the same.
                let known = self.last.replace((first.seq, first.id));
                if known.is_some_and(|known| known.0 == first.seq && known.1 != first.id) {
                    self.start_over(position).await?;
                    return Ok(true);
                }
                self.note_last();
                rows.remove(0);
            }
            // Gone: dropped by retention, or the log is another one.
            _ if position.published > position.floor => {
                let state = read::state(self.lane.get().await?).await?;
                self.follow(state).await?;
                if self.registry.position() != position {
                    return Ok(true);
                }
                return Err(TailError::Gone { last: position.published });
            }
            _ => {}
        }
        let mut last = position.published;
        for row in &rows {
            if row.seq != last.next() {
                return Err(TailError::Hole { last, found: row.seq });
            }
            last = row.seq;
        }
        #[cfg(feature = "points")]
        if !rows.is_empty() {
            crate::points::at("fanout.before_local").await;
        }
        self.publish(rows.into_iter());
        Ok(!is_end)
    }

    /// The log is not the one that was published: it gets a new name, unless it has one already.
    async fn start_over(&mut self, position: Position) -> Result<(), TailError> {
        read::renew_log_id(self.lane.get().await?, position.log_id).await?;
        let state = read::state(self.lane.get().await?).await?;
        tracing::error!(published = position.published.get(), head = state.head.get(), new = %state.log_id, "the log went back; every client is told to reset");
        self.restart_at(Position { log_id: state.log_id, floor: state.floor, published: state.head });
        Ok(())
    }

    fn restart_at(&mut self, position: Position) {
        self.last = None;
        self.seen.start_over(position.log_id);
        self.registry.restart_at(position);
    }

    /// Compares what the log says of itself with what this instance has published.
    async fn follow(&mut self, state: LogState) -> Result<(), TailError> {
        if state.is_standby {
            return Err(TailError::Standby);
        }
        let position = self.registry.position();
        if state.log_id != position.log_id {
            tracing::warn!(old = %position.log_id, new = %state.log_id, "the log is another one; every client is told to reset");
            self.restart_at(Position { log_id: state.log_id, floor: state.floor, published: state.head });
        } else if state.head < position.published {
            self.start_over(position).await?;
        } else if state.floor > position.published {
            tracing::warn!(
                published = position.published.get(),
                floor = state.floor.get(),
                "retention passed this instance; its clients resume and are told what is lost"
            );
            self.restart_at(Position { published: state.floor, floor: state.floor, ..position });
        } else {
            self.registry.raise_floor(state.floor);
        }
        Ok(())
    }
}
