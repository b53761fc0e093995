//! Limits how often users and services may make requests.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::time::{Duration, Instant};

use crate::metrics;

/// A bucket that refills at a rate and holds a burst.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    tokens: f64,
    burst: f64,
    per_second: f64,
    at: Instant,
}

impl TokenBucket {
    pub fn new(burst: u32, per_second: f64) -> Self {
        Self { tokens: f64::from(burst), burst: f64::from(burst), per_second, at: Instant::now() }
    }

    /// Takes one token, if there is one.
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

    /// Returns a token that was taken without need.
    pub fn give_back(&mut self) {
        self.tokens = (self.tokens + 1.0).min(self.burst);
    }

    /// Whether the bucket is full again.
    pub fn is_full(&self) -> bool {
        self.tokens + self.at.elapsed().as_secs_f64() * self.per_second >= self.burst
    }

    /// Takes one token, even if there is none, and returns how long the refill takes. `None`: there was one.
    fn overdraw(&mut self) -> Option<Duration> {
        if self.take() {
            return None;
        }
        self.tokens -= 1.0;
        Some(Duration::from_secs_f64(-self.tokens / self.per_second))
    }

    /// Changes the rate. What was refilled at the former rate counts.
    fn retune(&mut self, burst: u32, per_second: f64) {
        if self.per_second == per_second && self.burst == f64::from(burst) {
            return;
        }
        let now = Instant::now();
        let refilled = self.tokens + now.duration_since(self.at).as_secs_f64() * self.per_second;
        (self.burst, self.per_second, self.at) = (f64::from(burst), per_second, now);
        self.tokens = refilled.min(self.burst);
    }

    /// Takes some more tokens, which may not be there yet: the next requests wait until they are.
    pub fn charge(&mut self, more: usize) {
        self.tokens -= more as f64;
    }
}

/// Maximum names whose buckets are remembered. Full buckets hold no information and are dropped first.
const NAMES_REMEMBERED: usize = 50_000;

/// The rate of each user, or of each service, on this instance. Requests above it are counted under `what`.
#[derive(Debug)]
pub struct NameRates {
    what: &'static str,
    burst: u32,
    per_second: u32,
    buckets: Mutex<HashMap<String, TokenBucket>>,
}

impl NameRates {
    /// A rate of zero per second means no limit.
    pub fn new(what: &'static str, burst: u32, per_second: u32) -> Self {
        Self { what, burst, per_second, buckets: Mutex::default() }
    }

    /// Whether this user or service may make one more request now. The names come from valid tokens and keys, but there
    /// may be any number of them.
    pub fn allow(&self, name: &str) -> bool {
        let may = self.take(name);
        if !may {
            metrics::OVER_BUDGET.add(self.what, 1);
        }
        may
    }

    /// The same for a caller that waits and repeats: waiting is not counted.
    pub fn take(&self, name: &str) -> bool {
        self.per_second == 0 || self.with_bucket(name, TokenBucket::take)
    }

    /// Counts the items of a request after the first, which [`NameRates::allow`] counted.
    pub fn charge(&self, name: &str, more: usize) {
        if self.per_second > 0 && more > 0 {
            self.with_bucket(name, |bucket| bucket.charge(more));
        }
    }

    /// Counts one more request of this name, and returns how long to wait before the next. `None`: no wait.
    pub fn pace(&self, name: &str) -> Option<Duration> {
        if self.per_second == 0 {
            return None;
        }
        let pause = self.with_bucket(name, TokenBucket::overdraw);
        if pause.is_some() {
            metrics::OVER_BUDGET.add(self.what, 1);
        }
        pause
    }

    fn with_bucket<T>(&self, name: &str, act: impl FnOnce(&mut TokenBucket) -> T) -> T {
        with_bucket(&self.buckets, name, || TokenBucket::new(self.burst, f64::from(self.per_second)), act)
    }
}

fn with_bucket<T>(
    buckets: &Mutex<HashMap<String, TokenBucket>>,
    name: &str,
    make: impl FnOnce() -> TokenBucket,
    act: impl FnOnce(&mut TokenBucket) -> T,
) -> T {
    let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bucket) = buckets.get_mut(name) {
        return act(bucket);
    }
    if buckets.len() >= NAMES_REMEMBERED {
        buckets.retain(|_, bucket| !bucket.is_full());
        // All of these names are active at this moment. Limiting none is better than growing without bound.
        if buckets.len() >= NAMES_REMEMBERED {
            buckets.clear();
        }
    }
    act(buckets.entry(name.to_owned()).or_insert_with(make))
}

/// The rates of single service keys on this instance. Each key brings its own rate, which may change at any time.
#[derive(Debug, Default)]
pub struct KeyRates {
    buckets: Mutex<HashMap<String, TokenBucket>>,
}

impl KeyRates {
    /// Takes one post of a key with this rate, if there is one.
    pub fn take(&self, name: &str, per_second: u32) -> bool {
        self.with_bucket(name, per_second, TokenBucket::take)
    }

    /// Returns a post that was taken without need.
    pub fn give_back(&self, name: &str, per_second: u32) {
        self.with_bucket(name, per_second, TokenBucket::give_back);
    }

