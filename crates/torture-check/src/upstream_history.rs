//! Checks any history of provider sessions, without a hub, a clock or a database.
//!
//! All times are milliseconds since 1970 by one machine's clock. `hub` is a process: a restarted hub has another
//! number.
//!
//! A socket belongs to the last *term* that its hub had for that user before it requested the socket. The *first act*
//! of a term is its first sign-in, requested socket or text that the provider saw. After it nothing may arrive from an
//! earlier term, except bytes *on their way*: their stamp shows that the kernel had them before the first act, and they
//! reach the provider within [`ON_THE_WAY`]. A text that a frozen process sends when it wakes has an old stamp, and is
//! detected.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

/// Longest time from the stamp in a text to its arrival at the provider, on a busy machine.
pub const ON_THE_WAY: i64 = 1000;
/// A socket that swallowed sent bytes is dead this long after it: a keep-alive's interval, its deadline, and a hole
/// that ends by a reset.
pub const DIES_WITHIN: i64 = 10_000;

/// A claim of a provider session.
#[derive(Debug, Clone)]
pub struct ClaimedTerm {
    pub user: String,
    pub term: i64,
    pub hub: usize,
    pub at: i64,
    /// When the previous lease ended, if the claim replaced a lease that was not released.
    pub old_lease_until: Option<i64>,
}

/// An arrival at the provider: its time, and the stamp of its writing.
#[derive(Debug, Clone)]
pub struct ProviderHeard {
    pub at: i64,
    pub stamp: i64,
    /// The client's id of the command; `None` for a keep-alive.
    pub command: Option<String>,
}

/// A socket that a hub requested.
#[derive(Debug, Clone)]
pub struct Link {
    pub number: usize,
    pub user: String,
    pub hub: usize,
    pub asked: ProviderHeard,
    pub opened: bool,
    pub closed: Option<i64>,
    pub heard: Vec<ProviderHeard>,
    /// The last number that the provider sent over the socket.
    pub numbered: u64,
}

#[derive(Debug, Clone)]
pub struct SignedIn {
    pub user: String,
    pub hub: usize,
    pub asked: ProviderHeard,
}

/// A row of `recado.upstream_command`.
#[derive(Debug, Clone)]
pub struct CommandRow {
    pub user: String,
    pub id: String,
    pub state: String,
    pub term: Option<i64>,
    pub settled: Option<i64>,
}

/// A row of the log that came from the provider.
#[derive(Debug, Clone)]
pub struct ProviderRow {
    pub seq: i64,
    pub user: String,
    /// Socket and number of the message; `None` for a gap notification.
    pub said: Option<(usize, u64)>,
}

/// All numbers that a device received, over all its connections.
#[derive(Debug, Clone)]
pub struct DeviceStream {
    pub user: String,
    pub device: String,
    pub from: i64,
    pub got: Vec<i64>,
}

#[derive(Debug, Clone)]
pub struct CommandTold {
    pub id: String,
    pub status: String,
}

/// A violation of a rule: its name and evidence, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub at: Option<i64>,
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

#[derive(Default)]
struct Faults(Vec<Broken>);

impl Faults {
    fn push(&mut self, at: Option<i64>, what: String) {
        self.0.push(Broken { at, what });
    }
}

/// Maps a user and a hub process to the terms it held, with their times.
struct Terms<'a>(HashMap<(&'a str, usize), Vec<(i64, i64)>>);

impl<'a> Terms<'a> {
    fn of(terms: &'a [ClaimedTerm]) -> Self {
        let mut held: HashMap<_, Vec<(i64, i64)>> = HashMap::new();
        for term in terms {
            held.entry((term.user.as_str(), term.hub)).or_default().push((term.at, term.term));
        }
        held.values_mut().for_each(|held| held.sort_unstable());
        Self(held)
    }

    fn at(&self, user: &str, hub: usize, at: i64) -> Option<i64> {
        let held = self.0.get(&(user, hub))?;
        // Terms only increase, so the last claimed one is the highest.
        held[..held.partition_point(|(given, _)| *given <= at)].last().map(|(_, term)| *term)
    }

    fn of_link(&self, link: &Link) -> Option<i64> {
        self.at(&link.user, link.hub, link.asked.at)
    }
}

/// Everything that was observed.
#[derive(Debug, Clone, Default)]
pub struct UpstreamHistory {
    pub terms: Vec<ClaimedTerm>,
    pub links: Vec<Link>,
    pub sign_ins: Vec<SignedIn>,
    pub commands: Vec<CommandRow>,
    /// In the order of the log.
    pub log: Vec<ProviderRow>,
    pub streams: Vec<DeviceStream>,
    /// The ids of all commands that devices sent.
    pub given: BTreeSet<String>,
    /// The ids of the commands that a device's own library refused to send.
    pub refused: BTreeSet<String>,
    /// The results that devices received.
    pub told: Vec<CommandTold>,
    /// When the provider was not scheduled: the end and the length of each time.
    pub stalls: Vec<(i64, i64)>,
}

