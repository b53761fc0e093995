//! Checks C17 to C19: secrets, resources, and the minimum counts of a run.

use super::ViolationList;
use super::index::Index;
use crate::fact::RunFact;

pub fn check(index: &Index<'_>, found: &mut ViolationList<'_>) {
    for entry in index.history {
        match &entry.fact {
            RunFact::Secret { name, place, found: true } => found.add("C17", None, format!("{name} was found in {place}")),
            RunFact::Resource { name, base, end, allowed } if end > allowed => {
                found.add("C18", None, format!("{name}: {base} at the start, {end} at the end, {allowed} is the limit"));
            }
            RunFact::Quota { what, had, wanted } if had < wanted => {
                found.add("C19", None, format!("too few events: {had} {what}, {wanted} is the minimum"));
            }
            _ => {}
        }
    }
    for fault in &index.faults {
        if fault.evidence.is_none() {
            found.add("C19", Some(fault.begin), format!("{} on {} had no proven effect", fault.name, fault.on));
        }
    }
}
