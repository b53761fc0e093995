//! Group commit: one task an instance turns whatever waits into one commit.
//!
//! While one batch commits, the next gathers; there is no timer, so an idle hub appends at once. A request is
//! *queued* (nobody has it but us), then *sent* (the database may have it), then *answered*. A request whose deadline
//! passes while it is queued is dropped and answered [`Refusal::Unavailable`]: surely not appended. One whose deadline
//! passes after it was sent is answered [`Refusal::Unknown`]: its caller repeats it with the same key. A statement that
//! was sent is never cancelled.
//!
//! Channels: requests come through a bounded queue (count by the channel, bytes by a semaphore); full means
//! [`Refusal::Overloaded`], at once. Committed batches go to the tailer as a hint through a bounded channel; full
//! means that the tailer reads them from the table like everyone else's.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::append::{self, Appended, Failure};
use super::lane::Lane;
use super::seen::Seen;
use super::{Database, StoreError, read};
use crate::backoff::Backoff;
use crate::domain::{IdempotencyKey, InstanceId, LogId, NewNotification, Notification, NotificationId, Seq};
use crate::tasks::Stop;

/// Most rows of one commit. Above it the time under the lock grows and throughput does not.
const BATCH_ROWS: usize = 1000;
/// Most bytes of one commit, by [`NewNotification::weight`].
const BATCH_BYTES: usize = 1 << 20;
/// Most requests that wait.
const QUEUE_ROWS: usize = 8192;
/// Most bytes that wait, in KiB.
const QUEUE_KIB: usize = 32 << 10;
/// A caller has its answer within this time of asking; the contract gives five seconds.
pub const DEADLINE: Duration = Duration::from_millis(4500);
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The key was used before, with another body. Not appended.
    OtherBody,
    /// Too much is waiting. Not appended.
    Overloaded,
    /// The database did not take it in time. Not appended.
    Unavailable,
    /// No answer in time. It may have been appended; a repeat with the same key settles it.
    Unknown,
    /// The database refuses this very row. Not appended.
    Unacceptable,
}

struct Request {
    notification: NewNotification,
    deadline: Instant,
    reply: oneshot::Sender<Result<Receipt, Refusal>>,
    _room: OwnedSemaphorePermit,
}

/// A way to append. Cheap to clone.
#[derive(Clone)]
pub struct AppendHandle {
    queue: mpsc::Sender<Request>,
    room: Arc<Semaphore>,
}

impl AppendHandle {
    /// Appends a notification; returns when it is committed. `deadline` is [`DEADLINE`] after the caller asked.
    ///
    /// # Errors
    /// See [`Refusal`]. Comes a moment after the deadline at the latest.
    pub async fn append(&self, notification: NewNotification, deadline: Instant) -> Result<Receipt, Refusal> {
        let kib = u32::try_from(notification.weight() / 1024 + 1).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(kib).map_err(|_| Refusal::Overloaded)?;
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Request { notification, deadline, reply, _room: room }).map_err(|_| Refusal::Overloaded)?;
        // The appender answers in time unless it is itself held up, such as by opening a connection.
        match tokio::time::timeout_at(deadline + GRACE, answer).await {
            Ok(Ok(answer)) => answer,
            // No answer, or a task that ended while it had the request.
            _ => Err(Refusal::Unknown),
        }
    }
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
    carried: VecDeque<Request>,
    lane: Lane,
    origin: InstanceId,
    seen: Arc<Seen>,
    committed: mpsc::Sender<Committed>,
    backoff: Backoff,
}

impl Appender {
    /// `seen` is the history that this instance knows; `committed` is told of each batch.
    pub fn new(database: Database, origin: InstanceId, seen: Arc<Seen>, committed: mpsc::Sender<Committed>) -> (AppendHandle, Self) {
        let (sender, queue) = mpsc::channel(QUEUE_ROWS);
        let handle = AppendHandle { queue: sender, room: Arc::new(Semaphore::new(QUEUE_KIB)) };
        let appender = Self {
            queue,
            carried: VecDeque::new(),
            lane: Lane::new(database, "appender"),
            origin,
            seen,
            committed,
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
            let batch = self.gather();
            self.commit(batch).await;
        }
    }

