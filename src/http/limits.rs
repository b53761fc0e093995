//! How much one may ask for in a time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// A bucket that refills at a rate and holds a burst.
#[derive(Debug, Clone)]
pub struct Bucket {
    tokens: f64,
    burst: f64,
    per_second: f64,
    at: Instant,
}

impl Bucket {
    pub fn new(burst: u32, per_second: f64) -> Self {
        Self { tokens: f64::from(burst), burst: f64::from(burst), per_second, at: Instant::now() }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self) -> bool {
        let now = Instant::now();
        self.tokens = (self.tokens + now.duration_since(self.at).as_secs_f64() * self.per_second).min(self.burst);
        self.at = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// Takes some more, which may not be there yet: the next ones wait until they are.
    pub fn charge(&mut self, more: usize) {
        self.tokens -= more as f64;
    }
}

/// Bodies of batches that an instance holds at the same time; each may have 8 MiB.
pub const BATCHES_AT_ONCE: usize = 16;

/// The rate of each service that publishes, on this instance.
#[derive(Debug)]
pub struct Rates {
    per_second: u32,
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl Rates {
    /// Zero: no limit.
    pub fn new(per_second: u32) -> Self {
        Self { per_second, buckets: Mutex::default() }
    }

    /// Whether this service may publish one more now. The names are those of keys, so there are few.
    pub fn allow(&self, service: &str) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(service) {
            return bucket.take();
        }
        buckets.entry(service.to_owned()).or_insert_with(|| Bucket::new(self.per_second, f64::from(self.per_second))).take()
    }

    /// Counts what a batch holds beside the first, which was allowed.
    pub fn charge(&self, service: &str, more: usize) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(service) {
            bucket.charge(more);
        }
    }
}
