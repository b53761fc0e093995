//! Deletes old data: partitions of the log that are old or too many, and records that ended long ago.
//!
//! With a partition its keys and facts are deleted. The records are those of sessions, instances, idle devices, settled
//! commands, and provider sessions that no user wants.
//!
//! Any instance may do it, one at a time: a lease decides ([`crate::store::lease`]). The order makes a crash at any
//! point harmless:
//! 1. `floor_seq` is raised and committed. From now on every reader reports `gap`, whether or not the rows still exist.
//! 2. The partition is detached CONCURRENTLY: the plain form locks the log against appends for as long as any reader
//!    reads.
//! 3. It is dropped, its keys and the facts about its numbers are deleted in small steps, and its row in
//!    `recado.partition` is deleted last: the next round finds there what a crash left behind, and finishes it.
//!
//! The partition that holds the head is never dropped, because the next number comes from it. Rows in it that are too
//! old are deleted one by one (`recado.drop_old_rows` in `migrations/V13__erasure.sql`), with the floor in the same
//! commit.

use std::time::Duration;

use crate::backoff::jitter;
use crate::metrics::RETENTION;
use crate::store::device_expiry::ExpiryReach;
use crate::store::retention::{Partition, RetentionRound, RoundStart};
use crate::store::{Database, StoreError};
use crate::tasks::Stop;

/// Shortest pause between two rounds of a serving hub. A round takes 22 statements where there is nothing to delete.
const ROUND: Duration = Duration::from_secs(60);

/// The limits of what is kept. `None` keeps everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetentionPolicy {
    /// Partitions whose newest notification is older are dropped.
    pub age: Option<Duration>,
    /// The oldest partitions are dropped while the log takes more bytes on disk, indexes included.
    pub bytes: Option<u64>,
    /// Sessions that ended longer ago are deleted.
    pub sessions: Option<Duration>,
    /// Positions of devices that were not seen for longer are deleted; see [`crate::store::device_expiry`].
    pub devices: Option<Duration>,
    /// Commands that were settled longer ago are deleted, and provider sessions that no user has wanted for as long.
    pub upstream: Option<Duration>,
    /// Rows of the audit that are older are deleted.
    pub audit: Option<Duration>,
}

/// The result of a round.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct RetentionOutcome {
    /// Another instance is doing a round; nothing was done.
    pub busy_elsewhere: bool,
    /// The login does not own the tables; nothing was done.
    #[serde(skip)]
    pub not_owner: bool,
    pub partitions_dropped: u32,
    pub sessions_deleted: u64,
    /// Delivery facts, of numbers that were dropped or of sessions that were deleted.
    pub facts_deleted: u64,
    pub devices_forgotten: u64,
    pub commands_deleted: u64,
    pub upstream_sessions_deleted: u64,
    pub instances_deleted: u64,
    /// Notifications that were deleted one by one, from a partition that could not be dropped as a whole.
    pub rows_dropped: u64,
    /// Notifications over their `ttl` whose text was erased.
    pub texts_erased: u64,
    /// Rows of the audit.
    pub acts_deleted: u64,
}

/// Does a round every 60 to 90 s until stopped, even where everything is kept: records of ended instances and texts
/// over their `ttl` are always deleted. A round that fails is repeated with the next one.
pub async fn run(database: Database, policy: RetentionPolicy, mut stop: Stop) {
    let mut has_told = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(ROUND + jitter(ROUND / 2)) => {}
            () = stop.wait() => return,
        }
        let done = tokio::select! {
            done = round_of(&database, policy, ExpiryReach::Part) => done,
            () = stop.wait() => return,
        };
        if let Ok(done) = &done {
            count(done);
        }
        match done {
            Ok(done) if done.not_owner => {
                if !std::mem::replace(&mut has_told, true) {
                    tracing::warn!(
                        "retention does not run: the hub's login does not own the tables; run recado log retain every hour with the \
                         DATABASE_URL of the user who migrated"
                    );
                }
            }
            Ok(done) if done != RetentionOutcome::default() && !done.busy_elsewhere => {
                tracing::info!(
                    partitions = done.partitions_dropped,
                    sessions = done.sessions_deleted,
                    commands = done.commands_deleted,
                    upstream_sessions = done.upstream_sessions_deleted,
                    facts = done.facts_deleted,
                    devices = done.devices_forgotten,
                    instances = done.instances_deleted,
                    rows = done.rows_dropped,
                    texts = done.texts_erased,
                    acts = done.acts_deleted,
                    "retention deleted old data"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "retention round failed; the next round continues"),
        }
    }
}

