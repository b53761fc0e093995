//! The hub processes on this database: a sign of life each, and the clean-up after one that died.

use std::time::Duration;

use sqlx::PgConnection;

use super::StoreError;
use super::database::{ASK_LIMIT, limited};
use crate::domain::InstanceId;

/// How often an instance renews its sign of life.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// Without a sign of life for this long an instance counts as dead: three missed ones.
const DEAD_AFTER_SECONDS: f64 = 15.0;

/// Enters this instance, or says that it is still alive.
///
/// # Errors
/// When the database is away or slow.
pub async fn alive(connection: &mut PgConnection, id: InstanceId, address: &str) -> Result<(), StoreError> {
    let said = sqlx::query!(
        r#"INSERT INTO recado.instance (instance_id, address, version)
           VALUES ($1, $2, $3)
           ON CONFLICT (instance_id) DO UPDATE SET seen_at = clock_timestamp(), ended_at = NULL"#,
        id.0,
        address,
        env!("CARGO_PKG_VERSION"),
    )
    .execute(connection);
    limited(ASK_LIMIT, said).await?;
    Ok(())
}

/// Says that this instance has ended in good order.
///
/// # Errors
/// When the database is away or slow; the instance is then taken for dead a little later.
pub async fn ended(connection: &mut PgConnection, id: InstanceId) -> Result<(), StoreError> {
    let said =
        sqlx::query!("UPDATE recado.instance SET ended_at = clock_timestamp(), seen_at = clock_timestamp() WHERE instance_id = $1", id.0)
            .execute(connection);
    limited(ASK_LIMIT, said).await?;
    Ok(())
}

/// Ends the instances that gave no sign of life, and their sessions, at the moment when they were last seen.
/// Returns how many sessions that were. Any instance may do it, at any time.
///
/// # Errors
/// When the database is away or slow.
pub async fn bury_the_dead(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let buried = sqlx::query!(
        r#"WITH dead AS (
               UPDATE recado.instance
                  SET ended_at = seen_at
                WHERE ended_at IS NULL AND seen_at < clock_timestamp() - make_interval(secs => $1)
            RETURNING instance_id, seen_at)
           UPDATE recado.session s
              SET ended_at = greatest(d.seen_at, s.connected_at), end_reason = 'instance_lost'
             FROM dead d
            WHERE s.instance_id = d.instance_id AND s.ended_at IS NULL"#,
        DEAD_AFTER_SECONDS,
    )
    .execute(connection);
    Ok(limited(ASK_LIMIT, buried).await?.rows_affected())
}
