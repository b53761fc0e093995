//! What providers say, into the log: one task an instance, one batch in flight, cancelled by the hub's end alone.
//!
//! A message is read from its socket only when there is room for it: [`super::mailbox::MESSAGES_UNDER_WAY`] for its
//! session, and [`QUEUE_KIB`] for all together. Full means that the socket is not read, so that the provider's own TCP
//! window fills. After an unknown outcome the batch is repeated under the same keys; the log holds each message once.
//! A message whose term has passed is not appended, and its session is told. When the log went back, its history is renamed
//! as the appender does it, and the batch goes on there. At the hub's end what is left is tried for [`LAST_WORDS`], and
//! counted where that was not enough.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::mailbox::Mailbox;
use crate::backoff::Backoff;
use crate::domain::{InstanceId, LogId, NewNotification};
use crate::store::append::{Appended, Failure};
use crate::store::lane::Lane;
use crate::store::read;
use crate::store::seen::{Seen, SeenEnd};
use crate::store::upstream::append::{self, Batch, Received, Recorded};
use crate::store::{Database, StoreError};
use crate::tasks::Stop;

/// Most messages of one commit.
const BATCH_ROWS: usize = 500;
/// Most bytes of one commit, by [`NewNotification::weight`].
const BATCH_BYTES: usize = 1 << 20;
/// Most that waits, of all sessions, in KiB; a message takes one at least.
const QUEUE_KIB: usize = 16 << 10;
/// Longest wait for a commit.
const COMMIT_LIMIT: Duration = Duration::from_secs(5);
/// After stopping: how long what is left is tried.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// A message on its way, and the room that it takes.
struct Message {
    received: Received,
    mailbox: Arc<Mailbox>,
    _room: [OwnedSemaphorePermit; 2],
}

/// A message that waits for room.
pub struct Waiting {
    notification: NewNotification,
    mailbox: Arc<Mailbox>,
}

/// A way to record. Cheap to clone.
#[derive(Clone)]
pub struct RecorderHandle {
    queue: mpsc::Sender<Message>,
    kib: Arc<Semaphore>,
}

impl RecorderHandle {
    /// Records a message if there is room now.
    ///
    /// # Errors
    /// Gives it back when there is none, for [`RecorderHandle::record_when_there_is_room`].
    pub fn record(&self, notification: NewNotification, mailbox: &Arc<Mailbox>) -> Result<(), Box<Waiting>> {
        let waiting = Self::waiting(notification, mailbox);
        let Ok(own) = Arc::clone(&mailbox.room).try_acquire_owned() else { return Err(waiting) };
        let Ok(shared) = Arc::clone(&self.kib).try_acquire_many_owned(kib(&waiting.notification)) else { return Err(waiting) };
        self.give(waiting, [own, shared]);
        Ok(())
    }

    pub fn waiting(notification: NewNotification, mailbox: &Arc<Mailbox>) -> Box<Waiting> {
        Box::new(Waiting { notification, mailbox: Arc::clone(mailbox) })
    }

    pub async fn record_when_there_is_room(self, waiting: Box<Waiting>) {
        let own = Arc::clone(&waiting.mailbox.room).acquire_owned().await;
        let shared = Arc::clone(&self.kib).acquire_many_owned(kib(&waiting.notification)).await;
        // The semaphores are never closed.
        if let (Ok(own), Ok(shared)) = (own, shared) {
            self.give(waiting, [own, shared]);
        }
    }

    fn give(&self, waiting: Box<Waiting>, room: [OwnedSemaphorePermit; 2]) {
        let Waiting { notification, mailbox } = *waiting;
        let received = Received { lease: mailbox.lease.clone(), notification };
        // The room is never more than the queue holds; closed means that the hub is at its end.
        let _ = self.queue.try_send(Message { received, mailbox, _room: room });
    }
}

fn kib(notification: &NewNotification) -> u32 {
    u32::try_from((notification.weight() / 1024 + 1).min(QUEUE_KIB)).unwrap_or(1)
}

