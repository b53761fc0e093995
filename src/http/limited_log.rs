//! Spaces out log lines about events that any client can cause.

use std::time::Duration;

use tokio::time::Instant;

/// Counts events between two log lines.
#[derive(Debug, Default)]
pub(super) struct LimitedLog {
    last: Option<Instant>,
    unsaid: u64,
}

impl LimitedLog {
    /// Counts one event. Returns the events since the last line, this one included, if that line was at least `every`
    /// ago.
    pub(super) fn count(&mut self, every: Duration) -> Option<u64> {
        self.unsaid += 1;
        if self.last.is_some_and(|last| last.elapsed() < every) {
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.unsaid))
    }
}
