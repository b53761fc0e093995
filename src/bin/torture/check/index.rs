//! A history turned so that the rules can walk it: by number, by title, by device, by connection.

use std::collections::{BTreeMap, HashMap};

use crate::fact::{Asked, Audience, Entry, Fact, Nanos, Told};

pub struct Row<'a> {
    pub seq: i64,
    pub id: &'a str,
    pub title: &'a str,
    pub hash: &'a str,
}

/// One wish, and everything that became of it.
#[derive(Default)]
pub struct Wish<'a> {
    pub audience: Option<&'a Audience>,
    pub hash: &'a str,
    pub replay: bool,
    pub attempts: usize,
    pub fails: usize,
    /// Number, id, and when the answer was read.
    pub oks: Vec<(i64, &'a str, Nanos)>,
    /// Committed by a SQL producer, under this id.
    pub kept: Option<(&'a str, Nanos)>,
    pub first_invoked: Option<Nanos>,
}

impl Wish<'_> {
    /// When it was first known to be in the log, or to come into it.
    pub fn known(&self) -> Option<Nanos> {
        self.oks.iter().map(|(_, _, t)| *t).chain(self.kept.map(|(_, t)| t)).min()
    }
}

pub struct Device<'a> {
    pub user: &'a str,
    pub account: &'a str,
    pub slow: bool,
    /// In the order in which they were opened.
    pub conns: Vec<u64>,
    /// From when to when it wanted to be connected.
    pub wanted: Vec<(Nanos, Nanos)>,
    pub confirmed: Vec<(Nanos, i64)>,
    pub acked: Vec<(Nanos, i64)>,
    pub pages: Vec<(Nanos, Given<'a>)>,
    pub places: Vec<(Option<i64>, i64)>,
}

/// A notification as a device got it.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    pub seq: i64,
    pub id: &'a str,
    pub hash: &'a str,
    pub taint: &'a str,
}

pub enum Step<'a> {
    Recv { prev: i64, given: Given<'a> },
    Passed { seq: i64, prev: Option<i64>, silent: bool },
}

impl Step<'_> {
    pub fn seq(&self) -> i64 {
        match self {
            Self::Recv { given, .. } => given.seq,
            Self::Passed { seq, .. } => *seq,
        }
    }
}

pub struct Conn<'a> {
    pub device: &'a str,
    pub opened: Nanos,
    pub closed: Nanos,
    pub asked: &'a Asked,
    pub told: &'a Told,
    pub steps: Vec<(Nanos, Step<'a>)>,
}

pub struct Fault<'a> {
    pub name: &'a str,
    pub on: &'a str,
    pub begin: Nanos,
    pub end: Nanos,
    pub evidence: Option<&'a str>,
}

#[derive(Default)]
pub struct Index<'a> {
    pub history: &'a [Entry],
    pub end: Nanos,
    /// How far everyone had the time to come.
    pub drained: Option<i64>,
    /// The machine's clock when the run began.
    begun: Option<i64>,
    pub log: Option<(&'a str, i64, i64)>,
    pub rows: Vec<Row<'a>>,
    pub wishes: BTreeMap<&'a str, Wish<'a>>,
    pub devices: BTreeMap<&'a str, Device<'a>>,
    pub conns: BTreeMap<u64, Conn<'a>>,
    pub faults: Vec<Fault<'a>>,
    pub stalls: Vec<(Nanos, u64)>,
    /// What others used of the machine.
    others: Vec<(Nanos, u64)>,
    /// When the first yes to this number was read.
    pub answered: HashMap<i64, Nanos>,
    by_seq: HashMap<i64, usize>,
    /// Numbers by audience: everyone, accounts, users.
    topics: HashMap<String, Vec<i64>>,
    owed: HashMap<&'a str, Vec<i64>>,
}

