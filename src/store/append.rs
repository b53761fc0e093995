//! Appends one batch to the log: one statement, one round trip, one commit.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::postgres::PgDatabaseError;
use tokio::time::Instant;
use uuid::Uuid;

use super::StoreError;
use super::error::ErrorClass;
use super::log_watermark::WatermarkEnd;
use super::time_limit::limited;
use crate::domain::{Audience, CommitOrigin, InstanceId, NewNotification, NotificationId, Seq, TraceContext};

/// Longest wait until missing partitions are made.
pub const PARTITIONS_LIMIT: Duration = Duration::from_secs(10);
/// An append is not sent when less time than this is left: it would probably end without an answer. "Not sent" tells
/// the caller more than "unknown", namely that nothing was appended.
pub const LEAST_TIME: Duration = Duration::from_millis(100);

/// The outcome of one notification of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Appended as a new row.
    New { seq: Seq },
    /// Its key already had this row, with the same body.
    Known { seq: Seq, id: NotificationId, created_at: DateTime<Utc> },
    /// Its key already had a row, with another body. Nothing was appended.
    OtherBody,
}

/// A committed batch. Its outcomes are in the order of the notifications.
#[derive(Debug)]
pub struct AppendedBatch {
    pub created_at: DateTime<Utc>,
    pub outcomes: Vec<Appended>,
    /// The log's head after this batch.
    pub head: Seq,
}

/// Why a batch was not appended, or may not have been.
#[derive(Debug)]
pub enum AppendFailure {
    /// Rolled back, or never sent. A later attempt may succeed.
    Again(StoreError),
    /// Rolled back: the database does not accept some row of the batch.
    Refused(StoreError),
    /// Rolled back: the log ends before a row that this hub has seen.
    LogWentBack(StoreError),
    /// Rolled back: rows of an all-or-nothing batch have keys that were used with other bodies. Holds their indexes.
    OtherBodies(Vec<usize>),
    /// The batch may or may not have been committed.
    Unknown(StoreError),
}

impl AppendFailure {
    /// Why, for the hub's log.
    pub fn cause(&self) -> String {
        match self {
            Self::Again(error) | Self::Unknown(error) | Self::LogWentBack(error) | Self::Refused(error) => error.to_string(),
            Self::OtherBodies(_) => "the log holds these keys with other texts".to_owned(),
        }
    }
}

/// How a batch treats a key that is known with another body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// That row is left out and reported as [`Appended::OtherBody`].
    LeavesOut,
    /// Nothing of the batch is appended; see [`AppendFailure::OtherBodies`].
    RefusesAll,
}

/// A batch to append.
#[derive(Debug, Clone, Copy)]
pub struct NewBatch<'a> {
    /// The log watermark of this instance.
    pub seen: WatermarkEnd,
    pub origin: InstanceId,
    /// The rows for the NOTIFY, sealed ([`super::sealed_rows`]).
    pub sealed: Option<&'a str>,
    /// Without duplicate keys.
    pub rows: &'a [&'a NewNotification],
    /// The requests that the rows came with, one for each row; empty if none of them is sampled.
    pub traces: &'a [Option<TraceContext>],
    pub conflict: Conflict,
}

/// Appends a batch after its log watermark.
///
/// # Errors
/// See [`AppendFailure`]. After [`AppendFailure::Unknown`] the connection must not be used again.
pub async fn append(connection: &mut PgConnection, batch: NewBatch<'_>, limit: Duration) -> Result<AppendedBatch, AppendFailure> {
    let end = Instant::now() + limit;
    match call(connection, batch, limit).await {
        Err(AppendFailure::Again(StoreError::Broken(error))) if ErrorClass::of(&error) == ErrorClass::NoPartition => {
            // A burst filled the log faster than maintenance makes partitions.
            let left = || end.saturating_duration_since(Instant::now());
            // Nothing was appended so far, nor is anything while a partition is made. So a time-out here is a definite
            // "not appended".
            ensure_partitions(connection, left().min(PARTITIONS_LIMIT)).await.map_err(AppendFailure::Again)?;
            if left() < LEAST_TIME {
                return Err(AppendFailure::Again(StoreError::TimedOut(limit)));
            }
            call(connection, batch, left()).await
        }
        outcome => outcome,
    }
}

