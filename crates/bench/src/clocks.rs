//! Records when each post started and when each listener received it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::times::SortedTimes;

/// Clocks of a run, in nanoseconds since it began: one start for each post, one arrival for each post and listener.
/// Zero means not yet.
#[derive(Debug)]
pub struct Clocks {
    epoch: Instant,
    started: Vec<AtomicU64>,
    arrived: Vec<AtomicU64>,
    listeners: usize,
    count: AtomicUsize,
}

impl Clocks {
    pub fn new(posts: usize, listeners: usize) -> Self {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self { epoch: Instant::now(), started: zeros(posts), arrived: zeros(posts * listeners), listeners, count: AtomicUsize::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    /// Records that the post is about to be written.
    pub fn starts(&self, post: usize) {
        if let Some(started) = self.started.get(post) {
            started.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Records that a listener has the post. Returns the number of arrivals so far, this one included. A repeated
    /// arrival is not counted.
    pub fn arrived(&self, post: usize, listener: usize) -> usize {
        let at = self.now();
        let is_new = self
            .arrived
            .get(post * self.listeners + listener)
            .is_some_and(|clock| clock.compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed).is_ok());
        self.count.fetch_add(usize::from(is_new), Ordering::Relaxed) + usize::from(is_new)
    }

    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Times from each post's start to each of its arrivals.
    pub fn times(&self) -> SortedTimes {
        let mut times = Vec::with_capacity(self.count());
        for (post, arrivals) in self.arrived.chunks(self.listeners.max(1)).enumerate() {
            let start = self.started[post].load(Ordering::Relaxed);
            let clocks = arrivals.iter().map(|clock| clock.load(Ordering::Relaxed));
            times.extend(clocks.filter(|at| *at > 0).map(|at| Duration::from_nanos(at.saturating_sub(start))));
        }
        SortedTimes::new(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrival_counts_once_and_what_never_came_not_at_all() {
        let clocks = Clocks::new(2, 2);
        clocks.starts(0);
        assert_eq!([clocks.arrived(0, 0), clocks.arrived(0, 1), clocks.arrived(0, 1), clocks.arrived(9, 0)], [1, 2, 2, 2]);
        assert_eq!((clocks.times().len(), clocks.count()), (2, 2));
    }
}
