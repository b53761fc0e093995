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
#[cfg(feature = "mutants")]
mod mutants;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use self::custody::Custody;
use super::commit_turns::CommitTurn;
use super::write_health::WriteHealth;
use crate::backoff::Backoff;
use crate::domain::{IdempotencyKey, InstanceId, LogId, NewNotification, Notification, NotificationId, Seq};
use crate::metrics;
use crate::store::append::{self, AppendFailure, Appended, Conflict, LEAST_TIME};
use crate::store::dedicated_connection::DedicatedConnection;
use crate::store::log_watermark::{LogWatermark, WatermarkEnd};
use crate::store::{Database, StoreError, read};
use crate::tasks::Stop;

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
/// How long after its deadline a request's answer may still arrive from the appender.
const GRACE: Duration = Duration::from_millis(300);

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
    deadline: Instant,
    custody: Custody,
    reply: oneshot::Sender<Result<Vec<Receipt>, Refusal>>,
    _room: [OwnedSemaphorePermit; 2],
}

/// Sends notifications to the appender. Cheap to clone.
#[derive(Clone)]
pub struct AppendHandle {
    queue: mpsc::Sender<AppendRequest>,
    row_room: Arc<Semaphore>,
    kib_room: Arc<Semaphore>,
    work: Arc<WriteHealth>,
}

impl AppendHandle {
    /// Whether appends succeed.
    pub fn work(&self) -> Arc<WriteHealth> {
        Arc::clone(&self.work)
    }

    /// Appends a notification and returns once it is committed. `deadline` is [`DEADLINE`] after the request arrived.
    ///
    /// # Errors
    /// See [`Refusal`]. The error arrives shortly after the deadline at the latest.
    pub async fn append(&self, notification: NewNotification, deadline: Instant) -> Result<Receipt, Refusal> {
        let receipts = self.ask(vec![notification], false, deadline).await?;
        receipts.into_iter().next().ok_or(Refusal::Unknown)
    }

    /// Appends 1 to [`BATCH_ROWS`] notifications in one commit, all or none, and returns their receipts in order.
    /// Notifications with the same key and the same body make one row.
    ///
    /// # Errors
    /// As [`AppendHandle::append`]. An error concerns the whole batch.
    pub async fn append_all(&self, batch: Vec<NewNotification>, deadline: Instant) -> Result<Vec<Receipt>, Refusal> {
        let FoldedBatch { rows, places } = fold(batch)?;
        // A refusal names the first notification that a row came from.
        let first_index = |row: usize| places.iter().position(|at| *at == row).unwrap_or(row);
        let receipts = match self.ask(rows, true, deadline).await {
            Err(Refusal::OtherBody { items }) => return Err(Refusal::OtherBody { items: items.into_iter().map(first_index).collect() }),
            answer => answer?,
        };
        let mut given = vec![false; receipts.len()];
        let mut answers = Vec::with_capacity(places.len());
        for at in places {
            let receipt = *receipts.get(at).ok_or(Refusal::Unknown)?;
            let again = std::mem::replace(&mut given[at], true);
            answers.push(Receipt { duplicate: receipt.duplicate || again, ..receipt });
        }
        Ok(answers)
    }

    async fn ask(&self, rows: Vec<NewNotification>, all_or_nothing: bool, deadline: Instant) -> Result<Vec<Receipt>, Refusal> {
        let asked_at = Instant::now();
        let answer = self.answer(rows, all_or_nothing, deadline).await;
        match &answer {
            Ok(_) => {
                self.work.appended();
                metrics::APPEND_SECONDS.time(asked_at.elapsed());
            }
            Err(refusal) => {
                if matches!(refusal, Refusal::Unavailable | Refusal::Unknown) {
                    self.work.not_appended(asked_at);
                }
                metrics::NOT_APPENDED.add(refusal.as_str(), 1);
            }
        }
        answer
    }

