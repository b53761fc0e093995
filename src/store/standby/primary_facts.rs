//! Asks the primary what a standby must have replayed before it may read a page.
//!
//! The answer must not be older than the request for the page: otherwise an erasure could be done, and a standby that
//! has not replayed it would still be asked. So answers are never kept. But pages that wait for an answer share the
//! next one: a question is sent for all pages that were requested before it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::requirement::Requirement;
use crate::domain::{LogId, NotificationId, Seq};
use crate::store::StoreError;
use crate::store::read_pool::ReadPool;

/// Longest wait for the answer. A primary that is slower is asked for the page itself, which has more time.
const FACTS_LIMIT: Duration = Duration::from_secs(1);

/// The answer of the primary.
#[derive(Debug)]
struct Facts {
    log_id: LogId,
    floor: Seq,
    erasures: i64,
    ids: HashMap<i64, NotificationId>,
}

/// Pages that are waiting for the same answer.
#[derive(Debug, Default)]
struct Batch {
    seqs: Mutex<Vec<i64>>,
    /// `None` inside: the primary did not answer.
    answer: OnceLock<Option<Facts>>,
}

/// Collects the questions of pages.
#[derive(Debug, Default)]
pub(super) struct PrimaryFacts {
    /// The batch whose question was not sent yet.
    open: Mutex<Arc<Batch>>,
    /// Held by the page that sends a question for its batch.
    turn: tokio::sync::Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PrimaryFacts {
    /// What a page up to `upto` needs; `None` if the primary does not answer or has no row there. The future can be
    /// dropped: the next page of the batch sends the question.
    pub async fn ask(&self, primary: &ReadPool, upto: Seq) -> Option<Requirement> {
        let batch = {
            let open = lock(&self.open);
            lock(&open.seqs).push(upto.get());
            Arc::clone(&open)
        };
        let _turn = self.turn.lock().await;
        if batch.answer.get().is_none() {
            let seqs = self.close(&batch);
            let answer = read(primary, &seqs).await;
            if let Err(error) = &answer {
                tracing::debug!(%error, "cannot ask the primary what a standby must have; the primary reads the pages");
            }
            let _ = batch.answer.set(answer.ok());
        }
        let facts = batch.answer.get()?.as_ref()?;
        let id = *facts.ids.get(&upto.get())?;
        Some(Requirement { log_id: facts.log_id, floor: facts.floor, erasures: facts.erasures, upto, id })
    }

    /// No page joins this batch from now on. Returns its numbers.
    fn close(&self, batch: &Arc<Batch>) -> Vec<i64> {
        let mut open = lock(&self.open);
        if Arc::ptr_eq(&open, batch) {
            *open = Arc::default();
        }
        let mut seqs = lock(&batch.seqs).clone();
        seqs.sort_unstable();
        seqs.dedup();
        seqs
    }
}

async fn read(primary: &ReadPool, seqs: &[i64]) -> Result<Facts, StoreError> {
    let asking = async {
        let mut checkout = primary.checkout().await?;
        let rows = sqlx::query!(
            r#"SELECT m.log_id, m.floor_seq, m.erasures, l.seq AS "seq?", l.id AS "id?"
                 FROM recado.meta m
                 LEFT JOIN LATERAL (
                       SELECT r.seq, r.id
                         FROM unnest($1::bigint[]) AS s (seq)
                        CROSS JOIN LATERAL (SELECT x.seq, x.id FROM recado.log x WHERE x.seq = s.seq LIMIT 1) r) l ON true"#,
            seqs,
        )
        .fetch_all(checkout.connection())
        .await?;
        checkout.done();
        Ok::<_, StoreError>(rows)
    };
    let rows = tokio::time::timeout(FACTS_LIMIT, asking).await.map_err(|_| StoreError::TimedOut(FACTS_LIMIT))??;
    let first = rows.first().ok_or(StoreError::Broken(sqlx::Error::RowNotFound))?;
    Ok(Facts {
        log_id: LogId(first.log_id),
        floor: Seq::from_db(first.floor_seq),
        erasures: first.erasures,
        ids: rows.iter().filter_map(|row| Some((row.seq?, NotificationId(row.id?)))).collect(),
    })
}
