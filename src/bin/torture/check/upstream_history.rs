//! What must hold of any history of upstream sessions, and who says so: a checker without a hub, a clock or a database.
//!
//! All times are milliseconds since 1970 by one machine's clock. `hub` is a process: one that is started again is another.
//!
//! Which *term* a socket belongs to: the last one that its hub was given for that user before it asked for the socket. The
//! *first act* of a term is its first sign-in, asked-for socket or text that the provider saw. After it nothing may come
//! from an earlier term, but for bytes *on their way*: given to the kernel before the first act, by the stamp that stands in
//! them, and at the provider within [`ON_THE_WAY`]. What a frozen process says when it wakes has an old stamp, and is caught.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

/// From the stamp in a text to the provider's clock, on a busy machine.
pub const ON_THE_WAY: i64 = 1000;
/// A socket that swallowed what was sent is dead this long after it: a keep-alive's interval, its deadline, and a hole that
/// ends by a reset.
pub const DIES_WITHIN: i64 = 10_000;

/// A claim.
#[derive(Debug, Clone)]
pub struct Term {
    pub user: String,
    pub term: i64,
    pub hub: usize,
    pub at: i64,
    /// When the lease before it ended, where the claim ended one that was not given back.
    pub old_lease_until: Option<i64>,
}

/// Something that reached the provider: when, and when it was written by its own stamp.
#[derive(Debug, Clone)]
pub struct Heard {
    pub at: i64,
    pub stamp: i64,
    /// The client's id of the command; `None`: a keep-alive.
    pub command: Option<String>,
}

/// A socket that was asked for.
#[derive(Debug, Clone)]
pub struct Link {
    pub number: usize,
    pub user: String,
    pub hub: usize,
    pub asked: Heard,
    pub opened: bool,
    pub closed: Option<i64>,
    pub heard: Vec<Heard>,
    /// The last number that the provider sent over it.
    pub numbered: u64,
}

#[derive(Debug, Clone)]
pub struct SignedIn {
    pub user: String,
    pub hub: usize,
    pub asked: Heard,
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
pub struct Entry {
    pub seq: i64,
    pub user: String,
    /// The socket that it came over, and its number there; `None`: the user is told that something may be missing.
    pub said: Option<(usize, u64)>,
}

/// All that a device was given, over all its connections.
#[derive(Debug, Clone)]
pub struct Stream {
    pub user: String,
    pub device: String,
    pub from: i64,
    pub got: Vec<i64>,
}

#[derive(Debug, Clone)]
pub struct Told {
    pub id: String,
    pub status: String,
}

/// A rule that is broken: its name, what shows it, and when.
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

/// Which term a process held for a user at a time.
struct Terms<'a>(HashMap<(&'a str, usize), Vec<(i64, i64)>>);

impl<'a> Terms<'a> {
    fn of(terms: &'a [Term]) -> Self {
        let mut held: HashMap<_, Vec<(i64, i64)>> = HashMap::new();
        for term in terms {
            held.entry((term.user.as_str(), term.hub)).or_default().push((term.at, term.term));
        }
        held.values_mut().for_each(|held| held.sort_unstable());
        Self(held)
    }

    fn at(&self, user: &str, hub: usize, at: i64) -> Option<i64> {
        let held = self.0.get(&(user, hub))?;
        // Terms only rise, so the last one that was given is the highest.
        held[..held.partition_point(|(given, _)| *given <= at)].last().map(|(_, term)| *term)
    }

    fn of_link(&self, link: &Link) -> Option<i64> {
        self.at(&link.user, link.hub, link.asked.at)
    }
}

/// Everything that anybody saw.
#[derive(Debug, Clone, Default)]
pub struct UpstreamHistory {
    pub terms: Vec<Term>,
    pub links: Vec<Link>,
    pub sign_ins: Vec<SignedIn>,
    pub commands: Vec<CommandRow>,
    /// In the order of the log.
    pub log: Vec<Entry>,
    pub streams: Vec<Stream>,
    /// The ids of all commands that devices gave.
    pub given: BTreeSet<String>,
    /// What the devices were told of them.
    pub told: Vec<Told>,
    /// When the provider itself got no turn: until when, and for how long.
    pub stalls: Vec<(i64, i64)>,
}

impl UpstreamHistory {
    /// Every rule that is broken, by its name, with what shows it. Empty: all is well.
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

    /// How long a text may be on its way that was written at a time and heard at another.
    fn on_the_way(&self, heard: &Heard) -> i64 {
        let stalled = self.stalls.iter().filter(|(until, ms)| *until >= heard.stamp && until - ms <= heard.at);
        ON_THE_WAY + stalled.map(|(_, ms)| ms).sum::<i64>()
    }

    /// Command id → the sockets that heard it.
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
                faults.push(None, format!("invented: {id} was given by nobody"));
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

    /// A socket of the command's term died soon after, and heard nothing that was written later.
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
        for id in self.given.iter().filter(|id| !told.contains(id.as_str())) {
            faults.push(None, format!("untold: {id}"));
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
            // Each act: its term, and what it was.
            let mut acts: Vec<(i64, &Heard, String)> = Vec::new();
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
        // User → the socket of the last message, while no gap was told since.
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

    /// Claims that followed another hub's, by user.
    pub fn take_overs(&self) -> usize {
        let mut terms: Vec<&Term> = self.terms.iter().collect();
        terms.sort_by_key(|term| (&term.user, term.term));
        terms.windows(2).filter(|two| two[0].user == two[1].user && two[0].hub != two[1].hub).count()
    }
}
