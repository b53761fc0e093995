//! Chores that any instance may do at any time: its own sign of life, the dead, the partitions ahead, old tickets.

use std::time::Duration;

use tokio::time::Instant;

use super::instances::{self, SIGN_OF_LIFE};
use super::lane::Lane;
use super::{Database, StoreError, append, tickets};
use crate::domain::InstanceId;
use crate::tasks::Stop;

/// Between two looks at the partitions. Two of five million rows lie ahead; an append that finds none makes one itself.
const PARTITIONS: Duration = Duration::from_secs(60);

/// Does the chores until stopped, then says goodbye.
pub async fn run(database: Database, instance: InstanceId, address: String, mut stop: Stop) {
    let mut lane = Lane::new(database, "caretaker");
    let mut partitions_at = Instant::now();
    loop {
        if let Err(error) = round(&mut lane, instance, &address, &mut partitions_at).await {
            tracing::warn!(%error, "the hub could not leave its sign of life");
            lane.discard();
        }
        tokio::select! {
            () = tokio::time::sleep(SIGN_OF_LIFE) => {}
            () = stop.wait() => break,
        }
    }
    if let Ok(connection) = lane.get().await {
        let _ = instances::ended(connection, instance).await;
    }
}

async fn round(lane: &mut Lane, instance: InstanceId, address: &str, partitions_at: &mut Instant) -> Result<(), StoreError> {
    instances::alive(lane.get().await?, instance, address).await?;
    let ended = instances::bury_the_dead(lane.get().await?).await?;
    if ended > 0 {
        tracing::info!(sessions = ended, "sessions of an instance that died were ended");
    }
    tickets::sweep(lane.get().await?).await?;
    if Instant::now() >= *partitions_at {
        let made = append::ensure_partitions(lane.get().await?).await?;
        if made > 0 {
            tracing::info!(made, "partitions were made ahead of the log");
        }
        *partitions_at = Instant::now() + PARTITIONS;
    }
    Ok(())
}
