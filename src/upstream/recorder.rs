//! What providers say, into the log: one task an instance, one batch in flight, never cancelled.
//!
//! A message is read from its socket only when there is room for it: [`super::mailbox::MESSAGES_UNDER_WAY`] for its
//! session, and [`QUEUE_KIB`] for all together. Full means that the socket is not read, so that the provider's own TCP
//! window fills. After an unknown outcome the batch is repeated under the same keys; the log holds each message once.
//! A message whose term has passed is not appended, and its session is told.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::mailbox::Mailbox;
use crate::backoff::Backoff;
use crate::domain::{InstanceId, NewNotification};
use crate::store::append::{Appended, Failure};
use crate::store::lane::Lane;
use crate::store::seen::Seen;
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
        let waiting = Box::new(Waiting { notification, mailbox: Arc::clone(mailbox) });
        let Ok(own) = Arc::clone(&mailbox.room).try_acquire_owned() else { return Err(waiting) };
        let Ok(shared) = Arc::clone(&self.kib).try_acquire_many_owned(kib(&waiting.notification)) else { return Err(waiting) };
        self.give(waiting, [own, shared]);
        Ok(())
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
}

impl Recorder {
    pub fn new(database: Database, instance: InstanceId, seen: Arc<Seen>) -> (RecorderHandle, Self) {
        let (sender, queue) = mpsc::channel(QUEUE_KIB);
        let handle = RecorderHandle { queue: sender, kib: Arc::new(Semaphore::new(QUEUE_KIB)) };
        let backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        (handle, Self { queue, lane: Lane::new(database, "upstream recorder"), instance, seen, backoff })
    }

    /// Runs until stopped; what was read from the providers by then is still appended.
    pub async fn run(mut self, mut stop: Stop) {
        loop {
            let first = tokio::select! {
                biased;
                first = self.queue.recv() => first,
                () = stop.wait() => self.queue.try_recv().ok(),
            };
            let Some(first) = first else { return };
            let batch = self.gather(first);
            self.commit(batch, &stop).await;
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

    /// Tries a batch until the database has said what became of it. Gives up only when the hub stops: by then its leases
    /// are given back.
    async fn commit(&mut self, mut batch: Vec<Message>, stop: &Stop) {
        while !batch.is_empty() {
            match self.attempt(&batch).await {
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
                        Box::pin(self.commit(vec![message], stop)).await;
                    }
                    return;
                }
                Err(failure) => {
                    let error = cause(&failure);
                    tracing::warn!(%error, messages = batch.len(), "providers' messages could not be appended; they are tried again");
                    self.lane.discard();
                }
            }
            if stop.is_stopped() {
                return tracing::error!(
                    messages = batch.len(),
                    "providers' messages are lost: the database did not take them until the end"
                );
            }
            tokio::time::sleep(self.backoff.failed()).await;
        }
    }

    async fn attempt(&mut self, batch: &[Message]) -> Result<Batch, Failure> {
        let connection = self.lane.get().await.map_err(Failure::Again)?;
        let rows: Vec<&Received> = batch.iter().map(|message| &message.received).collect();
        let (_, end) = self.seen.end();
        append::append(connection, end, self.instance, &rows, COMMIT_LIMIT).await
    }

    fn settle(&self, batch: &[Message], done: &Batch) {
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
