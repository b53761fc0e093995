//! C15: how long it takes from a 201 to each device in quiet, and until everybody has everything after a fault.

use super::index::{Conn, Device, Fault, Index, Step};
use super::{Findings, Limits};
use crate::fact::Nanos;

/// After the end of a fault this long is not quiet yet; the second half of the rule looks at it.
const SETTLE: Nanos = 3_000_000_000;
const MS: Nanos = 1_000_000;

pub fn check(index: &Index<'_>, limits: Limits, found: &mut Findings<'_>) {
    quiet(index, limits, found);
    recovery(index, limits, found);
}

/// Of deliveries in quiet, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    pub count: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// The figures behind the rule, for the report.
pub fn latency(history: &[super::Entry]) -> Option<Latency> {
    let index = Index::of(history);
    let mut times: Vec<Nanos> = waits(&index).into_iter().map(|wait| wait.took).collect();
    times.sort_unstable();
    let at = |share: usize| times.get((times.len().checked_sub(1)?) * share / 1000).map(|t| *t as f64 / 1e6);
    Some(Latency { count: times.len(), p50_ms: at(500)?, p99_ms: at(990)?, max_ms: at(1000)? })
}

struct Wait<'a> {
    device: &'a str,
    seq: i64,
    answered: Nanos,
    took: Nanos,
}

/// LISTEN is a hint: without it nothing may be late by more than a poll. What happens at the provider delays nobody.
fn is_no_excuse(fault: &str) -> bool {
    fault.starts_with("listen") || fault.starts_with("provider")
}

/// For every notification that was answered while nothing else was wrong: each quick device that was connected and had
/// caught up, and when it got it.
fn waits<'a>(index: &Index<'a>) -> Vec<Wait<'a>> {
    let loud: Vec<(Nanos, Nanos)> = index
        .faults
        .iter()
        .filter(|fault| !is_no_excuse(fault.name))
        .map(|fault| (fault.begin.saturating_sub(MS * 100), fault.end.saturating_add(SETTLE)))
        .collect();
    let loud = merged(loud);
    // The first that ends later is the only one that can overlap.
    let is_quiet = |from: Nanos, to: Nanos| loud.get(loud.partition_point(|(_, end)| *end <= from)).is_none_or(|(begin, _)| *begin >= to);
    let mut waits = Vec::new();
    for (name, device) in index.devices.iter().filter(|(_, device)| !device.slow) {
        let owed = index.owed(name);
        for conn in device.conns.iter().filter_map(|id| index.conns.get(id)) {
            let Some(live_from) = live_from(conn) else { continue };
            let upto = conn.closed.min(index.end);
            let mut steps = conn.steps.iter().peekable();
            for seq in &owed[owed.partition_point(|seq| *seq <= conn.told.from)..] {
                let Some(answered) = answered(index, *seq) else { continue };
                if answered < live_from || answered >= upto {
                    continue;
                }
                while steps.peek().is_some_and(|(_, step)| step.seq() < *seq) {
                    steps.next();
                }
                let given = steps.peek().filter(|(_, step)| step.seq() == *seq && matches!(step, Step::Recv { .. })).map(|(t, _)| *t);
                // A connection that ended first proves nothing but for the time until then.
                let end = given.unwrap_or(upto);
                if is_quiet(answered, end) {
                    waits.push(Wait { device: name, seq: *seq, answered, took: end.saturating_sub(answered) });
                }
            }
        }
    }
    waits
}

/// Without overlaps, in order.
fn merged(mut spans: Vec<(Nanos, Nanos)>) -> Vec<(Nanos, Nanos)> {
    spans.sort_unstable();
    let mut merged: Vec<(Nanos, Nanos)> = Vec::new();
    for (begin, end) in spans {
        match merged.last_mut().filter(|last| begin <= last.1) {
            Some(last) => last.1 = last.1.max(end),
            None => merged.push((begin, end)),
        }
    }
    merged
}

fn live_from(conn: &Conn<'_>) -> Option<Nanos> {
    conn.steps.iter().find(|(_, step)| matches!(step, Step::Passed { .. })).map(|(t, _)| *t)
}

fn answered(index: &Index<'_>, seq: i64) -> Option<Nanos> {
    index.answered.get(&seq).copied()
}

