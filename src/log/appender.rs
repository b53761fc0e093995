//! Commits waiting notifications in groups: one task for each instance, one commit for each batch.
//!
//! While one batch commits, the next one gathers. There is no timer, so an idle hub appends at once. When another
//! instance is busy as well, the two alternate their commits ([`super::commit_turns`]).
//!
//! A request is *queued* (only this instance has it), then *sent* (the database may have it), then *answered*. It is
//! queued again when the database has rolled it back ([`Custody`]). A request whose deadline passes while it is queued
//! is dropped and answered with [`Refusal::Unavailable`]: it was certainly not appended. A request whose deadline
//! passes after it was sent is answered with [`Refusal::Unknown`]: its caller repeats it with the same key. A statement
//! that was sent is never cancelled.
//!
//! A request holds one notification, or several that are appended all or none. It is never split over two commits. When
//! a key of an all-or-none request is known with another body, the database rolls the whole commit back and reports the
//! conflicting rows. Their requests are refused, and the rest is tried again.
//!
//! Channels: requests arrive through a bounded queue (semaphores limit its rows and bytes). A request that finds it
//! full is answered with [`Refusal::Overloaded`] at once. Committed rows go to the tailer as a hint through a bounded
//! channel. When that is full, or a commit is big, the tailer reads the rows from the table, as it reads rows of other
//! instances.

mod custody;
mod handle;
#[cfg(feature = "mutants")]
mod mutants;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use self::custody::Custody;
pub use self::handle::AppendHandle;
use super::commit_turns::CommitTurn;
use crate::backoff::Backoff;
use crate::domain::{IdempotencyKey, InstanceId, LogId, NewNotification, Notification, NotificationId, Seq, TraceContext};
use crate::metrics;
use crate::store::append::{self, AppendFailure, Appended, Conflict, LEAST_TIME, NewBatch};
use crate::store::dedicated_connection::DedicatedConnection;
use crate::store::log_watermark::{LogWatermark, WatermarkEnd};
use crate::store::sealed_rows::RowSeal;
use crate::store::{Database, StoreError, read};
use crate::tasks::Stop;
use crate::telemetry::spans;

/// Most rows of one commit. More rows lengthen the time under the lock and do not raise throughput.
pub const BATCH_ROWS: usize = 1000;
/// Most bytes of one commit, by [`NewNotification::weight`]. A single request that has more is committed alone.
const BATCH_BYTES: usize = 1 << 20;
/// Most notifications in the queue.
const QUEUE_ROWS: usize = 8192;
/// Most KiB in the queue.
const QUEUE_KIB: usize = 32 << 10;
/// A caller gets its answer within this time. The contract allows five seconds.
pub const DEADLINE: Duration = Duration::from_millis(4500);

/// Proof that a notification is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub seq: Seq,
    pub id: NotificationId,
    pub created_at: DateTime<Utc>,
    /// The key was used before with the same body. The receipt names the earlier row.
    pub duplicate: bool,
}

/// Why a notification has no receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The keys of these items, counted from 0, were used before with other bodies. Nothing was appended.
    OtherBody { items: Vec<usize> },
    /// The queue is full. Not appended.
    Overloaded,
    /// The database did not accept it in time. Not appended.
    Unavailable,
    /// No answer arrived in time. It may have been appended; a repeat with the same key settles it.
    Unknown,
    /// The database refuses this row. Not appended.
    Unacceptable,
}

impl Refusal {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::OtherBody { .. } => "other_body",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
            Self::Unacceptable => "unacceptable",
        }
    }
}

struct AppendRequest {
    /// At least one row, without duplicate keys.
    rows: Vec<NewNotification>,
    all_or_nothing: bool,
    bytes: usize,
    /// When it was posted.
    asked_at: Instant,
    deadline: Instant,
    custody: Custody,
    /// The sampled HTTP request that it belongs to.
    trace: Option<TraceContext>,
    reply: oneshot::Sender<Result<Vec<Receipt>, Refusal>>,
    _room: [OwnedSemaphorePermit; 2],
}

/// Rows that this instance has just committed, in order and without a hole.
#[derive(Debug)]
pub struct Committed {
    /// The log that they were appended to.
    pub log_id: LogId,
    pub rows: Vec<Notification>,
}

