//! Deletes old data, step by step: partitions of the log, rows, keys, facts, and records that ended long ago.
//!
//! [`crate::log::retention`] decides which data is old, and in which order it is deleted.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use super::device_expiry::{self, ExpiryReach};
use super::read::{self, LogState};
use super::time_limit::{ASK_LIMIT, limited};
use super::{Database, StoreError, audit, lease, providers};
use crate::domain::{InstanceId, Seq};

/// Another instance takes over a round that does not end within this time. Renewed for each partition.
const LEASE: Duration = Duration::from_secs(300);
const LEASE_NAME: &str = "retention";
/// Longest wait of a detach for old readers. No partition can be added meanwhile, so the detach gives up, and a later
/// round finishes it.
const DETACH_LIMIT: Duration = Duration::from_secs(60);
/// Most facts that one statement deletes.
const STEP_ROWS: i64 = 10_000;
/// Most sessions that one statement deletes, after their facts.
const STEP_SESSIONS: i64 = 1000;
/// Most rows of the log that one statement deletes or empties.
const STEP_LOG: i32 = 5_000;
/// Steps of each kind in a partial round. The rest follows in the next rounds, a minute later.
const STEPS: u32 = 20;
/// Records of instances that ended longer ago are deleted. Until then they tell which instance held a session.
const INSTANCES: Duration = Duration::from_secs(7 * 86_400);
/// Most rows of the audit that one statement deletes.
const STEP_ACTS: i32 = 5_000;
/// Longest wait of rows of the audit that are old enough.
const AUDIT_SLACK: Duration = Duration::from_secs(86_400);
/// Numbers whose keys one statement deletes: some milliseconds, and no more disk at once than a few appends take.
const STEP_KEYS: i64 = 2_000;

/// A partition of the log: the numbers from `lo` to below `hi`.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Partition {
    pub lo: i64,
    pub hi: i64,
    /// When its newest notification was appended; `None` while it is empty.
    pub newest_at: Option<DateTime<Utc>>,
    /// The age of that notification by the database's clock, which also gave the time. A hub's clock may be wrong by a
    /// day, and dropped rows do not come back.
    #[serde(skip)]
    pub newest_age_seconds: Option<f64>,
    /// Size on disk, indexes included.
    pub bytes: i64,
}

/// A round that this instance does alone. Its connection has longer limits than others.
pub struct RetentionRound {
    connection: PgConnection,
    holder: Uuid,
    reach: ExpiryReach,
}

/// How a round begins.
pub enum RoundStart {
    Begun(Box<RetentionRound>),
    /// Another instance is doing one.
    Elsewhere,
    /// The login does not own the tables, so it may not drop partitions or change rows.
    NotOwner,
}

impl RetentionRound {
    /// Begins a round. `reach` says whether a step ends early, with the rest left to later rounds.
    ///
    /// # Errors
    /// When the database is unavailable or slow.
    pub async fn begin(database: &Database, reach: ExpiryReach) -> Result<RoundStart, StoreError> {
        // A separate connection, because it has its own limits.
        let mut connection = database.clone().under_role(None).connect("retention").await?;
        limited(ASK_LIMIT, sqlx::raw_sql("SET statement_timeout = '60s'; SET lock_timeout = '10s'").execute(&mut connection)).await?;
        let owns = sqlx::query_scalar!(
            r#"SELECT pg_has_role(c.relowner, 'USAGE') AS "owns!" FROM pg_class c WHERE c.oid = 'recado.log'::regclass"#
        );
        if !limited(ASK_LIMIT, owns.fetch_one(&mut connection)).await? {
            return Ok(RoundStart::NotOwner);
        }
        let holder = InstanceId::new().0;
        let is_ours = lease::take(&mut connection, LEASE_NAME, holder, LEASE).await?;
        Ok(if is_ours { RoundStart::Begun(Box::new(Self { connection, holder, reach })) } else { RoundStart::Elsewhere })
    }

    /// Ends the round, so that another instance can begin one.
    pub async fn end(mut self) {
        let _ = lease::give_back(&mut self.connection, LEASE_NAME, self.holder).await;
        // Behind a network that drops every packet, closing the connection may wait for ever.
        let _ = limited(ASK_LIMIT, self.connection.close()).await;
    }

