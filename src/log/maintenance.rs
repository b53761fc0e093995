//! Runs chores of an instance: its heartbeat, dead instances, partitions ahead, old tickets, uses of keys.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::domain::InstanceId;
use crate::metrics;
use crate::store::audit::{self, ChainEnd};
use crate::store::dedicated_connection::DedicatedConnection;
use crate::store::durability::Durability;
use crate::store::instances::{self, SIGN_OF_LIFE, SeenInstance};
use crate::store::key_uses::KeyUses;
use crate::store::keys;
use crate::store::log_identity::LogMemory;
use crate::store::{Database, StoreError, access, append, consumers, tickets};
use crate::tasks::Stop;

/// Interval between checks of the partitions, and between extensions of the audit's hash chain. Two partitions of five
/// million rows are ready ahead; an append that finds none makes one itself.
const PARTITIONS: Duration = Duration::from_secs(60);

/// Heartbeats between two looks for expired tickets, for consumers that are behind, and for open sessions of instances
/// that ended earlier. An instance
/// that stops giving heartbeats is found with the next heartbeat of another one.
const CLEANING_ROUNDS: u32 = 3;

/// What this instance tells with its heartbeat, and who keeps what all instances tell.
pub trait InstanceReports: Send + Sync {
    /// What this instance does, as JSON.
    fn report(&self) -> Value;
    /// Keeps the rows that a heartbeat has read.
    fn take(&self, seen: Vec<SeenInstance>);
}

/// The heartbeat of an instance.
pub struct Heartbeat {
    pub instance: InstanceId,
    pub address: String,
    pub reports: Box<dyn InstanceReports>,
}

impl Heartbeat {
    /// Returns whether another instance has died.
    async fn beat(&self, dedicated: &mut DedicatedConnection, durability: Option<&Durability>) -> Result<bool, StoreError> {
        let Self { instance, address, reports } = self;
        let beat = instances::beat(dedicated.get().await?, *instance, address, &reports.report()).await?;
        if let (Some(durability), Some(settings)) = (durability, &beat.settings) {
            durability.take(settings);
        }
        let has_dead = beat.has_dead(*instance);
        reports.take(beat.seen);
        Ok(has_dead)
    }
}

/// Runs the chores until stopped, then records that the instance has stopped. `memory` stores the end of the log, and
/// `key_uses` collects the keys that requests have used.
pub async fn run(database: Database, heartbeat: Heartbeat, mut memory: Option<LogMemory>, key_uses: KeyUses, mut stop: Stop) {
    let durability = database.durability().cloned();
    let mut dedicated = DedicatedConnection::new(database, "maintenance");
    let mut due = DueChores { rounds: 0, partitions_at: Instant::now() };
    loop {
        if let Err(error) = round(&mut dedicated, &heartbeat, durability.as_deref(), &mut due, &key_uses).await {
            tracing::warn!(%error, "maintenance failed; retrying");
            dedicated.discard();
        }
        keep(memory.as_mut());
        tokio::select! {
            () = tokio::time::sleep(SIGN_OF_LIFE) => {}
            () = stop.wait() => break,
        }
    }
    keep(memory.as_mut());
    if let Ok(connection) = dedicated.get().await {
        let _ = instances::ended(connection, heartbeat.instance).await;
    }
}

/// Writes a small file, in less time than a statement takes.
fn keep(memory: Option<&mut LogMemory>) {
    if let Some(memory) = memory {
        memory.keep();
    }
}

/// When the chores are due that not every round does.
struct DueChores {
    rounds: u32,
    partitions_at: Instant,
}

async fn round(
    dedicated: &mut DedicatedConnection,
    heartbeat: &Heartbeat,
    durability: Option<&Durability>,
    due: &mut DueChores,
    key_uses: &KeyUses,
) -> Result<(), StoreError> {
    let has_dead = heartbeat.beat(dedicated, durability).await?;
    let cleans = due.rounds.is_multiple_of(CLEANING_ROUNDS);
    if has_dead || cleans {
        let ended = instances::bury_the_dead(dedicated.get().await?).await?;
        if ended > 0 {
            tracing::info!(sessions = ended, "ended the sessions of a dead instance");
        }
    }
    if cleans {
        tickets::sweep(dedicated.get().await?).await?;
        let lag = consumers::lag(dedicated.get().await?).await?;
        metrics::CONSUMERS_LAG.set(lag.seconds.max(0.0));
        metrics::CONSUMERS_STOPPED.set(lag.stopped as f64);
    }
    due.rounds = due.rounds.wrapping_add(1);
    if Instant::now() >= due.partitions_at {
        let made = append::ensure_partitions(dedicated.get().await?, append::PARTITIONS_LIMIT).await?;
        if made > 0 {
            tracing::info!(made, "made partitions ahead of the log");
        }
        access::trim(dedicated.get().await?).await?;
        due.partitions_at = Instant::now() + PARTITIONS;
        // Last: a failure repeats nothing before the next minute.
        let ChainEnd { chained, link, hash } = audit::chain(dedicated.get().await?).await?;
        if chained > 0 {
            // In a log that is collected elsewhere, these lines prove the end of the chain without the database.
            tracing::info!(chained, link, hash, "chained rows of the audit");
        }
    }
    write_key_uses(dedicated, key_uses).await
}

/// Writes which keys were used. Last in a round, because it matters least.
async fn write_key_uses(dedicated: &mut DedicatedConnection, key_uses: &KeyUses) -> Result<(), StoreError> {
    let names = key_uses.take();
    if names.is_empty() {
        return Ok(());
    }
    let written = match dedicated.get().await {
        Ok(connection) => keys::note_use(connection, &names).await,
        Err(error) => Err(error),
    };
    if written.is_err() {
        key_uses.put_back(&names);
    }
    written
}
