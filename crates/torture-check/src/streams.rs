//! Checks C8 to C11 and C14: each stream begins at the right position and has no hole.

use super::index::{Conn, ConnStep, ConnStream, Index, IndexedDevice, IndexedFault};
use super::latency::is_no_excuse;
use super::{LOWERED_AT_MOST, RESUME_WINDOW, ViolationList};
use crate::fact::{FactSince, RunFact, StreamAsked, StreamTold};

pub fn check(index: &Index<'_>, found: &mut ViolationList<'_>) {
    for (name, device) in &index.devices {
        let owed = index.owed(name);
        // The highest number that the device has received, over all its connections.
        let mut reached: Option<i64> = None;
        for id in &device.conns {
            let Some(conn) = index.conns.get(id) else { continue };
            // Where a client of the SDK begins is checked with its browser (C22).
            if let Some(stream) = &conn.stream {
                if let Some(log) = index.log {
                    let who = format!("{} asked for {:?}", conn.device, stream.asked.since);
                    told(index, &who, (conn.opened, stream.asked, stream.told), log, found);
                }
                if index.groups.get(device.stored).is_some_and(|members| members.len() > 1) {
                    resume_shared(index, device, conn, stream, found);
                } else {
                    resume(index, device, (conn, stream), reached, found);
                }
            }
            walk(index, *id, conn, owed, found);
            let end = conn.steps.iter().map(|(_, step)| step.seq()).max().unwrap_or(conn.from);
            // A reset or gap was reported; the stream starts over.
            reached = Some(reached.unwrap_or(0).max(end).max(conn.from));
        }
    }
    for entry in index.history {
        if let (RunFact::Liar { device, asked, told: answer, .. }, Some(log)) = (&entry.fact, index.log) {
            told(index, &format!("{device} lied {asked:?}"), (entry.t, asked, answer), log, found);
        }
    }
}

/// C14: a stream reports a reset exactly when it is due. A run drops nothing from its log, so there is no gap either.
fn told(
    index: &Index<'_>,
    who: &str,
    (at, asked, told): (u64, &StreamAsked, &StreamTold),
    (log_id, floor, head): (&str, i64, i64),
    found: &mut ViolationList<'_>,
) {
    let mut add = |what: String| found.add("C14", Some(at), format!("{who}: {what}"));
    let other_log = asked.log_id.as_deref().is_some_and(|asked| asked != log_id);
    let beyond = matches!(asked.since, FactSince::Seq(seq) if seq > head);
    let other_id = match (&asked.since, &asked.last_id) {
        (FactSince::Seq(seq), Some(id)) => index.row(*seq).is_some_and(|row| row.id != id),
        _ => false,
    };
    let must_reset = other_log || beyond || other_id;
    match told.status.as_str() {
        "reset" if !must_reset => add(format!("reset without a cause, at {}", told.from)),
        "gap" if floor == 0 => add(format!("a gap {:?}, although nothing was dropped", told.lost)),
        "ok" | "live" if must_reset => add(format!("{} at {}, although a reset was due", told.status, told.from)),
        "ok" | "live" | "reset" | "gap" => {}
        other => add(format!("an unknown status {other}")),
    }
    if told.log_id != log_id {
        add(format!("reported log_id {}, but it is {log_id}", told.log_id));
    }
}

