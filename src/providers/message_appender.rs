//! Appends provider messages to the log: one task per instance, one batch at a time.
//!
//! A message is read from its socket only if there is room: [`super::mailbox::MESSAGES_UNDER_WAY`] per session, and
//! [`QUEUE_KIB`] for all sessions together. When full, the socket is not read, so that the provider's own TCP window
//! fills. After an unknown outcome the batch is repeated under the same keys, and the log holds each message once. A
//! message whose term has passed is not appended, and its session is told. If the log was truncated or restored, it
//! gets a new log id, as in the appender, and the batch continues there. Only the hub's stop cancels a batch: remaining
//! messages are tried for [`LAST_WORDS`], and those that are left then are counted as lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::mailbox::Mailbox;
use crate::backoff::Backoff;
use crate::domain::{InstanceId, LogId, NewNotification};
use crate::store::append::{AppendFailure, Appended};
use crate::store::dedicated_connection::DedicatedConnection;
use crate::store::log_watermark::{LogWatermark, WatermarkEnd};
use crate::store::providers::append::{self, Received, Recorded, RecordedBatch};
use crate::store::read;
use crate::store::{Database, StoreError};
use crate::tasks::Stop;

/// Most messages of one commit.
const BATCH_ROWS: usize = 500;
/// Most bytes of one commit, by [`NewNotification::weight`].
const BATCH_BYTES: usize = 1 << 20;
/// Most waiting messages of all sessions, in KiB; a message takes at least one.
const QUEUE_KIB: usize = 16 << 10;
/// Longest wait for a commit.
const COMMIT_LIMIT: Duration = Duration::from_secs(5);
/// How long remaining messages are tried after the stop.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// A queued message and the permits that it holds.
struct QueuedMessage {
    received: Received,
    mailbox: Arc<Mailbox>,
    _room: [OwnedSemaphorePermit; 2],
}

/// A message that waits for room.
pub struct WaitingMessage {
    notification: NewNotification,
    mailbox: Arc<Mailbox>,
}

/// Sends messages to the message appender. Cheap to clone.
#[derive(Clone)]
pub struct MessageHandle {
    queue: mpsc::Sender<QueuedMessage>,
    kib: Arc<Semaphore>,
}

impl MessageHandle {
    /// Queues a message if there is room now.
    ///
    /// # Errors
    /// Returns the message if there is no room, for [`MessageHandle::record_when_there_is_room`].
    pub fn record(&self, notification: NewNotification, mailbox: &Arc<Mailbox>) -> Result<(), Box<WaitingMessage>> {
        let waiting = Self::waiting(notification, mailbox);
        let Ok(own) = Arc::clone(&mailbox.room).try_acquire_owned() else { return Err(waiting) };
        let Ok(shared) = Arc::clone(&self.kib).try_acquire_many_owned(kib(&waiting.notification)) else { return Err(waiting) };
        self.give(waiting, [own, shared]);
        Ok(())
    }

    pub fn waiting(notification: NewNotification, mailbox: &Arc<Mailbox>) -> Box<WaitingMessage> {
        Box::new(WaitingMessage { notification, mailbox: Arc::clone(mailbox) })
    }

    pub async fn record_when_there_is_room(self, waiting: Box<WaitingMessage>) {
        let own = Arc::clone(&waiting.mailbox.room).acquire_owned().await;
        let shared = Arc::clone(&self.kib).acquire_many_owned(kib(&waiting.notification)).await;
        // The semaphores are never closed.
        if let (Ok(own), Ok(shared)) = (own, shared) {
            self.give(waiting, [own, shared]);
        }
    }

    fn give(&self, waiting: Box<WaitingMessage>, room: [OwnedSemaphorePermit; 2]) {
        let WaitingMessage { notification, mailbox } = *waiting;
        let received = Received { lease: mailbox.lease.clone(), notification };
        // The permits never exceed the capacity of the queue; a closed queue means that the hub has stopped.
        let _ = self.queue.try_send(QueuedMessage { received, mailbox, _room: room });
    }
}

fn kib(notification: &NewNotification) -> u32 {
    u32::try_from((notification.weight() / 1024 + 1).min(QUEUE_KIB)).unwrap_or(1)
}

/// The background task that appends provider messages.
pub struct MessageAppender {
    queue: mpsc::Receiver<QueuedMessage>,
    dedicated: DedicatedConnection,
    instance: InstanceId,
    seen: Arc<LogWatermark>,
    backoff: Backoff,
    /// Messages of the batch that is being appended.
    under_way: usize,
}

