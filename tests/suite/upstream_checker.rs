//! Tests the checker of provider histories with a good history and ways to spoil it.

use std::collections::BTreeSet;

use recado_torture_check::upstream_history::{
    ClaimedTerm, CommandRow, CommandTold, DeviceStream, Link, ProviderHeard, ProviderRow, SignedIn, UpstreamHistory,
};

fn heard(at: i64, command: Option<&str>) -> ProviderHeard {
    ProviderHeard { at, stamp: at - 2, command: command.map(str::to_owned) }
}

fn link(number: usize, hub: usize, at: i64, closed: Option<i64>, texts: Vec<ProviderHeard>, numbered: u64) -> Link {
    Link { number, user: "u".into(), hub, asked: heard(at, None), opened: true, closed, heard: texts, numbered }
}

fn row(id: &str, state: &str, term: Option<i64>, settled: i64) -> CommandRow {
    CommandRow { user: "u".into(), id: id.into(), state: state.into(), term, settled: Some(settled) }
}

fn entry(seq: i64, link: usize, n: u64) -> ProviderRow {
    ProviderRow { seq, user: "u".into(), said: Some((link, n)) }
}

/// Hub 0 owns the session under term 1 and is killed at 5000; hub 1 continues under term 2 at 8000.
fn good() -> UpstreamHistory {
    let term = |term, hub, at, old_lease_until| ClaimedTerm { user: "u".into(), term, hub, at, old_lease_until };
    let rows = [
        ("a", "sent", Some(1), 2010),
        ("b", "sent", Some(1), 4900),
        ("c", "unknown", Some(1), 8000),
        ("d", "rejected", None, 7000),
        ("e", "sent", Some(2), 9010),
        ("f", "unknown", Some(1), 8000),
    ];
    UpstreamHistory {
        terms: vec![term(1, 0, 1000, None), term(2, 1, 8000, Some(7900))],
        links: vec![
            link(0, 0, 1100, Some(5000), vec![heard(2000, Some("a")), heard(3000, None), heard(4800, Some("c"))], 3),
            link(1, 1, 8100, None, vec![heard(9000, Some("e")), heard(9100, None)], 2),
        ],
        sign_ins: vec![SignedIn { user: "u".into(), hub: 0, asked: heard(1050, None) }],
        commands: rows.into_iter().map(|(id, state, term, settled)| row(id, state, term, settled)).collect(),
        log: vec![entry(10, 0, 1), entry(11, 0, 2), ProviderRow { said: None, ..entry(13, 0, 0) }, entry(14, 1, 1), entry(15, 1, 2)],
        streams: vec![
            DeviceStream { user: "u".into(), device: "d0".into(), from: 0, got: vec![10, 11, 13, 14, 15] },
            DeviceStream { user: "u".into(), device: "d1".into(), from: 11, got: vec![13, 14, 15] },
        ],
        given: rows.iter().map(|row| row.0.to_owned()).collect::<BTreeSet<_>>(),
        refused: BTreeSet::new(),
        stalls: Vec::new(),
        told: rows.iter().map(|row| CommandTold { id: row.0.into(), status: row.1.into() }).collect(),
    }
}

/// Spoils the good history, and returns the names of the rules that it breaks then.
fn spoiled(spoil: impl FnOnce(&mut UpstreamHistory)) -> Vec<String> {
    let mut history = good();
    spoil(&mut history);
    let mut names: Vec<String> = history.faults().iter().map(|fault| fault.what.split(':').next().unwrap().to_owned()).collect();
    names.dedup();
    names
}

#[test]
fn a_good_history_has_no_fault() {
    assert_eq!(good().faults(), []);
    assert_eq!(good().take_overs(), 1);
}

#[test]
fn commands_are_held_to_once_and_to_their_rows() {
    let again = |history: &mut UpstreamHistory| history.links[1].heard.push(heard(9200, Some("a")));
    assert_eq!(spoiled(again), ["twice"]);
    assert_eq!(spoiled(|h| h.links[1].heard[0].command = Some("z".into())), ["invented", "lost", "unwritten"]);
    assert_eq!(spoiled(|h| drop(h.links[1].heard.remove(0))), ["lost"], "the socket lives");
    assert_eq!(spoiled(|h| h.links[0].closed = Some(4900 + 20_000)), ["lost"], "the socket lived for long");
    assert_eq!(spoiled(|h| h.links[0].heard.push(heard(4990, None))), ["lost"], "the socket heard what was written later");
    assert_eq!(spoiled(|h| h.commands[0].term = Some(2)), ["foreign"]);
    assert_eq!(spoiled(|h| drop(h.commands.remove(5))), ["told wrong"], "no row");
    for state in ["rejected", "failed"] {
        let deny = |history: &mut UpstreamHistory| {
            history.commands[0].state = state.into();
            history.told[0].status = state.into();
        };
        assert_eq!(spoiled(deny), ["denied"]);
    }
    for state in ["accepted", "sending"] {
        let leave = |history: &mut UpstreamHistory| {
            history.commands[0].state = state.into();
            history.told.remove(0);
        };
        assert_eq!(spoiled(leave), ["unsettled", "untold"]);
    }
}

