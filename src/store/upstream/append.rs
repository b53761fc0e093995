//! What providers sent, into the log: the log's own append behind the fence of the sessions.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tokio::time::Instant;

use super::{Columns, Lease};
use crate::domain::{InstanceId, NewNotification, Seq};
use crate::metrics;
use crate::store::append::{self, Appended, Failure, Known};
use crate::store::database::limited;
use crate::store::error::Class;
use crate::store::seen::SeenEnd;
use crate::store::{StoreError, append::ensure_partitions};

/// A message of a provider, and the session that it came through. It is for one user, and carries the key of
/// [`crate::domain::IdempotencyKey::of_message`]: after an unknown outcome it is appended again, and makes one row.
#[derive(Debug, Clone)]
pub struct Received {
    pub lease: Lease,
    pub notification: NewNotification,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is in the log: as a new row, or as the one of the first try.
    Appended(Appended),
    /// The session is not held any more under this term. It is not in the log by this call, nor will be under this term.
    TermPassed,
}

/// A committed batch, in the order in which it was given.
#[derive(Debug)]
pub struct Batch {
    pub outcomes: Vec<Recorded>,
    /// When, and the log's highest number after it; `None` when no row was new.
    pub grown: Option<(DateTime<Utc>, Seq)>,
}

/// Appends messages after what was `seen` of the log, in one commit. No key may stand twice among them.
///
/// # Errors
/// As [`append::append`]. After [`Failure::Unknown`] the connection must not be used again; the same rows may be given again.
pub async fn append(
    connection: &mut PgConnection,
    seen: SeenEnd,
    instance: InstanceId,
    rows: &[&Received],
    limit: Duration,
) -> Result<Batch, Failure> {
    let end = Instant::now() + limit;
    match call(connection, seen, instance, rows, limit).await {
        Err(Failure::Again(StoreError::Broken(error))) if Class::of(&error) == Class::NoPartition => {
            ensure_partitions(connection).await.map_err(Failure::Again)?;
            call(connection, seen, instance, rows, end.saturating_duration_since(Instant::now())).await
        }
        outcome => outcome,
    }
}

async fn call(
    connection: &mut PgConnection,
    seen: SeenEnd,
    instance: InstanceId,
    rows: &[&Received],
    limit: Duration,
) -> Result<Batch, Failure> {
    let sessions = Columns::of(rows.iter().map(|row| &row.lease));
    let notifications: Vec<&NewNotification> = rows.iter().map(|row| &row.notification).collect();
    let columns = append::Columns::of(&notifications);
    // Another name than the appender's: this instance's tailer gets these rows by no shorter way than the table.
    let origin = format!("{instance}/upstream");
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

    let mut known = Known::new(row.known_place, row.known_seq, row.known_id, row.known_created_at, row.known_same_body);
    let mut passed = row.passed.into_iter().peekable();
    let first = row.first_seq.map(Seq::from_db);
    let mut next = first;
    let mut outcomes = Vec::with_capacity(rows.len());
    for place in 1..=rows.len() {
        if passed.next_if(|at| usize::try_from(*at) == Ok(place)).is_some() {
            outcomes.push(Recorded::TermPassed);
        } else if let Some(known) = known.take(place) {
            outcomes.push(Recorded::Appended(known));
        } else {
            // Without a first number nothing was held; then every place has passed.
            let Some(seq) = next else { return Err(Failure::Unknown(StoreError::Broken(sqlx::Error::RowNotFound))) };
            next = Some(seq.next());
            outcomes.push(Recorded::Appended(Appended::New { seq }));
        }
    }
    metrics::UPSTREAM_FENCED.add(outcomes.iter().filter(|outcome| **outcome == Recorded::TermPassed).count());
    metrics::UPSTREAM_MESSAGES.add(usize::try_from(row.appended).unwrap_or(0));
    let grown = row.created_at.zip(first).filter(|_| row.appended > 0);
    Ok(Batch { outcomes, grown: grown.map(|(at, first)| (at, first.plus(i64::from(row.appended) - 1))) })
}
