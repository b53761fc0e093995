//! Holds measured times, and takes the median of several rounds.

use std::time::Duration;

/// Measured times, sorted.
#[derive(Debug, Clone)]
pub struct SortedTimes(Vec<Duration>);

impl SortedTimes {
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The percentile by nearest rank, in milliseconds; zero of no times.
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.clamp(1, self.0.len().max(1)) - 1).map_or(0.0, |time| ms(*time))
    }

    pub fn max_ms(&self) -> f64 {
        self.percentile_ms(100.0)
    }
}

pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The median; of an even number the lower of the two middle values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// The median of a value over the rounds.
pub fn middle<T>(rounds: &[T], value: impl Fn(&T) -> f64) -> f64 {
    median(&rounds.iter().map(value).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ms: &[u64]) -> SortedTimes {
        SortedTimes::new(ms.iter().map(|ms| Duration::from_millis(*ms)).collect())
    }

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let hundred: Vec<u64> = (1..=100).rev().collect();
        let all = times(&hundred);
        assert_eq!([50.0, 90.0, 99.0, 99.5].map(|p| all.percentile_ms(p)), [50.0, 90.0, 99.0, 100.0]);
        assert_eq!((all.percentile_ms(0.0), all.max_ms(), all.len()), (1.0, 100.0, 100));
        assert_eq!(times(&[7]).percentile_ms(50.0), 7.0);
        assert_eq!(times(&[]).max_ms(), 0.0);
    }

    #[test]
    fn the_median_round_is_one_that_was_measured() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.0);
        assert_eq!(median(&[]), 0.0);
        assert_eq!(middle(&[1_u8, 9, 5], |n| f64::from(*n) * 2.0), 10.0);
    }
}
