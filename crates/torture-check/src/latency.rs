//! Checks C15: the delay from a 201 to each device, and the recovery time.
//!
//! The delay is measured in quiet times. Recovery is the time until every device has everything after a fault.

use super::index::{Conn, ConnStep, Index, IndexedDevice, IndexedFault};
use super::{CheckLimits, ViolationList};
use crate::fact::Nanos;

/// The time after a fault that does not count as quiet; the recovery rule covers it.
const SETTLE: Nanos = 3_000_000_000;
const MS: Nanos = 1_000_000;

pub fn check(index: &Index<'_>, limits: CheckLimits, found: &mut ViolationList<'_>) {
    quiet(index, limits, found);
    connects(index, limits, found);
    answers(index, limits, found);
    recovery(index, limits, found);
}

/// The delays of deliveries in quiet times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuietLatency {
    pub count: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// Computes the figures of the rule for the report.
pub fn latency(history: &[super::FactEntry]) -> Option<QuietLatency> {
    let index = Index::of(history);
    let mut times: Vec<Nanos> = waits(&index).into_iter().map(|wait| wait.took).collect();
    times.sort_unstable();
    let at = |share: usize| times.get((times.len().checked_sub(1)?) * share / 1000).map(|t| *t as f64 / 1e6);
    Some(QuietLatency { count: times.len(), p50_ms: at(500)?, p99_ms: at(990)?, max_ms: at(1000)? })
}

struct Wait<'a> {
    device: &'a str,
    seq: i64,
    answered: Nanos,
    took: Nanos,
}

/// Whether a fault excuses no delay. LISTEN is a hint: without it a delivery may be late by one poll at most. Faults of
/// the provider, attackers (`stranger-flood`, `stranger-locks`, `greedy-user`), erasures and the death of all clients
/// of the SDK must not delay other clients.
pub(super) fn is_no_excuse(fault: &str) -> bool {
    ["listen", "provider", "stranger", "greedy", "eraser", "sdk"].iter().any(|kind| fault.starts_with(kind))
}

/// The times of all other faults, each extended by `after`.
pub(super) fn loud(index: &Index<'_>, after: Nanos) -> Vec<(Nanos, Nanos)> {
    let faults = index.faults.iter().filter(|fault| !is_no_excuse(fault.name));
    merged(faults.map(|fault| (fault.begin.saturating_sub(MS * 100), fault.end.saturating_add(after))).collect())
}

/// Returns a test whether no other fault was active between two times.
fn quiet_times(index: &Index<'_>) -> impl Fn(Nanos, Nanos) -> bool {
    let loud = loud(index, SETTLE);
    // Only the first fault that ends later can overlap.
    move |from, to| loud.get(loud.partition_point(|(_, end)| *end <= from)).is_none_or(|(begin, _)| *begin >= to)
}

/// For every notification that was answered in quiet times: each quick device that was connected and had caught up, and
/// when it received the notification.
fn waits<'a>(index: &Index<'a>) -> Vec<Wait<'a>> {
    let is_quiet = quiet_times(index);
    let mut waits = Vec::new();
    for (name, device) in index.devices.iter().filter(|(_, device)| !device.slow) {
        let owed = index.owed(name);
        for conn in device.conns.iter().filter_map(|id| index.conns.get(id)) {
            let Some(live_from) = live_from(conn) else { continue };
            let upto = conn.closed.min(index.end);
            let mut steps = conn.steps.iter().peekable();
            for seq in &owed[owed.partition_point(|seq| *seq <= conn.from)..] {
                let Some(answered) = answered(index, *seq) else { continue };
                if answered < live_from || answered >= upto {
                    continue;
                }
                while steps.peek().is_some_and(|(_, step)| step.seq() < *seq) {
                    steps.next();
                }
                let given = steps.peek().filter(|(_, step)| step.seq() == *seq && matches!(step, ConnStep::Recv { .. })).map(|(t, _)| *t);
                // A connection that ended first proves the delay only until its end.
                let end = given.unwrap_or(upto);
                if given.is_none() && index.may_be_left_out(name, *seq, end) {
                    continue;
                }
                if was_stuck(device, answered, end) {
                    continue;
                }
                if is_quiet(answered, end) {
                    waits.push(Wait { device: name, seq: *seq, answered, took: end.saturating_sub(answered) });
                }
            }
        }
    }
    waits
}

