//! Records the live instances of this database, and cleans up after dead ones.

use std::time::Duration;

use sqlx::PgConnection;

use super::StoreError;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::InstanceId;

/// How often an instance renews its heartbeat.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// An instance without a heartbeat for this long counts as dead: it missed three.
const DEAD_AFTER_SECONDS: f64 = 15.0;

/// Inserts this instance, or renews its heartbeat.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn alive(connection: &mut PgConnection, id: InstanceId, address: &str) -> Result<(), StoreError> {
    let written = sqlx::query!(
        r#"INSERT INTO recado.instance (instance_id, address, version, backend_pid)
           VALUES ($1, $2, $3, pg_backend_pid())
           ON CONFLICT (instance_id) DO UPDATE
              SET seen_at = clock_timestamp(), ended_at = NULL, backend_pid = excluded.backend_pid, gone_at = NULL"#,
        id.0,
        address,
        env!("CARGO_PKG_VERSION"),
    )
    .execute(connection);
    limited(ASK_LIMIT, written).await?;
    Ok(())
}

/// Records that this instance has stopped in good order.
///
/// # Errors
/// When the database is unavailable or slow; the instance then counts as dead a little later.
pub async fn ended(connection: &mut PgConnection, id: InstanceId) -> Result<(), StoreError> {
    let written =
        sqlx::query!("UPDATE recado.instance SET ended_at = clock_timestamp(), seen_at = clock_timestamp() WHERE instance_id = $1", id.0)
            .execute(connection);
    limited(ASK_LIMIT, written).await?;
    Ok(())
}

/// Ends the instances without a heartbeat, and the open sessions of all ended instances, at the time when the instance
/// was last seen. Returns the number of sessions. Any instance may call it at any time.
///
/// An instance that was frozen may store its sessions as open when it wakes, and be killed before it renews its
/// heartbeat. So the sessions of instances that ended earlier count too.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn bury_the_dead(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let buried = sqlx::query!(
        r#"WITH RECURSIVE dead AS (
               UPDATE recado.instance
                  SET ended_at = seen_at
                WHERE ended_at IS NULL AND seen_at < statement_timestamp() - make_interval(secs => $1)
            RETURNING instance_id, seen_at),
           -- The instances with open sessions: a step of the index each, however many sessions and instances there are.
           open (instance_id) AS (
               (SELECT s.instance_id FROM recado.session s WHERE s.ended_at IS NULL ORDER BY s.instance_id LIMIT 1)
                UNION ALL
               SELECT (SELECT s.instance_id FROM recado.session s WHERE s.ended_at IS NULL AND s.instance_id > o.instance_id
                        ORDER BY s.instance_id LIMIT 1)
                 FROM open o
                WHERE o.instance_id IS NOT NULL),
           ended AS (
               SELECT instance_id, seen_at FROM dead
                UNION ALL
               SELECT o.instance_id,
                      (SELECT i.seen_at FROM recado.instance i WHERE i.instance_id = o.instance_id AND i.ended_at IS NOT NULL)
                 FROM open o)
           UPDATE recado.session s
              SET ended_at = greatest(e.seen_at, s.connected_at), end_reason = 'instance_lost'
             FROM ended e
            WHERE s.instance_id = e.instance_id AND s.ended_at IS NULL AND e.seen_at IS NOT NULL"#,
        DEAD_AFTER_SECONDS,
    )
    .execute(connection);
    Ok(limited(ASK_LIMIT, buried).await?.rows_affected())
}
