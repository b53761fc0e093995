//! Forgetting: whole partitions of the log that are old or too many, their keys and facts, and what ended long ago: sessions, idle
//! devices, commands that are settled, upstream sessions that nobody wants.
//!
//! One instance at a time, any may: an advisory lock of the session decides. The order makes a crash at any point harmless:
//! 1. `floor_seq` is raised and committed. From now on every reader says `gap`, whether or not the rows are still there.
//! 2. The partition is detached CONCURRENTLY: the plain form locks the log against appends for as long as any reader reads.
//! 3. It is dropped, its keys and the facts about its numbers are deleted in small steps, and its row in `recado.partition` goes last: what a crash left
//!    behind is found there and finished by the next round.
//!
//! The partition that holds the head is never dropped: the next number comes from it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use super::database::{ASK_LIMIT, limited};
use super::idle::{self, Reach};
use super::{Database, StoreError, read, upstream};
use crate::backoff::jitter;
use crate::domain::Seq;
use crate::metrics::RETENTION;
use crate::tasks::Stop;

/// Between two rounds of a serving hub.
const ROUND: Duration = Duration::from_secs(60);
/// Longest wait of a detach for old readers. It keeps partitions from being added meanwhile, so it gives up and is
/// finished by a later round.
const DETACH_LIMIT: Duration = Duration::from_secs(60);
/// Facts that are deleted in one statement.
const STEP_ROWS: i64 = 10_000;
/// Sessions that are deleted in one statement, after their facts.
const STEP_SESSIONS: i64 = 1000;
/// Numbers whose keys are deleted in one statement: some milliseconds, and no more of the disk at once than a few appends take.
const STEP_KEYS: i64 = 2_000;

/// What is kept. `None`: everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// A partition whose newest notification is older goes.
    pub age: Option<Duration>,
    /// The oldest partitions go while the log takes more bytes on disk, indexes included.
    pub bytes: Option<u64>,
    /// Sessions that ended longer ago go.
    pub sessions: Option<Duration>,
    /// Devices that were not here for longer go; see [`super::idle`].
    pub devices: Option<Duration>,
    /// Commands that were settled longer ago go, and upstream sessions that nobody has wanted for as long.
    pub upstream: Option<Duration>,
}

impl Policy {
    pub fn keeps_everything(&self) -> bool {
        *self == Self::default()
    }
}

/// A partition of the log: the numbers from `lo` to below `hi`.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Partition {
    pub lo: i64,
    pub hi: i64,
    /// When its newest notification was appended; `None` while it is empty.
    pub newest_at: Option<DateTime<Utc>>,
    /// How long ago that was, by the database's clock, which also gave the time: a hub's clock may be wrong by a day, and
    /// what is dropped does not come back.
    #[serde(skip)]
    pub newest_age_seconds: Option<f64>,
    /// On disk, indexes included.
    pub bytes: i64,
}

/// What a round did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Outcome {
    /// Another instance is at it; nothing was done.
    pub busy_elsewhere: bool,
    pub partitions_dropped: u32,
    pub sessions_deleted: u64,
    /// Delivery facts, of numbers that were dropped or of sessions that were forgotten.
    pub facts_deleted: u64,
    pub devices_forgotten: u64,
    pub commands_deleted: u64,
    pub upstream_sessions_deleted: u64,
}

/// Does a round each minute until stopped. A round that fails is tried again with the next.
pub async fn run(database: Database, policy: Policy, mut stop: Stop) {
    if policy.keeps_everything() {
        return stop.wait().await;
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(ROUND / 2 + jitter(ROUND / 2)) => {}
            () = stop.wait() => return,
        }
        let done = tokio::select! {
            done = round_of(&database, policy, Reach::Part) => done,
            () = stop.wait() => return,
        };
        if let Ok(done) = &done {
            count(done);
        }
        match done {
            Ok(done) if done != Outcome::default() && !done.busy_elsewhere => {
                tracing::info!(
                    partitions = done.partitions_dropped,
                    sessions = done.sessions_deleted,
                    commands = done.commands_deleted,
                    upstream_sessions = done.upstream_sessions_deleted,
                    facts = done.facts_deleted,
                    devices = done.devices_forgotten,
                    "what was over its time was dropped"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "retention did not come to its end; the next round goes on"),
        }
    }
}

