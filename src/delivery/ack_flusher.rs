//! Writes acknowledgements, sessions and delivery facts to the database in batches, over one dedicated connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pending_acks::PendingAcks;
use super::pending_facts::PendingFacts;
use super::pending_sessions::PendingSessions;
use super::registry::Registry;
use super::shared_handles::Delivery;
use crate::backoff::Backoff;
use crate::domain::resume::SettledConnection;
use crate::domain::{InstanceId, LogId};
use crate::store::acked_positions::{self, Ack};
use crate::store::dedicated_connection::DedicatedConnection;
use crate::store::delivery_facts::{self, DeliveryFact};
use crate::store::{Database, StoreError, resume, sessions};
use crate::tasks::Stop;

/// Pause between the first acknowledgement of a round and its write. After a crash, clients get again the rows whose
/// acknowledgement was not written yet.
const ROUND: Duration = Duration::from_millis(200);
/// Longest wait for something to write: the positions of connections are collected by time.
const IDLE_ROUND: Duration = Duration::from_millis(500);
/// Pause before a round that was requested early because a device has disconnected.
const HURRIED_ROUND: Duration = Duration::from_millis(20);
/// Longest pause while the database refuses writes.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// Interval at which the positions of all live sessions are compared with the stored ones.
const REFRESH: Duration = Duration::from_secs(5);
/// Interval at which connected devices are marked as seen. Device expiry counts in days, so a device that is cut off
/// together with its hub must have been marked within the last day.
const SEEN: Duration = Duration::from_secs(3600);
/// Most rows of one statement, to keep its locks short.
const ROWS: usize = 1000;
/// Most delivery facts of one round, so that acknowledgements do not wait long behind them. A broadcast to more
/// connections than this is written over several rounds. That does no harm: each fact carries its own time.
const FACTS_A_ROUND: usize = 3000;

/// The background task that stores acknowledgements, sessions and delivery facts.
pub struct AckFlusher {
    dedicated: DedicatedConnection,
    instance: InstanceId,
    registry: Arc<Registry>,
    acks: Arc<PendingAcks>,
    sessions: Arc<PendingSessions>,
    facts: Arc<PendingFacts>,
    backoff: Backoff,
    seen_at: Instant,
}

impl AckFlusher {
    pub fn new(database: Database, instance: InstanceId, delivery: &Delivery) -> Self {
        let Delivery { registry, acks, sessions, facts, .. } = delivery.clone();
        let backoff = Backoff::new(ROUND, LONGEST_PAUSE);
        Self {
            dedicated: DedicatedConnection::new(database, "ack flusher"),
            instance,
            registry,
            acks,
            sessions,
            facts,
            backoff,
            seen_at: Instant::now(),
        }
    }

