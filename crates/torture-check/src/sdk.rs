//! Checks the clients of the TypeScript SDK: C7, C11, C14 and C16 for their applications, C22 and C23.
//!
//! A browser has several tabs, a Node program is a browser of one. The handlers of any tab work for the browser.
//!
//! Clients may die one by one, or all at once with the program that runs them. The rules are the same: the hubs alone
//! know where the next client begins.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::ViolationList;
use super::index::{Conn, ConnStep, Index};
use super::streams::REPEATED;
use crate::fact::{Nanos, RunFact};

/// Longest time in which two connections of a browser may overlap. A tab that was robbed of the lock closes its own as
/// soon as it is told.
const OVERLAP: Nanos = 1_000_000_000;
/// Violations that are reported of one browser and one rule.
const SHOWN: usize = 5;

/// What the tabs of one browser have done so far.
#[derive(Default)]
struct Browser<'a> {
    tabs: Vec<&'a str>,
    /// Where its first client began.
    began: Option<i64>,
    /// Everything up to here was checked.
    settled: Option<i64>,
    handled: HashSet<i64>,
    told: usize,
}

pub fn check(index: &Index<'_>, found: &mut ViolationList<'_>) {
    let mut browsers: BTreeMap<&str, Browser<'_>> = BTreeMap::new();
    for (name, device) in index.devices.iter().filter(|(_, device)| device.sdk) {
        browsers.entry(device.stored).or_default().tabs.push(name);
    }
    if browsers.is_empty() {
        return;
    }
    only_what_was_handled(index, &mut browsers, found);
    for (name, browser) in &browsers {
        complete(index, name, browser, found);
        repeats_nothing_old(index, browser, found);
    }
    commands_are_sent_as_asked(index, found);
    one_connection(index, found);
    told_nothing_of_gaps(index, found);
}

/// C22: an acknowledgement, and the start of a later client, covers only what handlers have finished with.
fn only_what_was_handled<'a>(index: &Index<'a>, browsers: &mut BTreeMap<&'a str, Browser<'a>>, found: &mut ViolationList<'_>) {
    for entry in index.history {
        let (device, upto, what) = match &entry.fact {
            RunFact::SdkOpen { device, from, .. } => (device.as_str(), *from, "a new client begins after"),
            RunFact::AckSent { device, seq } => (device.as_str(), *seq, "it acknowledged"),
            RunFact::SdkHandled { conn, seq } => {
                if let Some(browser) =
                    stored(index, index.conns.get(conn).map_or("", |conn| conn.device)).and_then(|name| browsers.get_mut(name))
                {
                    browser.handled.insert(*seq);
                }
                continue;
            }
            _ => continue,
        };
        let Some((name, browser)) = stored(index, device).and_then(|name| Some((name, browsers.get_mut(name)?))) else { continue };
        browser.began.get_or_insert(upto);
        let left = left_out(index, device, (browser.settled.unwrap_or(upto), upto), &browser.handled, entry.t);
        browser.settled = Some(browser.settled.map_or(upto, |settled| settled.max(upto)));
        if !left.is_empty() && browser.told < SHOWN {
            browser.told += 1;
            let shown = &left[..left.len().min(5)];
            found.add(
                "C22",
                Some(entry.t),
                format!("{name}: {what} {upto}, but no handler has finished with {shown:?}, {} in all", left.len()),
            );
        }
    }
}

/// The name under which the hub knows the browser of a device.
fn stored<'a>(index: &Index<'a>, device: &str) -> Option<&'a str> {
    index.devices.get(device).map(|device| device.stored)
}

/// What the device is owed between two numbers, without what is in the set.
fn left_out(index: &Index<'_>, device: &str, (after, upto): (i64, i64), without: &HashSet<i64>, t: Nanos) -> Vec<i64> {
    let owed = index.owed(device);
    let from = owed.partition_point(|seq| *seq <= after);
    let end = owed.partition_point(|seq| *seq <= upto).max(from);
    let is_left = |seq: &&i64| !without.contains(seq) && !index.may_be_left_out(device, **seq, t);
    owed[from..end].iter().filter(is_left).copied().collect()
}

/// C7: the browser has handled everything above its first start; each tab that is there at the end has received
/// everything above its own.
fn complete(index: &Index<'_>, name: &str, browser: &Browser<'_>, found: &mut ViolationList<'_>) {
    let (Some(head), Some(began)) = (index.drained, browser.began) else { return };
    let Some(first) = browser.tabs.first() else { return };
    let missing = left_out(index, first, (began, head), &browser.handled, index.end);
    if !missing.is_empty() {
        let shown = &missing[..missing.len().min(8)];
        let at = index.row(missing[0]).and_then(|row| index.wishes.get(row.title)?.known());
        found.add("C7", at, format!("{name} began after {began}, and no handler finished with {shown:?}, {} in all", missing.len()));
    }
    for tab in &browser.tabs {
        let last = index.devices.get(tab).and_then(|device| device.conns.last()).and_then(|id| index.conns.get(id));
        let Some(last) = last.filter(|conn| conn.closed == Nanos::MAX || index.drained_at.is_some_and(|drained| conn.closed > drained))
        else {
            found.add("C7", None, format!("{tab} was not connected at the end"));
            continue;
        };
        let got = last.steps.iter().filter(|(_, step)| matches!(step, ConnStep::Recv { .. })).map(|(_, step)| step.seq());
        let got: HashSet<i64> = got.collect();
        let missing = left_out(index, tab, (last.from, head), &got, index.end);
        if !missing.is_empty() {
            let shown = &missing[..missing.len().min(8)];
            let what = format!("{tab} began after {}, is there at the end, and lacks {shown:?}, {} in all", last.from, missing.len());
            found.add("C7", Some(last.opened), what);
        }
    }
}

