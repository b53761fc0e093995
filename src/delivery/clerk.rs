//! Writes down what readers did: acknowledgements, sessions and delivery facts, in batches, over one connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::acks::AckBook;
use super::live::Delivery;
use super::progress::ProgressBook;
use super::registry::Registry;
use super::sessions::SessionBook;
use crate::backoff::Backoff;
use crate::domain::{InstanceId, LogId};
use crate::store::cursors::{self, Ack};
use crate::store::lane::Lane;
use crate::store::progress::{self, ProgressFact};
use crate::store::{Database, StoreError, sessions};
use crate::tasks::Stop;

/// Between two rounds. What is acknowledged and not yet written is repeated after a crash.
const ROUND: Duration = Duration::from_millis(200);
/// Between two rounds when somebody has left and is in a hurry.
const HURRIED_ROUND: Duration = Duration::from_millis(20);
/// Longest pause while the database takes nothing.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// Between two looks at how far every live session has come.
const REFRESH: Duration = Duration::from_secs(5);
/// Between two notes that those who are connected are still there: often enough that a device which is cut off with its
/// hub was noted within the day, to which devices are forgotten.
const SEEN: Duration = Duration::from_secs(3600);
/// Most rows of one statement, so that its locks are short.
const ROWS: usize = 1000;
/// Most delivery facts of one round, so that acknowledgements do not wait long behind them. A broadcast to more connections
/// than this is written over several rounds, without harm: each fact knows its moment.
const FACTS_A_ROUND: usize = 3000;

/// The task that stores acks and sessions.
pub struct Clerk {
    lane: Lane,
    instance: InstanceId,
    registry: Arc<Registry>,
    acks: Arc<AckBook>,
    sessions: Arc<SessionBook>,
    progress: Arc<ProgressBook>,
    backoff: Backoff,
    seen_at: Instant,
}

impl Clerk {
    pub fn new(database: Database, instance: InstanceId, delivery: &Delivery) -> Self {
        let Delivery { registry, acks, sessions, progress, .. } = delivery.clone();
        let backoff = Backoff::new(ROUND, LONGEST_PAUSE);
        Self { lane: Lane::new(database, "clerk"), instance, registry, acks, sessions, progress, backoff, seen_at: Instant::now() }
    }

    /// Runs until stopped, then writes once more.
    pub async fn run(mut self, mut stop: Stop) {
        let mut refreshed = Instant::now();
        while !stop.is_stopped() {
            tokio::select! {
                () = tokio::time::sleep(ROUND) => {}
                () = self.acks.hurried() => tokio::time::sleep(HURRIED_ROUND).await,
                () = stop.wait() => break,
            }
            if refreshed.elapsed() >= REFRESH {
                refreshed = Instant::now();
                let members = self.registry.members();
                self.sessions.refresh(members.iter().map(AsRef::as_ref), self.registry.position().log_id);
            }
            if self.progress.is_due() {
                let members = self.registry.members();
                self.progress.collect(members.iter().map(AsRef::as_ref));
            }
            let pause = self.round(FACTS_A_ROUND).await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.wait() => break,
            }
        }
        let members = self.registry.members();
        self.progress.collect(members.iter().map(AsRef::as_ref));
        self.round(usize::MAX).await;
    }

    /// Writes what waits; how long to wait before the next round when the database does not take it.
    async fn round(&mut self, most_facts: usize) -> Duration {
        let mut pause = Duration::ZERO;
        if let Err(error) = self.write_acks().await {
            self.acks.not_stored();
            self.lane.discard();
            pause = self.backoff.failed();
            tracing::warn!(%error, "acknowledgements could not be stored; they are kept and tried again");
        }
        let facts = self.sessions.take();
        if let Err(error) = self.write_sessions(&facts).await {
            self.sessions.not_stored(facts);
            self.lane.discard();
            pause = self.backoff.failed();
            tracing::warn!(%error, "session facts could not be stored; they are kept and tried again");
        }
        let facts = self.progress.take(most_facts);
        if let Err(error) = self.write_progress(&facts).await {
            self.progress.not_stored(facts);
            self.lane.discard();
            pause = self.backoff.failed();
            tracing::warn!(%error, "delivery facts could not be stored; they are kept and tried again");
        }
        if self.seen_at.elapsed() >= SEEN {
            self.seen_at = Instant::now();
            if let Err(error) = self.write_seen().await {
                self.lane.discard();
                tracing::warn!(%error, "it could not be noted that devices are connected; the next note does");
            }
        }
        if pause.is_zero() {
            self.backoff.succeeded();
        }
        pause
    }

    async fn write_acks(&mut self) -> Result<(), StoreError> {
        let taken = self.acks.take();
        let mut histories: Vec<LogId> = taken.iter().map(|(log_id, _)| *log_id).collect();
        histories.sort_unstable_by_key(|log_id| log_id.0);
        histories.dedup();
        for history in histories {
            let of_it: Vec<Ack> = taken.iter().filter(|(log_id, _)| *log_id == history).map(|(_, ack)| ack.clone()).collect();
            #[cfg(feature = "points")]
            crate::points::at("ack.before_flush").await;
            for chunk in of_it.chunks(ROWS) {
                cursors::store(self.lane.get().await?, history, chunk).await?;
            }
        }
        self.acks.stored();
        Ok(())
    }

    async fn write_sessions(&mut self, facts: &[sessions::SessionFact]) -> Result<(), StoreError> {
        for chunk in facts.chunks(ROWS) {
            // Whoever came or went was here, whether or not anything was acknowledged.
            let devices: Vec<_> = chunk.iter().map(|fact| (fact.who.user.clone(), fact.client.clone())).collect();
            cursors::seen(self.lane.get().await?, &devices).await?;
            sessions::store(self.lane.get().await?, self.instance, chunk).await?;
        }
        Ok(())
    }

    async fn write_progress(&mut self, facts: &[ProgressFact]) -> Result<(), StoreError> {
        for chunk in facts.chunks(ROWS) {
            progress::store(self.lane.get().await?, chunk).await?;
        }
        Ok(())
    }

    async fn write_seen(&mut self) -> Result<(), StoreError> {
        let devices: Vec<_> = self.registry.members().iter().map(|member| (member.who.user.clone(), member.client.clone())).collect();
        for chunk in devices.chunks(ROWS) {
            cursors::seen(self.lane.get().await?, chunk).await?;
        }
        Ok(())
    }
}
