//! Limits the rate at which one instance starts sign-ins and dials, over all sessions.
//!
//! Each session limits itself; two thousand sessions that lost their provider in the same second would still flood it.
//! So each attempt first asks here and gets its start time. Start times are assigned in the order of the requests. A
//! start time whose session ended meanwhile is lost, which spares the provider.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics;

/// Assigns start times, one each `1/rate` of a second.
#[derive(Debug)]
pub struct DialRate {
    every: Duration,
    /// The next free start time. Locked for a comparison and an addition only.
    next: Mutex<Option<Instant>>,
}

impl DialRate {
    /// The rate is at least one per second.
    pub fn new(rate_per_second: u32) -> Self {
        Self { every: Duration::from_secs(1) / rate_per_second.max(1), next: Mutex::new(None) }
    }

    /// Waits for the assigned start time.
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

    /// How many attempts could start within this time: the number of sessions worth claiming.
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
        let dial_rate = DialRate::new(10);
        let now = Instant::now();
        let turns: Vec<Duration> = (0..5).map(|_| dial_rate.turn(now) - now).collect();
        assert_eq!(turns, (0..5).map(|n| Duration::from_millis(100 * n)).collect::<Vec<_>>());
        let later = now + Duration::from_secs(60);
        assert_eq!((dial_rate.turn(later), dial_rate.turn(later)), (later, later + Duration::from_millis(100)));
    }

    #[test]
    fn what_is_worth_claiming_shrinks_with_those_who_wait() {
        let dial_rate = DialRate::new(10);
        assert_eq!(dial_rate.room_within(Duration::from_secs(1)), 10);
        let now = Instant::now();
        for _ in 0..8 {
            dial_rate.turn(now);
        }
        assert!((2..=3).contains(&dial_rate.room_within(Duration::from_secs(1))), "{}", dial_rate.room_within(Duration::from_secs(1)));
        for _ in 0..20 {
            dial_rate.turn(now);
        }
        assert_eq!(dial_rate.room_within(Duration::from_secs(1)), 0);
    }
}
