//! Defines histograms, with an example of a trace for each bucket.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Most bounds of a histogram.
const BOUNDS: usize = 16;

/// A value that was counted, and the trace that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    pub trace_id: u128,
    pub value: f64,
    /// Seconds since 1970.
    pub at: f64,
}

/// Counts values by upper bound.
#[derive(Debug)]
pub struct Histogram {
    pub bounds: &'static [f64],
    /// Up to each bound; then those above all bounds.
    counts: [AtomicU64; BOUNDS + 1],
    /// In millionths.
    sum: AtomicU64,
    /// The last traced value of each bucket. Locked for traced values only.
    exemplars: [Mutex<Option<Exemplar>>; BOUNDS + 1],
}

impl Histogram {
    pub const fn new(bounds: &'static [f64]) -> Self {
        assert!(bounds.len() <= BOUNDS, "too many bounds");
        Self {
            bounds,
            counts: [const { AtomicU64::new(0) }; BOUNDS + 1],
            sum: AtomicU64::new(0),
            exemplars: [const { Mutex::new(None) }; BOUNDS + 1],
        }
    }

    pub fn observe(&self, value: f64) {
        self.count(value);
    }

    pub fn time(&self, took: Duration) {
        self.count(took.as_secs_f64());
    }

    /// Same. With the id of a trace that is recorded, the value becomes the exemplar of its bucket.
    pub fn time_in(&self, took: Duration, trace_id: Option<u128>) {
        let value = took.as_secs_f64();
        let bucket = self.count(value);
        if let Some(trace_id) = trace_id {
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            *self.exemplars[bucket].lock().unwrap_or_else(PoisonError::into_inner) = Some(Exemplar { trace_id, value, at });
        }
    }

    /// Counts the value. Returns the index of its bucket.
    fn count(&self, value: f64) -> usize {
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
        bucket
    }

    /// The count of values up to each bound, then the count of all values.
    pub fn cumulated(&self) -> (Vec<u64>, u64) {
        let mut total = 0;
        let upto = self.counts[..self.bounds.len()].iter().map(|count| {
            total += count.load(Ordering::Relaxed);
            total
        });
        let upto = upto.collect();
        (upto, total + self.counts[self.bounds.len()].load(Ordering::Relaxed))
    }

    pub fn sum(&self) -> f64 {
        self.sum.load(Ordering::Relaxed) as f64 / 1e6
    }

    /// The exemplar of a bucket. The bucket above all bounds comes last.
    pub fn exemplar(&self, bucket: usize) -> Option<Exemplar> {
        *self.exemplars.get(bucket)?.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Histograms that differ by one label with a fixed list of values.
#[derive(Debug)]
pub struct HistogramVec<const N: usize> {
    values: [&'static str; N],
    histograms: [Histogram; N],
}

impl<const N: usize> HistogramVec<N> {
    pub const fn new(values: [&'static str; N], histograms: [Histogram; N]) -> Self {
        Self { values, histograms }
    }

    /// `None` for a value that is not shown.
    pub fn of(&self, value: &str) -> Option<&Histogram> {
        self.values.iter().position(|known| *known == value).map(|at| &self.histograms[at])
    }

    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        self.values.iter().copied().zip(&self.histograms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_each_value_in_its_bound_and_all_above() {
        let histogram = Histogram::new(&[1.0, 10.0]);
        [0.5, 1.0, 1.5, 99.0].into_iter().for_each(|value| histogram.observe(value));
        assert_eq!(histogram.cumulated(), (vec![2, 3], 4));
        assert_eq!(histogram.sum(), 102.0);
    }

    #[test]
    fn the_last_traced_value_of_a_bucket_is_its_exemplar() {
        let histogram = Histogram::new(&[1.0, 10.0]);
        histogram.time_in(Duration::from_secs(2), None);
        assert_eq!(histogram.exemplar(1), None);
        histogram.time_in(Duration::from_secs(3), Some(7));
        histogram.time_in(Duration::from_secs(4), Some(8));
        histogram.time_in(Duration::from_secs(99), Some(9));
        let shown = |bucket| histogram.exemplar(bucket).map(|Exemplar { trace_id, value, .. }| (trace_id, value));
        assert_eq!((shown(0), shown(1), shown(2)), (None, Some((8, 4.0)), Some((9, 99.0))));
        assert_eq!(histogram.cumulated(), (vec![0, 3], 4));
    }
}
