//! Makes the changes of inboxes that users ask for: one task per instance, one commit at a time.
//!
//! A change is a row of the log, and the lock of the log is held until its commit. So the changes that wait go into one
//! commit. A change that was made already has no effect, so a caller that got no answer may ask again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::domain::{AskedChange, Changed, InboxChange, InstanceId};
use crate::metrics::INBOX_CHANGES;
use crate::store::append::AppendFailure;
use crate::store::dedicated_connection::DedicatedConnection;
use crate::store::inbox;
use crate::store::log_watermark::LogWatermark;
use crate::store::read;
use crate::store::{Database, StoreError};
use crate::tasks::Stop;

/// Most changes of one commit, and most items that they name: the log is locked meanwhile.
const BATCH: usize = 64;
const BATCH_ITEMS: usize = 1024;
/// Most changes that wait. More are refused.
const QUEUE: usize = 1024;
/// Longest wait for a commit.
const COMMIT_LIMIT: Duration = Duration::from_secs(5);

/// A change that waits, and where its outcome goes.
struct WaitingChange {
    asked: AskedChange,
    outcome: oneshot::Sender<Result<Changed, ChangeFailure>>,
}

/// Why a change was not made, or may not have been. It may be asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeFailure {
    #[error("too many changes of inboxes wait")]
    Full,
    #[error("the database did not confirm the change")]
    Unconfirmed,
}

/// Asks for changes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct InboxHandle {
    queue: mpsc::Sender<WaitingChange>,
}

impl InboxHandle {
    /// Makes a change, in one commit with others that wait.
    ///
    /// # Errors
    /// See [`ChangeFailure`].
    pub async fn change(&self, asked: AskedChange) -> Result<Changed, ChangeFailure> {
        let (outcome, answer) = oneshot::channel();
        let made = match self.queue.try_send(WaitingChange { asked, outcome }) {
            Ok(()) => answer.await.unwrap_or(Err(ChangeFailure::Unconfirmed)),
            Err(_) => Err(ChangeFailure::Full),
        };
        INBOX_CHANGES.add(outcome_word(&made), 1);
        made
    }
}

/// The background task that makes the changes.
pub struct InboxWriter {
    queue: mpsc::Receiver<WaitingChange>,
    dedicated: DedicatedConnection,
    instance: InstanceId,
    seen: Arc<LogWatermark>,
    reads_members: bool,
}

impl InboxWriter {
    /// `reads_members`: accounts of the table `recado.member` count.
    pub fn new(database: Database, instance: InstanceId, seen: Arc<LogWatermark>, reads_members: bool) -> (InboxHandle, Self) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let dedicated = DedicatedConnection::new(database, "inbox writer");
        (InboxHandle { queue: sender }, Self { queue, dedicated, instance, seen, reads_members })
    }

    /// Runs until stopped. What waits then is still made, or answered as not confirmed.
    pub async fn run(mut self, mut stop: Stop) {
        loop {
            let first = tokio::select! {
                biased;
                first = self.queue.recv() => first,
                () = stop.wait() => self.queue.try_recv().ok(),
            };
            let Some(first) = first else { return };
            let mut items = items(&first);
            let mut batch = vec![first];
            while batch.len() < BATCH
                && items < BATCH_ITEMS
                && let Ok(next) = self.queue.try_recv()
            {
                items += self::items(&next);
                batch.push(next);
            }
            self.commit(batch).await;
        }
    }

    async fn commit(&mut self, batch: Vec<WaitingChange>) {
        let outcomes = match self.attempt(&batch).await {
            // The restored log has a new id now, and the second attempt is the first on it.
            Err(AppendFailure::LogWentBack(error)) => {
                tracing::error!(%error, "log was truncated or restored; it gets a new log id, and changes of inboxes continue at its head");
                match self.start_over().await {
                    Ok(()) => self.attempt(&batch).await,
                    Err(error) => Err(AppendFailure::Again(error)),
                }
            }
            outcome => outcome,
        };
        match outcomes {
            Ok(outcomes) => {
                for (waiting, outcome) in batch.into_iter().zip(outcomes) {
                    let _ = waiting.outcome.send(Ok(outcome));
                }
            }
            Err(failure) => {
                tracing::warn!(error = %failure.cause(), changes = batch.len(), "could not change inboxes; their clients may ask again");
                self.dedicated.discard();
                for waiting in batch {
                    let _ = waiting.outcome.send(Err(ChangeFailure::Unconfirmed));
                }
            }
        }
    }

    async fn attempt(&mut self, batch: &[WaitingChange]) -> Result<Vec<Changed>, AppendFailure> {
        let (_, end) = self.seen.end();
        let connection = self.dedicated.get_durable().await.map_err(AppendFailure::Again)?;
        let asked: Vec<&AskedChange> = batch.iter().map(|waiting| &waiting.asked).collect();
        inbox::change(connection, end, self.instance, &asked, self.reads_members, COMMIT_LIMIT).await
    }

    async fn start_over(&mut self) -> Result<(), StoreError> {
        let (log_id, _) = self.seen.end();
        read::start_over(self.dedicated.get().await?, &self.seen, log_id).await
    }
}

fn items(waiting: &WaitingChange) -> usize {
    match &waiting.asked.change {
        InboxChange::Items { seqs, .. } => seqs.len(),
        InboxChange::UpTo { .. } | InboxChange::Mute(_) => 1,
    }
}

/// The outcome as the metric names it.
const fn outcome_word(made: &Result<Changed, ChangeFailure>) -> &'static str {
    match made {
        Ok(Changed::Done(Some(_))) => "done",
        Ok(Changed::Done(None)) => "unchanged",
        Ok(Changed::NoItems(_) | Changed::BeyondHead | Changed::Full) => "refused",
        Err(ChangeFailure::Full | ChangeFailure::Unconfirmed) => "failed",
    }
}
