//! Checks C21: erased content is gone from the log and from later deliveries.

use super::index::{ConnStep, Index};
use super::latency::is_no_excuse;
use super::{CheckLimits, ViolationList};
use crate::fact::{FactAudience, Nanos, RunFact};

const MS: Nanos = 1_000_000;
/// Longest time between reading a page in the database and its arrival; a device abandons a later page.
const PAGE_MS: u64 = 6_000;

pub fn check(index: &Index<'_>, limits: CheckLimits, found: &mut ViolationList<'_>) {
    gone_from_the_log(index, found);
    not_given(index, limits, found);
    for entry in index.history {
        if let RunFact::Remnant { what, place } = &entry.fact {
            found.add("C21", None, format!("{what} was erased, but is still in {place}"));
        }
    }
}

/// Every completed erasure has left tombstones, and the tombstones are empty.
fn gone_from_the_log(index: &Index<'_>, found: &mut ViolationList<'_>) {
    for row in &index.rows {
        if let Some(left) = row.tombstone.filter(|left| !left.is_empty()) {
            found.add("C21", None, format!("number {} was erased, but the log still holds {left}", row.seq));
        }
    }
    for erasure in index.erasures.iter().filter(|erasure| erasure.end != Nanos::MAX) {
        if let Some(row) = erasure.seq.and_then(|seq| index.row(seq))
            && row.tombstone.is_none()
        {
            found.add("C21", Some(erasure.end), format!("number {} ({}) was erased, but is still in the log", row.seq, row.title));
        }
    }
    // The last erasure of a user covers the earlier ones.
    let mut last: std::collections::BTreeMap<&str, (i64, Nanos)> = std::collections::BTreeMap::new();
    for erasure in index.erasures.iter().filter(|erasure| erasure.end != Nanos::MAX) {
        if let Some(user) = erasure.user {
            last.insert(user, (erasure.head, erasure.end));
        }
    }
    for row in index.rows.iter().filter(|row| row.tombstone.is_none()) {
        let Some(FactAudience::Users(users)) = index.wishes.get(row.title).and_then(|wish| wish.audience) else { continue };
        // An erased user is removed from a list of users; the content stays for the others.
        if let [user] = users.as_slice()
            && let Some((head, end)) = last.get(user.as_str())
            && row.seq <= *head
        {
            found.add(
                "C21",
                Some(*end),
                format!("{user} was erased, but number {} ({}), addressed to them alone, is still in the log", row.seq, row.title),
            );
        }
    }
}

/// Copies in the memory of hubs live for seconds, longer while a fault delays a hub or its clients. After that no
/// device receives erased content. A slow device may have received it before, unless its connection was opened later.
fn not_given(index: &Index<'_>, limits: CheckLimits, found: &mut ViolationList<'_>) {
    if index.erased.is_empty() {
        return;
    }
    for (name, device) in &index.devices {
        for conn in device.conns.iter().filter_map(|id| index.conns.get(id)) {
            for (t, step) in &conn.steps {
                let ConnStep::Recv { given, .. } = step else { continue };
                let is_late = is_late(index, given.seq, *t, limits.erase_ms, |until| !device.slow || conn.opened > until);
                if is_late {
                    found.add("C21", Some(*t), format!("{name} received {} after it had been erased", given.seq));
                }
            }
        }
        for (t, given) in &device.pages {
            if is_late(index, given.seq, *t, limits.erase_ms + PAGE_MS, |_| true) {
                found.add("C21", Some(*t), format!("{name} received {} on a page after it had been erased", given.seq));
            }
        }
    }
}

fn is_late(index: &Index<'_>, seq: i64, t: Nanos, ms: u64, counts: impl Fn(Nanos) -> bool) -> bool {
    let Some((_, end)) = index.erased.get(&seq) else { return false };
    if t <= end.saturating_add(ms * MS) {
        return false;
    }
    let until = copies_until(index, *end, ms);
    t > until.saturating_add(index.stalled_ms(*end, t) * MS) && counts(until)
}

/// When the last copy in memory is gone.
fn copies_until(index: &Index<'_>, end: Nanos, ms: u64) -> Nanos {
    let mut until = end.saturating_add(ms * MS);
    for fault in index.faults.iter().filter(|fault| !is_no_excuse(fault.name)) {
        // Faults are in the order of their begin: one that begins before the copies are gone may preserve them.
        if fault.begin < until && fault.end > end {
            until = until.max(fault.end.saturating_add(ms * MS));
        }
    }
    until
}