/// The answer of `recado.append`.
struct AppendAnswer {
    first_seq: i64,
    appended: i32,
    created_at: DateTime<Utc>,
    known_place: Option<Vec<i32>>,
    known_seq: Option<Vec<i64>>,
    known_id: Option<Vec<Uuid>>,
    known_created_at: Option<Vec<DateTime<Utc>>>,
    known_same_body: Option<Vec<bool>>,
}

async fn call(connection: &mut PgConnection, batch: NewBatch<'_>, limit: Duration) -> Result<AppendedBatch, AppendFailure> {
    let columns = AppendColumns::of(batch.rows);
    let row = if batch.traces.is_empty() && batch.rows.iter().all(|row| row.inbox) {
        limited(limit, ask(connection, batch, &columns)).await
    } else {
        limited(limit, ask_with_settings(connection, batch, &columns)).await
    };
    let row = row.map_err(failure)?;
    let first = Seq::from_db(row.first_seq);
    let mut outcomes = Vec::with_capacity(batch.rows.len());
    let mut known = KnownKeys::new(row.known_place, row.known_seq, row.known_id, row.known_created_at, row.known_same_body);
    let mut next = first;
    for ordinal in 1..=batch.rows.len() {
        outcomes.push(known.take(ordinal).unwrap_or_else(|| {
            let seq = next;
            next = next.next();
            Appended::New { seq }
        }));
    }
    Ok(AppendedBatch { created_at: row.created_at, outcomes, head: first.plus(i64::from(row.appended) - 1) })
}

async fn ask(connection: &mut PgConnection, batch: NewBatch<'_>, columns: &AppendColumns<'_>) -> Result<AppendAnswer, sqlx::Error> {
    sqlx::query_as!(
        AppendAnswer,
        r#"SELECT first_seq AS "first_seq!", appended AS "appended!", created_at AS "created_at!",
                  known_place, known_seq, known_id, known_created_at, known_same_body
             FROM recado.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)"#,
        batch.seen.seq.get(),
        batch.seen.id.map(|id| id.0),
        origin(batch),
        &columns.id,
        &columns.kind as _,
        &columns.title as _,
        &columns.message as _,
        &columns.data as _,
        &columns.topic,
        &columns.user as _,
        &columns.account as _,
        &columns.users as _,
        &columns.ttl_seconds as _,
        &columns.replay,
        &columns.source as _,
        &columns.key as _,
        &columns.body_hash,
        batch.conflict == Conflict::RefusesAll,
    )
    .fetch_one(connection)
    .await
}

/// The same with the traces, and with which rows are no items of an inbox. `recado.append` takes both from settings of
/// the transaction. The call depends on the settings, so the database evaluates them first. Still one statement: a hub
/// that stops between two would hold the lock of the log.
async fn ask_with_settings(
    connection: &mut PgConnection,
    batch: NewBatch<'_>,
    columns: &AppendColumns<'_>,
) -> Result<AppendAnswer, sqlx::Error> {
    sqlx::query_as!(
        AppendAnswer,
        r#"SELECT a.first_seq AS "first_seq!", a.appended AS "appended!", a.created_at AS "created_at!",
                  a.known_place, a.known_seq, a.known_id, a.known_created_at, a.known_same_body
             FROM (SELECT set_config('recado.traces', $19, true) AS traces, set_config('recado.inbox', $20, true) AS inbox OFFSET 0) t
            CROSS JOIN LATERAL recado.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                                             $18 AND t.traces IS NOT NULL AND t.inbox IS NOT NULL) a"#,
        batch.seen.seq.get(),
        batch.seen.id.map(|id| id.0),
        origin(batch),
        &columns.id,
        &columns.kind as _,
        &columns.title as _,
        &columns.message as _,
        &columns.data as _,
        &columns.topic,
        &columns.user as _,
        &columns.account as _,
        &columns.users as _,
        &columns.ttl_seconds as _,
        &columns.replay,
        &columns.source as _,
        &columns.key as _,
        &columns.body_hash,
        batch.conflict == Conflict::RefusesAll,
        trace_list(batch.traces),
        inbox_list(batch.rows),
    )
    .fetch_one(connection)
    .await
}