impl<'a> Index<'a> {
    pub fn of(history: &'a [Entry]) -> Self {
        let mut index = Self { history, end: history.last().map_or(0, |entry| entry.t), ..Self::default() };
        for entry in history {
            index.take(entry);
        }
        index.rows.sort_by_key(|row| row.seq);
        index.by_seq = index.rows.iter().enumerate().map(|(at, row)| (row.seq, at)).collect();
        let mut topics: HashMap<String, Vec<i64>> = HashMap::new();
        for row in &index.rows {
            for topic in topics_of(index.wishes.get(row.title).and_then(|wish| wish.audience)) {
                topics.entry(topic).or_default().push(row.seq);
            }
        }
        index.topics = topics;
        index.owed = index.devices.iter().map(|(name, device)| (*name, index.replayed(device))).collect();
        for wish in index.wishes.values() {
            for (seq, _, t) in &wish.oks {
                index.answered.entry(*seq).and_modify(|first| *first = (*first).min(*t)).or_insert(*t);
            }
        }
        index
    }

    fn take(&mut self, entry: &'a Entry) {
        let t = entry.t;
        match &entry.fact {
            Fact::Wish { title, audience, hash, replay } => {
                let wish = self.wishes.entry(title).or_default();
                (wish.audience, wish.hash, wish.replay) = (Some(audience), hash, *replay);
            }
            Fact::PostInvoke { title, .. } => {
                let wish = self.wishes.entry(title).or_default();
                wish.attempts += 1;
                wish.first_invoked.get_or_insert(t);
            }
            Fact::PostOk { title, seq, id, .. } => self.wishes.entry(title).or_default().oks.push((*seq, id, t)),
            Fact::PostKept { title, id, .. } => self.wishes.entry(title).or_default().kept = Some((id, t)),
            Fact::PostFail { title, .. } => self.wishes.entry(title).or_default().fails += 1,
            Fact::Device { device, user, account, slow } => {
                let fresh = Device {
                    user,
                    account,
                    slow: *slow,
                    conns: Vec::new(),
                    wanted: Vec::new(),
                    confirmed: Vec::new(),
                    acked: Vec::new(),
                    pages: Vec::new(),
                    places: Vec::new(),
                };
                self.devices.insert(device, fresh);
            }
            Fact::ConnTry { device } => self.with_device(device, |device| device.wanted.push((t, Nanos::MAX))),
            Fact::ConnOpen { conn, device, asked, told, .. } => {
                self.with_device(device, |device| device.conns.push(*conn));
                self.conns.insert(*conn, Conn { device, opened: t, closed: Nanos::MAX, asked, told, steps: Vec::new() });
            }
            Fact::Recv { conn, seq, prev, id, hash, taint } => {
                let given = Given { seq: *seq, id, hash, taint };
                self.step(*conn, t, Step::Recv { prev: *prev, given });
            }
            Fact::Passed { conn, seq, prev, silent } => self.step(*conn, t, Step::Passed { seq: *seq, prev: *prev, silent: *silent }),
            Fact::ConnClose { conn, device, wanted, .. } => {
                if let Some(conn) = self.conns.get_mut(conn) {
                    conn.closed = t;
                }
                if *wanted {
                    self.with_device(device, |device| {
                        if let Some(open) = device.wanted.last_mut() {
                            open.1 = t;
                        }
                    });
                }
            }
            Fact::AckSent { device, seq } => self.with_device(device, |device| device.acked.push((t, *seq))),
            Fact::AckConfirmed { device, seq } => self.with_device(device, |device| device.confirmed.push((t, *seq))),
            Fact::Page { device, seq, id, hash, taint } => {
                let given = Given { seq: *seq, id, hash, taint };
                self.with_device(device, |device| device.pages.push((t, given)));
            }
            Fact::Place { device, before, after } => self.with_device(device, |device| device.places.push((*before, *after))),
            Fact::FaultBegin { fault, on } => {
                self.faults.push(Fault { name: fault, on, begin: t, end: Nanos::MAX, evidence: None });
            }
            Fact::FaultEnd { fault, on, evidence } => {
                let open = self.faults.iter_mut().rev().find(|open| open.name == fault && open.on == on && open.end == Nanos::MAX);
                if let Some(open) = open {
                    (open.end, open.evidence) = (t, evidence.as_deref());
                }
            }
            Fact::Stall { ms } => self.stalls.push((t, *ms)),
            Fact::Others { ms } => self.others.push((t, *ms)),
            Fact::Drained { head } => self.drained = Some(*head),
            Fact::Begun { at } => self.begun = Some(*at),
            Fact::UpGap { title, audience, hash } => {
                let wish = self.wishes.entry(title).or_default();
                (wish.audience, wish.hash, wish.replay, wish.attempts) = (Some(audience), hash, true, 1);
            }
            Fact::Log { log_id, floor, head } => self.log = Some((log_id, *floor, *head)),
            Fact::Row { seq, id, title, hash } => self.rows.push(Row { seq: *seq, id, title, hash }),
            _ => {}
        }
    }