    /// Runs until stopped, then writes once more.
    pub async fn run(mut self, mut stop: Stop) {
        let mut refreshed = Instant::now();
        // Something of the last round is still to be written.
        let mut is_left = false;
        while !stop.is_stopped() {
            tokio::select! {
                () = self.due(is_left) => {}
                () = stop.wait() => break,
            }
            if refreshed.elapsed() >= REFRESH {
                refreshed = Instant::now();
                let connections = self.registry.connections();
                self.sessions.refresh(connections.iter().map(AsRef::as_ref), self.registry.position().log_id);
            }
            if self.facts.is_due() {
                let connections = self.registry.connections();
                self.facts.collect(connections.iter().map(AsRef::as_ref));
            }
            let pause = self.round(FACTS_A_ROUND).await;
            is_left = !pause.is_zero() || self.facts.has_waiting();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.wait() => break,
            }
        }
        let connections = self.registry.connections();
        self.facts.collect(connections.iter().map(AsRef::as_ref));
        self.round(usize::MAX).await;
    }

    /// Returns when the next round is due. While nothing is to be written, that is twice a second.
    async fn due(&self, is_left: bool) {
        if !is_left {
            tokio::select! {
                () = self.acks.added() => {}
                () = self.sessions.added() => {}
                () = self.acks.hurried() => return tokio::time::sleep(HURRIED_ROUND).await,
                () = tokio::time::sleep(IDLE_ROUND) => return,
            }
        }
        tokio::select! {
            () = tokio::time::sleep(ROUND) => {}
            () = self.acks.hurried() => tokio::time::sleep(HURRIED_ROUND).await,
        }
    }

    /// Writes everything that is pending. Returns the pause before the next round, which is above zero after a failure.
    async fn round(&mut self, most_facts: usize) -> Duration {
        let mut pause = Duration::ZERO;
        // Taken before the session facts: a settled position is noted after the beginning of the connection that
        // settled it, so that this beginning is always among the facts taken next.
        let settled = self.sessions.take_settled();
        // Taken before the acknowledgements, and stored only after them. A stored end says that the device's position
        // has everything that the connection acknowledged: what the position gains later counts as acknowledged by the
        // connections that are open then.
        let facts = self.sessions.take();
        if let Err(error) = self.write_acks().await {
            self.acks.not_stored();
            self.sessions.not_stored(facts);
            self.dedicated.discard();
            pause = self.backoff.failed();
            tracing::warn!(%error, "could not store acknowledgements; they are kept and retried");
        } else if let Err(error) = self.write_sessions(&facts).await {
            self.sessions.not_stored(facts);
            self.dedicated.discard();
            pause = self.backoff.failed();
            tracing::warn!(%error, "could not store session facts; they are kept and retried");
        }
        if pause.is_zero()
            && let Err(error) = self.write_settled(&settled).await
        {
            self.dedicated.discard();
            pause = self.backoff.failed();
            tracing::warn!(%error, "could not store settled connection positions; the next connect of the device settles them again");
        }
        let facts = self.facts.take(most_facts);
        if let Err(error) = self.write_progress(&facts).await {
            self.facts.not_stored(facts);
            self.dedicated.discard();
            pause = self.backoff.failed();
            tracing::warn!(%error, "could not store delivery facts; they are kept and retried");
        }
        if self.seen_at.elapsed() >= SEEN {
            self.seen_at = Instant::now();
            if let Err(error) = self.write_seen().await {
                self.dedicated.discard();
                tracing::warn!(%error, "could not mark connected devices as seen; the next mark covers them");
            }
        }
        if pause.is_zero() {
            self.backoff.succeeded();
        }
        pause
    }

    async fn write_acks(&mut self) -> Result<(), StoreError> {
        let taken = self.acks.take();
        let mut log_ids: Vec<LogId> = taken.iter().map(|(log_id, _)| *log_id).collect();
        log_ids.sort_unstable_by_key(|log_id| log_id.0);
        log_ids.dedup();
        for log_id in log_ids {
            let acks: Vec<Ack> = taken.iter().filter(|(of, _)| *of == log_id).map(|(_, ack)| ack.clone()).collect();
            #[cfg(feature = "failpoints")]
            crate::failpoints::at("ack.before_flush").await;
            for chunk in acks.chunks(ROWS) {
                let stored = acked_positions::store(self.dedicated.get().await?, log_id, chunk).await?;
                acked_positions::trim(self.dedicated.get().await?, &stored.newcomers, self.registry.most_devices()).await?;
            }
        }
        self.acks.stored();
        Ok(())
    }

    async fn write_sessions(&mut self, facts: &[sessions::SessionFact]) -> Result<(), StoreError> {
        for chunk in facts.chunks(ROWS) {
            // A device that connected or disconnected counts as seen, even if it acknowledged nothing.
            let devices: Vec<_> = chunk.iter().map(|fact| (fact.who.user.clone(), fact.client.clone())).collect();
            acked_positions::seen(self.dedicated.get().await?, &devices).await?;
            sessions::store(self.dedicated.get().await?, self.instance, chunk).await?;
        }
        Ok(())
    }

    /// Runs after the sessions are written: a position counts as used up only once the connection that used it is
    /// stored.
    async fn write_settled(&mut self, settled: &[SettledConnection]) -> Result<(), StoreError> {
        // One statement, so that a used-up position and the connection that used it are always written together.
        if settled.is_empty() { Ok(()) } else { resume::settle(self.dedicated.get().await?, settled).await }
    }

    async fn write_progress(&mut self, facts: &[DeliveryFact]) -> Result<(), StoreError> {
        for chunk in facts.chunks(ROWS) {
            delivery_facts::store(self.dedicated.get().await?, chunk).await?;
        }
        Ok(())
    }

    async fn write_seen(&mut self) -> Result<(), StoreError> {
        let devices: Vec<_> =
            self.registry.connections().iter().map(|connection| (connection.who.user.clone(), connection.client.clone())).collect();
        for chunk in devices.chunks(ROWS) {
            acked_positions::seen(self.dedicated.get().await?, chunk).await?;
        }
        Ok(())
    }
}