fn quiet(index: &Index<'_>, limits: Limits, found: &mut Findings<'_>) {
    let mut said = 0;
    for wait in waits(index) {
        // The sum is not for every one of a million.
        let slack = || index.stalled_ms(wait.answered, wait.answered + wait.took);
        if wait.took > limits.live_ms * MS && wait.took > (limits.live_ms + slack()) * MS && said < 5 {
            said += 1;
            let Wait { device, seq, answered, took } = wait;
            found.add("C15", Some(answered), format!("{device} had to wait {} ms for {seq}, and all was quiet", took / MS));
        }
    }
}

/// The time that a device spends wanting to be connected counts, the time that it is away by its own wish does not.
fn recovery(index: &Index<'_>, limits: Limits, found: &mut Findings<'_>) {
    for waiting in recoveries(index) {
        let Recovery { fault, device, target, wanting, upto } = waiting;
        let limit = if fault.name.starts_with("postgres") { limits.restart_ms } else { limits.recovery_ms };
        if wanting > limit * MS && wanting > (limit + index.stalled_ms(fault.end, upto)) * MS {
            let what =
                format!("{device} had not got {target} after {} ms of wanting, {} on {} being over", wanting / MS, fault.name, fault.on);
            found.add("C15", Some(fault.end), what);
        }
    }
}

/// The longest time that a device needed after a fault, and the fault.
pub fn slowest_recovery(history: &[super::Entry]) -> Option<(f64, String)> {
    let index = Index::of(history);
    let slowest = recoveries(&index).into_iter().max_by_key(|recovery| recovery.wanting)?;
    Some((slowest.wanting as f64 / 1e6, slowest.fault.name.to_owned()))
}

struct Recovery<'a> {
    fault: &'a Fault<'a>,
    device: &'a str,
    target: i64,
    wanting: Nanos,
    /// When it had it, or when nothing more can be said.
    upto: Nanos,
}

fn recoveries<'a>(index: &'a Index<'a>) -> Vec<Recovery<'a>> {
    let mut recoveries = Vec::new();
    let ways: Vec<_> =
        index.devices.iter().filter(|(_, device)| !device.slow).map(|(name, device)| (*name, device, way(index, device))).collect();
    for (at, fault) in index.faults.iter().enumerate().filter(|(_, fault)| fault.end != Nanos::MAX) {
        // The next fault ends what can be said of this one.
        let horizon = index.faults[at + 1..].iter().map(|next| next.begin).find(|begin| *begin > fault.end).unwrap_or(index.end);
        let beside = index.faults.iter().any(|other| other.begin < fault.end && other.end > fault.end);
        if beside {
            continue;
        }
        let head = index.rows.iter().rev().find(|row| answered(index, row.seq).is_some_and(|t| t <= fault.end)).map_or(0, |row| row.seq);
        for (device, facts, way) in &ways {
            let owed = index.owed(device);
            let Some(target) = owed[..owed.partition_point(|seq| *seq <= head)].last().copied() else { continue };
            // One that never began below it has nothing to get.
            if facts.conns.first().and_then(|id| index.conns.get(id)).is_none_or(|first| first.told.from >= target) {
                continue;
            }
            let reached = way.get(way.partition_point(|(_, seq)| *seq < target)).map_or(Nanos::MAX, |(t, _)| *t);
            let upto = reached.min(horizon);
            let wanting = facts.wanted.iter().map(|(begin, end)| (*end).min(upto).saturating_sub((*begin).max(fault.end))).sum();
            recoveries.push(Recovery { fault, device, target, wanting, upto });
        }
    }
    recoveries
}

/// How far a device had come when: each moment at which it came further than before.
fn way(index: &Index<'_>, device: &Device<'_>) -> Vec<(Nanos, i64)> {
    let conns = device.conns.iter().filter_map(|id| index.conns.get(id));
    let steps =
        conns.flat_map(|conn| [(conn.opened, conn.told.from)].into_iter().chain(conn.steps.iter().map(|(t, step)| (*t, step.seq()))));
    let mut way: Vec<(Nanos, i64)> = Vec::new();
    for (t, seq) in steps {
        if way.last().is_none_or(|(_, furthest)| seq > *furthest) {
            way.push((t, seq));
        }
    }
    way
}