/// Whether a tab of the device's browser stood still between two times, or in the time before in which another one may
/// not have taken its place.
fn was_stuck(device: &IndexedDevice<'_>, from: Nanos, to: Nanos) -> bool {
    device.stuck.iter().any(|(begin, end)| *begin <= to && from <= end.saturating_add(SETTLE))
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
    conn.steps.iter().find(|(_, step)| matches!(step, ConnStep::Passed { .. })).map(|(t, _)| *t)
}

fn answered(index: &Index<'_>, seq: i64) -> Option<Nanos> {
    index.answered.get(&seq).copied()
}

/// Whether something that began at `from` took longer than it may in quiet time. Stalled time is added to the limit.
fn is_late(index: &Index<'_>, limits: CheckLimits, from: Nanos, took: Nanos) -> bool {
    // The stalled time is computed on demand: a history has a million waits.
    took > limits.live_ms * MS && took > (limits.live_ms + index.stalled_ms(from, from + took)) * MS
}

fn quiet(index: &Index<'_>, limits: CheckLimits, found: &mut ViolationList<'_>) {
    let mut said = 0;
    for wait in waits(index) {
        if is_late(index, limits, wait.answered, wait.took) && said < 5 {
            said += 1;
            let Wait { device, seq, answered, took } = wait;
            found.add("C15", Some(answered), format!("{device} waited {} ms for {seq} in quiet time", took / MS));
        }
    }
}

/// A client of the SDK may take this much longer for its first frame. Its tab starts a thread, waits for the lock of a
/// leader that may go in this moment, doubts it for a second, backs off, and has upgrades refused before it uses SSE.
const SDK_MS: u64 = 5_000;

/// A device that wants to be connected has its first frame within the same limit.
fn connects(index: &Index<'_>, limits: CheckLimits, found: &mut ViolationList<'_>) {
    let is_quiet = quiet_times(index);
    let mut said = 0;
    for (name, device) in index.devices.iter().filter(|(_, device)| !device.slow) {
        let limits = CheckLimits { live_ms: limits.live_ms + if device.sdk { SDK_MS } else { 0 }, ..limits };
        let conns = || device.conns.iter().filter_map(|id| index.conns.get(id));
        let cut = conns().map(|conn| conn.closed);
        for (begin, end) in &device.wanted {
            let begins = std::iter::once(*begin).chain(cut.clone().filter(|t| begin < t && t < end));
            for from in begins {
                let first = conns().filter(|conn| conn.opened > from).find_map(|conn| conn.steps.first().map(|(t, _)| *t));
                let upto = first.unwrap_or(index.end).min(*end).min(index.end);
                let took = upto.saturating_sub(from);
                if is_late(index, limits, from, took) && is_quiet(from, upto) && !was_stuck(device, from, upto) && said < 5 {
                    said += 1;
                    found.add("C15", Some(from), format!("{name} waited {} ms for its first frame in quiet time", took / MS));
                }
            }
        }
    }
}

/// A service has its 201 within the same limit.
fn answers(index: &Index<'_>, limits: CheckLimits, found: &mut ViolationList<'_>) {
    let is_quiet = quiet_times(index);
    let mut said = 0;
    for (title, wish) in &index.wishes {
        let first = wish.oks.iter().map(|(_, _, t)| *t).min();
        let (Some(from), Some(upto)) = (wish.first_invoked, first) else { continue };
        let took = upto.saturating_sub(from);
        if is_late(index, limits, from, took) && is_quiet(from, upto) && said < 5 {
            said += 1;
            found.add("C15", Some(from), format!("{title} waited {} ms for its 201 in quiet time", took / MS));
        }
    }
}