impl UpstreamHistory {
    /// Returns every violation, with the name of its rule and its evidence. Empty if all rules hold.
    pub fn faults(&self) -> Vec<Broken> {
        let (mut faults, terms) = (Faults::default(), Terms::of(&self.terms));
        self.commands_at_most_once(&mut faults);
        self.rows_say_what_happened(&terms, &mut faults);
        self.devices_are_told(&mut faults);
        self.one_owner(&terms, &mut faults);
        self.log_holds_what_was_read(&terms, &mut faults);
        self.streams_are_the_log(&mut faults);
        faults.0
    }

    /// Longest time on the way that is allowed for this arrival.
    fn on_the_way(&self, heard: &ProviderHeard) -> i64 {
        let stalled = self.stalls.iter().filter(|(until, ms)| *until >= heard.stamp && until - ms <= heard.at);
        ON_THE_WAY + stalled.map(|(_, ms)| ms).sum::<i64>()
    }

    /// Command id → the sockets on which it arrived.
    fn heard(&self) -> BTreeMap<&str, Vec<&Link>> {
        let mut heard: BTreeMap<&str, Vec<&Link>> = BTreeMap::new();
        for link in &self.links {
            for command in link.heard.iter().filter_map(|heard| heard.command.as_deref()) {
                heard.entry(command).or_default().push(link);
            }
        }
        heard
    }

    fn commands_at_most_once(&self, faults: &mut Faults) {
        for (id, links) in self.heard() {
            if links.len() > 1 {
                let again = links.last().and_then(|link| link.heard.iter().rfind(|heard| heard.command.as_deref() == Some(id)));
                faults.push(
                    again.map(|heard| heard.at),
                    format!("twice: {id} on sockets {:?}", links.iter().map(|link| link.number).collect::<Vec<_>>()),
                );
            }
            if !self.given.contains(id) {
                faults.push(None, format!("invented: no device sent {id}"));
            }
        }
    }

    fn rows_say_what_happened(&self, terms: &Terms<'_>, faults: &mut Faults) {
        let heard = self.heard();
        for row in &self.commands {
            let at = heard.get(row.id.as_str()).and_then(|links| links.first());
            match (row.state.as_str(), at) {
                ("sent", None) if !self.was_swallowed(row, terms) => {
                    faults.push(row.settled, format!("lost: {row:?}, and its socket lived on"))
                }
                ("sent" | "unknown", Some(link)) if terms.of_link(link) != row.term || link.user != row.user => {
                    faults
                        .push(row.settled, format!("foreign: {row:?} went up on socket {} of term {:?}", link.number, terms.of_link(link)));
                }
                ("sent" | "unknown", _) => {}
                ("rejected" | "failed", Some(link)) => {
                    faults.push(row.settled, format!("denied: {row:?} was heard on socket {}", link.number))
                }
                ("rejected" | "failed", None) => {}
                _ => faults.push(None, format!("unsettled: {row:?}")),
            }
        }
        let known: BTreeSet<&str> = self.commands.iter().map(|row| row.id.as_str()).collect();
        for id in heard.keys().filter(|id| !known.contains(*id)) {
            faults.push(None, format!("unwritten: {id} went up and has no row"));
        }
    }

    /// Whether a socket of the command's term died soon after and received no later text.
    fn was_swallowed(&self, row: &CommandRow, terms: &Terms<'_>) -> bool {
        let Some(settled) = row.settled else { return false };
        self.links.iter().filter(|link| link.user == row.user && link.opened && terms.of_link(link) == row.term).any(|link| {
            let died = link.closed.is_some_and(|at| at <= settled + DIES_WITHIN);
            died && link.asked.at <= settled && link.heard.iter().all(|heard| heard.stamp <= settled)
        })
    }

    fn devices_are_told(&self, faults: &mut Faults) {
        let rows: BTreeMap<&str, &str> = self.commands.iter().map(|row| (row.id.as_str(), row.state.as_str())).collect();
        let told: BTreeSet<&str> = self.told.iter().map(|told| told.id.as_str()).collect();
        for id in self.given.iter().filter(|id| !told.contains(id.as_str()) && !self.refused.contains(*id)) {
            faults.push(None, format!("untold: {id}"));
        }
        for id in self.refused.iter().filter(|id| rows.contains_key(id.as_str())) {
            faults.push(None, format!("refused and sent: {id} has a row, although its device was told that it was not sent"));
        }
        for told in &self.told {
            if rows.get(told.id.as_str()) != Some(&told.status.as_str()) {
                faults.push(None, format!("told wrong: {told:?}, and the row says {:?}", rows.get(told.id.as_str())));
            }
        }
    }