/// C10 and C11: checks where a stream begins.
fn resume(
    index: &Index<'_>,
    device: &IndexedDevice<'_>,
    (conn, stream): (&Conn<'_>, &ConnStream<'_>),
    reached: Option<i64>,
    found: &mut ViolationList<'_>,
) {
    let (at, from, since) = (Some(conn.opened), conn.from, &stream.asked.since);
    let mut add = |rule, what: String| found.add(rule, at, format!("{} asked for {since:?}: {what}", conn.device));
    let Some((_, floor, _)) = index.log else { return };
    if stream.told.status != "ok" && stream.told.status != "live" {
        return;
    }
    // Erasing a user deletes the position; the device is a new one then.
    let previous = previous(index, device, conn);
    let is_new = index.user_was_erased(device, previous.map_or(0, |previous| asked_at(device, previous)), conn.opened);
    match since {
        FactSince::Seq(_) | FactSince::Earliest => begins_where_asked(from, since, floor, &mut add),
        FactSince::Ack if !is_new && reached.is_some_and(|reached| from > reached) => {
            add("C10", format!("begins after {from}, but the device has only received up to {}", reached.unwrap_or(0)));
        }
        FactSince::Ack if !is_new && acknowledged(index, device, conn).is_some_and(|acknowledged| from > acknowledged) => {
            let acknowledged = acknowledged(index, device, conn).unwrap_or(0);
            add("C10", format!("begins after {from}, but the device has only acknowledged {acknowledged}"));
        }
        FactSince::Ack => {}
    }
    let confirmed = device.confirmed.iter().filter(|(t, _)| *t < conn.opened);
    let confirmed = confirmed.filter(|(t, _)| !index.user_was_erased(device, *t, conn.opened)).map(|(_, seq)| *seq).max();
    if *since == FactSince::Ack
        && let Some(confirmed) = confirmed
        && from < confirmed
        && !is_repeat_after_a_hidden_end(index, device, conn)
    {
        add("C11", format!("begins after {from}, although {confirmed} was confirmed"));
    }
}