/// C11: a client begins at or above the lowest start of its browser's clients in the last three windows, also after all
/// of them have died at once.
fn repeats_nothing_old(index: &Index<'_>, browser: &Browser<'_>, found: &mut ViolationList<'_>) {
    let devices = browser.tabs.iter().filter_map(|tab| index.devices.get(tab));
    let mut conns: Vec<&Conn<'_>> = devices.flat_map(|device| &device.conns).filter_map(|id| index.conns.get(id)).collect();
    conns.sort_by_key(|conn| conn.opened);
    let mut told = 0;
    for (at, conn) in conns.iter().enumerate() {
        let lately = conns[..at].iter().filter(|earlier| earlier.closed >= conn.opened.saturating_sub(REPEATED));
        let Some(lowest) = lately.map(|earlier| earlier.from).min() else { continue };
        if conn.from < lowest && told < SHOWN {
            told += 1;
            let what = format!("{} begins after {}, but no recent client of its browser began below {lowest}", conn.device, conn.from);
            found.add("C11", Some(conn.opened), what);
        }
    }
}

/// C16: the SDK sends a command once for each call of the application, and never one that it has refused.
fn commands_are_sent_as_asked(index: &Index<'_>, found: &mut ViolationList<'_>) {
    let mut tried: HashMap<&str, usize> = HashMap::new();
    let mut sent: HashMap<&str, usize> = HashMap::new();
    let mut told = 0;
    for entry in index.history {
        let what = match &entry.fact {
            RunFact::CommandTried { command } => {
                *tried.entry(command).or_default() += 1;
                continue;
            }
            RunFact::CommandFrame { command } => {
                let (sent, tried) = (sent.entry(command).or_default(), tried.get(command.as_str()).copied().unwrap_or(0));
                *sent += 1;
                (*sent > tried).then(|| format!("sent again: the SDK sent {command} {sent} times, and was asked {tried} times"))
            }
            RunFact::CommandRefused { command } => {
                let sent = sent.get(command.as_str()).copied().unwrap_or(0);
                (sent > 0).then(|| format!("refused and sent: the SDK sent {command}, and told its application that it cannot"))
            }
            _ => continue,
        };
        if let Some(what) = what.filter(|_| told < SHOWN) {
            told += 1;
            found.add("C16", Some(entry.t), what);
        }
    }
}

/// An open connection of a browser.
struct Link<'a> {
    tab: &'a str,
    opened: Nanos,
}

/// C23: a browser has one connection. Two may overlap for a moment, and as long as the tab of one of them stands still.
fn one_connection(index: &Index<'_>, found: &mut ViolationList<'_>) {
    let mut open: HashMap<u64, Link<'_>> = HashMap::new();
    let mut told: HashMap<&str, usize> = HashMap::new();
    let mut end = |found: &mut ViolationList<'_>, open: &mut HashMap<u64, Link<'_>>, link: u64, t: Nanos| {
        let Some(ended) = open.remove(&link) else { return };
        let Some(device) = index.devices.get(ended.tab) else { return };
        for other in open.values().filter(|other| stored(index, other.tab) == Some(device.stored)) {
            let from = ended.opened.max(other.opened);
            let stood = device.stuck.iter().map(|(begin, end)| (*end).min(t).saturating_sub((*begin).max(from))).sum::<Nanos>();
            let both = t.saturating_sub(from).saturating_sub(stood);
            let told = told.entry(device.stored).or_default();
            if both > OVERLAP + index.stalled_ms(from, t) * 1_000_000 && *told < SHOWN {
                *told += 1;
                let what = format!("{}: {} and {} had a connection each for {} ms", device.stored, ended.tab, other.tab, both / 1_000_000);
                found.add("C23", Some(from), what);
            }
        }
    };
    for entry in index.history {
        match &entry.fact {
            RunFact::LinkOpen { link, device, .. } => {
                open.insert(*link, Link { tab: device, opened: entry.t });
            }
            RunFact::LinkClose { link } => end(found, &mut open, *link, entry.t),
            // A tab that dies takes its connections with it.
            RunFact::ConnClose { device, .. } => {
                let of_it: Vec<u64> = open.iter().filter(|(_, link)| link.tab == device.as_str()).map(|(link, _)| *link).collect();
                of_it.into_iter().for_each(|link| end(found, &mut open, link, entry.t));
            }
            RunFact::Held { device, connections } if *connections != 1 => {
                found.add("C23", Some(entry.t), format!("{device}: the hubs list {connections} connections at the end"));
            }
            _ => {}
        }
    }
    let left: Vec<u64> = open.keys().copied().collect();
    left.into_iter().for_each(|link| end(found, &mut open, link, index.end));
}

/// C14: a run drops nothing from its log, so no application is told that it has lost something.
fn told_nothing_of_gaps(index: &Index<'_>, found: &mut ViolationList<'_>) {
    for entry in index.history {
        if let RunFact::SdkGap { conn, status, lost } = &entry.fact {
            let who = index.conns.get(conn).map_or("a client without a position", |conn| conn.device);
            found.add("C14", Some(entry.t), format!("{who} was told {status} {lost:?}, although nothing was dropped"));
        }
    }
}
