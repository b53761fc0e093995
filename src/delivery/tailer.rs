//! Follows the log and dispatches its rows: the only way by which a notification becomes live.
//!
//! The tailer reads the table when a hint says that the log has grown, and once a second in any case. Rows that this
//! instance has just committed, and rows that came with the hint of another, are taken directly if they follow the
//! dispatched number without a gap; all other rows are read. Numbers are dispatched without a hole or not at all: a
//! hole would break the log's promise, so delivery stops with an error rather than skip it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::event::SharedNotification;
use super::registry::{Position, Registry};
use super::wait_until::until;
use crate::backoff::{Backoff, jitter};
use crate::domain::{CommitOrigin, InstanceId, Notification, NotificationId, Seq};
use crate::log::appender::Committed;
use crate::metrics;
use crate::store::access_sign::AccessSign;
use crate::store::dedicated_connection::DedicatedConnection;
use crate::store::listener::LogHint;
use crate::store::log_watermark::LogWatermark;
use crate::store::read::{self, LogState, Tail, TailRow, TailSize};
use crate::store::sealed_rows::{RowSeal, SealedRows};
use crate::store::{Database, StoreError};
use crate::tasks::Stop;
use crate::telemetry::spans::PublishSpan;

/// How long to wait for this instance's own commit on the in-process channel before the table is read for it.
const OWN_COMMIT_GRACE: Duration = Duration::from_millis(20);
/// How long rows wait for the ones before them, which another commit is about to bring, before the table is read.
const EARLY_GRACE: Duration = Duration::from_millis(5);
/// Most commits that wait for earlier ones.
const EARLY_MAX: usize = 16;
/// If a page arrives within this time, twice its size fits well into the limit of three seconds.
const QUICK_PAGE: Duration = Duration::from_millis(500);

/// When the log was last confirmed read to its end; used by the health check.
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

/// Converts a row. An unreadable row keeps its number and is addressed to no user: one bad row must not stop delivery.
fn event_of(row: TailRow) -> Arc<SharedNotification> {
    match row {
        TailRow::Readable(notification) => SharedNotification::of(notification),
        TailRow::Unreadable { seq, id, error } => {
            metrics::UNREADABLE.one();
            tracing::error!(seq = seq.get(), id = %id.0, %error, "unreadable row in the log; passed over");
            SharedNotification::for_no_user(seq, id)
        }
    }
}

/// Where a tailer reads, and for which hub.
pub struct TailSource {
    pub database: Database,
    pub instance: InstanceId,
    /// Receives the state of the access changes with each check.
    pub access: Arc<AccessSign>,
    /// Opens the rows that hints bring.
    pub seal: Arc<RowSeal>,
}

/// The rows of one commit, which came without those before them.
struct EarlyRows {
    first: Seq,
    /// The row before them, as their hub knew it. `None` for own rows: the database has compared what this instance
    /// knows.
    after: Option<(Seq, NotificationId)>,
    rows: Vec<Notification>,
    /// When the table is read for those before them.
    until: Instant,
}

/// The background task that reads the end of the log.
pub struct Tailer {
    dedicated: DedicatedConnection,
    instance: InstanceId,
    access: Arc<AccessSign>,
    seal: Arc<RowSeal>,
    registry: Arc<Registry>,
    seen: Arc<LogWatermark>,
    origin: CommitOrigin,
    pulse: Arc<Pulse>,
    poll: Duration,
    due: Instant,
    /// This instance's own commit, announced by a hint before it arrived in process: its head, and when to read the
    /// table for it.
    own_due: Option<(Seq, Instant)>,
    /// Rows that wait for earlier ones.
    early: Vec<EarlyRows>,
    check_due: bool,
    /// The size of the next page. A page that timed out over a slow link would time out again, so the size is reduced
    /// then, and raised again when pages arrive quickly.
    page_size: TailSize,
    /// The notification at the dispatched number, if known: the log must still hold it.
    last: Option<(Seq, NotificationId)>,
    backoff: Backoff,
}

