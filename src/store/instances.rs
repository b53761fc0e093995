//! Records the live instances of this database, and cleans up after dead ones.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::StoreError;
use super::durability::DurabilitySettings;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::InstanceId;

/// How often an instance renews its heartbeat.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// An instance without a heartbeat for this long counts as dead: it missed three.
const DEAD_AFTER_SECONDS: f64 = 15.0;

/// Most instances that one heartbeat reads.
const READ_MAX: i64 = 1000;
/// How long an instance that has ended is read as well, and how many of them.
const ENDED_SECONDS: f64 = 3600.0;
const ENDED_MAX: i64 = 50;

/// The row of an instance that lives, or that ended lately.
#[derive(Debug, Clone)]
pub struct SeenInstance {
    pub id: InstanceId,
    pub address: String,
    pub version: String,
    pub started_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
    /// What it told with its last heartbeat; `None`: a hub of an earlier version.
    pub sample: Option<Value>,
    /// `None`: it lives.
    pub end: Option<InstanceEnd>,
}

/// What a heartbeat reads.
#[derive(Debug, Clone)]
pub struct Beat {
    pub seen: Vec<SeenInstance>,
    /// The settings of the server that keep committed rows in a crash.
    pub settings: Option<DurabilitySettings>,
}

impl Beat {
    /// Whether an instance has given no heartbeat for so long that it counts as dead.
    pub fn has_dead(&self, own: InstanceId) -> bool {
        let live = || self.seen.iter().filter(|instance| instance.end.is_none());
        let Some(now) = live().find(|instance| instance.id == own).map(|instance| instance.seen_at) else { return true };
        live().any(|instance| (now - instance.seen_at).as_seconds_f64() > DEAD_AFTER_SECONDS)
    }
}

/// How an instance ended.
#[derive(Debug, Clone, Copy)]
pub struct InstanceEnd {
    pub at: DateTime<Utc>,
    /// It stopped in good order. Otherwise it was killed or cut off, and another instance noticed.
    pub is_clean: bool,
}

/// Inserts this instance, or renews its heartbeat, and tells its sample. Returns all live instances, the oldest first,
/// and then those that ended in the last hour, and the settings that durability depends on: one statement, so that they
/// cost no further round trip.
///
/// An instance that was buried ended when it was last seen. One that stopped in good order says so in its sample; one
/// of an earlier version writes the two times one after the other.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn beat(connection: &mut PgConnection, id: InstanceId, address: &str, sample: &Value) -> Result<Beat, StoreError> {
    let rows = sqlx::query!(
        r#"WITH mine AS (
               INSERT INTO recado.instance (instance_id, address, version, backend_pid, sample)
               VALUES ($1, $2, $3, pg_backend_pid(), $4)
               ON CONFLICT (instance_id) DO UPDATE
                  SET seen_at = clock_timestamp(), ended_at = NULL, backend_pid = excluded.backend_pid, gone_at = NULL,
                      sample = excluded.sample
            RETURNING instance_id, address, version, started_at, seen_at, sample, ended_at, false AS is_clean)
           SELECT instance_id AS "instance_id!", address AS "address!", version AS "version!", started_at AS "started_at!",
                  seen_at AS "seen_at!", sample, ended_at, is_clean AS "is_clean!",
                  current_setting('synchronous_commit') AS "own!", current_setting('fsync') AS "fsync!",
                  current_setting('full_page_writes') AS "full_page_writes!",
                  (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit') AS "default!"
             FROM (SELECT * FROM mine
                    UNION ALL
                   SELECT i.instance_id, i.address, i.version, i.started_at, i.seen_at, i.sample, NULL, false
                     FROM recado.instance i
                    WHERE i.ended_at IS NULL AND i.instance_id <> $1
                    UNION ALL
                   (SELECT e.instance_id, e.address, e.version, e.started_at, e.seen_at, NULL, e.ended_at,
                           e.ended_at <> e.seen_at OR e.sample -> 'stopped' IS NOT NULL
                      FROM recado.instance e
                     WHERE e.ended_at > statement_timestamp() - make_interval(secs => $6) AND e.instance_id <> $1
                     ORDER BY e.ended_at DESC
                     LIMIT $7)) seen
            ORDER BY ended_at DESC NULLS FIRST, started_at, instance_id
            LIMIT $5"#,
        id.0,
        address,
        env!("CARGO_PKG_VERSION"),
        sample,
        READ_MAX,
        ENDED_SECONDS,
        ENDED_MAX,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, rows).await?;
    let settings = rows.first().map(|row| DurabilitySettings {
        own: row.own.clone(),
        fsync: row.fsync.clone(),
        full_page_writes: row.full_page_writes.clone(),
        default: row.default.clone(),
    });
    let seen = rows.into_iter().map(|row| SeenInstance {
        id: InstanceId(row.instance_id),
        address: row.address,
        version: row.version,
        started_at: row.started_at,
        seen_at: row.seen_at,
        sample: row.sample,
        end: row.ended_at.map(|at| InstanceEnd { at, is_clean: row.is_clean }),
    });
    Ok(Beat { seen: seen.collect(), settings })
}

/// Records that this instance has stopped in good order.
///
/// # Errors
/// When the database is unavailable or slow; the instance then counts as dead a little later.
pub async fn ended(connection: &mut PgConnection, id: InstanceId) -> Result<(), StoreError> {
    let written = sqlx::query!(
        r#"UPDATE recado.instance
              SET ended_at = clock_timestamp(), seen_at = clock_timestamp(), sample = coalesce(sample, '{}') || '{"stopped": true}'
            WHERE instance_id = $1"#,
        id.0
    )
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
