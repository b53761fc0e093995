//! Group commit: one task an instance turns whatever waits into one commit.
//!
//! While one batch commits, the next gathers; there is no timer, so an idle hub appends at once. Where another instance is
//! busy as well, they take turns ([`super::turn`]). A request is
//! *queued* (nobody has it but us), then *sent* (the database may have it), then *answered*. A request whose deadline
//! passes while it is queued is dropped and answered [`Refusal::Unavailable`]: surely not appended. One whose deadline
//! passes after it was sent is answered [`Refusal::Unknown`]: its caller repeats it with the same key. A statement that
//! was sent is never cancelled.
//!
//! A request holds one notification, or several that are appended all or not at all; it is never split over two commits.
//! Where a key of such a request is known with another body, the database rolls the whole commit back and says which
//! rows were at fault; their requests are refused, and the rest is tried again.
//!
//! Channels: requests come through a bounded queue (rows and bytes by semaphores); full means
//! [`Refusal::Overloaded`], at once. What was committed goes to the tailer as a hint through a bounded channel; full
//! means that the tailer reads it from the table like everyone else's, as it does where a commit is big.

#[cfg(feature = "mutants")]
mod mutants;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::append::{self, Appended, Conflict, Failure};
use super::lane::Lane;
use super::seen::{Seen, SeenEnd};
use super::turn::Turn;
use super::{Database, StoreError, read};
use crate::backoff::Backoff;
use crate::domain::{IdempotencyKey, InstanceId, LogId, NewNotification, Notification, NotificationId, Seq};
use crate::metrics;
use crate::tasks::Stop;

/// Most rows of one commit. Above it the time under the lock grows and throughput does not.
pub const BATCH_ROWS: usize = 1000;
/// Most bytes of one commit, by [`NewNotification::weight`]. A single request that has more is a commit of its own.
const BATCH_BYTES: usize = 1 << 20;
/// Most notifications that wait.
const QUEUE_ROWS: usize = 8192;
/// Most bytes that wait, in KiB.
const QUEUE_KIB: usize = 32 << 10;
/// A caller has its answer within this time of asking; the contract gives five seconds.
pub const DEADLINE: Duration = Duration::from_millis(4500);
/// An attempt with less time left is not begun: it would likely end without an answer, and what was not sent is surely not
/// appended, which says more to its caller than "unknown".
const LEAST_TIME: Duration = Duration::from_millis(100);
/// How much later than its deadline a request's answer may come from the appender.
const GRACE: Duration = Duration::from_millis(300);

/// A notification that is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub seq: Seq,
    pub id: NotificationId,
    pub created_at: DateTime<Utc>,
    /// The key was used before, with the same body: this is the row of that time.
    pub duplicate: bool,
}

/// Why a notification has no receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The keys of these, counted from 0, were used before with other bodies. Nothing of the request was appended.
    OtherBody { items: Vec<usize> },
    /// Too much is waiting. Not appended.
    Overloaded,
    /// The database did not take it in time. Not appended.
    Unavailable,
    /// No answer in time. It may have been appended; a repeat with the same key settles it.
    Unknown,
    /// The database refuses this very row. Not appended.
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

struct Request {
    /// At least one; no key stands twice.
    rows: Vec<NewNotification>,
    all_or_nothing: bool,
    bytes: usize,
    deadline: Instant,
    reply: oneshot::Sender<Result<Vec<Receipt>, Refusal>>,
    _room: [OwnedSemaphorePermit; 2],
}

/// A way to append. Cheap to clone.
#[derive(Clone)]
pub struct AppendHandle {
    queue: mpsc::Sender<Request>,
    row_room: Arc<Semaphore>,
    kib_room: Arc<Semaphore>,
}

impl AppendHandle {
    /// Appends a notification; returns when it is committed. `deadline` is [`DEADLINE`] after the caller asked.
    ///
    /// # Errors
    /// See [`Refusal`]. Comes a moment after the deadline at the latest.
    pub async fn append(&self, notification: NewNotification, deadline: Instant) -> Result<Receipt, Refusal> {
        let receipts = self.ask(vec![notification], false, deadline).await?;
        receipts.into_iter().next().ok_or(Refusal::Unknown)
    }

