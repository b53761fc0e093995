//! Checks C26: a consumer is given each row that it wants, in order, until it has acknowledged it, and only its present
//! owner acknowledges.

use std::collections::HashSet;

use super::ViolationList;
use super::index::Index;
use crate::fact::RunFact;

/// Violations that are reported.
const SHOWN: usize = 5;

pub fn check(index: &Index<'_>, found: &mut ViolationList<'_>) {
    let wanted = wanted(index);
    let mut given: HashSet<i64> = HashSet::new();
    let mut has_consumer = false;
    let mut said = 0;
    let mut add = |found: &mut ViolationList<'_>, at, what: String| {
        if said < SHOWN {
            said += 1;
            found.add("C26", at, what);
        }
    };
    for entry in index.history {
        let at = Some(entry.t);
        match &entry.fact {
            RunFact::ConsumerBatch { owner, after, rows, through, .. } => {
                has_consumer = true;
                let mut last = *after;
                for (seq, id) in rows {
                    if *seq <= last {
                        add(found, at, format!("{owner} was given {seq} after {last}"));
                    }
                    if index.row(*seq).is_some_and(|row| row.id != id) {
                        add(found, at, format!("{owner} was given {id} as number {seq}"));
                    }
                    last = *seq;
                }
                if last > *through {
                    add(found, at, format!("{owner} was given {last}, beyond the batch, which ends at {through}"));
                }
                let seqs: HashSet<i64> = rows.iter().map(|(seq, _)| *seq).collect();
                // An empty one ends at the position, which an acknowledgement without an answer may have moved.
                let from = rows.first().map_or(*through + 1, |(seq, _)| *seq);
                let mut between = wanted[wanted.partition_point(|seq| *seq < from)..].iter().take_while(|seq| *seq <= through);
                if let Some(missing) = between.find(|seq| !seqs.contains(seq)) {
                    add(found, at, format!("{owner} was given {from} to {through} without {missing}"));
                }
                given.extend(seqs);
            }
            RunFact::ConsumerAck { owner, term, seq, newest, answer } if answer == "acked" && term < newest => {
                add(found, at, format!("{owner} acknowledged {seq} under the term {term}, after {newest} had begun"));
            }
            RunFact::ConsumerPlace { acked } => {
                let head = index.drained.unwrap_or(0);
                if *acked < head {
                    add(found, at, format!("the consumer was at {acked} at the end, and the log at {head}"));
                }
                let missing: Vec<i64> = wanted.iter().filter(|seq| *seq <= acked && !given.contains(seq)).copied().collect();
                if !missing.is_empty() {
                    let shown = &missing[..missing.len().min(8)];
                    add(found, None, format!("no owner was given {shown:?}, {} in all, but the position is {acked}", missing.len()));
                }
            }
            _ => {}
        }
    }
    if has_consumer && index.drained.is_some() && !index.history.iter().any(|entry| matches!(entry.fact, RunFact::ConsumerPlace { .. })) {
        add(found, None, "the position of the consumer at the end is not known".to_owned());
    }
}

/// The numbers of the rows that a consumer without conditions must be given. Those that were erased, or live only for a
/// moment, it may be given.
fn wanted(index: &Index<'_>) -> Vec<i64> {
    let is_lasting = |title: &str| index.wishes.get(title).is_none_or(|wish| wish.replay);
    let rows = index.rows.iter().filter(|row| !index.erased.contains_key(&row.seq) && row.tombstone.is_none() && is_lasting(row.title));
    rows.map(|row| row.seq).collect()
}
