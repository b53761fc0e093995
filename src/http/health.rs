//! Whether the hub does its work: measured at the delivery, not at the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::tailer::Pulse;

/// Without a confirmed look at the end of the log for this long, delivery counts as broken. Above the poll interval
/// and one missed answer, below the five seconds after which `/readyz` must tell.
pub const STALE_AFTER: Duration = Duration::from_secs(4);

/// What the health routes look at.
#[derive(Debug)]
pub struct Health {
    pulse: Arc<Pulse>,
    stopping: AtomicBool,
    started: Instant,
}

impl Health {
    pub fn new(pulse: Arc<Pulse>) -> Self {
        Self { pulse, stopping: AtomicBool::new(false), started: Instant::now() }
    }

    /// From now on nobody should be sent here.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Whether the log was read to its end a moment ago.
    pub fn log_is_read(&self) -> bool {
        self.pulse.age() < STALE_AFTER
    }

    /// Whether clients should be sent here.
    pub fn is_ready(&self) -> bool {
        self.log_is_read() && !self.is_stopping()
    }

    /// How long ago the end of the log was confirmed read.
    pub fn log_age(&self) -> Duration {
        self.pulse.age()
    }

    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}