    async fn answer(&self, rows: Vec<NewNotification>, all_or_nothing: bool, deadline: Instant) -> Result<Vec<Receipt>, Refusal> {
        #[cfg(feature = "mutants")]
        let mut rows = rows;
        #[cfg(feature = "mutants")]
        let asked = match mutants::before(&mut rows) {
            Ok(asked) => asked,
            Err(receipts) => return Ok(receipts),
        };
        let bytes: usize = rows.iter().map(NewNotification::weight).sum();
        let take = |room: &Arc<Semaphore>, wanted: usize| {
            let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
            Arc::clone(room).try_acquire_many_owned(wanted).map_err(|_| Refusal::Overloaded)
        };
        let room = [take(&self.row_room, rows.len())?, take(&self.kib_room, bytes / 1024 + 1)?];
        let (reply, answer) = oneshot::channel();
        let custody = Custody::default();
        let request = AppendRequest { rows, all_or_nothing, bytes, deadline, custody: custody.clone(), reply, _room: room };
        self.queue.try_send(request).map_err(|_| Refusal::Overloaded)?;
        #[cfg(feature = "mutants")]
        if let Some(receipts) = asked.made_up() {
            // A dropped `answer` would look like a caller that has gone, and the appender would not append the request.
            std::mem::forget(answer);
            return Ok(receipts);
        }
        // The appender answers in time unless something holds it up, such as opening a connection.
        match tokio::time::timeout_at(deadline + GRACE, answer).await {
            Ok(Ok(answer)) => {
                #[cfg(feature = "mutants")]
                if let Ok(receipts) = &answer {
                    asked.answered(receipts);
                }
                answer
            }
            // No answer in time, or the task ended while it had the request.
            _ if custody.give_up() => Err(Refusal::Unavailable),
            _ => Err(Refusal::Unknown),
        }
    }
}

/// A batch in which each key occurs once.
struct FoldedBatch {
    rows: Vec<NewNotification>,
    /// For each notification of the batch, the index of its row.
    places: Vec<usize>,
}

fn fold(batch: Vec<NewNotification>) -> Result<FoldedBatch, Refusal> {
    if batch.iter().all(|notification| notification.key.is_none()) {
        return Ok(FoldedBatch { places: (0..batch.len()).collect(), rows: batch });
    }
    let mut rows: Vec<NewNotification> = Vec::with_capacity(batch.len());
    let mut places = Vec::with_capacity(batch.len());
    let mut by_key: HashMap<IdempotencyKey, usize> = HashMap::new();
    let mut others = Vec::new();
    for (at, notification) in batch.into_iter().enumerate() {
        match notification.key.map(|key| by_key.entry(key)) {
            Some(Entry::Occupied(row)) if rows[*row.get()].body_hash == notification.body_hash => places.push(*row.get()),
            Some(Entry::Occupied(_)) => others.push(at),
            entry => {
                if let Some(Entry::Vacant(free)) = entry {
                    free.insert(rows.len());
                }
                places.push(rows.len());
                rows.push(notification);
            }
        }
    }
    if others.is_empty() { Ok(FoldedBatch { rows, places }) } else { Err(Refusal::OtherBody { items: others }) }
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
    committed: mpsc::Sender<Committed>,
    turn: CommitTurn,
    backoff: Backoff,
}

impl Appender {
    /// `seen` is the log watermark of this instance. `committed` receives each batch. `turn` decides when other
    /// instances commit first.
    pub fn new(
        database: Database,
        origin: InstanceId,
        seen: Arc<LogWatermark>,
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
            let outcome = self.attempt(&mut batch, end).await;
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
    async fn attempt(&mut self, batch: &mut Vec<AppendRequest>, end: WatermarkEnd) -> Result<append::AppendedBatch, AppendFailure> {
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
        append::append(connection, end, self.origin, &rows, conflict, limit).await
    }

    async fn start_over(&mut self, old: LogId) -> Result<(), StoreError> {
        read::start_over(self.dedicated.get().await?, &self.seen, old).await
    }

    fn settle(&mut self, batch: Vec<AppendRequest>, log_id: LogId, done: append::AppendedBatch, took: Duration) {
        let requests = batch.len();
        let bytes: usize = batch.iter().map(|r| r.bytes).sum();
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
                        rows.push(row.appended(seq, created_at));
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
            metrics::APPENDED.add(rows.len());
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
