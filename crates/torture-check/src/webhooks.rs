//! Checks C27: the receiver of a webhook accepts each row that the webhook wants, signed, and gets no other row.

use std::collections::HashSet;

use super::ViolationList;
use super::index::Index;
use crate::fact::{FactAudience, RunFact};

/// Violations that are reported.
const SHOWN: usize = 5;

/// The webhook of a run wants rows to everyone.
fn is_wanted(index: &Index<'_>, title: &str) -> bool {
    index.wishes.get(title).is_some_and(|wish| wish.audience == Some(&FactAudience::Everyone))
}

pub fn check(index: &Index<'_>, found: &mut ViolationList<'_>) {
    let mut accepted: HashSet<i64> = HashSet::new();
    let (mut has_receiver, mut is_settled, mut said) = (false, false, 0);
    let mut add = |found: &mut ViolationList<'_>, at, what: String| {
        if said < SHOWN {
            said += 1;
            found.add("C27", at, what);
        }
    };
    for entry in index.history {
        let at = Some(entry.t);
        match &entry.fact {
            RunFact::WebhookPost { seq, id, is_signed, answer } => {
                has_receiver = true;
                if !is_signed {
                    add(found, at, format!("the signature of the post of {seq} is wrong"));
                }
                // An erased row is known by its former title.
                match index.row(*seq) {
                    Some(row) if row.id == id && is_wanted(index, row.title) => {}
                    Some(row) => add(found, at, format!("the post of {seq} has {id}, and the log has {} ({:?})", row.id, row.title)),
                    None => add(found, at, format!("the post of {seq} is not in the log")),
                }
                if (200..300).contains(answer) {
                    accepted.insert(*seq);
                }
            }
            RunFact::WebhookPlace { passed, waiting, dead } => {
                is_settled = true;
                let head = index.drained.unwrap_or(0);
                if *passed < head || *waiting > 0 || *dead > 0 {
                    let what = format!("the webhook was at {passed} of {head} at the end, {waiting} posts waited, {dead} were given up");
                    add(found, at, what);
                }
                let is_lasting = |title: &str| index.wishes.get(title).is_some_and(|wish| wish.replay);
                let rows = index.rows.iter().filter(|row| row.seq <= *passed && is_wanted(index, row.title) && is_lasting(row.title));
                let rows = rows.filter(|row| !index.erased.contains_key(&row.seq) && row.tombstone.is_none());
                let missing: Vec<i64> = rows.map(|row| row.seq).filter(|seq| !accepted.contains(seq)).collect();
                if !missing.is_empty() {
                    let shown = &missing[..missing.len().min(8)];
                    add(found, None, format!("the receiver has never accepted {shown:?}, {} in all", missing.len()));
                }
            }
            _ => {}
        }
    }
    if has_receiver && index.drained.is_some() && !is_settled {
        add(found, None, "the position of the webhook at the end is not known".to_owned());
    }
}