/// The task that owns the appending connection.
pub struct Appender {
    queue: mpsc::Receiver<AppendRequest>,
    row_room: Arc<Semaphore>,
    carried: VecDeque<AppendRequest>,
    dedicated: DedicatedConnection,
    origin: InstanceId,
    seen: Arc<LogWatermark>,
    seal: Arc<RowSeal>,
    committed: mpsc::Sender<Committed>,
    turn: CommitTurn,
    backoff: Backoff,
}

impl Appender {
    /// `seen` is the log watermark of this instance, `seal` seals rows for others. `committed` receives each batch.
    /// `turn` decides when other instances commit first.
    pub fn new(
        database: Database,
        origin: InstanceId,
        (seen, seal): (Arc<LogWatermark>, Arc<RowSeal>),
        committed: mpsc::Sender<Committed>,
        turn: CommitTurn,
    ) -> (AppendHandle, Self) {
        let (sender, queue) = mpsc::channel(QUEUE_ROWS);
        let (row_room, kib_room) = (Arc::new(Semaphore::new(QUEUE_ROWS)), Arc::new(Semaphore::new(QUEUE_KIB)));
        let handle = AppendHandle { queue: sender, row_room, kib_room, work: Arc::default() };
        let appender = Self {
            queue,
            row_room: Arc::clone(&handle.row_room),
            carried: VecDeque::new(),
            dedicated: DedicatedConnection::new(database, "appender"),
            origin,
            seen,
            seal,
            committed,
            turn,
            backoff: Backoff::new(Duration::from_millis(20), Duration::from_millis(500)),
        };
        (handle, appender)
    }

    /// Runs until stopped. Requests that were queued by then are still appended.
    pub async fn run(mut self, mut stop: Stop) {
        loop {
            if self.carried.is_empty() {
                let first = tokio::select! {
                    biased;
                    first = self.queue.recv() => first,
                    () = stop.wait() => self.queue.try_recv().ok(),
                };
                let Some(first) = first else { return };
                self.carried.push_back(first);
            }
            // A commit that will be full gains nothing by waiting.
            if self.waiting_rows() < BATCH_ROWS {
                self.turn.wait().await;
            }
            let batch = self.gather();
            self.commit(batch).await;
        }
    }

    /// The number of notifications that wait.
    fn waiting_rows(&self) -> usize {
        QUEUE_ROWS.saturating_sub(self.row_room.available_permits())
    }

    /// Takes the waiting requests, up to the limits of a batch. A second request with the same key waits for the next
    /// batch, where it finds the row of the first. A request that does not fit whole begins the next batch.
    fn gather(&mut self) -> Vec<AppendRequest> {
        let mut keys: HashSet<IdempotencyKey> = HashSet::new();
        let (mut rows, mut bytes) = (0, 0);
        let mut batch: Vec<AppendRequest> = Vec::new();
        let mut later = VecDeque::new();
        while rows < BATCH_ROWS && bytes < BATCH_BYTES && later.len() < BATCH_ROWS {
            let Some(request) = self.carried.pop_front().or_else(|| self.queue.try_recv().ok()) else { break };
            let fits = rows + request.rows.len() <= BATCH_ROWS && bytes + request.bytes <= BATCH_BYTES;
            if !batch.is_empty() && !fits {
                later.push_back(request);
                break;
            }
            let its_keys = || request.rows.iter().filter_map(|row| row.key);
            if its_keys().any(|key| keys.contains(&key)) {
                later.push_back(request);
            } else {
                keys.extend(its_keys());
                rows += request.rows.len();
                bytes += request.bytes;
                batch.push(request);
            }
        }
        later.append(&mut self.carried);
        self.carried = later;
        batch
    }

