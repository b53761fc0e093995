//! C16 to C19: leases, secrets, resources, and whether enough happened to say anything.

use std::collections::BTreeMap;

use super::Findings;
use super::index::Index;
use crate::fact::Fact;

pub fn check(index: &Index<'_>, found: &mut Findings<'_>) {
    leases(index, found);
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

/// C16: as the provider saw it, a user's terms never go down, and each command comes once at most; a command that is
/// said to be sent came.
fn leases(index: &Index<'_>, found: &mut Findings<'_>) {
    let mut terms: BTreeMap<&str, i64> = BTreeMap::new();
    let mut commands: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in index.history {
        match &entry.fact {
            Fact::UpFrame { user, term, command, .. } => {
                let highest = terms.entry(user).or_insert(*term);
                if term < highest {
                    found.add("C16", Some(entry.t), format!("the provider heard of {user} in term {term} after term {highest}"));
                }
                *highest = (*highest).max(*term);
                if let Some(command) = command {
                    let times = commands.entry(command).or_insert(0);
                    *times += 1;
                    if *times == 2 {
                        found.add("C16", Some(entry.t), format!("the command {command} of {user} came to the provider twice"));
                    }
                }
            }
            Fact::UpCommand { user, command, state } if state == "sent" && !commands.contains_key(command.as_str()) => {
                found.add("C16", None, format!("the command {command} of {user} is said to be sent, and never came"));
            }
            _ => {}
        }
    }
}