    /// Renews the lease. `false`: another instance has begun a round.
    ///
    /// # Errors
    /// When the database is unavailable or slow. So in each method that follows; a later round continues.
    pub async fn renew(&mut self) -> Result<bool, StoreError> {
        lease::take(&mut self.connection, LEASE_NAME, self.holder, LEASE).await
    }

    /// Whether the rest is left to later rounds after so many steps.
    fn is_enough(&self, steps: u32) -> bool {
        self.reach == ExpiryReach::Part && steps >= STEPS
    }

    pub async fn log_state(&mut self) -> Result<LogState, StoreError> {
        read::state(&mut self.connection).await
    }

    pub async fn partitions(&mut self) -> Result<Vec<Partition>, StoreError> {
        partitions(&mut self.connection).await
    }

    /// Drops a partition. Returns how many facts were deleted with it.
    pub async fn drop_partition(&mut self, partition: &Partition) -> Result<u64, StoreError> {
        let floor = Seq::from_db(partition.hi - 1);
        let raised = sqlx::query!("UPDATE recado.meta SET floor_seq = $1 WHERE floor_seq < $1", floor.get());
        limited(ASK_LIMIT, raised.execute(&mut self.connection)).await?;
        for parent in ["log", "log_member"] {
            detach_and_drop(&mut self.connection, parent, &format!("{parent}_p{:012}", partition.lo)).await?;
        }
        delete_keys(&mut self.connection, partition).await?;
        let facts = delete_facts_below(&mut self.connection, partition.hi).await?;
        let gone = sqlx::query!("DELETE FROM recado.partition WHERE lo = $1", partition.lo);
        limited(ASK_LIMIT, gone.execute(&mut self.connection)).await?;
        Ok(facts)
    }

    /// Deletes rows that are older, one by one. Returns how many, and how many facts about them.
    pub async fn drop_old_rows(&mut self, age: Duration) -> Result<OldRows, StoreError> {
        let (mut done, mut steps) = (OldRows::default(), 0);
        loop {
            let floor = read::state(&mut self.connection).await?.floor.get();
            let step = sqlx::query_scalar!("SELECT recado.drop_old_rows($1, $2)", age.as_secs_f64(), STEP_LOG);
            let Some(edge) = limited(DETACH_LIMIT, step.fetch_one(&mut self.connection)).await? else { return Ok(done) };
            done.rows += edge.saturating_sub(floor).unsigned_abs();
            done.facts += delete_facts_below(&mut self.connection, edge.saturating_add(1)).await?;
            steps += 1;
            if self.is_enough(steps) {
                return Ok(done);
            }
        }
    }

    /// Deletes old rows of the audit. Returns how many. A partial round waits until a day's worth is due, or a tenth of
    /// the age: each deletion leaves a row.
    pub async fn delete_acts(&mut self, age: Duration) -> Result<u64, StoreError> {
        let slack = if self.reach == ExpiryReach::All { Duration::ZERO } else { (age / 10).min(AUDIT_SLACK) };
        audit::chain(&mut self.connection).await?;
        let (mut deleted, mut steps) = (0, 0);
        loop {
            let step = sqlx::query_scalar!(
                r#"SELECT recado.retain_audit($1, $2, $3) AS "deleted!""#,
                age.as_secs_f64(),
                slack.as_secs_f64(),
                STEP_ACTS
            );
            let rows = u64::from(limited(DETACH_LIMIT, step.fetch_one(&mut self.connection)).await?.unsigned_abs());
            deleted += rows;
            steps += 1;
            if rows < STEP_ACTS.unsigned_abs().into() || self.is_enough(steps) {
                return Ok(deleted);
            }
        }
    }