    /// Commits a batch. One bad row must fail alone: a batch that the database refuses is halved, which costs a few
    /// commits and not one for each good row.
    async fn commit(&mut self, batch: Vec<AppendRequest>) {
        // A list and no recursion: each level of nested futures takes stack, and a debug build ran out of it.
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            if let Some(refused) = self.commit_whole(part).await {
                part = refused;
                let rest = part.split_off(part.len() / 2);
                parts.extend([rest, part]);
            }
        }
    }

    /// Tries a batch until it is committed, its outcome is unknown, or no caller waits for it any more. Returns a batch
    /// of several requests that the database refused.
    async fn commit_whole(&mut self, mut batch: Vec<AppendRequest>) -> Option<Vec<AppendRequest>> {
        loop {
            batch = drop_expired(batch);
            let first_deadline = batch.iter().map(|r| r.deadline).min()?;
            let (log_id, end) = self.seen.end();
            let begun = Instant::now();
            let outcome = self.attempt(&mut batch, log_id, end).await;
            if !matches!(outcome, Ok(_) | Err(AppendFailure::Unknown(_))) {
                batch.iter().for_each(|r| r.custody.take_back());
            }
            match outcome {
                Ok(done) => {
                    self.backoff.succeeded();
                    #[cfg(feature = "failpoints")]
                    crate::failpoints::at("append.before_reply").await;
                    self.settle(batch, log_id, done, begun.elapsed());
                    return None;
                }
                Err(AppendFailure::Again(error)) => {
                    tracing::warn!(%error, requests = batch.len(), "append rolled back; retrying");
                    if !matches!(error, StoreError::Broken(_)) {
                        self.dedicated.discard();
                    }
                }
                Err(AppendFailure::LogWentBack(error)) => {
                    tracing::error!(%error, "log was truncated or restored; giving it a new id and appending at its present head");
                    if let Err(error) = self.start_over(log_id).await {
                        tracing::warn!(%error, "could not give the log a new id; retrying the append");
                        self.dedicated.discard();
                    }
                }
                Err(AppendFailure::OtherBodies(places)) => {
                    batch = refuse_conflicts(batch, &places);
                    continue;
                }
                Err(AppendFailure::Unknown(error)) => {
                    tracing::warn!(%error, requests = batch.len(), "append outcome unknown");
                    self.dedicated.discard();
                    answer_all(batch, &Refusal::Unknown);
                    return None;
                }
                Err(AppendFailure::Refused(error)) if batch.len() == 1 => {
                    tracing::error!(%error, "database refused a notification that the hub accepted");
                    answer_all(batch, &Refusal::Unacceptable);
                    return None;
                }
                Err(AppendFailure::Refused(_)) => return Some(batch),
            }
            // Wakes in time to refuse the request whose deadline comes first.
            let retry_at = Instant::now() + self.backoff.failed();
            tokio::time::sleep_until(retry_at.min(first_deadline - LEAST_TIME)).await;
        }
    }

    /// Tries the batch once, after the end of the log that is known now. Requests whose time ran out while the
    /// connection was opened are refused and leave the batch.
    async fn attempt(
        &mut self,
        batch: &mut Vec<AppendRequest>,
        log_id: LogId,
        end: WatermarkEnd,
    ) -> Result<append::AppendedBatch, AppendFailure> {
        let connection = self.dedicated.get_durable().await.map_err(AppendFailure::Again)?;
        *batch = drop_expired(std::mem::take(batch));
        batch.retain(|r| r.custody.send());
        let Some(deadline) = batch.iter().map(|r| r.deadline).max() else {
            return Err(AppendFailure::Again(StoreError::TimedOut(DEADLINE)));
        };
        let rows: Vec<&NewNotification> = batch.iter().flat_map(|r| &r.rows).collect();
        let conflict = if batch.iter().any(|r| r.all_or_nothing) { Conflict::RefusesAll } else { Conflict::LeavesOut };
        let limit = deadline.saturating_duration_since(Instant::now());
        #[cfg(feature = "mutants")]
        if let Some(early) = mutants::delivered_early(&rows, self.seen.end().0, end.seq) {
            let _ = self.committed.try_send(early);
        }
        #[cfg(feature = "failpoints")]
        crate::failpoints::at("append.before_sql").await;
        let traces = traces(batch);
        let sealed = self.seal.seal(log_id, end, &rows, &traces);
        let new = NewBatch { seen: end, origin: self.origin, sealed: sealed.as_deref(), rows: &rows, traces: &traces, conflict };
        append::append(connection, new, limit).await
    }

    async fn start_over(&mut self, old: LogId) -> Result<(), StoreError> {
        read::start_over(self.dedicated.get().await?, &self.seen, old).await
    }

    fn settle(&mut self, batch: Vec<AppendRequest>, log_id: LogId, done: append::AppendedBatch, took: Duration) {
        let requests = batch.len();
        let bytes: usize = batch.iter().map(|r| r.bytes).sum();
        let traced: Vec<TraceContext> = batch.iter().filter_map(|r| r.trace).collect();
        let mut rows = Vec::with_capacity(done.outcomes.len());
        let mut outcomes = done.outcomes.into_iter();
        for request in batch {
            let created_at = done.created_at;
            let mut receipts = Vec::with_capacity(request.rows.len());
            let mut others = Vec::new();
            for (at, (row, outcome)) in request.rows.into_iter().zip(outcomes.by_ref()).enumerate() {
                match outcome {
                    Appended::New { seq } => {
                        receipts.push(Receipt { seq, id: row.id, created_at, duplicate: false });
                        let row = row.appended(seq, created_at, request.trace);
                        rows.push(Notification { posted: Some(request.asked_at.into_std()), ..row });
                    }
                    Appended::Known { seq, id, created_at } => {
                        metrics::DUPLICATES.one();
                        receipts.push(Receipt { seq, id, created_at, duplicate: true });
                    }
                    Appended::OtherBody => others.push(at),
                }
            }
            let answer = if others.is_empty() { Ok(receipts) } else { Err(Refusal::OtherBody { items: others }) };
            // A caller that is gone needs no answer.
            let _ = request.reply.send(answer);
        }
        if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
            self.turn.committed(first.seq..=last.seq, requests, took);
            spans::appended(&traced, took, rows.len(), bytes);
            metrics::APPENDED.add(rows.len());
            metrics::COMMIT_SECONDS.time(took);
            metrics::COMMIT_ROWS.observe(rows.len() as f64);
            metrics::HEAD_SEEN.raise(last.seq.get());
            self.seen.raise(log_id, last.seq, last.id);
            // A commit above the limit is not sent to the channel: its 64 slots could hold hundreds of megabytes.
            if bytes <= BATCH_BYTES {
                let _ = self.committed.try_send(Committed { log_id, rows });
            }
        }
    }
}

