//! Checks C20: no hub is behind the log for long while the database answers.
//!
//! The other rules check devices. Faults of its devices could hide a hub that dispatches nothing, and a hub without
//! devices would go unchecked.

use super::index::Index;
use super::latency::loud;
use super::{CheckLimits, ViolationList, seconds};
use crate::fact::{Nanos, RunFact};

const MS: Nanos = 1_000_000;
/// How long after a fault a hub may recover: it starts, finds the database again, waits for its next attempt.
const SETTLE: Nanos = 5_000_000_000;

/// A number that a hub has yet to dispatch, and since when.
#[derive(Clone, Copy)]
struct Owed {
    head: i64,
    since: Nanos,
}

pub fn check(index: &Index<'_>, limits: CheckLimits, found: &mut ViolationList<'_>) {
    let loud = loud(index, SETTLE);
    let is_loud = |from: Nanos, to: Nanos| loud.iter().any(|(begin, end)| *begin < to && *end > from);
    let mut owed: Vec<Option<Owed>> = Vec::new();
    let mut told: Vec<bool> = Vec::new();
    let mut stalled = 0;
    for entry in index.history {
        match &entry.fact {
            // Time in which this program was not scheduled does not count against a hub.
            RunFact::Stall { ms } => stalled += ms * MS,
            RunFact::Others { ms } => stalled += ms * MS / 2,
            RunFact::Watched { head, published } => {
                owed.resize(published.len(), None);
                told.resize(published.len(), false);
                for (hub, published) in published.iter().enumerate() {
                    // Other rules cover a hub that does not answer; its wait starts over.
                    let Some(published) = *published else {
                        owed[hub] = None;
                        continue;
                    };
                    match owed[hub] {
                        Some(debt) if published < debt.head => {
                            let waited = entry.t.saturating_sub(debt.since);
                            if is_loud(debt.since, entry.t) {
                                owed[hub] = Some(Owed { since: entry.t, ..debt });
                            } else if waited > limits.behind_ms * MS + stalled && !std::mem::replace(&mut told[hub], true) {
                                let text = format!(
                                    "hub {hub} has not dispatched {} after {:.1} s, its position is {published}; the database answered",
                                    debt.head,
                                    seconds(waited)
                                );
                                found.add("C20", Some(entry.t), text);
                            }
                        }
                        _ => {
                            owed[hub] = (published < *head).then_some(Owed { head: *head, since: entry.t });
                            if owed.iter().all(Option::is_none) {
                                stalled = 0;
                            }
                        }
                    }
                }
            }
            _ => {}
        }
    }
}