    /// Erases the texts of notifications over their `ttl`. Returns how many.
    pub async fn erase_expired(&mut self) -> Result<u64, StoreError> {
        let (mut erased, mut steps) = (0, 0);
        loop {
            let step = sqlx::query_scalar!(r#"SELECT recado.erase_expired($1) AS "erased!""#, STEP_LOG);
            let rows = u64::from(limited(DETACH_LIMIT, step.fetch_one(&mut self.connection)).await?.unsigned_abs());
            erased += rows;
            steps += 1;
            if rows == 0 || self.is_enough(steps) {
                return Ok(erased);
            }
        }
    }

    /// Deletes sessions that ended longer ago, each after its facts, so that the next round finds what a crash leaves.
    /// Returns how many, and how many facts about them.
    pub async fn delete_sessions(&mut self, age: Duration) -> Result<OldRows, StoreError> {
        let (mut done, mut steps) = (OldRows::default(), 0);
        loop {
            let old = sqlx::query_scalar!(
                "SELECT session_id FROM recado.session WHERE ended_at < statement_timestamp() - make_interval(secs => $1)
                  ORDER BY ended_at LIMIT $2",
                age.as_secs_f64(),
                STEP_SESSIONS,
            );
            let old = limited(DETACH_LIMIT, old.fetch_all(&mut self.connection)).await?;
            if old.is_empty() {
                return Ok(done);
            }
            done.facts += delete_facts_of(&mut self.connection, &old).await?;
            let gone = sqlx::query!("DELETE FROM recado.session WHERE session_id = ANY ($1)", &old);
            done.rows += limited(DETACH_LIMIT, gone.execute(&mut self.connection)).await?.rows_affected();
            steps += 1;
            if self.is_enough(steps) {
                return Ok(done);
            }
        }
    }

    /// Deletes acknowledgements without a session, at the same age as sessions. Returns how many.
    pub async fn delete_facts_without_session(&mut self, age: Duration) -> Result<u64, StoreError> {
        let (mut deleted, mut steps) = (0, 0);
        loop {
            let step = sqlx::query!(
                r#"DELETE FROM recado.progress
                    WHERE ctid = ANY (ARRAY(SELECT p.ctid FROM recado.progress p
                                             WHERE p.session_id IS NULL AND p.acked_at < statement_timestamp() - make_interval(secs => $1)
                                             ORDER BY p.acked_at LIMIT $2))"#,
                age.as_secs_f64(),
                STEP_ROWS,
            );
            match limited(DETACH_LIMIT, step.execute(&mut self.connection)).await?.rows_affected() {
                0 => return Ok(deleted),
                rows => deleted += rows,
            }
            steps += 1;
            if self.is_enough(steps) {
                return Ok(deleted);
            }
        }
    }

    /// Deletes the positions of devices that were not seen for longer. Returns how many.
    pub async fn forget_devices(&mut self, age: Duration) -> Result<u64, StoreError> {
        device_expiry::forget(&mut self.connection, age, self.reach).await
    }

    /// Deletes commands that were settled longer ago. Returns how many.
    pub async fn delete_commands(&mut self, age: Duration) -> Result<u64, StoreError> {
        providers::forget::commands(&mut self.connection, age, self.reach).await
    }

    /// Deletes provider sessions that no user has wanted for as long. Returns how many.
    pub async fn delete_provider_sessions(&mut self, age: Duration) -> Result<u64, StoreError> {
        providers::forget::sessions(&mut self.connection, age, self.reach).await
    }

    /// Deletes records of instances that ended long ago. Returns how many. One step a round suffices, because they are
    /// few.
    pub async fn delete_instances(&mut self) -> Result<u64, StoreError> {
        let gone = sqlx::query!(
            r#"DELETE FROM recado.instance
                WHERE instance_id = ANY (ARRAY(SELECT i.instance_id FROM recado.instance i
                                                WHERE i.ended_at < statement_timestamp() - make_interval(secs => $1)
                                                ORDER BY i.ended_at LIMIT $2))"#,
            INSTANCES.as_secs_f64(),
            STEP_ROWS,
        );
        Ok(limited(DETACH_LIMIT, gone.execute(&mut self.connection)).await?.rows_affected())
    }
}

/// What a step has deleted.
#[derive(Debug, Clone, Copy, Default)]
pub struct OldRows {
    /// Notifications or sessions.
    pub rows: u64,
    /// Delivery facts about them.
    pub facts: u64,
}

/// Lists the partitions of the log, oldest first.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn partitions(connection: &mut PgConnection) -> Result<Vec<Partition>, StoreError> {
    let rows = sqlx::query_as!(
        Partition,
        r#"SELECT p.lo, p.hi, n.created_at AS "newest_at?",
                  extract(epoch FROM clock_timestamp() - n.created_at)::double precision AS newest_age_seconds,
                  coalesce(pg_total_relation_size(to_regclass('recado.log_p' || lpad(p.lo::text, 12, '0'))), 0)
                  + coalesce(pg_total_relation_size(to_regclass('recado.log_member_p' || lpad(p.lo::text, 12, '0'))), 0) AS "bytes!"
             FROM recado.partition p
             LEFT JOIN LATERAL (SELECT l.created_at FROM recado.log l WHERE l.seq >= p.lo AND l.seq < p.hi ORDER BY l.seq DESC LIMIT 1) n ON true
            ORDER BY p.lo"#
    )
    .fetch_all(connection);
    limited(ASK_LIMIT, rows).await
}