impl MessageAppender {
    pub fn new(database: Database, instance: InstanceId, seen: Arc<LogWatermark>) -> (MessageHandle, Self) {
        let (sender, queue) = mpsc::channel(QUEUE_KIB);
        let handle = MessageHandle { queue: sender, kib: Arc::new(Semaphore::new(QUEUE_KIB)) };
        let backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        (handle, Self { queue, dedicated: DedicatedConnection::new(database, "message appender"), instance, seen, backoff, under_way: 0 })
    }

    /// Runs until stopped. Messages that were read from providers by then are still appended, or counted as lost.
    pub async fn run(mut self, mut stop: Stop) {
        let mut stopped = stop.clone();
        let end = async {
            stopped.wait().await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            () = self.work(&mut stop) => {}
            () = end => {}
        }
        let lost = self.under_way + std::iter::from_fn(|| self.queue.try_recv().ok()).count();
        if lost > 0 {
            tracing::error!(messages = lost, "provider messages lost: the database did not accept them before the hub stopped");
        }
    }

    async fn work(&mut self, stop: &mut Stop) {
        loop {
            let first = tokio::select! {
                biased;
                first = self.queue.recv() => first,
                () = stop.wait() => self.queue.try_recv().ok(),
            };
            let Some(first) = first else { return };
            let batch = self.gather(first);
            self.under_way = batch.len();
            self.commit(batch).await;
            self.under_way = 0;
        }
    }

    fn gather(&mut self, first: QueuedMessage) -> Vec<QueuedMessage> {
        let mut bytes = first.received.notification.weight();
        let mut batch = vec![first];
        while batch.len() < BATCH_ROWS && bytes < BATCH_BYTES {
            let Ok(next) = self.queue.try_recv() else { break };
            bytes += next.received.notification.weight();
            batch.push(next);
        }
        batch
    }

    /// Retries a batch until its outcome is known.
    async fn commit(&mut self, mut batch: Vec<QueuedMessage>) {
        while !batch.is_empty() {
            let (log_id, end) = self.seen.end();
            match self.attempt(&batch, end).await {
                Ok(done) => {
                    self.backoff.succeeded();
                    return self.settle(&batch, &done);
                }
                Err(AppendFailure::Refused(error)) if batch.len() == 1 => {
                    return tracing::error!(%error, "the database refused a provider message that passed the hub's checks; dropped");
                }
                Err(AppendFailure::Refused(_)) => {
                    // A bad row must fail alone, so each row is tried on its own.
                    for message in batch.drain(..) {
                        Box::pin(self.commit(vec![message])).await;
                    }
                    return;
                }
                Err(AppendFailure::LogWentBack(error)) => {
                    tracing::error!(%error, "log was truncated or restored; it gets a new log id, and provider messages continue at its head");
                    if let Err(error) = self.start_over(log_id).await {
                        tracing::warn!(%error, "could not renew the log id; retrying");
                        self.dedicated.discard();
                    }
                }
                Err(failure) => {
                    let error = failure.cause();
                    tracing::warn!(%error, messages = batch.len(), "could not append provider messages; retrying");
                    self.dedicated.discard();
                }
            }
            tokio::time::sleep(self.backoff.failed()).await;
        }
    }

    async fn attempt(&mut self, batch: &[QueuedMessage], end: WatermarkEnd) -> Result<RecordedBatch, AppendFailure> {
        let connection = self.dedicated.get_durable().await.map_err(AppendFailure::Again)?;
        let rows: Vec<&Received> = batch.iter().map(|message| &message.received).collect();
        #[cfg(feature = "failpoints")]
        crate::failpoints::at("message.before_persist").await;
        append::append(connection, end, self.instance, &rows, COMMIT_LIMIT).await
    }

    async fn start_over(&mut self, old: LogId) -> Result<(), StoreError> {
        read::start_over(self.dedicated.get().await?, &self.seen, old).await
    }

    fn settle(&self, batch: &[QueuedMessage], done: &RecordedBatch) {
        let passed = done.outcomes.iter().filter(|outcome| **outcome == Recorded::TermPassed).count();
        if passed > 0 {
            tracing::warn!(messages = passed, "provider messages dropped: they were read after their term had passed");
        }
        for (message, outcome) in batch.iter().zip(&done.outcomes) {
            match outcome {
                Recorded::TermPassed => message.mailbox.lose(),
                Recorded::Appended(Appended::OtherBody) => {
                    tracing::error!(session = ?message.received.lease, "the log holds this message's key with another text; dropped");
                }
                Recorded::Appended(_) => {}
            }
        }
    }
}
