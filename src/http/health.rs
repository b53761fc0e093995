//! Tells whether the hub does its work, measured by its deliveries and appends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::tailer::Pulse;
use crate::identity::KeySet;
use crate::log::write_health::WriteHealth;
use crate::store::durability::Durability;

/// Delivery counts as broken if the head of the log was not confirmed as read for this long. Above the poll interval
/// plus one missed answer; below the five seconds after which `/readyz` must tell.
pub const STALE_AFTER: Duration = Duration::from_secs(4);

/// The facts that the health routes report.
#[derive(Debug)]
pub struct Health {
    pulse: Arc<Pulse>,
    work: Arc<WriteHealth>,
    stopping: AtomicBool,
    /// Drains that run: a new one may begin before the last one has ended.
    drains: Arc<AtomicUsize>,
    started: Instant,
    durability: Option<Arc<Durability>>,
    key_sets: Vec<Arc<KeySet>>,
}

impl Health {
    pub fn new(pulse: Arc<Pulse>, work: Arc<WriteHealth>) -> Self {
        Self {
            pulse,
            work,
            stopping: AtomicBool::new(false),
            drains: Arc::default(),
            started: Instant::now(),
            durability: None,
            key_sets: Vec::new(),
        }
    }

    /// Makes the hub not ready while the database's settings would lose a 201 in a crash.
    #[must_use]
    pub fn with_durability(mut self, durability: Option<Arc<Durability>>) -> Self {
        self.durability = durability;
        self
    }

    /// Makes the hub not ready until these were fetched once: before, it could check no token of their issuers.
    #[must_use]
    pub fn with_key_sets(mut self, key_sets: &[Arc<KeySet>]) -> Self {
        self.key_sets = key_sets.to_vec();
        self
    }

    /// Whether every key set was fetched once.
    pub fn has_keys(&self) -> bool {
        self.key_sets.iter().all(|set| set.has_begun())
    }

    /// The database setting that would lose a 201 in a crash, if there is one.
    pub fn unsafe_setting(&self) -> Option<String> {
        self.durability.as_ref().and_then(|durability| durability.finding())
    }

    /// From now on clients should not be sent to this instance.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Clients should not be sent to this instance while the value lives.
    pub fn drain(&self) -> RunningDrain {
        self.drains.fetch_add(1, Ordering::Relaxed);
        RunningDrain(Arc::clone(&self.drains))
    }

    pub fn is_draining(&self) -> bool {
        self.drains.load(Ordering::Relaxed) > 0
    }

    /// Whether the log was read to its head a moment ago.
    pub fn log_is_read(&self) -> bool {
        self.pulse.age() < STALE_AFTER
    }

    /// Whether clients should be sent to this instance.
    pub fn is_ready(&self) -> bool {
        self.failing().is_empty()
    }

    /// The names of the checks that fail, as `/readyz?verbose` has them.
    pub fn failing(&self) -> Vec<&'static str> {
        let checks = [
            ("log_read", self.log_is_read()),
            ("durable", self.unsafe_setting().is_none()),
            ("appends", self.work.appends_succeed()),
            ("moves", self.work.moves_succeed()),
            ("key_sets", self.has_keys()),
            ("not_draining", !self.is_draining()),
            ("not_stopping", !self.is_stopping()),
        ];
        checks.into_iter().filter(|(_, ok)| !ok).map(|(name, _)| name).collect()
    }

    /// Whether appends and the outbox relay succeed.
    pub fn work(&self) -> &WriteHealth {
        &self.work
    }

    /// How long ago the log was confirmed as read to its head.
    pub fn log_age(&self) -> Duration {
        self.pulse.age()
    }

    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A drain that runs. Dropping it ends the drain.
#[derive(Debug)]
pub struct RunningDrain(Arc<AtomicUsize>);

impl Drop for RunningDrain {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