/// What the NOTIFY says after the head.
fn origin(batch: NewBatch<'_>) -> String {
    let origin = CommitOrigin::Appender(batch.origin);
    batch.sealed.map_or_else(|| origin.to_string(), |sealed| format!("{origin} {sealed}"))
}

/// The text of a PostgreSQL array. The text of a trace needs no quotes.
fn trace_list(traces: &[Option<TraceContext>]) -> String {
    if traces.is_empty() {
        return String::new();
    }
    let texts: Vec<String> = traces.iter().map(|trace| trace.map_or_else(|| "NULL".to_owned(), |trace| trace.to_string())).collect();
    format!("{{{}}}", texts.join(","))
}

/// The text of a PostgreSQL array. Empty if each row may be an item.
fn inbox_list(rows: &[&NewNotification]) -> String {
    if rows.iter().all(|row| row.inbox) {
        return String::new();
    }
    let texts: Vec<&str> = rows.iter().map(|row| if row.inbox { "t" } else { "f" }).collect();
    format!("{{{}}}", texts.join(","))
}

pub(super) fn failure(error: StoreError) -> AppendFailure {
    match error {
        StoreError::TimedOut(_) => AppendFailure::Unknown(error),
        StoreError::LogWentBack(_) => AppendFailure::LogWentBack(error),
        StoreError::Unavailable(ref cause) if ErrorClass::of(cause) == ErrorClass::Lost => AppendFailure::Unknown(error),
        StoreError::Unavailable(_) => AppendFailure::Again(error),
        StoreError::Broken(ref cause) if ErrorClass::of(cause) == ErrorClass::NoPartition => AppendFailure::Again(error),
        StoreError::Broken(ref cause) if ErrorClass::of(cause) == ErrorClass::KnownKeys => match known_indexes(cause) {
            Some(indexes) => AppendFailure::OtherBodies(indexes),
            None => AppendFailure::Refused(error),
        },
        StoreError::Broken(_) => AppendFailure::Refused(error),
    }
}

/// Indexes that DETAIL of `RC005` lists. PostgreSQL counts from 1; the result counts from 0.
fn known_indexes(error: &sqlx::Error) -> Option<Vec<usize>> {
    let detail = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?.detail()?;
    detail.split(',').map(|ordinal| ordinal.parse::<usize>().ok()?.checked_sub(1)).collect()
}

