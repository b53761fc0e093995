//! Hands notifications to the appender, and waits for their receipts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::custody::Custody;
use super::{AppendRequest, Receipt, Refusal};
use crate::domain::{IdempotencyKey, NewNotification};
use crate::log::write_health::WriteHealth;
use crate::metrics;
use crate::telemetry::spans;

/// How long after its deadline a request's answer may still arrive from the appender.
const GRACE: Duration = Duration::from_millis(300);

/// Sends notifications to the appender. Cheap to clone.
#[derive(Clone)]
pub struct AppendHandle {
    pub(super) queue: mpsc::Sender<AppendRequest>,
    pub(super) row_room: Arc<Semaphore>,
    pub(super) kib_room: Arc<Semaphore>,
    pub(super) work: Arc<WriteHealth>,
}

impl AppendHandle {
    /// Whether appends succeed.
    pub fn work(&self) -> Arc<WriteHealth> {
        Arc::clone(&self.work)
    }

    /// Appends a notification and returns once it is committed. `deadline` is `DEADLINE` after the request arrived.
    ///
    /// # Errors
    /// See [`Refusal`]. The error arrives shortly after the deadline at the latest.
    pub async fn append(&self, notification: NewNotification, deadline: Instant) -> Result<Receipt, Refusal> {
        let receipts = self.ask(vec![notification], false, deadline).await?;
        receipts.into_iter().next().ok_or(Refusal::Unknown)
    }

    /// Appends 1 to `BATCH_ROWS` notifications in one commit, all or none, and returns their receipts in order.
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
        let answer = self.answer(rows, all_or_nothing, asked_at, deadline).await;
        match &answer {
            Ok(_) => {
                self.work.appended();
                metrics::APPEND_SECONDS.time_in(asked_at.elapsed(), spans::request().and_then(|trace| trace.recorded()));
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

    async fn answer(
        &self,
        rows: Vec<NewNotification>,
        all_or_nothing: bool,
        asked_at: Instant,
        deadline: Instant,
    ) -> Result<Vec<Receipt>, Refusal> {
        #[cfg(feature = "mutants")]
        let mut rows = rows;
        #[cfg(feature = "mutants")]
        let asked = match super::mutants::before(&mut rows) {
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
        let request = AppendRequest {
            rows,
            all_or_nothing,
            bytes,
            asked_at,
            deadline,
            custody: custody.clone(),
            trace: spans::request(),
            reply,
            _room: room,
        };
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
