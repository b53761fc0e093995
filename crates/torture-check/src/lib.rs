//! Judges the history of a torture run: facts in, violations out, without any input or output.
//!
//! Each rule costs a sort and one walk over its facts. The rules are described in `docs/internals/torture.md`.

mod acks;
mod consumers;
mod delivery;
mod erasure;
pub mod fact;
mod index;
mod latency;
mod posts;
mod sdk;
mod streams;
mod upstream;
pub mod upstream_history;
mod watchdog;
mod webhooks;
mod world;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use fact::{FactEntry, Nanos};
use index::Index;

pub use latency::{QuietLatency, latency, slowest_recovery};
pub use upstream::take_overs;

/// How long the hubs of a run count a connection's own position when several share a `client_id`. Shorter than the
/// default, so that positions without a known end do not make a long run repeat ever more; longer than any client is
/// away.
pub const RESUME_WINDOW: Duration = Duration::from_secs(30);
/// A connection whose end is not known lowers the start of at most this many later ones. The hub has the same limit.
pub const LOWERED_AT_MOST: usize = 8;

/// A violation of a rule, with its context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: &'static str,
    pub what: String,
    pub at: Option<Nanos>,
    /// The fault nearest in time.
    pub fault: Option<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)?;
        if let Some(at) = self.at {
            write!(f, " (at {:.3} s)", seconds(at))?;
        }
        match &self.fault {
            Some(fault) => write!(f, "; nearest fault: {fault}"),
            None => Ok(()),
        }
    }
}

pub fn seconds(t: Nanos) -> f64 {
    t as f64 / 1e9
}

/// The limits of the rules. The guarantees assume a machine that schedules the hub.
#[derive(Debug, Clone, Copy)]
pub struct CheckLimits {
    /// From a 201 to each connected quick device, while no fault but one of LISTEN is active.
    pub live_ms: u64,
    /// From the end of a fault until every device that wants to be connected has all rows of that time.
    pub recovery_ms: u64,
    /// The same after the database was restarted.
    pub restart_ms: u64,
    /// How long a hub may be behind the log, while no fault but one of LISTEN is active.
    pub behind_ms: u64,
    /// How long after an erasure a hub may have copies in memory.
    pub erase_ms: u64,
}

impl Default for CheckLimits {
    fn default() -> Self {
        Self { live_ms: 3_000, recovery_ms: 10_000, restart_ms: 15_000, behind_ms: 6_000, erase_ms: 5_000 }
    }
}

/// Finds all violations in a history, in the order of the rules.
pub fn check(history: &[FactEntry], limits: CheckLimits) -> Vec<Violation> {
    let index = Index::of(history);
    let mut found = ViolationList { index: &index, list: Vec::new() };
    posts::check(&index, &mut found);
    streams::check(&index, &mut found);
    delivery::check(&index, &mut found);
    sdk::check(&index, &mut found);
    acks::check(&index, &mut found);
    consumers::check(&index, &mut found);
    webhooks::check(&index, &mut found);
    erasure::check(&index, limits, &mut found);
    latency::check(&index, limits, &mut found);
    upstream::check(&index, &mut found);
    world::check(&index, &mut found);
    watchdog::check(&index, limits, &mut found);
    let mut list = found.list;
    list.sort_by_key(|violation| violation.rule[1..].parse::<u32>().unwrap_or(u32::MAX));
    list
}

/// Collects violations and adds the nearest fault to each.
struct ViolationList<'a> {
    index: &'a Index<'a>,
    list: Vec<Violation>,
}

impl ViolationList<'_> {
    fn add(&mut self, rule: &'static str, at: Option<Nanos>, what: String) {
        let fault = at.and_then(|at| self.index.nearest_fault(at));
        self.list.push(Violation { rule, what, at, fault });
    }
}