/// Why a read did not reach the end of the log.
#[derive(Debug, thiserror::Error)]
enum TailError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the log has a hole: {found} follows {last}; delivery stops until the hole is filled")]
    Hole { last: Seq, found: Seq },
    #[error("the log lost row {last}, which was dispatched, but holds later rows; delivery stops")]
    Gone { last: Seq },
    #[error("the database server is a standby, which accepts no writes and may lag; retrying in case the next host is the primary")]
    Standby,
}

impl Tailer {
    /// `seen` receives the followed position; `poll` is the longest time between two reads of the table.
    pub fn new(source: TailSource, registry: Arc<Registry>, seen: Arc<LogWatermark>, pulse: Arc<Pulse>, poll: Duration) -> Self {
        let TailSource { database, instance, access, seal } = source;
        Self {
            instance,
            access,
            seal,
            dedicated: DedicatedConnection::new(database, "tailer"),
            registry,
            seen,
            origin: CommitOrigin::Appender(instance),
            pulse,
            poll,
            due: Instant::now(),
            own_due: None,
            early: Vec::new(),
            check_due: true,
            page_size: TailSize::WHOLE,
            last: None,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(1)),
        }
    }

    /// Runs until stopped.
    pub async fn run(mut self, mut committed: mpsc::Receiver<Committed>, mut hints: mpsc::Receiver<LogHint>, mut stop: Stop) {
        let mut checked = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stop.wait() => return,
                // Comes first: a stream of our own commits must not keep us from reading the table.
                () = until(self.next_look()) => {
                    self.own_due = None;
                    // What waits is in the table too.
                    self.early.clear();
                    self.check_due |= checked.elapsed() >= self.poll / 2;
                    let check = self.check_due;
                    match self.look(check).await {
                        Ok(()) => {
                            if check {
                                checked = Instant::now();
                                self.check_due = false;
                            }
                            self.backoff.succeeded();
                            self.due = Instant::now() + self.poll.mul_f64(0.95) + jitter(self.poll.mul_f64(0.05));
                            #[cfg(feature = "mutants")]
                            if crate::mutants::is("no-poll") || crate::mutants::is("reload-early") {
                                self.due += Duration::from_secs(3600);
                            }
                        }
                        Err(error) => {
                            tracing::error!(%error, "could not read the end of the log; retrying");
                            self.dedicated.discard();
                            self.due = Instant::now() + self.backoff.failed();
                        }
                    }
                }
                Some(own) = committed.recv() => {
                    #[cfg(feature = "failpoints")]
                    crate::failpoints::at("fanout.before_local").await;
                    self.take_own(own);
                }
                Some(hint) = hints.recv() => {
                    // The queue was full, so a hint may have been left out.
                    if hints.len() + 1 >= hints.max_capacity() {
                        self.due = Instant::now();
                    }
                    self.take_hint(hint);
                }
            }
        }
    }

    fn next_look(&self) -> Instant {
        let early = self.early.iter().map(|early| early.until);
        self.own_due.map(|(_, at)| at).into_iter().chain(early).fold(self.due, Instant::min)
    }

    fn dispatched(&self) -> Seq {
        self.registry.position().dispatched
    }

    fn dispatch(&mut self, events: Vec<Arc<SharedNotification>>) {
        if let Some(last) = events.last() {
            self.last = Some((last.seq, last.id));
        }
        let span = PublishSpan::begin(events.iter().map(|event| event.trace));
        self.registry.dispatch(&events);
        if let (Some(span), Some(first), Some(last)) = (span, events.first(), events.last()) {
            span.end(first.seq.get(), last.seq.get());
        }
        self.note_last();
    }

    /// Notes the last dispatched row. From now on appends check that the log still holds it.
    fn note_last(&self) {
        if let Some((seq, id)) = self.last {
            self.seen.raise(self.registry.position().log_id, seq, id);
        }
    }

    /// Dispatches rows that this instance has just committed.
    fn take_own(&mut self, own: Committed) {
        let position = self.registry.position();
        if own.log_id != position.log_id {
            // The appender has noticed that the log is another one; the tailer has yet to check it.
            self.check_due = true;
            self.due = Instant::now();
            return;
        }
        let rows: Vec<Notification> = own.rows.into_iter().skip_while(|row| row.seq <= position.dispatched).collect();
        let Some(first) = rows.first().map(|row| row.seq) else { return };
        self.take(EarlyRows { first, after: None, rows, until: Instant::now() + EARLY_GRACE });
    }

    fn take_hint(&mut self, hint: LogHint) {
        // Any database client may notify: a reported head is a reason to read the table, and nothing else. Only a hub
        // can seal rows.
        match hint {
            LogHint::Grown { head, .. } if head <= self.dispatched() => {}
            LogHint::Grown { head, origin, .. } if origin == self.origin => {
                let at = self.own_due.map_or_else(|| Instant::now() + OWN_COMMIT_GRACE, |(_, at)| at);
                self.own_due = Some((head, at));
            }
            LogHint::Grown { rows: Some(sealed), .. } => self.take_sealed(&sealed),
            LogHint::Grown { .. } | LogHint::Listening => self.due = Instant::now(),
        }
    }

    /// Dispatches rows that another instance has committed and sent along.
    fn take_sealed(&mut self, sealed: &SealedRows) {
        match self.seal.open(self.registry.position().log_id, sealed) {
            Some(opened) => {
                let until = Instant::now() + EARLY_GRACE;
                self.take(EarlyRows { first: sealed.first, after: Some(opened.after), rows: opened.rows, until });
            }
            None => self.due = Instant::now(),
        }
    }

    /// Dispatches rows that follow the dispatched number, then the rows that waited for them. Other rows wait for those
    /// before them: a NOTIFY and an own commit arrive by different channels, in any order.
    fn take(&mut self, rows: EarlyRows) {
        #[cfg(feature = "mutants")]
        if crate::mutants::is("stand-still") && self.dispatched().get() > 100 {
            return;
        }
        // The second of two with one number is not what a hub has sent: the time of rows is not sealed.
        if !self.early.iter().any(|early| early.first == rows.first) {
            self.early.push(rows);
        }
        while let Some(at) = self.early.iter().position(|early| early.first <= self.dispatched().next()) {
            let EarlyRows { first, after, rows, .. } = self.early.swap_remove(at);
            if first <= self.dispatched() {
                continue;
            }
            // Another row stands there than its hub has seen: the table says which of the two logs is the present one.
            if after.is_some() && after != self.last {
                self.due = Instant::now();
                break;
            }
            if after.is_some() {
                metrics::NOTIFIED.add(rows.len());
            }
            self.dispatch(rows.into_iter().map(SharedNotification::of).collect());
        }
        let dispatched = self.dispatched();
        self.own_due = self.own_due.filter(|(head, _)| *head > dispatched);
        if self.early.len() > EARLY_MAX {
            self.due = Instant::now();
        }
    }

    /// Reads to the end of the log. `check` also verifies that it is still the same log.
    async fn look(&mut self, mut check: bool) -> Result<(), TailError> {
        #[cfg(feature = "mutants")]
        if crate::mutants::is("stand-still") && self.dispatched().get() > 100 {
            self.pulse.beat();
            return Ok(());
        }
        while self.read_on(check).await? {
            check = false;
        }
        self.pulse.beat();
        Ok(())
    }

    async fn page(&mut self, from: Seq, check: bool) -> Result<Tail, StoreError> {
        let connection = self.dedicated.get().await?;
        let asked = Instant::now();
        let page = read::tail(connection, from, self.page_size, check.then_some(self.instance)).await;
        self.page_size = match &page {
            Err(StoreError::TimedOut(_)) => self.page_size.smaller(),
            Ok(_) if asked.elapsed() < QUICK_PAGE => self.page_size.larger(),
            _ => self.page_size,
        };
        page
    }

    /// Reads and dispatches a page; returns `false` if it reached the end of the log. Rows appended during the read
    /// have their own hint: reading until nothing comes would never end on a log that grows without a pause.
    ///
    /// A `check` is part of the same statement. Its result comes first: if it moves the position, the page is dropped.
    async fn read_on(&mut self, check: bool) -> Result<bool, TailError> {
        let mut position = self.registry.position();
        let asked = Instant::now();
        let Tail { checked, id_at_from, rows, is_end } = self.page(position.dispatched, check).await?;
        if let Some(checked) = checked {
            if let Some(standing) = checked.access {
                self.access.seen(standing, asked);
            }
            self.follow(checked.log).await?;
            let now = self.registry.position();
            if (now.log_id, now.dispatched) != (position.log_id, position.dispatched) {
                return Ok(true);
            }
            position = now;
        }
        match id_at_from {
            Some(id) => {
                // The row that was dispatched last must still be the same.
                let known = self.last.replace((position.dispatched, id));
                if known.is_some_and(|known| known.0 == position.dispatched && known.1 != id) {
                    self.start_over(position).await?;
                    return Ok(true);
                }
                self.note_last();
            }
            // The row is gone: dropped by retention, or the log is another one.
            None if position.dispatched > position.floor => {
                let state = read::state(self.dedicated.get().await?).await?;
                self.follow(state).await?;
                if self.registry.position() != position {
                    return Ok(true);
                }
                return Err(TailError::Gone { last: position.dispatched });
            }
            None => {}
        }
        let mut last = position.dispatched;
        for row in &rows {
            if row.seq() != last.next() {
                return Err(TailError::Hole { last, found: row.seq() });
            }
            last = row.seq();
        }
        #[cfg(feature = "failpoints")]
        if !rows.is_empty() {
            crate::failpoints::at("fanout.before_local").await;
        }
        let events = rows.into_iter().map(event_of).collect();
        self.dispatch(events);
        Ok(!is_end)
    }

    /// The log is not the one that was dispatched: gives it a new log id, unless it has one already.
    async fn start_over(&mut self, position: Position) -> Result<(), TailError> {
        read::renew_log_id(self.dedicated.get().await?, position.log_id).await?;
        let state = read::state(self.dedicated.get().await?).await?;
        tracing::error!(dispatched = position.dispatched.get(), head = state.head.get(), new = %state.log_id, "log was truncated or restored from a backup; all clients get reset");
        self.restart_at(Position { log_id: state.log_id, floor: state.floor, dispatched: state.head });
        Ok(())
    }

    fn restart_at(&mut self, position: Position) {
        self.last = None;
        self.seen.start_over(position.log_id);
        self.registry.restart_at(position);
    }

    /// Compares the state of the log with the rows that this instance has dispatched.
    async fn follow(&mut self, state: LogState) -> Result<(), TailError> {
        if state.is_standby {
            return Err(TailError::Standby);
        }
        let position = self.registry.position();
        metrics::HEAD_SEEN.raise(state.head.get());
        if state.log_id != position.log_id {
            tracing::warn!(old = %position.log_id, new = %state.log_id, "log id changed; all clients get reset");
            self.restart_at(Position { log_id: state.log_id, floor: state.floor, dispatched: state.head });
        } else if state.head < position.dispatched {
            self.start_over(position).await?;
        } else if state.floor > position.dispatched {
            tracing::warn!(
                dispatched = position.dispatched.get(),
                floor = state.floor.get(),
                "retention dropped rows that this instance had not dispatched; its clients resume with a gap"
            );
            self.restart_at(Position { dispatched: state.floor, floor: state.floor, ..position });
        } else {
            self.registry.raise_floor(state.floor);
        }
        Ok(())
    }
}
