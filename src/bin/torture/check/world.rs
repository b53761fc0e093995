//! C17 to C19: secrets, resources, and whether enough happened to say anything.

use super::Findings;
use super::index::Index;
use crate::fact::Fact;

pub fn check(index: &Index<'_>, found: &mut Findings<'_>) {
    for entry in index.history {
        match &entry.fact {
            Fact::Secret { name, place, found: true } => found.add("C17", None, format!("{name} stands in {place}")),
            Fact::Resource { name, base, end, allowed } if end > allowed => {
                found.add("C18", None, format!("{name}: {base} at the start, {end} at the end, {allowed} is the limit"));
            }
            Fact::Quota { what, had, wanted } if had < wanted => {
                found.add("C19", None, format!("too little happened: {had} {what}, {wanted} is the least"));
            }
            _ => {}
        }
    }
    for fault in &index.faults {
        if fault.evidence.is_none() {
            found.add("C19", Some(fault.begin), format!("{} on {} had no effect that can be shown", fault.name, fault.on));
        }
    }
}