/// Makes partitions ahead of the log's head. Any instance may call it at any time. Returns how many were missing.
///
/// # Errors
/// When the database is unavailable or denies permission.
pub async fn ensure_partitions(connection: &mut PgConnection, limit: Duration) -> Result<i32, StoreError> {
    limited(limit, sqlx::query_scalar!(r#"SELECT recado.ensure_partitions() AS "made!""#).fetch_one(connection)).await
}

/// The rows of a batch whose keys were known, in the order of the batch.
pub(super) struct KnownKeys {
    places: Vec<i32>,
    seqs: Vec<i64>,
    ids: Vec<Uuid>,
    created_at: Vec<DateTime<Utc>>,
    same_body: Vec<bool>,
    next: usize,
}

impl KnownKeys {
    /// Takes the columns as `recado.append` returns them. They are `None` when no key was known.
    pub(super) fn new(
        places: Option<Vec<i32>>,
        seqs: Option<Vec<i64>>,
        ids: Option<Vec<Uuid>>,
        created_at: Option<Vec<DateTime<Utc>>>,
        same_body: Option<Vec<bool>>,
    ) -> Self {
        Self {
            places: places.unwrap_or_default(),
            seqs: seqs.unwrap_or_default(),
            ids: ids.unwrap_or_default(),
            created_at: created_at.unwrap_or_default(),
            same_body: same_body.unwrap_or_default(),
            next: 0,
        }
    }

    pub(super) fn take(&mut self, ordinal: usize) -> Option<Appended> {
        let at = self.next;
        if usize::try_from(*self.places.get(at)?).ok() != Some(ordinal) {
            return None;
        }
        self.next += 1;
        let seq = Seq::from_db(*self.seqs.get(at)?);
        Some(match self.same_body.get(at) {
            Some(true) => Appended::Known { seq, id: NotificationId(*self.ids.get(at)?), created_at: *self.created_at.get(at)? },
            _ => Appended::OtherBody,
        })
    }
}

/// A batch as columns: one array for each column, as `unnest` takes them.
pub struct AppendColumns<'a> {
    pub id: Vec<Uuid>,
    pub kind: Vec<&'a str>,
    pub title: Vec<&'a str>,
    pub message: Vec<&'a str>,
    pub data: Vec<Option<&'a str>>,
    pub topic: Vec<String>,
    pub user: Vec<Option<&'a str>>,
    pub account: Vec<Option<&'a str>>,
    pub users: Vec<Option<String>>,
    pub ttl_seconds: Vec<Option<i32>>,
    pub replay: Vec<bool>,
    pub source: Vec<&'a str>,
    pub key: Vec<Option<Uuid>>,
    pub body_hash: Vec<i64>,
}

impl<'a> AppendColumns<'a> {
    pub fn of(rows: &[&'a NewNotification]) -> Self {
        Self {
            id: rows.iter().map(|r| r.id.0).collect(),
            kind: rows.iter().map(|r| r.kind.as_str()).collect(),
            title: rows.iter().map(|r| r.title.as_str()).collect(),
            message: rows.iter().map(|r| r.message.as_str()).collect(),
            data: rows.iter().map(|r| r.data.as_deref()).collect(),
            topic: rows.iter().map(|r| r.audience.topic()).collect(),
            user: rows.iter().map(|r| single_user(&r.audience)).collect(),
            account: rows.iter().map(|r| r.audience.account().map(|a| a.as_str())).collect(),
            users: rows.iter().map(|r| user_list(&r.audience)).collect(),
            ttl_seconds: rows.iter().map(|r| r.ttl_seconds).collect(),
            replay: rows.iter().map(|r| r.replay).collect(),
            source: rows.iter().map(|r| r.source.as_str()).collect(),
            key: rows.iter().map(|r| r.key.map(|k| k.0)).collect(),
            body_hash: rows.iter().map(|r| r.body_hash.0).collect(),
        }
    }
}

fn single_user(audience: &Audience) -> Option<&str> {
    match audience {
        Audience::User { user, .. } => Some(user.as_str()),
        Audience::Everyone | Audience::Account(_) | Audience::Users { .. } => None,
    }
}

fn user_list(audience: &Audience) -> Option<String> {
    let Audience::Users { users, .. } = audience else { return None };
    Some(array_text(users))
}

/// Encodes a list of ids as the text of a PostgreSQL array: arrays of arrays must be rectangular, lists of ids are not.
/// Quoting is enough: an id holds neither quotes nor backslashes.
pub(super) fn array_text(ids: &[impl std::fmt::Display]) -> String {
    let quoted: Vec<String> = ids.iter().map(|id| format!("\"{id}\"")).collect();
    format!("{{{}}}", quoted.join(","))
}