fn begins_where_asked(from: i64, since: &FactSince, floor: i64, add: &mut impl FnMut(&'static str, String)) {
    match since {
        FactSince::Seq(seq) if from != *seq => add("C10", format!("begins after {from}")),
        FactSince::Earliest if from != floor => add("C10", format!("begins after {from}, but the log begins after {floor}")),
        _ => {}
    }
}

/// When the client requested a connection: the hub may know the connection from then on.
fn asked_at(device: &IndexedDevice<'_>, conn: &Conn<'_>) -> u64 {
    let before = device.attempts.partition_point(|(t, ..)| *t <= conn.opened);
    before.checked_sub(1).map_or(conn.opened, |at| device.attempts[at].0)
}

/// The connection of the same client before this one.
fn previous<'i, 'a>(index: &'i Index<'a>, device: &IndexedDevice<'_>, conn: &Conn<'_>) -> Option<&'i Conn<'a>> {
    let earlier = device.conns.iter().rev().filter_map(|id| index.conns.get(id));
    earlier.into_iter().find(|earlier| earlier.opened < conn.opened)
}

/// The highest number that a client can have acknowledged itself before this connection: by its acknowledgements and by
/// the start of its streams. `None` for the first connection, and for a client whose pongs may acknowledge more.
fn acknowledged(index: &Index<'_>, device: &IndexedDevice<'_>, conn: &Conn<'_>) -> Option<i64> {
    let earlier = device.conns.iter().filter_map(|id| index.conns.get(id)).filter(|earlier| earlier.opened < conn.opened);
    let began = earlier.map(|earlier| earlier.from).max()?;
    let said = device.acked.iter().filter(|(t, _)| *t < conn.opened).map(|(_, seq)| *seq).max();
    (!device.pongs).then_some(began.max(said.unwrap_or(0)))
}

/// How long the hub keeps a connection's own position after its end, less a margin for early expiry.
const WINDOW: u64 = (RESUME_WINDOW.as_secs() - 5) * 1_000_000_000;
/// Later connections inherit a position without a known end, so it may outlive the window: by three windows, as
/// observed.
pub(super) const REPEATED: u64 = 3 * RESUME_WINDOW.as_secs() * 1_000_000_000;

/// When all clients of a device were first connected at once. Before that, a client that connects for the first time
/// may take the position of another one, because the hub cannot distinguish them.
fn all_were_there(index: &Index<'_>, device: &IndexedDevice<'_>) -> u64 {
    let members = index.groups.get(device.stored).map_or(&[][..], Vec::as_slice);
    let spans = |member: &&str| -> Vec<(u64, u64)> {
        let conns = index.devices.get(member).into_iter().flat_map(|device| &device.conns).filter_map(|id| index.conns.get(id));
        conns.map(|conn| (conn.opened, conn.closed)).collect()
    };
    let spans: Vec<Vec<(u64, u64)>> = members.iter().map(spans).collect();
    let is_there = |spans: &Vec<(u64, u64)>, t: u64| spans.iter().any(|(opened, closed)| *opened <= t && t < *closed);
    let mut moments: Vec<u64> = spans.iter().flatten().map(|(opened, _)| *opened).collect();
    moments.sort_unstable();
    moments.into_iter().find(|t| spans.iter().all(|member| is_there(member, *t))).unwrap_or(u64::MAX)
}

/// Whether the hub must know this client's own position among the clients that share the device.
fn is_kept(index: &Index<'_>, device: &IndexedDevice<'_>, conn: &Conn<'_>, together: u64) -> bool {
    let Some(previous) = previous(index, device, conn) else { return false };
    conn.opened > together && conn.opened.saturating_sub(previous.closed) < WINDOW && !is_worn(index, device, previous, conn)
}

/// While its end is not known, a connection lowers the start of at most `LOWERED_AT_MOST` later ones.
fn is_worn(index: &Index<'_>, device: &IndexedDevice<'_>, previous: &Conn<'_>, conn: &Conn<'_>) -> bool {
    let members = index.groups.get(device.stored).map_or(&[][..], Vec::as_slice);
    let conns = members.iter().filter_map(|member| index.devices.get(member)).flat_map(|device| &device.conns);
    let later = conns.filter_map(|id| index.conns.get(id)).filter(|other| previous.opened < other.opened && other.opened < conn.opened);
    later.count() >= LOWERED_AT_MOST && is_hidden(index, &entry_of(previous), conn.opened)
}

/// C7, C10 and C11: checks where the stream of a shared device's client begins. It misses nothing that the client has
/// not acknowledged itself, and repeats nothing below the start of the device's recent connections.
fn resume_shared(index: &Index<'_>, device: &IndexedDevice<'_>, conn: &Conn<'_>, stream: &ConnStream<'_>, found: &mut ViolationList<'_>) {
    let (at, from, since) = (Some(conn.opened), conn.from, &stream.asked.since);
    let mut add = |rule, what: String| found.add(rule, at, format!("{} asked for {since:?}: {what}", conn.device));
    let Some((_, floor, _)) = index.log else { return };
    if stream.told.status != "ok" && stream.told.status != "live" {
        return;
    }
    begins_where_asked(from, since, floor, &mut add);
    if *since != FactSince::Ack {
        return;
    }
    let own = device.conns.iter().filter_map(|id| index.conns.get(id)).filter(|earlier| earlier.opened < conn.opened);
    let given = own.map(|earlier| earlier.steps.last().map_or(earlier.from, |(_, step)| step.seq()).max(earlier.from)).max();
    if let Some(most) = acknowledged(index, device, conn).or(given)
        && from > most
        && is_kept(index, device, conn, all_were_there(index, device))
    {
        add("C7", format!("begins after {from}, but its own connections can have acknowledged {most} at most"));
    }
    let members = index.groups.get(device.stored).map_or(&[][..], Vec::as_slice);
    let conns = members.iter().filter_map(|member| index.devices.get(member)).flat_map(|device| &device.conns);
    let lately = conns
        .filter_map(|id| index.conns.get(id))
        .filter(|earlier| earlier.opened < conn.opened && earlier.closed >= conn.opened.saturating_sub(REPEATED));
    if let Some(lowest) = lately.map(|earlier| earlier.from).min()
        && from < lowest
    {
        add("C11", format!("begins after {from}, but no recent connection of its device began below {lowest}"));
    }
}

/// The number up to which C7 does not check a device: its first start, or a later start that is excused.
pub(super) fn excused_up_to(index: &Index<'_>, device: &IndexedDevice<'_>) -> i64 {
    let is_shared = index.groups.get(device.stored).is_some_and(|members| members.len() > 1);
    let together = if is_shared { all_were_there(index, device) } else { 0 };
    let (mut floor, mut reached, mut opened) = (0, None::<i64>, 0);
    for conn in device.conns.iter().filter_map(|id| index.conns.get(id)) {
        let from = conn.from;
        let is_excused = (is_shared && !is_kept(index, device, conn, together)) || index.user_was_erased(device, opened, conn.opened);
        if reached.is_none_or(|reached| is_excused && from > reached) {
            floor = from;
        }
        let end = conn.steps.last().map_or(from, |(_, step)| step.seq());
        (reached, opened) = (Some(reached.unwrap_or(0).max(end).max(from)), asked_at(device, conn));
    }
    floor
}

/// An end this long before a fault may not be stored yet, in nanoseconds.
const UNWRITTEN: u64 = 1_000_000_000;
/// Longest time in which a hub under load, or behind a hole that has closed, may not have read a close.
const READ_LATE: u64 = 2_000_000_000;
/// Longest delay until a hub detects an end: the peer vanished silently, or the hub was killed. The hub keeps the
/// position until then, and for the window after it.
const UNNOTICED: u64 = 20_000_000_000;
/// How long a hub keeps the position of a connection whose end it did not know.
const KEPT: u64 = UNNOTICED + RESUME_WINDOW.as_secs() * 1_000_000_000;

/// A connection as a hub may know it: it was accepted, or the client abandoned it before it received the answer.
#[derive(Clone, Copy)]
struct Entry {
    hub: usize,
    begin: u64,
    end: u64,
    /// The start position.
    from: i64,
}

fn entry_of(conn: &Conn<'_>) -> Entry {
    // A client of the SDK is on no hub; it is never asked for here.
    Entry { hub: conn.stream.map_or(usize::MAX, |stream| stream.hub), begin: conn.opened, end: conn.closed, from: conn.from }
}

/// The connections and the failed attempts of a device, in order, up to this time.
fn entries(index: &Index<'_>, device: &IndexedDevice<'_>, until: u64) -> Vec<Entry> {
    let conns = device.conns.iter().filter_map(|id| index.conns.get(id)).filter(|conn| conn.opened < until);
    let mut entries: Vec<Entry> = conns.map(entry_of).collect();
    let came = entries.len();
    for (at, (begin, hub, since)) in device.attempts.iter().enumerate() {
        let end = device.attempts.get(at + 1).map_or(u64::MAX, |(next, ..)| *next);
        let came_through = &entries[..came];
        let next = came_through.partition_point(|entry| entry.begin <= *begin);
        if end <= until && came_through.get(next).is_none_or(|entry| entry.begin >= end) {
            let before = next.checked_sub(1).map_or(0, |before| came_through[before].from);
            let from = since.unwrap_or_else(|| confirmed_before(device, *begin).unwrap_or(before));
            entries.push(Entry { hub: *hub, begin: *begin, end, from });
        }
    }
    entries.sort_by_key(|entry| entry.begin);
    entries
}

fn confirmed_before(device: &IndexedDevice<'_>, t: u64) -> Option<i64> {
    device.confirmed.iter().filter(|(confirmed, _)| *confirmed < t).map(|(_, seq)| *seq).max()
}

/// Whether an earlier connection without a known end explains a repeat. A connection has no known end if it ended while
/// its hub was killed, frozen or cut off, or if its client returned before its hub was scheduled to detect the end. The
/// hub expects its return until the window is over, so later confirmed notifications may be repeated. The next
/// connection is then not alone on its device, so a POST does not move its position, which is kept as well.
fn is_repeat_after_a_hidden_end(index: &Index<'_>, device: &IndexedDevice<'_>, conn: &Conn<'_>) -> bool {
    let entries = entries(index, device, conn.opened);
    entries.iter().enumerate().any(|(at, earlier)| {
        let next = entries.get(at + 1);
        // A connection that asked for less than was confirmed keeps the requested position until a higher one is
        // confirmed.
        let confirmed = confirmed_before(device, earlier.end);
        let has_moved = confirmed > confirmed_before(device, earlier.begin);
        let kept = if has_moved {
            confirmed.unwrap_or(earlier.from)
        } else {
            confirmed.map_or(earlier.from, |confirmed| confirmed.min(earlier.from))
        };
        let (mut lowest, mut end) = (kept, earlier.end);
        for (n, later) in entries[at + 1..].iter().enumerate() {
            // Of the positions that are kept the highest is used up. So a later start below the lowest one stays.
            if n == 0 || (later.from < lowest && later.begin <= end.saturating_add(KEPT)) {
                (lowest, end) = (lowest.min(later.from), later.end);
            }
        }
        let is_over = end.saturating_add(KEPT) < conn.opened;
        !is_over && conn.from >= lowest && is_hidden(index, earlier, next.map_or(conn.opened, |next| next.begin))
    })
}

/// Whether a hub may not have detected the end of a connection before the next one.
fn is_hidden(index: &Index<'_>, earlier: &Entry, next: u64) -> bool {
    let away = next.saturating_sub(earlier.end);
    let in_a_fault = |fault: &IndexedFault<'_>| {
        // What waited for a hole to close is sent again by TCP, whose timer doubled while it waited (RFC 6298, 5.5).
        // So that can take as long as the hole lasted, and later data waits for it.
        let again = if fault.name.ends_with("-hole") { fault.end.saturating_sub(fault.begin).min(READ_LATE) } else { 0 };
        let is_there = fault.begin.saturating_sub(UNWRITTEN) <= earlier.end && earlier.end <= fault.end.saturating_add(again);
        // A fault of the other hub alone hides no end here. A killed backend is none: the server ends all others.
        let is_all = !fault.on.starts_with("hub ") || fault.name.starts_with("postgres");
        let is_here = is_all || fault.on == format!("hub {}", earlier.hub);
        // A hub under load reads a close late, but within seconds.
        let is_load = ["stranger-flood", "greedy"].iter().any(|kind| fault.name.starts_with(kind));
        is_there && is_here && (!is_no_excuse(fault.name) || (is_load && away < READ_LATE))
    };
    let had_no_turn = index.stalled_ms(earlier.end, next) * 1_000_000;
    away < had_no_turn || index.faults.iter().any(in_a_fault)
}