    /// Counts the items of a request after the first.
    pub fn charge(&self, name: &str, per_second: u32, more: usize) {
        if more > 0 {
            self.with_bucket(name, per_second, |bucket| bucket.charge(more));
        }
    }

    fn with_bucket<T>(&self, name: &str, per_second: u32, act: impl FnOnce(&mut TokenBucket) -> T) -> T {
        let rate = f64::from(per_second);
        with_bucket(
            &self.buckets,
            name,
            || TokenBucket::new(per_second, rate),
            |bucket| {
                bucket.retune(per_second, rate);
                act(bucket)
            },
        )
    }
}

/// Messages of one user over all connections: as many as four connections may send.
const USER_MESSAGES: u32 = 240;
/// Commands of one user: a burst of this many, then one a second.
const USER_COMMANDS: u32 = 60;
/// Frames of any kind of one user: acknowledgements and pongs are as many as notifications. Frames above this rate
/// are read more slowly, and none is refused. The rate is above the pace at which a hub can replay to one user, and
/// below what costs the hub a noticeable part of a core.
const USER_FRAMES: u32 = 20_000;

/// The limits of one user on this instance, over all connections together.
#[derive(Debug)]
pub struct UserBudgets {
    /// Opened streams.
    pub connects: NameRates,
    /// Frames that the hub answers: pings, tokens, commands, and refused frames.
    pub messages: NameRates,
    pub commands: NameRates,
    pub frames: NameRates,
}

impl UserBudgets {
    /// `connections` is the maximum of one user. All of them may reconnect five times in a row.
    pub fn new(connections: usize) -> Self {
        let connections = u32::try_from(connections).unwrap_or(u32::MAX / 5);
        Self {
            connects: NameRates::new("connect", connections.saturating_mul(5).max(60), (connections / 5).max(2)),
            messages: NameRates::new("message", USER_MESSAGES, USER_MESSAGES / 60),
            commands: NameRates::new("command", USER_COMMANDS, USER_COMMANDS / 60),
            frames: NameRates::new("frame", USER_FRAMES, USER_FRAMES),
        }
    }
}

/// Maximum bodies of batches that an instance holds at the same time. Each may have 8 MiB.
pub const BATCHES_AT_ONCE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_burst_and_those_that_are_remembered_are_bounded() {
        let rates = NameRates::new("request", 2, 1);
        assert_eq!([rates.allow("ann"), rates.allow("ann"), rates.allow("ann"), rates.allow("bob")], [true, true, false, true]);
        for n in 0..2 * NAMES_REMEMBERED {
            assert!(rates.allow(&n.to_string()));
        }
        assert!(rates.buckets.lock().unwrap().len() <= NAMES_REMEMBERED);
        // A role token of a service may have any name.
        rates.charge("no one's name yet", 1);
        assert!(rates.buckets.lock().unwrap().len() <= NAMES_REMEMBERED);
        let unlimited = NameRates::new("request", 0, 0);
        assert!((0..10).all(|_| unlimited.allow("ann") && unlimited.pace("ann").is_none()));
    }

    #[test]
    fn a_batch_is_charged_for_all_that_it_holds() {
        let rates = NameRates::new("publish", 2, 1);
        assert!(rates.allow("shop"));
        rates.charge("shop", 1);
        assert!(!rates.allow("shop") && rates.allow("billing"));
        let unlimited = NameRates::new("publish", 0, 0);
        unlimited.charge("shop", 1000);
        assert!(unlimited.allow("shop") && unlimited.buckets.lock().unwrap().is_empty());
    }

    #[test]
    fn each_key_brings_its_rate_and_a_new_rate_counts_at_once() {
        let rates = KeyRates::default();
        assert_eq!([rates.take("shop", 2), rates.take("shop", 2), rates.take("shop", 2), rates.take("till", 1)], [true, true, false, true]);
        assert!(!rates.take("shop", 100), "a higher rate brings no burst, only a faster refill");
        rates.give_back("shop", 100);
        assert!(rates.take("shop", 100));
        let rates = KeyRates::default();
        rates.charge("bulk", 100, 0);
        assert!(rates.buckets.lock().unwrap().is_empty());
        assert!(rates.take("bulk", 100));
        assert!(rates.take("bulk", 1) && !rates.take("bulk", 1), "a lower rate cuts what is left");
        rates.charge("late", 5, 6);
        assert!(!rates.take("late", 5), "a batch may overdraw");
    }

    #[test]
    fn what_is_paced_is_counted_and_waits_as_long_as_it_is_ahead() {
        let frames = NameRates::new("frame", 2, 10);
        assert_eq!([frames.pace("ann"), frames.pace("ann")], [None, None]);
        let pauses: Vec<Duration> = (0..3).filter_map(|_| frames.pace("ann")).collect();
        assert_eq!(pauses.len(), 3);
        assert!(pauses[2] > Duration::from_millis(200) && pauses[2] < Duration::from_millis(301), "{pauses:?}");
        assert_eq!(frames.pace("bob"), None);
    }
}
