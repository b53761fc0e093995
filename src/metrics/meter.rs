//! Defines counters and gauges: atomics that `GET /metrics` reads.
//!
//! Label values come from fixed lists or are literals of the program (`&'static str`), so the number of series is
//! bounded, and no user, address or secret can become a label.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A number that only rises.
#[derive(Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    pub const fn zero() -> Self {
        Self(AtomicU64::new(0))
    }

    pub fn one(&self) {
        self.add(1);
    }

    pub fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters that differ by one label with a fixed list of values.
#[derive(Debug)]
pub struct CounterVec<const N: usize> {
    pub values: [&'static str; N],
    counts: [Counter; N],
}

impl<const N: usize> CounterVec<N> {
    pub const fn new(values: [&'static str; N]) -> Self {
        Self { values, counts: [const { Counter::zero() }; N] }
    }

    /// A value that is not in the list is not counted; a debug build panics.
    pub fn add(&self, value: &str, more: usize) {
        let at = self.values.iter().position(|known| *known == value);
        debug_assert!(at.is_some(), "{value} is no value of this label");
        if let Some(at) = at {
            self.counts[at].add(more);
        }
    }

    pub fn all(&self) -> Vec<(&'static str, f64)> {
        self.values.iter().zip(&self.counts).map(|(value, count)| (*value, count.get() as f64)).collect()
    }
}

/// Counters with one label whose values are literals of the program; each value appears once it is counted.
#[derive(Debug)]
pub struct LabelledCounter(Mutex<BTreeMap<&'static str, u64>>);

impl LabelledCounter {
    pub const fn empty() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    pub fn one(&self, value: &'static str) {
        self.add(value, 1);
    }

    pub fn add(&self, value: &'static str, more: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(value).or_default() += more;
    }

    pub fn all(&self) -> Vec<(&'static str, f64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(value, count)| (*value, *count as f64)).collect()
    }
}

/// Counters with two labels whose values are literals of the program; each pair appears once it is counted.
#[derive(Debug)]
pub struct PairCounter(Mutex<BTreeMap<(&'static str, &'static str), u64>>);

impl PairCounter {
    pub const fn empty() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    pub fn one(&self, first: &'static str, second: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry((first, second)).or_default() += 1;
    }

    pub fn all(&self) -> Vec<([&'static str; 2], f64)> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|((first, second), count)| ([*first, *second], *count as f64))
            .collect()
    }
}

/// A number that goes up and down.
#[derive(Debug)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub const fn zero() -> Self {
        Self(AtomicI64::new(0))
    }

    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn raise(&self, value: i64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }

    pub fn add(&self, more: i64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Gauges that differ by one label with a fixed list of values.
#[derive(Debug)]
pub struct GaugeVec<const N: usize> {
    values: [&'static str; N],
    gauges: [Gauge; N],
}

impl<const N: usize> GaugeVec<N> {
    pub const fn new(values: [&'static str; N]) -> Self {
        Self { values, gauges: [const { Gauge::zero() }; N] }
    }

    /// `None` for a value that is not shown.
    pub fn of(&self, value: &str) -> Option<&Gauge> {
        self.values.iter().position(|known| *known == value).map(|at| &self.gauges[at])
    }

    pub fn all(&self) -> Vec<(&'static str, f64)> {
        self.values.iter().zip(&self.gauges).map(|(value, gauge)| (*value, gauge.get() as f64)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_kept_apart() {
        let counters = CounterVec::new(["a", "b"]);
        counters.add("b", 2);
        assert_eq!(counters.all(), [("a", 0.0), ("b", 2.0)]);
        let tally = LabelledCounter::empty();
        tally.one("x");
        tally.add("x", 2);
        assert_eq!(tally.all(), [("x", 3.0)]);
        let gauges = GaugeVec::new(["a", "b"]);
        gauges.of("a").unwrap().add(2);
        assert!(gauges.of("c").is_none());
        assert_eq!(gauges.all(), [("a", 2.0), ("b", 0.0)]);
    }
}
