//! One batch into the log: one statement, one round trip, one commit.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::postgres::PgDatabaseError;
use tokio::time::Instant;
use uuid::Uuid;

use super::StoreError;
use super::database::limited;
use super::error::Class;
use super::seen::SeenEnd;
use crate::domain::{Audience, InstanceId, NewNotification, NotificationId, Seq};

/// What became of one notification of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// A row of its own.
    New { seq: Seq },
    /// Its key already had this row, made by the same body.
    Known { seq: Seq, id: NotificationId, created_at: DateTime<Utc> },
    /// Its key already had a row, made by another body. Nothing was appended.
    OtherBody,
}

/// A committed batch, in the order in which it was given.
#[derive(Debug)]
pub struct Batch {
    pub created_at: DateTime<Utc>,
    pub outcomes: Vec<Appended>,
    /// The log's highest number after this batch.
    pub head: Seq,
}

/// Why a batch was not appended, as far as that is known.
#[derive(Debug)]
pub enum Failure {
    /// Rolled back, or never sent; the same may succeed later.
    Again(StoreError),
    /// Rolled back: some row of the batch is not acceptable to the database.
    Refused(StoreError),
    /// Rolled back: the log ends before what this hub has seen of it.
    LogWentBack(StoreError),
    /// Rolled back: rows of an all-or-nothing batch, named by their places from 0 up, have keys that other bodies used.
    OtherBodies(Vec<usize>),
    /// It may have been committed or not.
    Unknown(StoreError),
}

/// What becomes of the batch when a key of it is known with another body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// That row is left out, and told so.
    LeavesOut,
    /// Nothing of the batch is appended: [`Failure::OtherBodies`].
    RefusesAll,
}

/// Appends a batch after what was `seen`. No key may stand twice in it.
///
/// # Errors
/// See [`Failure`]. After [`Failure::Unknown`] the connection must not be used again.
pub async fn append(
    connection: &mut PgConnection,
    seen: SeenEnd,
    origin: InstanceId,
    rows: &[&NewNotification],
    conflict: Conflict,
    limit: Duration,
) -> Result<Batch, Failure> {
    let end = Instant::now() + limit;
    match call(connection, seen, origin, rows, conflict, limit).await {
        Err(Failure::Again(StoreError::Broken(error))) if Class::of(&error) == Class::NoPartition => {
            // A burst outran the maker of partitions.
            ensure_partitions(connection).await.map_err(Failure::Again)?;
            call(connection, seen, origin, rows, conflict, end.saturating_duration_since(Instant::now())).await
        }
        outcome => outcome,
    }
}

async fn call(
    connection: &mut PgConnection,
    seen: SeenEnd,
    origin: InstanceId,
    rows: &[&NewNotification],
    conflict: Conflict,
    limit: Duration,
) -> Result<Batch, Failure> {
    let columns = Columns::of(rows);
    let origin = origin.to_string();
    let answer = sqlx::query!(
        r#"SELECT first_seq AS "first_seq!", appended AS "appended!", created_at AS "created_at!",
                  known_place, known_seq, known_id, known_created_at, known_same_body
             FROM recado.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)"#,
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
        &columns.account as _,
        &columns.users as _,
        &columns.ttl_seconds as _,
        &columns.replay,
        &columns.source as _,
        &columns.key as _,
        &columns.body_hash,
        conflict == Conflict::RefusesAll,
    )
    .fetch_one(connection);
    let row = limited(limit, answer).await.map_err(failure)?;

    let first = Seq::from_db(row.first_seq);
    let mut outcomes = Vec::with_capacity(rows.len());
    let mut known = Known::new(row.known_place, row.known_seq, row.known_id, row.known_created_at, row.known_same_body);
    let mut next = first;
    for place in 1..=rows.len() {
        outcomes.push(known.take(place).unwrap_or_else(|| {
            let seq = next;
            next = next.next();
            Appended::New { seq }
        }));
    }
    Ok(Batch { created_at: row.created_at, outcomes, head: first.plus(i64::from(row.appended) - 1) })
}

pub(super) fn failure(error: StoreError) -> Failure {
    match error {
        StoreError::TimedOut(_) => Failure::Unknown(error),
        StoreError::LogWentBack(_) => Failure::LogWentBack(error),
        StoreError::Unavailable(ref cause) if Class::of(cause) == Class::Lost => Failure::Unknown(error),
        StoreError::Unavailable(_) => Failure::Again(error),
        StoreError::Broken(ref cause) if Class::of(cause) == Class::NoPartition => Failure::Again(error),
        StoreError::Broken(ref cause) if Class::of(cause) == Class::KnownKeys => match known_places(cause) {
            Some(places) => Failure::OtherBodies(places),
            None => Failure::Refused(error),
        },
        StoreError::Broken(_) => Failure::Refused(error),
    }
}

/// The places that DETAIL of `RC005` lists; PostgreSQL counts from 1.
fn known_places(error: &sqlx::Error) -> Option<Vec<usize>> {
    let detail = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?.detail()?;
    detail.split(',').map(|place| place.parse::<usize>().ok()?.checked_sub(1)).collect()
}

/// Makes partitions ahead of the log's head. Any instance may, at any time; returns how many were missing.
///
/// # Errors
/// When the database is away or does not let us.
pub async fn ensure_partitions(connection: &mut PgConnection) -> Result<i32, StoreError> {
    let made =
        limited(Duration::from_secs(10), sqlx::query_scalar!(r#"SELECT recado.ensure_partitions() AS "made!""#).fetch_one(connection))
            .await?;
    Ok(made)
}

/// The rows of a batch whose key was known, in the order of their places.
pub(super) struct Known {
    places: Vec<i32>,
    seqs: Vec<i64>,
    ids: Vec<Uuid>,
    created_at: Vec<DateTime<Utc>>,
    same_body: Vec<bool>,
    next: usize,
}

impl Known {
    /// As `recado.append` gives them; without any key, not at all.
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

    pub(super) fn take(&mut self, place: usize) -> Option<Appended> {
        let at = self.next;
        if usize::try_from(*self.places.get(at)?).ok() != Some(place) {
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

/// The batch turned by ninety degrees: one array a column, as `unnest` takes them.
pub(super) struct Columns<'a> {
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

impl<'a> Columns<'a> {
    pub(super) fn of(rows: &[&'a NewNotification]) -> Self {
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

/// A list of ids as the text of a PostgreSQL array: arrays of arrays must be rectangular, lists of ids are not.
/// Quoting is enough: an id holds neither quotes nor backslashes.
pub(super) fn array_text(ids: &[impl std::fmt::Display]) -> String {
    let quoted: Vec<String> = ids.iter().map(|id| format!("\"{id}\"")).collect();
    format!("{{{}}}", quoted.join(","))
}