/// Counts the time in which a device wants to be connected, not the time in which it is away on purpose.
fn recovery(index: &Index<'_>, limits: CheckLimits, found: &mut ViolationList<'_>) {
    for waiting in recoveries(index) {
        let Recovery { fault, device, target, wanting, upto } = waiting;
        let limit = if fault.name.starts_with("postgres") { limits.restart_ms } else { limits.recovery_ms };
        if wanting > limit * MS && wanting > (limit + index.stalled_ms(fault.end, upto)) * MS {
            let what = format!(
                "{device} had not received {target} after {} ms of trying, after the end of {} on {}",
                wanting / MS,
                fault.name,
                fault.on
            );
            found.add("C15", Some(fault.end), what);
        }
    }
}

/// The longest time that a device needed after a fault, and the fault.
pub fn slowest_recovery(history: &[super::FactEntry]) -> Option<(f64, String)> {
    let index = Index::of(history);
    let slowest = recoveries(&index).into_iter().max_by_key(|recovery| recovery.wanting)?;
    Some((slowest.wanting as f64 / 1e6, slowest.fault.name.to_owned()))
}

struct Recovery<'a> {
    fault: &'a IndexedFault<'a>,
    device: &'a str,
    target: i64,
    wanting: Nanos,
    /// When the device had received it, or when the observation ends.
    upto: Nanos,
}

fn recoveries<'a>(index: &'a Index<'a>) -> Vec<Recovery<'a>> {
    let mut recoveries = Vec::new();
    let ways: Vec<_> =
        index.devices.iter().filter(|(_, device)| !device.slow).map(|(name, device)| (*name, device, way(index, device))).collect();
    for (at, fault) in index.faults.iter().enumerate().filter(|(_, fault)| fault.end != Nanos::MAX) {
        // The next fault ends the observation of this one.
        let horizon = index.faults[at + 1..].iter().map(|next| next.begin).find(|begin| *begin > fault.end).unwrap_or(index.end);
        let beside = index.faults.iter().any(|other| other.begin < fault.end && other.end > fault.end);
        if beside {
            continue;
        }
        let head = index.rows.iter().rev().find(|row| answered(index, row.seq).is_some_and(|t| t <= fault.end)).map_or(0, |row| row.seq);
        for (device, facts, way) in &ways {
            let owed = index.owed(device);
            let mut due = owed[..owed.partition_point(|seq| *seq <= head)].iter().rev();
            let Some(target) = due.find(|seq| !index.may_be_left_out(device, **seq, index.end)).copied() else { continue };
            // A device that started at or above the target waits for nothing.
            if facts.conns.first().and_then(|id| index.conns.get(id)).is_none_or(|first| first.from >= target) {
                continue;
            }
            let reached = way.get(way.partition_point(|(_, seq)| *seq < target)).map_or(Nanos::MAX, |(t, _)| *t);
            let upto = reached.min(horizon);
            if was_stuck(facts, fault.end, upto) {
                continue;
            }
            let wanting = facts.wanted.iter().map(|(begin, end)| (*end).min(upto).saturating_sub((*begin).max(fault.end))).sum();
            recoveries.push(Recovery { fault, device, target, wanting, upto });
        }
    }
    recoveries
}

/// The progress of a device: each time at which its highest number increased.
fn way(index: &Index<'_>, device: &IndexedDevice<'_>) -> Vec<(Nanos, i64)> {
    let conns = device.conns.iter().filter_map(|id| index.conns.get(id));
    let steps = conns.flat_map(|conn| [(conn.opened, conn.from)].into_iter().chain(conn.steps.iter().map(|(t, step)| (*t, step.seq()))));
    let mut way: Vec<(Nanos, i64)> = Vec::new();
    for (t, seq) in steps {
        if way.last().is_none_or(|(_, furthest)| seq > *furthest) {
            way.push((t, seq));
        }
    }
    way
}
