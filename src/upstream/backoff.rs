//! How long a session waits after a failure: exponential, with full jitter from a source that a test can seed.

use std::time::Duration;

/// The waits of one session.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    dice: u64,
}

impl Backoff {
    pub const fn new(first: Duration, most: Duration, seed: u64) -> Self {
        Self { first, most, dice: seed }
    }

    /// The wait after the `failures`th failure in a row: drawn from zero to a bound that doubles, and at least half of
    /// the first, so that the luckiest draw is still a wait. Thousands who lost the provider together come back spread.
    pub fn after(&mut self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let bound = self.first.saturating_mul(1 << doublings).min(self.most);
        bound.mul_f64(self.draw()).max((self.first / 2).min(self.most))
    }

    /// From zero to one. SplitMix64: enough for spreading, and eight bytes of state.
    fn draw(&mut self) -> f64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bits = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or(u32::MAX);
        f64::from(bits) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_spread_below_a_bound_that_doubles_to_the_most() {
        let bounds = [(1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (40, 30)];
        for (failures, bound) in bounds {
            let waits: Vec<Duration> =
                (0..200).map(|seed| Backoff::new(Duration::from_secs(2), Duration::from_secs(30), seed).after(failures)).collect();
            let bound = Duration::from_secs(bound);
            assert!(waits.iter().all(|wait| *wait >= Duration::from_secs(1) && *wait <= bound), "{failures}: {waits:?}");
            let early = waits.iter().filter(|wait| **wait < bound / 2).count();
            assert!((60..=140).contains(&early) || failures == 1, "{failures}: {early} of 200 in the first half");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_waits() {
        let mut one = Backoff::new(Duration::from_secs(2), Duration::from_secs(30), 7);
        let mut other = one.clone();
        assert!((1..20).all(|failures| one.after(failures) == other.after(failures)));
    }
}