/// The trace of each row; empty if no request is sampled.
fn traces(batch: &[AppendRequest]) -> Vec<Option<TraceContext>> {
    if batch.iter().all(|request| request.trace.is_none()) {
        return Vec::new();
    }
    batch.iter().flat_map(|request| std::iter::repeat_n(request.trace, request.rows.len())).collect()
}

/// Drops requests whose time is over or whose caller has gone. They were never sent, or certainly rolled back.
fn drop_expired(batch: Vec<AppendRequest>) -> Vec<AppendRequest> {
    let now = Instant::now();
    let (late, alive): (Vec<_>, Vec<_>) = batch.into_iter().partition(|r| r.deadline <= now + LEAST_TIME || r.reply.is_closed());
    answer_all(late, &Refusal::Unavailable);
    alive
}

/// Refuses the requests whose rows conflict, and returns the others.
fn refuse_conflicts(batch: Vec<AppendRequest>, places: &[usize]) -> Vec<AppendRequest> {
    let (mut others, mut first) = (Vec::new(), 0);
    let before = batch.len();
    for request in batch {
        let its_own = first..first + request.rows.len();
        first = its_own.end;
        let items: Vec<usize> = places.iter().filter(|place| its_own.contains(place)).map(|place| place - its_own.start).collect();
        if items.is_empty() {
            others.push(request);
        } else {
            let _ = request.reply.send(Err(Refusal::OtherBody { items }));
        }
    }
    if others.len() == before {
        tracing::error!(?places, "database reported conflicting rows that are not in the batch");
        answer_all(std::mem::take(&mut others), &Refusal::Unacceptable);
    }
    others
}

fn answer_all(batch: Vec<AppendRequest>, refusal: &Refusal) {
    for request in batch {
        let _ = request.reply.send(Err(refusal.clone()));
    }
}