fn count(done: &Outcome) {
    let counts = [
        ("partitions", u64::from(done.partitions_dropped)),
        ("sessions", done.sessions_deleted),
        ("facts", done.facts_deleted),
        ("devices", done.devices_forgotten),
        ("commands", done.commands_deleted),
        ("upstream_sessions", done.upstream_sessions_deleted),
    ];
    for (what, count) in counts {
        RETENTION.add(what, count);
    }
}

/// One round, over all devices. Needs the owner of the tables, not the role that serves.
///
/// # Errors
/// When the database is away, or old readers kept a partition from being detached in time; a later round goes on there.
pub async fn round(database: &Database, policy: Policy) -> Result<Outcome, StoreError> {
    round_of(database, policy, Reach::All).await
}

/// One round; how far it looks for idle devices is said.
///
/// # Errors
/// As [`round`].
pub async fn round_of(database: &Database, policy: Policy, reach: Reach) -> Result<Outcome, StoreError> {
    // A connection of its own: whatever happens, the lock goes with it.
    let mut connection = database.clone().under_role(None).connect("retention").await?;
    sqlx::raw_sql("SET statement_timeout = '60s'; SET lock_timeout = '10s'").execute(&mut connection).await?;
    let mine = sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock('recado.partition'::regclass::integer, 2) AS "mine!""#);
    if !limited(ASK_LIMIT, mine.fetch_one(&mut connection)).await? {
        return Ok(Outcome { busy_elsewhere: true, ..Outcome::default() });
    }
    let done = round_alone(&mut connection, policy, reach).await?;
    // The end of the session would give the lock back as well, but a moment after we have returned.
    let unlocked = sqlx::query!("SELECT pg_advisory_unlock('recado.partition'::regclass::integer, 2)");
    limited(ASK_LIMIT, unlocked.fetch_one(&mut connection)).await?;
    let _ = connection.close().await;
    Ok(done)
}

async fn round_alone(connection: &mut PgConnection, policy: Policy, reach: Reach) -> Result<Outcome, StoreError> {
    let mut done = Outcome::default();
    loop {
        let state = read::state(connection).await?;
        let all = partitions(connection).await?;
        let Some(oldest) = all.first() else { break };
        let is_left_over = oldest.hi <= state.floor.next().get();
        let is_full = oldest.hi <= state.head.get();
        if is_left_over || is_full && goes(oldest, &all, policy) {
            done.facts_deleted += drop_partition(connection, oldest).await?;
            done.partitions_dropped += 1;
        } else {
            break;
        }
    }
    if let Some(age) = policy.sessions {
        let (sessions, facts) = delete_sessions(connection, age).await?;
        done.sessions_deleted = sessions;
        done.facts_deleted += facts + delete_facts_beside(connection, age).await?;
    }
    if let Some(age) = policy.devices {
        done.devices_forgotten = idle::forget(connection, age, reach).await?;
    }
    if let Some(age) = policy.upstream {
        done.commands_deleted = upstream::forget::commands(connection, age).await?;
        done.upstream_sessions_deleted = upstream::forget::sessions(connection, age).await?;
    }
    Ok(done)
}

fn goes(oldest: &Partition, all: &[Partition], policy: Policy) -> bool {
    let total: u64 = all.iter().map(|p| u64::try_from(p.bytes).unwrap_or(0)).sum();
    let too_old = policy.age.zip(oldest.newest_age_seconds).is_some_and(|(most, age)| age > most.as_secs_f64());
    too_old || policy.bytes.is_some_and(|most| total > most)
}

/// The partitions of the log, oldest first.
///
/// # Errors
/// When the database is away or slow.
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

