//! Computes the wait before the next try.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Exponential back-off with full jitter: the wait is random between zero and a bound that doubles, so that clients
/// that failed together do not retry together. The reset must be earned: see [`Backoff::succeeded`].
#[derive(Debug, Clone)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    failures: u32,
    dice: SmallRng,
}

impl Backoff {
    pub fn new(least: Duration, most: Duration) -> Self {
        Self::resumed(least, most, 0, rand::rng().random())
    }

    /// A back-off that has already counted `failures`. The same seed gives the same waits.
    pub fn resumed(least: Duration, most: Duration, failures: u32, seed: u64) -> Self {
        Self { least, most, failures, dice: SmallRng::seed_from_u64(seed) }
    }

    /// The wait after one more failure: at least half of `least`, at most `most`.
    pub fn failed(&mut self) -> Duration {
        let bound = self.least.saturating_mul(1_u32 << self.failures.min(16)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(self.dice.random_range(0.0..=1.0)).max((self.least / 2).min(self.most))
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Resets the back-off. Call it after a success, not after a mere start.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// A random fraction of `bound`.
pub fn jitter(bound: Duration) -> Duration {
    bound.mul_f64(rand::rng().random_range(0.0..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_secs(2);
    const MOST: Duration = Duration::from_secs(30);

    #[test]
    fn waits_are_spread_below_a_bound_that_doubles_to_the_most() {
        let bounds = [(1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (40, 30)];
        for (failure, bound) in bounds {
            let waits: Vec<Duration> = (0..200).map(|seed| Backoff::resumed(LEAST, MOST, failure - 1, seed).failed()).collect();
            let bound = Duration::from_secs(bound);
            assert!(waits.iter().all(|wait| *wait >= LEAST / 2 && *wait <= bound), "{failure}: {waits:?}");
            let early = waits.iter().filter(|wait| **wait < bound / 2).count();
            assert!((60..=140).contains(&early) || failure == 1, "{failure}: {early} of 200 in the first half");
        }
    }

    #[test]
    fn waits_start_anew_after_a_success() {
        let mut backoff = Backoff::new(LEAST, MOST);
        let longest = (0..200).map(|_| backoff.failed()).max();
        assert!(longest > Some(LEAST) && backoff.failures() == 200, "{longest:?}");
        backoff.succeeded();
        assert!(backoff.failed() <= LEAST && backoff.failures() == 1);
    }

    #[test]
    fn the_same_seed_gives_the_same_waits() {
        let mut one = Backoff::resumed(LEAST, MOST, 0, 7);
        let mut other = one.clone();
        assert!((1..20).all(|_| one.failed() == other.failed()));
    }
}
