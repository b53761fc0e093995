//! Reads the state of the log, and gives a truncated log a new id.

use sqlx::PgConnection;

use crate::domain::{LogId, Seq};
use crate::store::StoreError;
use crate::store::database::Reader;
use crate::store::log_watermark::LogWatermark;
use crate::store::repeated_read::again_if_lost;
use crate::store::time_limit::{ASK_LIMIT, limited};

/// The id of the log, and its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogState {
    pub log_id: LogId,
    /// The last number that retention has dropped.
    pub floor: Seq,
    pub head: Seq,
    /// A standby answered, which may lack the end of the log.
    pub is_standby: bool,
}

/// Reads the state of the log.
///
/// # Errors
/// When the database does not answer within 3 s.
pub async fn state(connection: &mut PgConnection) -> Result<LogState, StoreError> {
    let row = sqlx::query!(
        r#"SELECT log_id, floor_seq,
                  greatest(floor_seq, coalesce((SELECT seq FROM recado.log ORDER BY seq DESC LIMIT 1), 0)) AS "head!",
                  pg_is_in_recovery() AS "is_standby!"
             FROM recado.meta"#
    )
    .fetch_one(connection);
    let row = limited(ASK_LIMIT, row).await?;
    Ok(LogState { log_id: LogId(row.log_id), floor: Seq::from_db(row.floor_seq), head: Seq::from_db(row.head), is_standby: row.is_standby })
}

/// The name of the connection's database.
///
/// # Errors
/// When the database is unavailable.
pub async fn database_name(connection: &mut PgConnection) -> Result<String, StoreError> {
    let name = sqlx::query_scalar!(r#"SELECT current_database() AS "name!""#).fetch_one(connection);
    limited(ASK_LIMIT, name).await
}

/// Gives the log a new id, unless another instance has done so already. Clients that knew the old one are reset.
///
/// # Errors
/// When the database is unavailable.
pub async fn renew_log_id(connection: &mut PgConnection, old: LogId) -> Result<(), StoreError> {
    let renewed =
        sqlx::query!("UPDATE recado.meta SET log_id = gen_random_uuid(), log_started_at = clock_timestamp() WHERE log_id = $1", old.0)
            .execute(connection);
    limited(ASK_LIMIT, renewed).await?;
    Ok(())
}

/// Starts over after the log `old` was truncated or restored. The log gets a new id before anything is appended to it;
/// otherwise every earlier client would take the next number for the next one of the old log. Another task, or another
/// instance, may have done so already.
///
/// # Errors
/// When the database is unavailable.
pub async fn start_over(connection: &mut PgConnection, seen: &LogWatermark, old: LogId) -> Result<(), StoreError> {
    renew_log_id(connection, old).await?;
    seen.start_over(state(connection).await?.log_id);
    Ok(())
}

/// The head of the log.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn head(reader: &Reader) -> Result<Seq, StoreError> {
    Ok(log_state(reader).await?.head)
}

/// The state of the log now.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn log_state(reader: &Reader) -> Result<LogState, StoreError> {
    again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        let state = state(checkout.connection()).await?;
        checkout.done();
        Ok(state)
    })
    .await
}