/// C8 and C9 (C10 for the first notification): numbers increase strictly, none is missing, `prev` names the previous
/// one.
fn walk(index: &Index<'_>, id: u64, conn: &Conn<'_>, owed: &[i64], found: &mut ViolationList<'_>) {
    let (mut given, mut is_first) = (conn.from, true);
    for (t, step) in &conn.steps {
        let mut add = |rule, what: String| found.add(rule, Some(*t), format!("{}, connection {id}: {what}", conn.device));
        let seq = step.seq();
        let (prev, is_recv) = match step {
            ConnStep::Recv { prev, .. } => (Some(*prev), true),
            ConnStep::Passed { prev, .. } => (*prev, false),
        };
        if seq < given || (is_recv && seq == given) {
            add("C8", format!("{seq} came after {given}"));
            continue;
        }
        let from = owed.partition_point(|owed| *owed <= given);
        let upto = owed.partition_point(|owed| if is_recv { *owed < seq } else { *owed <= seq });
        let mut left_out = owed[from..upto.max(from)].iter().filter(|owed| !index.may_be_left_out(conn.device, **owed, *t)).peekable();
        if left_out.peek().is_some() {
            let rule = if is_first && is_recv { "C10" } else { "C9" };
            let left_out: Vec<i64> = left_out.copied().collect();
            add(rule, format!("between {given} and {seq} it was owed {:?}, {} in all", &left_out[..left_out.len().min(5)], left_out.len()));
        }
        // The SDK hides heartbeats and repeats from its handlers.
        if let Some(prev) = prev
            && conn.stream.is_some()
            && prev != given
        {
            add("C9", format!("{seq} names {prev} as the previous number, but that was {given}"));
        }
        given = seq;
        is_first &= !is_recv;
    }
}
