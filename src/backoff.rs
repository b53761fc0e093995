//! How long to wait before the next try.

use std::time::Duration;

use rand::Rng;

/// Exponential back-off with full jitter: the wait is drawn from zero to a bound that doubles, so that many who failed
/// together do not come back together. The reset has to be earned: see [`Backoff::succeeded`].
#[derive(Debug, Clone)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    pub const fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, failures: 0 }
    }

    /// The wait after one more failure: at least half of `least`, at most `most`.
    pub fn failed(&mut self) -> Duration {
        let bound = self.least.saturating_mul(1_u32 << self.failures.min(16)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        jitter(bound).max(self.least / 2)
    }

    /// Call when something worked, not when it was merely begun.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// A random part of `bound`.
pub fn jitter(bound: Duration) -> Duration {
    bound.mul_f64(rand::rng().random_range(0.0..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_start_anew_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for _ in 0..50 {
            let wait = backoff.failed();
            assert!(wait >= Duration::from_millis(50) && wait <= Duration::from_secs(2), "{wait:?}");
        }
        backoff.succeeded();
        assert!(backoff.failed() <= Duration::from_millis(100));
    }
}