    fn one_owner(&self, terms: &Terms<'_>, faults: &mut Faults) {
        let users: BTreeSet<&str> = self.terms.iter().map(|term| term.user.as_str()).collect();
        for term in &self.terms {
            if term.old_lease_until.is_some_and(|until| until > term.at) {
                faults.push(Some(term.at), format!("early: {term:?} was claimed while another lease ran"));
            }
        }
        for user in users {
            // Each act: its term and its description.
            let mut acts: Vec<(i64, &ProviderHeard, String)> = Vec::new();
            for sign_in in self.sign_ins.iter().filter(|sign_in| sign_in.user == user) {
                match terms.at(user, sign_in.hub, sign_in.asked.at) {
                    Some(term) => acts.push((term, &sign_in.asked, "a sign-in".to_owned())),
                    None => faults.push(Some(sign_in.asked.at), format!("no owner: {sign_in:?}")),
                }
            }
            for link in self.links.iter().filter(|link| link.user == user) {
                let Some(term) = terms.of_link(link) else {
                    faults.push(Some(link.asked.at), format!("no owner: socket {} of user {user}", link.number));
                    continue;
                };
                acts.push((term, &link.asked, format!("socket {}", link.number)));
                acts.extend(link.heard.iter().map(|heard| (term, heard, format!("a text on socket {}", link.number))));
            }
            let mut first: BTreeMap<i64, i64> = BTreeMap::new();
            for (term, heard, _) in &acts {
                let first = first.entry(*term).or_insert(heard.at);
                *first = heard.at.min(*first);
            }
            for (term, heard, what) in &acts {
                let next = first.range(term + 1..).map(|(_, at)| *at).min();
                let Some(next) = next.filter(|next| heard.at > *next) else { continue };
                if heard.stamp >= next || heard.at - heard.stamp > self.on_the_way(heard) {
                    faults.push(
                        Some(heard.at),
                        format!("two owners: user {user}, {what} of term {term}: {heard:?}, a later term acts since {next}"),
                    );
                }
            }
        }
    }

    fn log_holds_what_was_read(&self, terms: &Terms<'_>, faults: &mut Faults) {
        let links: BTreeMap<usize, &Link> = self.links.iter().map(|link| (link.number, link)).collect();
        let mut last: BTreeMap<usize, u64> = BTreeMap::new();
        let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
        // User → the socket of the last message, if no gap was reported since.
        let mut unbroken: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in &self.log {
            let Some((number, n)) = entry.said else {
                unbroken.remove(entry.user.as_str());
                continue;
            };
            let Some(link) = links.get(&number).filter(|link| link.user == entry.user && n <= link.numbered) else {
                faults.push(None, format!("unheard of: {entry:?} was not said by the provider"));
                continue;
            };
            if unbroken.insert(&entry.user, number).is_some_and(|before| before != number) {
                faults.push(None, format!("gap untold: before {entry:?}"));
            }
            let last = last.entry(number).or_default();
            if n != *last + 1 {
                faults.push(None, format!("not in order: {entry:?} after {last}"));
            }
            *last = n;
            let Some(term) = terms.of_link(link) else { continue };
            let newest = newest.entry(entry.user.as_str()).or_insert(term);
            if term < *newest {
                faults.push(None, format!("too late: {entry:?} of term {term} after one of term {newest}"));
            }
            *newest = term.max(*newest);
        }
        for link in self.links.iter().filter(|link| link.opened && link.closed.is_none()) {
            let last = last.get(&link.number).copied().unwrap_or_default();
            if last < link.numbered {
                faults.push(None, format!("not read: socket {} is open and said {}, the log has {last}", link.number, link.numbered));
            }
        }
    }

    fn streams_are_the_log(&self, faults: &mut Faults) {
        for stream in &self.streams {
            let expected: Vec<i64> =
                self.log.iter().filter(|entry| entry.user == stream.user && entry.seq > stream.from).map(|entry| entry.seq).collect();
            if stream.got != expected {
                let lacks: Vec<&i64> = expected.iter().filter(|seq| !stream.got.contains(seq)).collect();
                let count = (stream.got.len(), expected.len());
                faults.push(None, format!("stream: {} of {} has {} of {}, lacks {lacks:?}", stream.device, stream.user, count.0, count.1));
            }
        }
    }

    /// Counts claims that followed a claim of another hub, by user.
    pub fn take_overs(&self) -> usize {
        let mut terms: Vec<&ClaimedTerm> = self.terms.iter().collect();
        terms.sort_by_key(|term| (&term.user, term.term));
        terms.windows(2).filter(|two| two[0].user == two[1].user && two[0].hub != two[1].hub).count()
    }
}