fn count(done: &RetentionOutcome) {
    let counts = [
        ("partitions", u64::from(done.partitions_dropped)),
        ("sessions", done.sessions_deleted),
        ("facts", done.facts_deleted),
        ("devices", done.devices_forgotten),
        ("commands", done.commands_deleted),
        ("upstream_sessions", done.upstream_sessions_deleted),
        ("instances", done.instances_deleted),
        ("rows", done.rows_dropped),
        ("texts", done.texts_erased),
        ("acts", done.acts_deleted),
    ];
    for (what, count) in counts {
        RETENTION.add(what, count);
    }
}

/// Does one round, over all devices. Needs the owner of the tables, not the role that serves.
///
/// # Errors
/// When the database is unavailable, or old readers kept a partition from being detached in time; a later round
/// continues.
pub async fn round(database: &Database, policy: RetentionPolicy) -> Result<RetentionOutcome, StoreError> {
    round_of(database, policy, ExpiryReach::All).await
}

/// Does one round. `reach` says how many idle devices it covers.
///
/// # Errors
/// As [`round`].
pub async fn round_of(database: &Database, policy: RetentionPolicy, reach: ExpiryReach) -> Result<RetentionOutcome, StoreError> {
    let mut round = match RetentionRound::begin(database, reach).await? {
        RoundStart::Begun(round) => round,
        RoundStart::Elsewhere => return Ok(RetentionOutcome { busy_elsewhere: true, ..RetentionOutcome::default() }),
        RoundStart::NotOwner => return Ok(RetentionOutcome { not_owner: true, ..RetentionOutcome::default() }),
    };
    let done = round_alone(&mut round, policy).await;
    round.end().await;
    done
}

async fn round_alone(round: &mut RetentionRound, policy: RetentionPolicy) -> Result<RetentionOutcome, StoreError> {
    let mut done = RetentionOutcome::default();
    loop {
        let state = round.log_state().await?;
        let all = round.partitions().await?;
        let Some(oldest) = all.first() else { break };
        let is_left_over = oldest.hi <= state.floor.next().get();
        let is_full = oldest.hi <= state.head.get();
        let goes = is_left_over || is_full && goes(oldest, &all, policy);
        if !goes || !round.renew().await? {
            break;
        }
        done.facts_deleted += round.drop_partition(oldest).await?;
        done.partitions_dropped += 1;
    }
    if let Some(age) = policy.age {
        let old = round.drop_old_rows(one_by_one_after(age)).await?;
        done.rows_dropped = old.rows;
        done.facts_deleted += old.facts;
    }
    done.texts_erased = round.erase_expired().await?;
    if let Some(age) = policy.sessions {
        let old = round.delete_sessions(age).await?;
        done.sessions_deleted = old.rows;
        done.facts_deleted += old.facts + round.delete_facts_without_session(age).await?;
    }
    if let Some(age) = policy.devices {
        done.devices_forgotten = round.forget_devices(age).await?;
    }
    if let Some(age) = policy.upstream {
        done.commands_deleted = round.delete_commands(age).await?;
        done.upstream_sessions_deleted = round.delete_provider_sessions(age).await?;
    }
    if let Some(age) = policy.audit {
        done.acts_deleted = round.delete_acts(age).await?;
    }
    done.instances_deleted = round.delete_instances().await?;
    Ok(done)
}

fn goes(oldest: &Partition, all: &[Partition], policy: RetentionPolicy) -> bool {
    let total: u64 = all.iter().map(|p| u64::try_from(p.bytes).unwrap_or(0)).sum();
    let too_old = policy.age.zip(oldest.newest_age_seconds).is_some_and(|(most, age)| age > most.as_secs_f64());
    too_old || policy.bytes.is_some_and(|most| total > most)
}

/// The age at which rows are deleted one by one. Whole partitions are dropped earlier, because that costs next to
/// nothing.
fn one_by_one_after(age: Duration) -> Duration {
    age.saturating_add((age / 4).max(Duration::from_secs(3600)))
}
