//! Reads the outbox, and moves its rows into the log.
//!
//! `recado.notify` writes an outbox row in its caller's own transaction. The functions are in the database (see
//! `migrations/V4__outbox.sql`, V11 and V29): a move is one statement and one transaction.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use super::append::{AppendFailure, failure};
use super::log_watermark::WatermarkEnd;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::{CommitOrigin, NotificationId};

/// Longest wait for a move or for tidying. The database's own limit of the statement is as long.
const MOVE_LIMIT: Duration = Duration::from_secs(11);

/// The result of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayedRows {
    /// Rows that left the outbox: appended, known by their key already, or refused.
    pub rows: i32,
    /// Rows that are now in `recado.outbox_refused`.
    pub refused: Vec<NotificationId>,
    /// More rows that the same statement saw are still in the outbox.
    pub is_more: bool,
    /// The number of the oldest transaction that was running, in the whole cluster.
    pub oldest_running: Option<String>,
}

/// The committed row that has waited longest to be moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OldestOutboxRow {
    pub place: i64,
    /// Seconds since the call of `recado.notify`.
    pub age_seconds: f64,
}

/// The result of [`turn`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RelayTurn {
    /// This hub has the lease.
    pub is_ours: bool,
    /// Seconds until the lease ends, whichever hub has it.
    pub left_seconds: f64,
    /// The database says that this hub's relay sleeps.
    pub is_asleep: bool,
    /// The oldest row that waits, if one does.
    pub waiting: Option<OldestOutboxRow>,
}

/// Takes or renews the lease of the outbox for `lease`, and looks at the row that has waited longest. One statement for
/// what each hub does each second or two.
///
/// # Errors
/// When the database is unavailable.
pub async fn turn(connection: &mut PgConnection, holder: Uuid, lease: Duration) -> Result<RelayTurn, StoreError> {
    let seconds = i32::try_from(lease.as_secs()).unwrap_or(i32::MAX);
    let turn = sqlx::query!(
        r#"SELECT is_ours AS "is_ours!", coalesce(left_seconds, 0) AS "left_seconds!", coalesce(is_asleep, false) AS "is_asleep!",
                  place, age_seconds
             FROM recado.outbox_turn($1, $2)"#,
        holder,
        seconds,
    )
    .fetch_one(connection);
    let turn = limited(ASK_LIMIT, turn).await?;
    let waiting = turn.place.zip(turn.age_seconds).map(|(place, age_seconds)| OldestOutboxRow { place, age_seconds });
    Ok(RelayTurn { is_ours: turn.is_ours, left_seconds: turn.left_seconds, is_asleep: turn.is_asleep, waiting })
}

/// A relay that has announced its sleep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnouncedSleep {
    /// The number in the announcement, which arrives by NOTIFY as well.
    pub number: i64,
    /// The number of a transaction that began after the announcement was committed.
    pub bound: String,
}

/// Announces that the relay of `holder` is going to sleep: from now on callers of `recado.notify` wake it. `None`: it
/// must not sleep, because another hub has the lease or the server lets transactions be prepared.
///
/// # Errors
/// When the database is unavailable. The announcement may have been made; the next holder of the lease ends it.
pub async fn announce_sleep(connection: &mut PgConnection, holder: Uuid) -> Result<Option<AnnouncedSleep>, StoreError> {
    let number = sqlx::query_scalar!("SELECT recado.outbox_sleep($1)", holder).fetch_one(&mut *connection);
    let Some(number) = limited(ASK_LIMIT, number).await? else { return Ok(None) };
    // A transaction of its own: the number of the first one was given before the announcement was made, and a caller
    // that got a higher number in between may not have seen it.
    let bound = sqlx::query_scalar!(r#"SELECT pg_current_xact_id()::text AS "bound!""#).fetch_one(connection);
    Ok(Some(AnnouncedSleep { number, bound: limited(ASK_LIMIT, bound).await? }))
}

/// Ends the announcement: callers send no NOTIFY any more.
///
/// # Errors
/// When the database is unavailable. Callers then send a NOTIFY that is not needed.
pub async fn end_sleep(connection: &mut PgConnection, holder: Uuid) -> Result<(), StoreError> {
    limited(ASK_LIMIT, sqlx::query!("SELECT recado.outbox_wake($1)", holder).execute(connection)).await?;
    Ok(())
}

/// What a relay that is going to sleep has to know. Both are of one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doze {
    /// No transaction runs any more that may have missed the announcement.
    pub has_ended: bool,
    /// A committed row waits.
    pub is_waiting: bool,
}