    fn with_device(&mut self, name: &str, change: impl FnOnce(&mut Device<'a>)) {
        if let Some(device) = self.devices.get_mut(name) {
            change(device);
        }
    }

    fn step(&mut self, conn: u64, t: Nanos, step: Step<'a>) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.steps.push((t, step));
        }
    }

    pub fn row(&self, seq: i64) -> Option<&Row<'a>> {
        self.by_seq.get(&seq).map(|at| &self.rows[*at])
    }

    /// Everything of the log that is for this device, in order.
    pub fn addressed(&self, device: &Device<'_>) -> Vec<i64> {
        let topics = ["*".to_owned(), format!("a/{}", device.account), format!("u/{}", device.user)];
        let mut seqs: Vec<i64> = topics.iter().filter_map(|topic| self.topics.get(topic)).flatten().copied().collect();
        seqs.sort_unstable();
        seqs.dedup();
        seqs
    }

    /// The same without what is given live only.
    pub fn owed(&self, device: &str) -> &[i64] {
        self.owed.get(device).map_or(&[], Vec::as_slice)
    }

    fn replayed(&self, device: &Device<'_>) -> Vec<i64> {
        let mut seqs = self.addressed(device);
        seqs.retain(|seq| self.row(*seq).and_then(|row| self.wishes.get(row.title)).is_none_or(|wish| wish.replay));
        seqs
    }

    /// A time of the machine's clock as a moment of the run, and back.
    pub fn moment(&self, wall_ms: i64) -> Option<Nanos> {
        Some(u64::try_from(wall_ms - self.begun?).unwrap_or(0) * 1_000_000)
    }

    pub fn wall(&self, t: Nanos) -> Option<i64> {
        Some(self.begun? + i64::try_from(t / 1_000_000).ok()?)
    }

    pub fn nearest_fault(&self, at: Nanos) -> Option<String> {
        let distance = |fault: &Fault<'_>| if at < fault.begin { fault.begin - at } else { at.saturating_sub(fault.end) };
        let fault = self.faults.iter().min_by_key(|fault| distance(fault))?;
        let when = if at < fault.begin { "will begin" } else { "began" };
        let apart = fault.begin.abs_diff(at) as f64 / 1e9;
        let order = if at < fault.begin { "later" } else { "before" };
        Some(format!("{} on {} {when} {apart:.3} s {order}", fault.name, fault.on))
    }

    /// How much of the time between two moments the machine was not ours, seen either way; the limits are longer by so much.
    pub fn stalled_ms(&self, from: Nanos, to: Nanos) -> u64 {
        let sum = |times: &[(Nanos, u64)]| {
            times.iter().filter(|(t, ms)| *t >= from && t.saturating_sub(ms * 1_000_000) <= to).map(|(_, ms)| ms).sum::<u64>()
        };
        sum(&self.stalls).max(sum(&self.others))
    }
}

fn topics_of(audience: Option<&Audience>) -> Vec<String> {
    match audience {
        None => Vec::new(),
        Some(Audience::Everyone) => vec!["*".to_owned()],
        Some(Audience::Account(account)) => vec![format!("a/{account}")],
        Some(Audience::Users(users)) => users.iter().map(|user| format!("u/{user}")).collect(),
    }
}