    /// What is waiting now, up to the bounds of a batch. A second request with the same key waits for the next batch,
    /// where it finds the row of the first.
    fn gather(&mut self) -> Vec<Request> {
        let mut keys: HashSet<IdempotencyKey> = HashSet::new();
        let mut bytes = 0;
        let mut batch = Vec::new();
        let mut later = VecDeque::new();
        while batch.len() < BATCH_ROWS && bytes < BATCH_BYTES && later.len() < BATCH_ROWS {
            let Some(request) = self.carried.pop_front().or_else(|| self.queue.try_recv().ok()) else { break };
            if request.notification.key.is_some_and(|key| !keys.insert(key)) {
                later.push_back(request);
            } else {
                bytes += request.notification.weight();
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
            match self.attempt(&batch, last_deadline).await {
                Ok((log_id, done)) => {
                    self.backoff.succeeded();
                    return self.settle(batch, log_id, done);
                }
                Err(Failure::Again(error)) => {
                    tracing::warn!(%error, rows = batch.len(), "an append was rolled back and is tried again");
                    if !matches!(error, StoreError::Broken(_)) {
                        self.lane.discard();
                    }
                }
                Err(Failure::LogWentBack(error)) => {
                    tracing::error!(%error, "the log went back; it gets a new id, and appending goes on at its present end");
                    if let Err(error) = self.start_over().await {
                        tracing::warn!(%error, "the log's new id could not be had; the append is tried again");
                        self.lane.discard();
                    }
                }
                Err(Failure::Unknown(error)) => {
                    tracing::warn!(%error, rows = batch.len(), "the outcome of an append is unknown");
                    self.lane.discard();
                    return answer_all(batch, Refusal::Unknown);
                }
                Err(Failure::Refused(error)) if batch.len() == 1 => {
                    tracing::error!(%error, "the database refuses a notification that the hub let pass");
                    return answer_all(batch, Refusal::Unacceptable);
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

    /// Appends to the history that is known now, and says which that was.
    async fn attempt(&mut self, batch: &[Request], deadline: Instant) -> Result<(LogId, append::Batch), Failure> {
        let connection = self.lane.get().await.map_err(Failure::Again)?;
        let rows: Vec<&NewNotification> = batch.iter().map(|r| &r.notification).collect();
        let limit = deadline.saturating_duration_since(Instant::now());
        let (log_id, end) = self.seen.end();
        Ok((log_id, append::append(connection, end, self.origin, &rows, limit).await?))
    }

    /// What was known of the log is not so any more. Its history is renamed before anything is appended to it, or every
    /// client that was there before would take the next number for the next of the old one.
    async fn start_over(&mut self) -> Result<(), StoreError> {
        let (old, _) = self.seen.end();
        let connection = self.lane.get().await?;
        read::renew_log_id(connection, old).await?;
        self.seen.start_over(read::state(connection).await?.log_id);
        Ok(())
    }

    fn settle(&mut self, batch: Vec<Request>, log_id: LogId, done: append::Batch) {
        let mut rows = Vec::with_capacity(batch.len());
        for (request, outcome) in batch.into_iter().zip(done.outcomes) {
            let id = request.notification.id;
            let created_at = done.created_at;
            let answer = match outcome {
                Appended::New { seq } => {
                    rows.push(request.notification.appended(seq, created_at));
                    Ok(Receipt { seq, id, created_at, duplicate: false })
                }
                Appended::Known { seq, id, created_at } => Ok(Receipt { seq, id, created_at, duplicate: true }),
                Appended::OtherBody => Err(Refusal::OtherBody),
            };
            // A caller that is gone needs no answer.
            let _ = request.reply.send(answer);
        }
        if let Some(last) = rows.last() {
            self.seen.raise(log_id, last.seq, last.id);
            let _ = self.committed.try_send(Committed { log_id, rows });
        }
    }
}

/// Answers those whose time is over; they were never sent, or surely rolled back.
fn drop_expired(batch: Vec<Request>) -> Vec<Request> {
    let now = Instant::now();
    let (late, alive): (Vec<_>, Vec<_>) = batch.into_iter().partition(|r| r.deadline <= now || r.reply.is_closed());
    answer_all(late, Refusal::Unavailable);
    alive
}

fn answer_all(batch: Vec<Request>, refusal: Refusal) {
    for request in batch {
        let _ = request.reply.send(Err(refusal));
    }
}
