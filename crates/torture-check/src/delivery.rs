//! Checks C4, C6, C7 and C12: each device received exactly its rows of the log.

use std::collections::HashSet;

use super::index::{ConnStep, Index, IndexedDelivery, IndexedDevice};
use super::{ViolationList, streams};
use crate::fact::{FactAudience, RunFact};

pub fn check(index: &Index<'_>, found: &mut ViolationList<'_>) {
    posted_is_stored(index, found);
    for (name, device) in &index.devices {
        let addressed: HashSet<i64> = index.addressed(device).into_iter().collect();
        let frames = device.conns.iter().filter_map(|id| index.conns.get(id)).flat_map(|conn| &conn.steps).filter_map(|(t, step)| {
            let ConnStep::Recv { given, .. } = step else { return None };
            Some((*t, *given))
        });
        for (t, given) in frames.chain(device.pages.iter().copied()) {
            one(index, name, device, &addressed, t, given, found);
        }
        // Clients of the SDK are checked with their browser.
        if !device.sdk {
            complete(index, name, device, found);
        }
    }
    for entry in index.history {
        if let RunFact::Broken { conn, what } = &entry.fact {
            found.add("C4", Some(entry.t), format!("connection {conn}: {what}"));
        }
    }
}

/// C4, first half: the stored data equals the posted data.
fn posted_is_stored(index: &Index<'_>, found: &mut ViolationList<'_>) {
    for row in &index.rows {
        if let Some(wish) = index.wishes.get(row.title)
            && wish.audience.is_some()
            && wish.hash != row.hash
        {
            found.add(
                "C4",
                wish.first_invoked,
                format!("number {} ({}) is stored as {}, posted as {}", row.seq, row.title, row.hash, wish.hash),
            );
        }
    }
}

fn one(
    index: &Index<'_>,
    name: &str,
    device: &IndexedDevice<'_>,
    addressed: &HashSet<i64>,
    t: u64,
    given: IndexedDelivery<'_>,
    found: &mut ViolationList<'_>,
) {
    let IndexedDelivery { seq, id, hash, taint } = given;
    if taint != "*" && taint != device.account {
        found.add("C12", Some(t), format!("{name} of account {} received {seq}, which belongs to {taint}", device.account));
    }
    match index.row(seq) {
        None => found.add("C6", Some(t), format!("{name} received {seq} ({id}), which is not in the log")),
        Some(row) if row.id != id => found.add("C6", Some(t), format!("{name} received {seq} as {id}, but in the log it is {}", row.id)),
        Some(row) if row.hash != hash && row.parsed != Some(hash) => {
            found.add("C4", Some(t), format!("{name} received {seq} as {hash}, but {} is stored ({})", row.hash, row.title));
        }
        Some(row) if !addressed.contains(&seq) => {
            let audience = index.wishes.get(row.title).and_then(|wish| wish.audience).unwrap_or(&FactAudience::Everyone);
            found.add(
                "C12",
                Some(t),
                format!("{name} (user {}, account {}) received {seq}, which is addressed to {audience:?}", device.user, device.account),
            );
        }
        Some(_) => {}
    }
}

/// C7: at the end every device has everything above its start position. A hole in the middle is certainly a bug; a hole
/// at the end may mean that the run did not wait long enough.
fn complete(index: &Index<'_>, name: &str, device: &IndexedDevice<'_>, found: &mut ViolationList<'_>) {
    let Some(head) = index.drained else { return };
    let conns: Vec<_> = device.conns.iter().filter_map(|id| index.conns.get(id)).collect();
    let Some(first) = conns.first() else { return };
    let began = first.from;
    let floor = streams::excused_up_to(index, device);
    let got: HashSet<i64> = conns
        .iter()
        .flat_map(|conn| &conn.steps)
        .filter_map(|(_, step)| match step {
            ConnStep::Recv { given, .. } => Some(given.seq),
            ConnStep::Passed { .. } => None,
        })
        .collect();
    let owed: Vec<i64> = index.owed(name).iter().copied().filter(|seq| *seq > floor && *seq <= head).collect();
    let is_missing = |seq: &i64| !got.contains(seq) && !index.may_be_left_out(name, *seq, index.end);
    let missing: Vec<i64> = owed.iter().copied().filter(is_missing).collect();
    let (Some(first_missing), Some(last_missing)) = (missing.first(), missing.last()) else { return };
    let (lowest, highest) = (got.iter().min().copied().unwrap_or(began), got.iter().max().copied().unwrap_or(began));
    let part = if *first_missing > highest {
        "the end"
    } else if *last_missing < lowest {
        "the beginning"
    } else {
        "the middle"
    };
    let at = index.row(*first_missing).and_then(|row| index.wishes.get(row.title)?.known());
    let shown = &missing[..missing.len().min(8)];
    let before = owed.iter().rev().find(|seq| *seq < first_missing).copied().unwrap_or(began);
    let what = format!(
        "{name} began after {began}, got {} of {} and lacks {} at {part}: {shown:?} (before: {before})",
        got.len(),
        owed.len(),
        missing.len()
    );
    found.add("C7", at, what);
}