/// Looks whether the transactions that began before the announcement have ended, and whether a row waits.
///
/// # Errors
/// When the database is unavailable.
pub async fn doze(connection: &mut PgConnection, bound: &str) -> Result<Doze, StoreError> {
    let doze = sqlx::query!(r#"SELECT has_ended AS "has_ended!", place FROM recado.outbox_doze($1)"#, bound).fetch_one(connection);
    let doze = limited(ASK_LIMIT, doze).await?;
    Ok(Doze { has_ended: doze.has_ended, is_waiting: doze.place.is_some() })
}

/// Takes over an outbox that came here by a dump from another cluster. Returns whether that was so.
///
/// # Errors
/// When the database is unavailable, or the outbox is too large to be taken over in time.
pub async fn adopt(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let adopted = sqlx::query_scalar!(r#"SELECT recado.outbox_adopt() AS "adopted!""#);
    limited(MOVE_LIMIT, adopted.fetch_one(connection)).await
}

/// Moves at most `rows` rows into the log, after the log watermark `seen`. A row that the log does not accept is listed
/// as refused, alone.
///
/// # Errors
/// As `append`. After [`AppendFailure::Unknown`] the connection must not be used again. The call can be repeated.
pub async fn move_rows(
    connection: &mut PgConnection,
    seen: WatermarkEnd,
    origin: CommitOrigin,
    rows: i32,
) -> Result<RelayedRows, AppendFailure> {
    let answer = sqlx::query!(
        r#"SELECT moved AS "moved!", refused AS "refused!", is_more AS "is_more!", oldest_running
             FROM recado.outbox_move($1, $2, $3, $4)"#,
        seen.seq.get(),
        seen.id.map(|id| id.0) as Option<Uuid>,
        origin.to_string(),
        rows,
    )
    .fetch_one(connection);
    let row = limited(MOVE_LIMIT, answer).await.map_err(failure)?;
    let refused = row.refused.into_iter().map(NotificationId).collect();
    Ok(RelayedRows { rows: row.moved, refused, is_more: row.is_more, oldest_running: row.oldest_running })
}

/// Empties partitions whose rows are moved and that no transaction uses. `quiet`: no caller is notifying at present.
///
/// # Errors
/// When the database is unavailable.
pub async fn tidy(connection: &mut PgConnection, quiet: bool) -> Result<i32, StoreError> {
    let emptied = sqlx::query_scalar!(r#"SELECT recado.outbox_tidy($1) AS "emptied!""#, quiet);
    limited(MOVE_LIMIT, emptied.fetch_one(connection)).await
}

/// The process id of a transaction; `None` for one that was prepared, or is over.
///
/// # Errors
/// When the database is unavailable.
pub async fn process_of(connection: &mut PgConnection, transaction: &str) -> Result<Option<i32>, StoreError> {
    // pg_locks shows the lower 32 bits of the number.
    let process = sqlx::query_scalar!(
        r#"SELECT l.pid FROM pg_locks l
            WHERE l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock' AND l.transactionid::text = ($1::text::numeric % 4294967296)::text"#,
        transaction,
    );
    Ok(limited(ASK_LIMIT, process.fetch_optional(connection)).await?.flatten())
}
