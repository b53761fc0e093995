//! Appends provider messages to the log, behind the fence of the sessions.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tokio::time::Instant;

use super::{Lease, LeaseColumns};
use crate::domain::{CommitOrigin, InstanceId, NewNotification, Seq};
use crate::metrics;
use crate::store::append::{self, AppendFailure, Appended, KnownKeys};
use crate::store::error::ErrorClass;
use crate::store::log_watermark::WatermarkEnd;
use crate::store::time_limit::limited;
use crate::store::{
    StoreError,
    append::{LEAST_TIME, PARTITIONS_LIMIT, ensure_partitions},
};

/// A message of a provider, and the session that it came through. It is for one user, and has the key of
/// [`crate::domain::IdempotencyKey::of_message`]: after an unknown outcome it is appended again, and makes one row.
#[derive(Debug, Clone)]
pub struct Received {
    pub lease: Lease,
    pub notification: NewNotification,
}

/// The outcome of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is in the log: as a new row, or as the row of the first attempt.
    Appended(Appended),
    /// The session is no longer held under this term. This call did not append the message, nor will another under this
    /// term.
    TermPassed,
}

/// A committed batch. Its outcomes are in the order of the messages.
#[derive(Debug)]
pub struct RecordedBatch {
    pub outcomes: Vec<Recorded>,
    /// When it was committed, and the log's head after it; `None` when no row was new.
    pub grown: Option<(DateTime<Utc>, Seq)>,
}

/// Appends messages after the log watermark `seen`, in one commit. Their keys must not contain duplicates.
///
/// # Errors
/// As [`append::append`]. After [`AppendFailure::Unknown`] the connection must not be used again; the same rows may be
/// appended again.
pub async fn append(
    connection: &mut PgConnection,
    seen: WatermarkEnd,
    instance: InstanceId,
    rows: &[&Received],
    limit: Duration,
) -> Result<RecordedBatch, AppendFailure> {
    let end = Instant::now() + limit;
    match call(connection, seen, instance, rows, limit).await {
        Err(AppendFailure::Again(StoreError::Broken(error))) if ErrorClass::of(&error) == ErrorClass::NoPartition => {
            let left = || end.saturating_duration_since(Instant::now());
            ensure_partitions(connection, left().min(PARTITIONS_LIMIT)).await.map_err(AppendFailure::Again)?;
            if left() < LEAST_TIME {
                return Err(AppendFailure::Again(StoreError::TimedOut(limit)));
            }
            call(connection, seen, instance, rows, left()).await
        }
        outcome => outcome,
    }
}

async fn call(
    connection: &mut PgConnection,
    seen: WatermarkEnd,
    instance: InstanceId,
    rows: &[&Received],
    limit: Duration,
) -> Result<RecordedBatch, AppendFailure> {
    let sessions = LeaseColumns::of(rows.iter().map(|row| &row.lease));
    let notifications: Vec<&NewNotification> = rows.iter().map(|row| &row.notification).collect();
    let columns = append::AppendColumns::of(&notifications);
    // Not the appender's origin: this instance's tailer gets these rows only from the table.
    let origin = CommitOrigin::Providers(instance).to_string();
    let answer = sqlx::query!(
        r#"SELECT passed AS "passed!", first_seq, appended AS "appended!", created_at,
                  known_place, known_seq, known_id, known_created_at, known_same_body
             FROM recado.upstream_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)"#,
        instance.0,
        &sessions.provider as _,
        &sessions.user as _,
        &sessions.term,
        seen.seq.get(),
        seen.id.map(|id| id.0),
        origin,
        &columns.id,
        &columns.kind as _,
        &columns.title as _,
        &columns.message as _,
        &columns.data as _,
        &columns.topic,
        &columns.user as _,
        &columns.ttl_seconds as _,
        &columns.replay,
        &columns.source as _,
        &columns.key as _,
        &columns.body_hash,
    )
    .fetch_one(connection);
    let row = limited(limit, answer).await.map_err(append::failure)?;

    let mut known = KnownKeys::new(row.known_place, row.known_seq, row.known_id, row.known_created_at, row.known_same_body);
    let mut passed = row.passed.into_iter().peekable();
    let first = row.first_seq.map(Seq::from_db);
    let mut next = first;
    let mut outcomes = Vec::with_capacity(rows.len());
    for ordinal in 1..=rows.len() {
        if passed.next_if(|at| usize::try_from(*at) == Ok(ordinal)).is_some() {
            outcomes.push(Recorded::TermPassed);
        } else if let Some(known) = known.take(ordinal) {
            outcomes.push(Recorded::Appended(known));
        } else {
            // Without a first number no session was held; then the term of every message has passed.
            let Some(seq) = next else { return Err(AppendFailure::Unknown(StoreError::Broken(sqlx::Error::RowNotFound))) };
            next = Some(seq.next());
            outcomes.push(Recorded::Appended(Appended::New { seq }));
        }
    }
    metrics::UPSTREAM_FENCED.add(outcomes.iter().filter(|outcome| **outcome == Recorded::TermPassed).count());
    metrics::UPSTREAM_MESSAGES.add(usize::try_from(row.appended).unwrap_or(0));
    let grown = row.created_at.zip(first).filter(|_| row.appended > 0);
    Ok(RecordedBatch { outcomes, grown: grown.map(|(at, first)| (at, first.plus(i64::from(row.appended) - 1))) })
}