/// How many facts went with it.
async fn drop_partition(connection: &mut PgConnection, partition: &Partition) -> Result<u64, StoreError> {
    let floor = Seq::from_db(partition.hi - 1);
    let raised = sqlx::query!("UPDATE recado.meta SET floor_seq = $1 WHERE floor_seq < $1", floor.get());
    limited(ASK_LIMIT, raised.execute(&mut *connection)).await?;
    for parent in ["log", "log_member"] {
        detach_and_drop(connection, parent, &format!("{parent}_p{:012}", partition.lo)).await?;
    }
    delete_keys(connection, partition).await?;
    let facts = delete_facts_below(connection, partition.hi).await?;
    let gone = sqlx::query!("DELETE FROM recado.partition WHERE lo = $1", partition.lo);
    limited(ASK_LIMIT, gone.execute(connection)).await?;
    Ok(facts)
}

/// Both names are of our own making: a fixed word and a number.
async fn detach_and_drop(connection: &mut PgConnection, parent: &str, child: &str) -> Result<(), StoreError> {
    let pending = sqlx::query_scalar!(
        r#"SELECT i.inhdetachpending AS "pending!" FROM pg_inherits i WHERE i.inhrelid = to_regclass('recado.' || $1)"#,
        child,
    );
    // None: a round before this one has detached it, and perhaps dropped it.
    if let Some(pending) = limited(ASK_LIMIT, pending.fetch_optional(&mut *connection)).await? {
        let how = if pending { "FINALIZE" } else { "CONCURRENTLY" };
        let detach = AssertSqlSafe(format!("ALTER TABLE recado.{parent} DETACH PARTITION recado.{child} {how}"));
        limited(DETACH_LIMIT, sqlx::raw_sql(detach).execute(&mut *connection)).await?;
    }
    let drop = AssertSqlSafe(format!("DROP TABLE IF EXISTS recado.{child}"));
    limited(DETACH_LIMIT, sqlx::raw_sql(drop).execute(connection)).await?;
    Ok(())
}

/// In windows of numbers, so that no step passes over what the ones before have deleted.
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

/// Facts that speak of numbers below only. One that also says something of a later number stays until that goes.
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

/// Sessions that ended longer ago, each after its facts: what a crash leaves is found by the next round. How many of both.
async fn delete_sessions(connection: &mut PgConnection, age: Duration) -> Result<(u64, u64), StoreError> {
    let (mut sessions, mut facts) = (0, 0);
    loop {
        let old = sqlx::query_scalar!(
            "SELECT session_id FROM recado.session WHERE ended_at < clock_timestamp() - make_interval(secs => $1) LIMIT $2",
            age.as_secs_f64(),
            STEP_SESSIONS,
        );
        let old = limited(DETACH_LIMIT, old.fetch_all(&mut *connection)).await?;
        if old.is_empty() {
            return Ok((sessions, facts));
        }
        facts += delete_facts_of(connection, &old).await?;
        let gone = sqlx::query!("DELETE FROM recado.session WHERE session_id = ANY ($1)", &old);
        sessions += limited(DETACH_LIMIT, gone.execute(&mut *connection)).await?.rows_affected();
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

/// Acknowledgements that came beside a session have the age of one that ended with them.
async fn delete_facts_beside(connection: &mut PgConnection, age: Duration) -> Result<u64, StoreError> {
    let mut deleted = 0;
    loop {
        let step = sqlx::query!(
            r#"DELETE FROM recado.progress
                WHERE ctid = ANY (ARRAY(SELECT p.ctid FROM recado.progress p
                                         WHERE p.session_id IS NULL AND p.acked_at < clock_timestamp() - make_interval(secs => $1)
                                         LIMIT $2))"#,
            age.as_secs_f64(),
            STEP_ROWS,
        );
        match limited(DETACH_LIMIT, step.execute(&mut *connection)).await?.rows_affected() {
            0 => return Ok(deleted),
            rows => deleted += rows,
        }
    }
}