/// The task that appends what providers say.
pub struct Recorder {
    queue: mpsc::Receiver<Message>,
    lane: Lane,
    instance: InstanceId,
    seen: Arc<Seen>,
    backoff: Backoff,
    /// Messages of the batch that is being appended.
    under_way: usize,
}

impl Recorder {
    pub fn new(database: Database, instance: InstanceId, seen: Arc<Seen>) -> (RecorderHandle, Self) {
        let (sender, queue) = mpsc::channel(QUEUE_KIB);
        let handle = RecorderHandle { queue: sender, kib: Arc::new(Semaphore::new(QUEUE_KIB)) };
        let backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        (handle, Self { queue, lane: Lane::new(database, "upstream recorder"), instance, seen, backoff, under_way: 0 })
    }

    /// Runs until stopped; what was read from the providers by then is still appended, or counted.
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
            tracing::error!(messages = lost, "providers' messages are lost: the database did not take them until the end");
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

    fn gather(&mut self, first: Message) -> Vec<Message> {
        let mut bytes = first.received.notification.weight();
        let mut batch = vec![first];
        while batch.len() < BATCH_ROWS && bytes < BATCH_BYTES {
            let Ok(next) = self.queue.try_recv() else { break };
            bytes += next.received.notification.weight();
            batch.push(next);
        }
        batch
    }

    /// Tries a batch until the database has said what became of it.
    async fn commit(&mut self, mut batch: Vec<Message>) {
        while !batch.is_empty() {
            let (log_id, end) = self.seen.end();
            match self.attempt(&batch, end).await {
                Ok(done) => {
                    self.backoff.succeeded();
                    return self.settle(&batch, &done);
                }
                Err(Failure::Refused(error)) if batch.len() == 1 => {
                    return tracing::error!(%error, "the database refuses a provider's message that the hub let pass");
                }
                Err(Failure::Refused(_)) => {
                    // One bad row must fail alone.
                    for message in batch.drain(..) {
                        Box::pin(self.commit(vec![message])).await;
                    }
                    return;
                }
                Err(Failure::LogWentBack(error)) => {
                    tracing::error!(%error, "the log went back; it gets a new id, and providers' messages go on at its present end");
                    if let Err(error) = self.start_over(log_id).await {
                        tracing::warn!(%error, "the log's new id could not be had; the append is tried again");
                        self.lane.discard();
                    }
                }
                Err(failure) => {
                    let error = cause(&failure);
                    tracing::warn!(%error, messages = batch.len(), "providers' messages could not be appended; they are tried again");
                    self.lane.discard();
                }
            }
            tokio::time::sleep(self.backoff.failed()).await;
        }
    }

    async fn attempt(&mut self, batch: &[Message], end: SeenEnd) -> Result<Batch, Failure> {
        let connection = self.lane.get().await.map_err(Failure::Again)?;
        let rows: Vec<&Received> = batch.iter().map(|message| &message.received).collect();
        #[cfg(feature = "points")]
        crate::points::at("message.before_persist").await;
        append::append(connection, end, self.instance, &rows, COMMIT_LIMIT).await
    }

    async fn start_over(&mut self, old: LogId) -> Result<(), StoreError> {
        read::start_over(self.lane.get().await?, &self.seen, old).await
    }

    fn settle(&self, batch: &[Message], done: &Batch) {
        let passed = done.outcomes.iter().filter(|outcome| **outcome == Recorded::TermPassed).count();
        if passed > 0 {
            tracing::warn!(messages = passed, "what providers said was read too late for its term, and is not in the log");
        }
        for (message, outcome) in batch.iter().zip(&done.outcomes) {
            match outcome {
                Recorded::TermPassed => message.mailbox.lose(),
                Recorded::Appended(Appended::OtherBody) => {
                    tracing::error!(session = ?message.received.lease, "a message's key is in the log with another text");
                }
                Recorded::Appended(_) => {}
            }
        }
    }
}

fn cause(failure: &Failure) -> String {
    match failure {
        Failure::Again(error) | Failure::Unknown(error) | Failure::LogWentBack(error) | Failure::Refused(error) => {
            StoreError::to_string(error)
        }
        Failure::OtherBodies(_) => "keys are known with other texts".to_owned(),
    }
}
