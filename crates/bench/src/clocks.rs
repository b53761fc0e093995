//! Records when each post started and when each listener received it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::times::{SortedTimes, median, ms};

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

    pub fn listeners(&self) -> usize {
        self.listeners
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    /// Records that the post is about to be written, unless its start was planned.
    pub fn starts(&self, post: usize) {
        self.starts_at(post, self.now());
    }

    /// Counts the post's times from this moment, however late it is written.
    pub fn planned(&self, post: usize, due: Instant) {
        self.starts_at(post, u64::try_from(due.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    fn starts_at(&self, post: usize, at: u64) {
        if let Some(started) = self.started.get(post) {
            let _ = started.compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed);
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

    /// The median over the posts of the time until the last listener had it, in milliseconds.
    pub fn median_last_ms(&self) -> f64 {
        let last = self.arrived.chunks(self.listeners.max(1)).zip(&self.started).map(|(arrivals, start)| {
            let last = arrivals.iter().map(|clock| clock.load(Ordering::Relaxed)).max().unwrap_or(0);
            ms(Duration::from_nanos(last.saturating_sub(start.load(Ordering::Relaxed))))
        });
        median(&last.collect::<Vec<_>>())
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

    #[test]
    fn a_planned_post_counts_from_the_plan() {
        let clocks = Clocks::new(1, 1);
        clocks.planned(0, clocks.epoch + Duration::from_micros(1));
        std::thread::yield_now();
        clocks.starts(0);
        clocks.arrived(0, 0);
        let arrived = clocks.arrived[0].load(Ordering::Relaxed);
        assert_eq!(clocks.times().max_ms(), ms(Duration::from_nanos(arrived - 1000)));
    }
}
