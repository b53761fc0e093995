//! Judges a history. Pure: facts in, violations out; nothing is read, asked or waited for.
//!
//! Each rule costs a sort and one walk over the facts it looks at. The rules are described in `docs/torture.md`.

mod acks;
mod delivery;
mod index;
mod latency;
mod posts;
mod streams;
mod upstream;
mod upstream_history;
mod world;

#[cfg(test)]
mod tests;

use std::fmt;

use super::fact::{Entry, Nanos};
use index::Index;

pub use latency::{Latency, latency, slowest_recovery};
pub use upstream::take_overs;

/// A rule that was broken, and what stands around it.
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

/// What the rules hold against; the promises are for a machine that has time for the hub.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From a 201 to each device that is connected and quick, no fault but one of LISTEN being on.
    pub live_ms: u64,
    /// From the end of a fault until every device that wants to be connected has what was in the log then.
    pub recovery_ms: u64,
    /// The same after the database was restarted.
    pub restart_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { live_ms: 3_000, recovery_ms: 10_000, restart_ms: 15_000 }
    }
}

/// All that is wrong with a history, in the order of the rules.
pub fn check(history: &[Entry], limits: Limits) -> Vec<Violation> {
    let index = Index::of(history);
    let mut found = Findings { index: &index, list: Vec::new() };
    posts::check(&index, &mut found);
    streams::check(&index, &mut found);
    delivery::check(&index, &mut found);
    acks::check(&index, &mut found);
    latency::check(&index, limits, &mut found);
    upstream::check(&index, &mut found);
    world::check(&index, &mut found);
    let mut list = found.list;
    list.sort_by_key(|violation| violation.rule[1..].parse::<u32>().unwrap_or(u32::MAX));
    list
}

/// Gathers violations; knows which fault was near.
struct Findings<'a> {
    index: &'a Index<'a>,
    list: Vec<Violation>,
}

impl Findings<'_> {
    fn add(&mut self, rule: &'static str, at: Option<Nanos>, what: String) {
        let fault = at.and_then(|at| self.index.nearest_fault(at));
        self.list.push(Violation { rule, what, at, fault });
    }
}
