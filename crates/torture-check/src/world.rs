//! Checks C17 to C19, C24 and C25: secrets, resources, minimum counts of a run, forged tokens and removed keys.

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
            RunFact::ForgedToken { hub, what, accepted: true } => {
                found.add("C24", Some(entry.t), format!("hub {hub} accepted a forged token: {what}"));
            }
            RunFact::KeyRemoved { hub, connections, left } if *left > 0 => {
                found.add("C25", Some(entry.t), format!("hub {hub}: {left} of {connections} connections outlived their key"));
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
