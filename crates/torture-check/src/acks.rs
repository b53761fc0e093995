//! Checks C13: a stored position never decreases and never exceeds the delivered position.

use super::ViolationList;
use super::index::Index;

pub fn check(index: &Index<'_>, found: &mut ViolationList<'_>) {
    for (name, members) in &index.groups {
        // Several clients may share a position: it covers what any of them was sent and has acknowledged.
        let devices = || members.iter().filter_map(|member| index.devices.get(member));
        let conns = devices().flat_map(|device| &device.conns).filter_map(|id| index.conns.get(id));
        let given = conns.flat_map(|conn| conn.steps.iter().map(|(_, step)| step.seq()).chain([conn.from])).max().unwrap_or(0);
        // The SDK acknowledges at once what the application is only told later that it has passed. Rule C22 bounds it.
        let said = devices().filter(|device| device.sdk).flat_map(|device| &device.acked).map(|(_, seq)| *seq).max();
        let given = given.max(said.unwrap_or(0));
        let places = index.places.get(name).map_or(&[][..], Vec::as_slice);
        for (before, after) in places {
            match before {
                Some(before) if after < before => found.add("C13", None, format!("position of {name} decreased from {before} to {after}")),
                Some(_) if *after > given => {
                    found.add("C13", None, format!("position of {name} is {after}, above its delivered {given}"));
                }
                _ => {}
            }
        }
        let stored = places.last().map_or(0, |(_, after)| *after);
        // Erasing a user deletes the position.
        let confirmed =
            devices().flat_map(|device| device.confirmed.iter().filter(|(t, _)| !index.user_was_erased(device, *t, u64::MAX - 1)));
        if let Some((t, confirmed)) = confirmed.max_by_key(|(_, seq)| *seq)
            && stored < *confirmed
        {
            found.add("C13", Some(*t), format!("{confirmed} was confirmed to {name}, but {stored} is stored"));
        }
    }
}
