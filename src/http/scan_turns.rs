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
        *self.next = now + (now.saturating_duration_since(self.begun) * PAUSE).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_waits_for_four_times_the_length_of_the_one_before() {
        let turns = ScanTurns::default();
        let begun = Instant::now();
        let turn = turns.take().await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "the first one waits for nothing");
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(turn);
        let turn = turns.take().await;
        assert_eq!(begun.elapsed().as_secs(), 10);
        tokio::time::sleep(Duration::from_secs(100)).await;
        drop(turn);
        drop(turns.take().await);
        assert_eq!(begun.elapsed().as_secs(), 150, "the pause has a limit");
    }
}
