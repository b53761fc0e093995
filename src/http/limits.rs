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

    /// Whether it holds its burst again.
    fn is_full(&self) -> bool {
        self.tokens + self.at.elapsed().as_secs_f64() * self.per_second >= self.burst
    }

    /// Takes some more, which may not be there yet: the next ones wait until they are.
    pub fn charge(&mut self, more: usize) {
        self.tokens -= more as f64;
    }
}

/// Users whose buckets are remembered. One that is full again says nothing and is forgotten first.
const USERS_REMEMBERED: usize = 50_000;

/// The rate of each user, on this instance.
#[derive(Debug)]
pub struct UserRates {
    burst: u32,
    per_second: u32,
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl UserRates {
    /// Zero a second: no limit.
    pub fn new(burst: u32, per_second: u32) -> Self {
        Self { burst, per_second, buckets: Mutex::default() }
    }

    /// Whether this user may ask once more now. The names come from valid tokens, but there may be any number.
    pub fn allow(&self, user: &str) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(user) {
            return bucket.take();
        }
        if buckets.len() >= USERS_REMEMBERED {
            buckets.retain(|_, bucket| !bucket.is_full());
            // All of them ask at this very moment: rather nobody is slowed down than the memory grows.
            if buckets.len() >= USERS_REMEMBERED {
                buckets.clear();
            }
        }
        buckets.entry(user.to_owned()).or_insert_with(|| Bucket::new(self.burst, f64::from(self.per_second))).take()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_burst_and_those_that_are_remembered_are_bounded() {
        let rates = UserRates::new(2, 1);
        assert_eq!([rates.allow("ann"), rates.allow("ann"), rates.allow("ann"), rates.allow("bob")], [true, true, false, true]);
        for n in 0..2 * USERS_REMEMBERED {
            assert!(rates.allow(&n.to_string()));
        }
        assert!(rates.buckets.lock().unwrap().len() <= USERS_REMEMBERED);
        let unlimited = UserRates::new(0, 0);
        assert!((0..10).all(|_| unlimited.allow("ann")));
    }
}
