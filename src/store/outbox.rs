//! Reads the outbox, and moves its rows into the log.
//!
//! `recado.notify` writes an outbox row in its caller's own transaction. The functions are in the database (see
//! `migrations/V4__outbox.sql` and V11): a move is one statement and one transaction.

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

/// The row that has waited longest, if there is one. Any instance may ask, whichever runs the relay.
///
/// # Errors
/// When the database is unavailable.
pub async fn waiting(connection: &mut PgConnection) -> Result<Option<OldestOutboxRow>, StoreError> {
    let row = sqlx::query!("SELECT place, age_seconds FROM recado.outbox_waiting()").fetch_one(connection);
    let row = limited(ASK_LIMIT, row).await?;
    Ok(row.place.zip(row.age_seconds).map(|(place, age_seconds)| OldestOutboxRow { place, age_seconds }))
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
