//! The pace at which one instance begins anything towards providers: sign-ins and diallings, all sessions together.
//!
//! Each session is polite by itself; two thousand that lost their provider in the same second are not. So each try asks
//! here first, and is told its moment. Moments are given out in the order of asking; one that is given up (its session
//! ended meanwhile) is lost, which errs to the side of the provider.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics;

/// Gives out moments, one each `1/rate` of a second.
#[derive(Debug)]
pub struct Gate {
    every: Duration,
    /// The next moment that is free. Held for a comparison and an addition.
    next: Mutex<Option<Instant>>,
}

impl Gate {
    /// At least one a second.
    pub fn new(rate_per_second: u32) -> Self {
        Self { every: Duration::from_secs(1) / rate_per_second.max(1), next: Mutex::new(None) }
    }

    /// Waits for its turn.
    pub async fn pass(&self) {
        let turn = self.turn(Instant::now());
        tokio::time::sleep_until(turn).await;
        metrics::UPSTREAM_STARTS.one();
    }

    fn turn(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + self.every);
        turn
    }

    /// How many could pass within this time if nobody else came: what is worth claiming.
    pub fn room_within(&self, time: Duration) -> usize {
        let now = Instant::now();
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner).map_or(now, |next| next.max(now));
        let left = (now + time).saturating_duration_since(next);
        usize::try_from(left.as_nanos().div_ceil(self.every.as_nanos().max(1))).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_come_together_pass_one_after_the_other_and_nothing_is_saved_up() {
        let gate = Gate::new(10);
        let now = Instant::now();
        let turns: Vec<Duration> = (0..5).map(|_| gate.turn(now) - now).collect();
        assert_eq!(turns, (0..5).map(|n| Duration::from_millis(100 * n)).collect::<Vec<_>>());
        let later = now + Duration::from_secs(60);
        assert_eq!((gate.turn(later), gate.turn(later)), (later, later + Duration::from_millis(100)));
    }

    #[test]
    fn what_is_worth_claiming_shrinks_with_those_who_wait() {
        let gate = Gate::new(10);
        assert_eq!(gate.room_within(Duration::from_secs(1)), 10);
        let now = Instant::now();
        for _ in 0..8 {
            gate.turn(now);
        }
        assert!((2..=3).contains(&gate.room_within(Duration::from_secs(1))), "{}", gate.room_within(Duration::from_secs(1)));
        for _ in 0..20 {
            gate.turn(now);
        }
        assert_eq!(gate.room_within(Duration::from_secs(1)), 0);
    }
}
