//! The outbox: what `recado.notify` wrote in its callers' own transactions, and how it gets into the log.
//!
//! The functions are the database's (see `migrations/V4__outbox.sql`): a move is one statement and one transaction.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use super::append::{Failure, failure};
use super::database::{ASK_LIMIT, limited};
use super::seen::SeenEnd;
use crate::domain::NotificationId;

/// Longest wait for a move or for tidying. The database gives a statement as long.
const MOVE_LIMIT: Duration = Duration::from_secs(11);

/// What a move did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Rows that are out of the outbox: appended, known by their key already, or refused.
    pub rows: i32,
    /// Those that stand in `recado.outbox_refused` now.
    pub refused: Vec<NotificationId>,
    /// Rows of the same look are still there.
    pub is_more: bool,
    /// The oldest transaction number that was running, in the whole cluster.
    pub oldest_running: Option<String>,
}

/// Takes the mover's lock if nobody has it. It belongs to the connection.
///
/// # Errors
/// When the database is away.
pub async fn lead(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let mine = sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock('recado.outbox_tick'::regclass::integer, 2) AS "mine!""#);
    limited(ASK_LIMIT, mine.fetch_one(connection)).await
}

/// Takes the outbox over if it came here by a dump from another cluster; returns whether that was so.
///
/// # Errors
/// When the database is away, or the outbox is too large to be done in time.
pub async fn adopt(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let adopted = sqlx::query_scalar!(r#"SELECT recado.outbox_adopt() AS "adopted!""#);
    limited(MOVE_LIMIT, adopted.fetch_one(connection)).await
}

/// Moves at most `rows` into the log after what was `seen`. `set_aside`: rows that the log refuses for what is in them are
/// listed as refused; for one row at a time.
///
/// # Errors
/// As `append`; after [`Failure::Unknown`] the connection must not be used again. A repeat is always right.
pub async fn move_rows(connection: &mut PgConnection, seen: SeenEnd, origin: &str, rows: i32, set_aside: bool) -> Result<Moved, Failure> {
    let answer = sqlx::query!(
        r#"SELECT moved AS "moved!", refused AS "refused!", is_more AS "is_more!", oldest_running
             FROM recado.outbox_move($1, $2, $3, $4, $5)"#,
        seen.seq.get(),
        seen.id.map(|id| id.0) as Option<Uuid>,
        origin,
        rows,
        set_aside,
    )
    .fetch_one(connection);
    let row = limited(MOVE_LIMIT, answer).await.map_err(failure)?;
    let refused = row.refused.into_iter().map(NotificationId).collect();
    Ok(Moved { rows: row.moved, refused, is_more: row.is_more, oldest_running: row.oldest_running })
}

/// Empties what is moved and used by nobody. `quiet`: nobody is notifying just now.
///
/// # Errors
/// When the database is away.
pub async fn tidy(connection: &mut PgConnection, quiet: bool) -> Result<i32, StoreError> {
    let emptied = sqlx::query_scalar!(r#"SELECT recado.outbox_tidy($1) AS "emptied!""#, quiet);
    limited(MOVE_LIMIT, emptied.fetch_one(connection)).await
}

/// The process of a transaction; none for one that was prepared, or is over.
///
/// # Errors
/// When the database is away.
pub async fn process_of(connection: &mut PgConnection, transaction: &str) -> Result<Option<i32>, StoreError> {
    // A lock shows the lower half of the number.
    let process = sqlx::query_scalar!(
        r#"SELECT l.pid FROM pg_locks l
            WHERE l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock' AND l.transactionid::text = ($1::text::numeric % 4294967296)::text"#,
        transaction,
    );
    Ok(limited(ASK_LIMIT, process.fetch_optional(connection)).await?.flatten())
}
