//! C13: a stored place never goes back, and never beyond what the device was given.

use super::Findings;
use super::index::Index;

pub fn check(index: &Index<'_>, found: &mut Findings<'_>) {
    for (name, device) in &index.devices {
        let conns = device.conns.iter().filter_map(|id| index.conns.get(id));
        let given = conns.flat_map(|conn| conn.steps.iter().map(|(_, step)| step.seq()).chain([conn.told.from])).max().unwrap_or(0);
        for (before, after) in &device.places {
            match before {
                Some(before) if after < before => found.add("C13", None, format!("the place of {name} went back from {before} to {after}")),
                Some(_) if *after > given => {
                    found.add("C13", None, format!("the place of {name} is {after}, and it was given no more than {given}"));
                }
                _ => {}
            }
        }
        let stored = device.places.last().map_or(0, |(_, after)| *after);
        if let Some((t, confirmed)) = device.confirmed.iter().max_by_key(|(_, seq)| *seq)
            && stored < *confirmed
        {
            found.add("C13", Some(*t), format!("{confirmed} was confirmed to {name}, stored is {stored}"));
        }
    }
}