/// Both names are our own: a fixed word and a number.
async fn detach_and_drop(connection: &mut PgConnection, parent: &str, child: &str) -> Result<(), StoreError> {
    let pending = sqlx::query_scalar!(
        r#"SELECT i.inhdetachpending AS "pending!" FROM pg_inherits i WHERE i.inhrelid = to_regclass('recado.' || $1)"#,
        child,
    );
    // None: an earlier round has detached it, and perhaps dropped it.
    if let Some(pending) = limited(ASK_LIMIT, pending.fetch_optional(&mut *connection)).await? {
        let how = if pending { "FINALIZE" } else { "CONCURRENTLY" };
        let detach = AssertSqlSafe(format!("ALTER TABLE recado.{parent} DETACH PARTITION recado.{child} {how}"));
        limited(DETACH_LIMIT, sqlx::raw_sql(detach).execute(&mut *connection)).await?;
    }
    let drop = AssertSqlSafe(format!("DROP TABLE IF EXISTS recado.{child}"));
    limited(DETACH_LIMIT, sqlx::raw_sql(drop).execute(connection)).await?;
    Ok(())
}

/// Deletes keys in windows of numbers, so that no step reads past rows that earlier ones have deleted.
async fn delete_keys(connection: &mut PgConnection, partition: &Partition) -> Result<(), StoreError> {
    let mut from = partition.lo;
    while from < partition.hi {
        let below = partition.hi.min(from + STEP_KEYS);
        let step = sqlx::query!("DELETE FROM recado.idempotency WHERE seq >= $1 AND seq < $2", from, below);
        limited(DETACH_LIMIT, step.execute(&mut *connection)).await?;
        from = below;
    }
    Ok(())
}

/// Deletes facts about numbers below `below` only. A fact that also concerns a later number stays until that is
/// dropped.
async fn delete_facts_below(connection: &mut PgConnection, below: i64) -> Result<u64, StoreError> {
    let mut deleted = 0;
    loop {
        let step = sqlx::query!(
            r#"DELETE FROM recado.progress
                WHERE ctid = ANY (ARRAY(SELECT p.ctid FROM recado.progress p WHERE greatest(p.sent_seq, p.acked_seq) < $1 LIMIT $2))"#,
            below,
            STEP_ROWS,
        );
        match limited(DETACH_LIMIT, step.execute(&mut *connection)).await?.rows_affected() {
            0 => return Ok(deleted),
            rows => deleted += rows,
        }
    }
}

async fn delete_facts_of(connection: &mut PgConnection, sessions: &[Uuid]) -> Result<u64, StoreError> {
    let mut deleted = 0;
    loop {
        let step = sqlx::query!(
            r#"DELETE FROM recado.progress
                WHERE ctid = ANY (ARRAY(SELECT p.ctid FROM recado.progress p WHERE p.session_id = ANY ($1) LIMIT $2))"#,
            sessions,
            STEP_ROWS,
        );
        match limited(DETACH_LIMIT, step.execute(&mut *connection)).await?.rows_affected() {
            0 => return Ok(deleted),
            rows => deleted += rows,
        }
    }
}