#[test]
fn devices_are_told_the_truth() {
    assert_eq!(spoiled(|h| drop(h.told.remove(3))), ["untold"]);
    assert_eq!(spoiled(|h| h.told[3].status = "sent".into()), ["told wrong"]);
    let refused = |id: &'static str| {
        move |history: &mut UpstreamHistory| {
            history.given.insert(id.into());
            history.refused.insert(id.into());
        }
    };
    assert_eq!(spoiled(refused("g")), Vec::<String>::new(), "its device knows that it was not sent");
    assert_eq!(spoiled(refused("d")), ["refused and sent"]);
}

#[test]
fn an_older_owner_says_nothing_after_the_first_act_of_the_next() {
    let late = |at, stamp| {
        spoiled(move |history: &mut UpstreamHistory| {
            // Must not be taken for a lost command.
            history.commands[1].state = "unknown".into();
            history.told[1].status = "unknown".into();
            history.links[0].heard.push(ProviderHeard { at, stamp, command: None });
        })
    };
    assert_eq!(late(8050, 8049), Vec::<String>::new(), "before the first act");
    assert_eq!(late(8150, 8099), Vec::<String>::new(), "on its way");
    assert_eq!(late(8150, 8120), ["two owners"], "written after it");
    assert_eq!(late(8150, 5100), ["two owners"], "a frozen process that wakes");
    assert_eq!(late(9300, 8099), ["two owners"], "too long on its way");
    let stalled = spoiled(|history: &mut UpstreamHistory| {
        history.commands[1].state = "unknown".into();
        history.told[1].status = "unknown".into();
        history.links[0].heard.push(ProviderHeard { at: 9300, stamp: 8099, command: None });
        history.stalls.push((9290, 300));
    });
    assert_eq!(stalled, Vec::<String>::new(), "the provider itself got no turn for a while");
    assert_eq!(spoiled(|h| h.sign_ins.push(SignedIn { user: "u".into(), hub: 0, asked: heard(8500, None) })), ["two owners"]);
    assert_eq!(spoiled(|h| h.links.push(link(2, 0, 8500, Some(8600), vec![], 0))), ["two owners"]);
    assert_eq!(spoiled(|h| h.links.push(link(2, 2, 8500, Some(8600), vec![], 0))), ["no owner"]);
    assert_eq!(spoiled(|h| h.sign_ins.push(SignedIn { user: "u".into(), hub: 2, asked: heard(8500, None) })), ["no owner"]);
    assert_eq!(spoiled(|h| h.terms[1].old_lease_until = Some(8001)), ["early"]);
}

#[test]
fn the_log_is_what_was_read_in_order_and_not_after_the_next_owner() {
    assert_eq!(spoiled(|h| h.links[1].numbered = 3), ["not read"]);
    assert_eq!(spoiled(|h| h.links[1].numbered = 1), ["unheard of"]);
    let hole = |history: &mut UpstreamHistory| {
        history.log.remove(0);
        history.streams[0].got.remove(0);
    };
    assert_eq!(spoiled(hole), ["not in order"]);
    let twice = |history: &mut UpstreamHistory| {
        history.log.insert(2, entry(12, 0, 2));
        history.streams[0].got.insert(2, 12);
        history.streams[1].got.insert(0, 12);
    };
    assert_eq!(spoiled(twice), ["not in order"]);
    let late = |history: &mut UpstreamHistory| {
        history.log.push(entry(16, 0, 3));
        history.streams.iter_mut().for_each(|stream| stream.got.push(16));
    };
    assert_eq!(spoiled(late), ["gap untold", "too late"]);
    let unsaid = |history: &mut UpstreamHistory| {
        history.log.remove(2);
        history.streams.iter_mut().for_each(|stream| stream.got.retain(|seq| *seq != 13));
    };
    assert_eq!(spoiled(unsaid), ["gap untold"]);
}

#[test]
fn streams_are_the_log_without_hole_or_double() {
    assert_eq!(spoiled(|h| h.streams[0].got.truncate(4)), ["stream"]);
    assert_eq!(spoiled(|h| h.streams[0].got.insert(1, 10)), ["stream"]);
    assert_eq!(spoiled(|h| h.streams[0].got.swap(0, 1)), ["stream"]);
    assert_eq!(spoiled(|h| h.streams[1].got.insert(0, 11)), ["stream"], "below its beginning");
}
