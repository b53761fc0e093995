//! C8 to C11 and C14: each connection by itself is a stream without a hole, and begins where it has to.

use super::Findings;
use super::index::{Conn, Device, Index, Step};
use crate::fact::{Asked, Fact, Since, Told};

pub fn check(index: &Index<'_>, found: &mut Findings<'_>) {
    for (name, device) in &index.devices {
        let owed = index.owed(name);
        // The highest place that the device has come to, over all its connections.
        let mut reached: Option<i64> = None;
        for id in &device.conns {
            let Some(conn) = index.conns.get(id) else { continue };
            if let Some((log_id, floor, head)) = index.log {
                told(
                    index,
                    &format!("{} asked for {:?}", conn.device, conn.asked.since),
                    (conn.opened, conn.asked, conn.told),
                    (log_id, floor, head),
                    found,
                );
            }
            resume(index, device, conn, reached, found);
            walk(*id, conn, owed, found);
            let end = conn.steps.iter().map(|(_, step)| step.seq()).max().unwrap_or(conn.told.from);
            // What was reset or lost was told; the stream begins anew.
            reached = Some(reached.unwrap_or(0).max(end).max(conn.told.from));
        }
    }
    for entry in index.history {
        if let (Fact::Liar { device, asked, told: answer, .. }, Some(log)) = (&entry.fact, index.log) {
            told(index, &format!("{device} lied {asked:?}"), (entry.t, asked, answer), log, found);
        }
    }
}

/// C14: a reset where it is due, and nowhere else. Nothing is dropped from the log of a run, so no gap either.
fn told(
    index: &Index<'_>,
    who: &str,
    (at, asked, told): (u64, &Asked, &Told),
    (log_id, floor, head): (&str, i64, i64),
    found: &mut Findings<'_>,
) {
    let mut add = |what: String| found.add("C14", Some(at), format!("{who}: {what}"));
    let other_log = asked.log_id.as_deref().is_some_and(|asked| asked != log_id);
    let beyond = matches!(asked.since, Since::Seq(seq) if seq > head);
    let other_id = match (&asked.since, &asked.last_id) {
        (Since::Seq(seq), Some(id)) => index.row(*seq).is_some_and(|row| row.id != id),
        _ => false,
    };
    let must_reset = other_log || beyond || other_id;
    match told.status.as_str() {
        "reset" if !must_reset => add(format!("reset without a cause, at {}", told.from)),
        "gap" if floor == 0 => add(format!("a gap {:?}, and nothing was ever dropped", told.lost)),
        "ok" | "live" if must_reset => add(format!("{} at {}, and a reset was due", told.status, told.from)),
        "ok" | "live" | "reset" | "gap" => {}
        other => add(format!("an unknown status {other}")),
    }
    if told.log_id != log_id {
        add(format!("told the log {}, it is {log_id}", told.log_id));
    }
}

/// C10 and C11 where a stream begins.
fn resume(index: &Index<'_>, device: &Device<'_>, conn: &Conn<'_>, reached: Option<i64>, found: &mut Findings<'_>) {
    let (at, from) = (Some(conn.opened), conn.told.from);
    let mut add = |rule, what: String| found.add(rule, at, format!("{} asked for {:?}: {what}", conn.device, conn.asked.since));
    let Some((_, floor, _)) = index.log else { return };
    if conn.told.status != "ok" && conn.told.status != "live" {
        return;
    }
    match conn.asked.since {
        Since::Seq(seq) if from != seq => add("C10", format!("begins after {from}")),
        Since::Earliest if from != floor => add("C10", format!("begins after {from}, the log after {floor}")),
        Since::Ack if reached.is_some_and(|reached| from > reached) => {
            add("C10", format!("begins after {from}, the device has only come to {}", reached.unwrap_or(0)));
        }
        _ => {}
    }
    let confirmed = device.confirmed.iter().filter(|(t, _)| *t < conn.opened).map(|(_, seq)| *seq).max();
    if conn.asked.since == Since::Ack
        && let Some(confirmed) = confirmed
        && from < confirmed
    {
        add("C11", format!("begins after {from}, and {confirmed} was confirmed"));
    }
}

/// C8 and C9 (C10 for the first notification): strictly rising, nothing addressed left out, `prev` names the last.
fn walk(id: u64, conn: &Conn<'_>, owed: &[i64], found: &mut Findings<'_>) {
    let (mut given, mut told, mut is_first) = (conn.told.from, conn.told.from, true);
    for (t, step) in &conn.steps {
        let mut add = |rule, what: String| found.add(rule, Some(*t), format!("{}, connection {id}: {what}", conn.device));
        let seq = step.seq();
        let (prev, is_silent, is_recv) = match step {
            Step::Recv { prev, .. } => (Some(*prev), false, true),
            Step::Passed { prev, silent, .. } => (*prev, *silent, false),
        };
        if seq < given || (is_recv && seq == given) {
            add("C8", format!("{seq} came after {given}"));
            continue;
        }
        let from = owed.partition_point(|owed| *owed <= given);
        let upto = owed.partition_point(|owed| if is_recv { *owed < seq } else { *owed <= seq });
        if from < upto {
            let rule = if is_first && is_recv { "C10" } else { "C9" };
            let left_out = &owed[from..upto.min(from + 5)];
            add(rule, format!("between {given} and {seq} it was owed {left_out:?}, {} in all", upto - from));
        }
        if let Some(prev) = prev
            && prev != told
        {
            add("C9", format!("{seq} names {prev} as the one before, which was {told}"));
        }
        given = seq;
        if !is_silent {
            told = seq;
        }
        is_first &= !is_recv;
    }
}