    /// Appends 1 to [`BATCH_ROWS`] notifications in one commit, all or none, and returns their receipts in order. A key
    /// that stands twice with the same body makes one row.
    ///
    /// # Errors
    /// As [`AppendHandle::append`]; each is about the whole.
    pub async fn append_all(&self, batch: Vec<NewNotification>, deadline: Instant) -> Result<Vec<Receipt>, Refusal> {
        let Folded { rows, places } = fold(batch)?;
        // Where a row came from first, to name it in a refusal.
        let first_place = |row: usize| places.iter().position(|at| *at == row).unwrap_or(row);
        let receipts = match self.ask(rows, true, deadline).await {
            Err(Refusal::OtherBody { items }) => return Err(Refusal::OtherBody { items: items.into_iter().map(first_place).collect() }),
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
            Ok(_) => metrics::APPEND_SECONDS.time(asked_at.elapsed()),
            Err(refusal) => metrics::NOT_APPENDED.add(refusal.as_str(), 1),
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
        let request = Request { rows, all_or_nothing, bytes, deadline, reply, _room: room };
        self.queue.try_send(request).map_err(|_| Refusal::Overloaded)?;
        #[cfg(feature = "mutants")]
        if let Some(receipts) = asked.made_up() {
            // Whoever is not waited for is not appended: the appender must not notice.
            std::mem::forget(answer);
            return Ok(receipts);
        }
        // The appender answers in time unless it is itself held up, such as by opening a connection.
        match tokio::time::timeout_at(deadline + GRACE, answer).await {
            Ok(Ok(answer)) => {
                #[cfg(feature = "mutants")]
                if let Ok(receipts) = &answer {
                    asked.answered(receipts);
                }
                answer
            }
            // No answer, or a task that ended while it had the request.
            _ => Err(Refusal::Unknown),
        }
    }
}

/// A batch with each key once.
struct Folded {
    rows: Vec<NewNotification>,
    /// For each notification of the batch, its row.
    places: Vec<usize>,
}

fn fold(batch: Vec<NewNotification>) -> Result<Folded, Refusal> {
    if batch.iter().all(|notification| notification.key.is_none()) {
        return Ok(Folded { places: (0..batch.len()).collect(), rows: batch });
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
    if others.is_empty() { Ok(Folded { rows, places }) } else { Err(Refusal::OtherBody { items: others }) }
}

/// Rows that this instance has just committed, in order and without a hole between them.
#[derive(Debug)]
pub struct Committed {
    /// The history that they were appended to.
    pub log_id: LogId,
    pub rows: Vec<Notification>,
}

/// The task that owns the appending connection.
pub struct Appender {
    queue: mpsc::Receiver<Request>,
    row_room: Arc<Semaphore>,
    carried: VecDeque<Request>,
    lane: Lane,
    origin: InstanceId,
    seen: Arc<Seen>,
    committed: mpsc::Sender<Committed>,
    turn: Turn,
    backoff: Backoff,
}

impl Appender {
    /// `seen` is the history that this instance knows; `committed` is told of each batch; `turn` says when to let others go first.
    pub fn new(
        database: Database,
        origin: InstanceId,
        seen: Arc<Seen>,
        committed: mpsc::Sender<Committed>,
        turn: Turn,
    ) -> (AppendHandle, Self) {
        let (sender, queue) = mpsc::channel(QUEUE_ROWS);
        let handle =
            AppendHandle { queue: sender, row_room: Arc::new(Semaphore::new(QUEUE_ROWS)), kib_room: Arc::new(Semaphore::new(QUEUE_KIB)) };
        let appender = Self {
            queue,
            row_room: Arc::clone(&handle.row_room),
            carried: VecDeque::new(),
            lane: Lane::new(database, "appender"),
            origin,
            seen,
            committed,
            turn,
            backoff: Backoff::new(Duration::from_millis(20), Duration::from_millis(500)),
        };
        (handle, appender)
    }

    /// Runs until stopped; what was queued by then is still appended.
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

    /// How many notifications wait.
    fn waiting_rows(&self) -> usize {
        QUEUE_ROWS.saturating_sub(self.row_room.available_permits())
    }

    /// What is waiting now, up to the bounds of a batch. A second request with the same key waits for the next batch,
    /// where it finds the row of the first. One that does not fit whole is the first of the next.
    fn gather(&mut self) -> Vec<Request> {
        let mut keys: HashSet<IdempotencyKey> = HashSet::new();
        let (mut rows, mut bytes) = (0, 0);
        let mut batch: Vec<Request> = Vec::new();
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

    /// Tries a batch until it is committed, its outcome is unknown, or nobody waits for it any more.
    async fn commit(&mut self, mut batch: Vec<Request>) {
        loop {
            batch = drop_expired(batch);
            let Some(last_deadline) = batch.iter().map(|r| r.deadline).max() else { return };
            let (log_id, end) = self.seen.end();
            let begun = Instant::now();
            match self.attempt(&batch, end, last_deadline).await {
                Ok(done) => {
                    self.backoff.succeeded();
                    #[cfg(feature = "points")]
                    crate::points::at("append.before_reply").await;
                    return self.settle(batch, log_id, done, begun.elapsed());
                }
                Err(Failure::Again(error)) => {
                    tracing::warn!(%error, requests = batch.len(), "an append was rolled back and is tried again");
                    if !matches!(error, StoreError::Broken(_)) {
                        self.lane.discard();
                    }
                }
                Err(Failure::LogWentBack(error)) => {
                    tracing::error!(%error, "the log went back; it gets a new id, and appending goes on at its present end");
                    if let Err(error) = self.start_over(log_id).await {
                        tracing::warn!(%error, "the log's new id could not be had; the append is tried again");
                        self.lane.discard();
                    }
                }
                Err(Failure::OtherBodies(places)) => {
                    batch = refuse_conflicts(batch, &places);
                    continue;
                }
                Err(Failure::Unknown(error)) => {
                    tracing::warn!(%error, requests = batch.len(), "the outcome of an append is unknown");
                    self.lane.discard();
                    return answer_all(batch, &Refusal::Unknown);
                }
                Err(Failure::Refused(error)) if batch.len() == 1 => {
                    tracing::error!(%error, "the database refuses a notification that the hub let pass");
                    return answer_all(batch, &Refusal::Unacceptable);
                }
                Err(Failure::Refused(_)) => {
                    // One bad row must fail alone.
                    for request in batch {
                        Box::pin(self.commit(vec![request])).await;
                    }
                    return;
                }
            }
            tokio::time::sleep(self.backoff.failed()).await;
        }
    }

    /// Appends to the history that is known now.
    async fn attempt(&mut self, batch: &[Request], end: SeenEnd, deadline: Instant) -> Result<append::Batch, Failure> {
        let connection = self.lane.get().await.map_err(Failure::Again)?;
        let rows: Vec<&NewNotification> = batch.iter().flat_map(|r| &r.rows).collect();
        let conflict = if batch.iter().any(|r| r.all_or_nothing) { Conflict::RefusesAll } else { Conflict::LeavesOut };
        let limit = deadline.saturating_duration_since(Instant::now());
        if limit < LEAST_TIME {
            // To open the connection took the time that there was. Nothing was sent.
            return Err(Failure::Again(StoreError::TimedOut(limit)));
        }
        #[cfg(feature = "mutants")]
        if let Some(early) = mutants::delivered_early(&rows, self.seen.end().0, end.seq) {
            let _ = self.committed.try_send(early);
        }
        #[cfg(feature = "points")]
        crate::points::at("append.before_sql").await;
        append::append(connection, end, self.origin, &rows, conflict, limit).await
    }

    async fn start_over(&mut self, old: LogId) -> Result<(), StoreError> {
        read::start_over(self.lane.get().await?, &self.seen, old).await
    }

    fn settle(&mut self, batch: Vec<Request>, log_id: LogId, done: append::Batch, took: Duration) {
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
            self.turn.committed((first.seq, last.seq), requests, took);
            metrics::APPENDED.add(rows.len());
            metrics::COMMIT_ROWS.observe(rows.len() as f64);
            metrics::HEAD_SEEN.raise(last.seq.get());
            self.seen.raise(log_id, last.seq, last.id);
            // A commit above the bound stays out of the channel, or its 64 places could hold hundreds of megabytes.
            if bytes <= BATCH_BYTES {
                let _ = self.committed.try_send(Committed { log_id, rows });
            }
        }
    }
}

/// Answers those whose time is over; they were never sent, or surely rolled back.
fn drop_expired(batch: Vec<Request>) -> Vec<Request> {
    let now = Instant::now();
    let (late, alive): (Vec<_>, Vec<_>) = batch.into_iter().partition(|r| r.deadline <= now + LEAST_TIME || r.reply.is_closed());
    answer_all(late, &Refusal::Unavailable);
    alive
}

/// Answers the requests whose rows were at fault, and returns the others.
fn refuse_conflicts(batch: Vec<Request>, places: &[usize]) -> Vec<Request> {
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
        tracing::error!(?places, "the database refuses a batch for rows that are not in it");
        answer_all(std::mem::take(&mut others), &Refusal::Unacceptable);
    }
    others
}

fn answer_all(batch: Vec<Request>, refusal: &Refusal) {
    for request in batch {
        let _ = request.reply.send(Err(refusal.clone()));
    }
}
