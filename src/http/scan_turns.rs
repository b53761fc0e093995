//! Gives turns to lists that read every stored position of the database.
//!
//! A list of a million devices costs the database some 0.5 s of one processor. One list runs at a time, and after it
//! the hub waits for four times as long as it took. So however many consoles ask, one hub uses at most a fifth of one
//! processor of the database for them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

/// The pause after a list, as a multiple of the time that it took.
const PAUSE: u32 = 4;
/// Longest pause. A list that takes longer than the limit of its statement has failed.
const PAUSE_MAX: Duration = Duration::from_secs(40);

/// The turns of one hub.
#[derive(Debug)]
pub struct ScanTurns(Arc<Mutex<Instant>>);

impl Default for ScanTurns {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

/// A turn. It ends when it is dropped.
#[derive(Debug)]
pub struct ScanTurn {
    next: OwnedMutexGuard<Instant>,
    begun: Instant,
}

impl ScanTurns {
    /// Waits for a turn.
    pub async fn take(&self) -> ScanTurn {
        let next = Arc::clone(&self.0).lock_owned().await;
        tokio::time::sleep_until(*next).await;
        ScanTurn { next, begun: Instant::now() }
    }
}

impl Drop for ScanTurn {
    fn drop(&mut self) {
        let now = Instant::now();
        *self.next = now + pause_after(now.saturating_duration_since(self.begun));
    }
}

/// The pause after a list that took so long.
fn pause_after(took: Duration) -> Duration {
    took.saturating_mul(PAUSE).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_four_times_the_list_before_it_up_to_a_limit() {
        assert_eq!(pause_after(Duration::from_secs(2)), Duration::from_secs(8));
        assert_eq!(pause_after(Duration::from_secs(100)), PAUSE_MAX);
    }

    #[tokio::test]
    async fn a_turn_waits_for_the_end_of_the_one_before_and_for_the_pause() {
        let turns = ScanTurns::default();
        let first = turns.take().await;
        let begun = first.begun;
        let mut second = std::pin::pin!(turns.take());
        let waited = tokio::time::timeout(Duration::from_millis(20), second.as_mut()).await;
        assert!(waited.is_err(), "one list runs at a time");
        drop(first);
        assert!(second.await.begun >= begun + Duration::from_millis(100), "20 ms, and a pause of 80 ms");
    }
}
