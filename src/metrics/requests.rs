//! Counts HTTP requests by route and status.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Stands for a path that no route matches.
pub const NO_ROUTE: &str = "(no route)";

/// Counts of one route, by status.
type ByStatus = BTreeMap<u16, u64>;

/// Counters with the labels `route` and `status`. Routes are patterns of the program, so the number of series is
/// bounded. A pair appears once it is counted.
#[derive(Debug)]
pub struct RequestCounter(Mutex<BTreeMap<&'static str, ByStatus>>);

impl RequestCounter {
    pub const fn empty() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    fn inside(&self) -> MutexGuard<'_, BTreeMap<&'static str, ByStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a route known.
    pub fn serve(&self, route: &'static str) {
        self.inside().entry(route).or_default();
    }

    /// Counts a request. A route that is not known counts as [`NO_ROUTE`].
    pub fn one(&self, route: &str, status: u16) {
        let mut inside = self.inside();
        if let Some(counts) = inside.get_mut(route) {
            *counts.entry(status).or_default() += 1;
        } else {
            *inside.entry(NO_ROUTE).or_default().entry(status).or_default() += 1;
        }
    }

    /// Route, status and count.
    pub fn all(&self) -> Vec<(&'static str, u16, u64)> {
        let inside = self.inside();
        let each = inside.iter().flat_map(|(route, counts)| counts.iter().map(|(status, count)| (*route, *status, *count)));
        each.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_never_becomes_a_label() {
        let requests = RequestCounter::empty();
        requests.serve("/stats");
        assert_eq!(requests.all(), [], "no series before the first request");
        requests.one("/stats", 200);
        requests.one("/stats", 200);
        requests.one("/stats", 401);
        requests.one("/token-of-ana", 404);
        assert_eq!(requests.all(), [(NO_ROUTE, 404, 1), ("/stats", 200, 2), ("/stats", 401, 1)]);
    }
}
