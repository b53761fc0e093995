//! Indexes a history for the rules: by number, by title, by device, by connection.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::fact::{FactAudience, FactEntry, Nanos, RunFact, StreamAsked, StreamTold};

pub struct IndexedRow<'a> {
    pub seq: i64,
    pub id: &'a str,
    pub title: &'a str,
    pub hash: &'a str,
    /// Set for a tombstone: the content that is left in it.
    pub tombstone: Option<&'a str>,
    /// The hash with parsed `data`; set if the run has programs that parse it.
    pub parsed: Option<&'a str>,
}

/// One erasure, of a number or of a user; `end` is `Nanos::MAX` if it was not completed.
pub struct Erasure<'a> {
    pub user: Option<&'a str>,
    pub seq: Option<i64>,
    pub begin: Nanos,
    pub end: Nanos,
    /// The head of the log before the erasure began.
    pub head: i64,
}

/// One notification that a writer wants to post, and its outcomes.
#[derive(Default)]
pub struct IndexedWish<'a> {
    pub audience: Option<&'a FactAudience>,
    pub hash: &'a str,
    pub replay: bool,
    pub attempts: usize,
    pub fails: usize,
    /// Number, id and time of each definite yes.
    pub oks: Vec<(i64, &'a str, Nanos)>,
    /// Committed by a SQL producer, under this id.
    pub kept: Option<(&'a str, Nanos)>,
    pub first_invoked: Option<Nanos>,
}

impl IndexedWish<'_> {
    /// When it was first known that the notification is or will be in the log.
    pub fn known(&self) -> Option<Nanos> {
        self.oks.iter().map(|(_, _, t)| *t).chain(self.kept.map(|(_, t)| t)).min()
    }
}

pub struct IndexedDevice<'a> {
    pub user: &'a str,
    pub account: &'a str,
    pub slow: bool,
    /// The name under which the hub keeps its position.
    pub stored: &'a str,
    /// The device acknowledges by pongs, which it does not see.
    pub pongs: bool,
    /// A client of the SDK; its connections are the lives of the client.
    pub sdk: bool,
    /// In the order in which they were opened.
    pub conns: Vec<u64>,
    /// The times in which the device wanted to be connected.
    pub wanted: Vec<(Nanos, Nanos)>,
    pub confirmed: Vec<(Nanos, i64)>,
    pub acked: Vec<(Nanos, i64)>,
    /// Time, hub and named start position of each attempt to connect.
    pub attempts: Vec<(Nanos, usize, Option<i64>)>,
    pub pages: Vec<(Nanos, IndexedDelivery<'a>)>,
    /// The times in which a client of the device's browser stood still.
    pub stuck: Vec<(Nanos, Nanos)>,
}

/// A notification as a device received it.
#[derive(Clone, Copy)]
pub struct IndexedDelivery<'a> {
    pub seq: i64,
    pub id: &'a str,
    pub hash: &'a str,
    pub taint: &'a str,
}

pub enum ConnStep<'a> {
    Recv { prev: i64, given: IndexedDelivery<'a> },
    Passed { seq: i64, prev: Option<i64> },
}

impl ConnStep<'_> {
    pub fn seq(&self) -> i64 {
        match self {
            Self::Recv { given, .. } => given.seq,
            Self::Passed { seq, .. } => *seq,
        }
    }
}

/// A connection to a hub, or the life of a client of the SDK.
pub struct Conn<'a> {
    pub device: &'a str,
    pub opened: Nanos,
    pub closed: Nanos,
    /// It has everything after this number.
    pub from: i64,
    /// `None` for a client of the SDK, which may use many streams, or those of another tab.
    pub stream: Option<ConnStream<'a>>,
    pub steps: Vec<(Nanos, ConnStep<'a>)>,
}

/// The request and the answer of a connection.
#[derive(Clone, Copy)]
pub struct ConnStream<'a> {
    pub hub: usize,
    pub asked: &'a StreamAsked,
    pub told: &'a StreamTold,
}

pub struct IndexedFault<'a> {
    pub name: &'a str,
    pub on: &'a str,
    pub begin: Nanos,
    pub end: Nanos,
    pub evidence: Option<&'a str>,
}

#[derive(Default)]
pub struct Index<'a> {
    pub history: &'a [FactEntry],
    pub end: Nanos,
    /// The number up to which every device had time to read.
    pub drained: Option<i64>,
    pub drained_at: Option<Nanos>,
    /// The machine's clock when the run began.
    begun: Option<i64>,
    pub log: Option<(&'a str, i64, i64)>,
    pub rows: Vec<IndexedRow<'a>>,
    pub wishes: BTreeMap<&'a str, IndexedWish<'a>>,
    pub devices: BTreeMap<&'a str, IndexedDevice<'a>>,
    pub conns: BTreeMap<u64, Conn<'a>>,
    /// Changes of stored positions, by their name.
    pub places: BTreeMap<&'a str, Vec<(Option<i64>, i64)>>,
    /// The devices that share each stored position; a device of its own is a group of one.
    pub groups: BTreeMap<&'a str, Vec<&'a str>>,
    pub erasures: Vec<Erasure<'a>>,
    /// Begin and end of the erasure of a row.
    pub erased: HashMap<i64, (Nanos, Nanos)>,
    /// Titles that were erased in the outbox, before they were in the log.
    pub unposted: HashSet<&'a str>,
    pub faults: Vec<IndexedFault<'a>>,
    pub stalls: Vec<(Nanos, u64)>,
    /// Processor time that other programs used.
    others: Vec<(Nanos, u64)>,
    /// When the first definite yes for this number was read.
    pub answered: HashMap<i64, Nanos>,
    by_seq: HashMap<i64, usize>,
    /// Numbers by audience: everyone, accounts, users.
    topics: HashMap<String, Vec<i64>>,
    owed: HashMap<&'a str, Vec<i64>>,
}

impl<'a> Index<'a> {
    pub fn of(history: &'a [FactEntry]) -> Self {
        let mut index = Self { history, end: history.last().map_or(0, |entry| entry.t), ..Self::default() };
        for entry in history {
            index.take(entry);
        }
        index.erased_when();
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

    fn take(&mut self, entry: &'a FactEntry) {
        let t = entry.t;
        match &entry.fact {
            RunFact::Wish { title, audience, hash, replay } => {
                let wish = self.wishes.entry(title).or_default();
                (wish.audience, wish.hash, wish.replay) = (Some(audience), hash, *replay);
            }
            RunFact::PostInvoke { title, .. } => {
                let wish = self.wishes.entry(title).or_default();
                wish.attempts += 1;
                wish.first_invoked.get_or_insert(t);
            }
            RunFact::PostOk { title, seq, id, .. } => self.wishes.entry(title).or_default().oks.push((*seq, id, t)),
            RunFact::PostKept { title, id, .. } => self.wishes.entry(title).or_default().kept = Some((id, t)),
            RunFact::PostFail { title, .. } => self.wishes.entry(title).or_default().fails += 1,
            RunFact::Device { device, user, account, slow, shares, pongs, sdk } => {
                let stored = shares.as_deref().unwrap_or(device);
                self.groups.entry(stored).or_default().push(device);
                let fresh = IndexedDevice {
                    user,
                    account,
                    slow: *slow,
                    stored,
                    pongs: *pongs,
                    sdk: *sdk,
                    conns: Vec::new(),
                    wanted: Vec::new(),
                    confirmed: Vec::new(),
                    acked: Vec::new(),
                    attempts: Vec::new(),
                    pages: Vec::new(),
                    stuck: Vec::new(),
                };
                self.devices.insert(device, fresh);
            }
            RunFact::ConnTry { device } => self.with_device(device, |device| device.wanted.push((t, Nanos::MAX))),
            RunFact::ConnOpen { conn, device, hub, asked, told } => {
                self.open(t, *conn, device, told.from, Some(ConnStream { hub: *hub, asked, told }));
            }
            RunFact::SdkOpen { conn, device, from } => self.open(t, *conn, device, *from, None),
            RunFact::SdkStuck { device, ms } => self.stuck(t, device, t + ms * 1_000_000),
            RunFact::LinkOpen { device, since: Some(seq), .. } => self.with_device(device, |device| device.acked.push((t, *seq))),
            RunFact::Recv { conn, seq, prev, id, hash, taint } => {
                let given = IndexedDelivery { seq: *seq, id, hash, taint };
                self.step(*conn, t, ConnStep::Recv { prev: *prev, given });
            }
            RunFact::Passed { conn, seq, prev } => self.step(*conn, t, ConnStep::Passed { seq: *seq, prev: *prev }),
            RunFact::ConnClose { conn, device, wanted, .. } => {
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
            RunFact::AckSent { device, seq } => self.with_device(device, |device| device.acked.push((t, *seq))),
            RunFact::Attempt { device, hub, since } => self.with_device(device, |device| {
                device.acked.extend(since.map(|seq| (t, seq)));
                device.attempts.push((t, *hub, *since));
            }),
            RunFact::AckConfirmed { device, seq } => self.with_device(device, |device| device.confirmed.push((t, *seq))),
            RunFact::Page { device, seq, id, hash, taint } => {
                let given = IndexedDelivery { seq: *seq, id, hash, taint };
                self.with_device(device, |device| device.pages.push((t, given)));
            }
            RunFact::Place { device, before, after } => self.places.entry(device).or_default().push((*before, *after)),
            RunFact::FaultBegin { fault, on } => {
                self.faults.push(IndexedFault { name: fault, on, begin: t, end: Nanos::MAX, evidence: None });
            }
            RunFact::FaultEnd { fault, on, evidence } => {
                let open = self.faults.iter_mut().rev().find(|open| open.name == fault && open.on == on && open.end == Nanos::MAX);
                if let Some(open) = open {
                    (open.end, open.evidence) = (t, evidence.as_deref());
                }
            }
            RunFact::EraseBegin { user, seq } => {
                let user = user.as_deref();
                self.erasures.push(Erasure { user, seq: *seq, begin: t, end: Nanos::MAX, head: 0 });
            }
            RunFact::EraseDone { user, seq, head } => {
                if let Some(open) = self.erasures.last_mut().filter(|open| (open.user, open.seq) == (user.as_deref(), *seq)) {
                    (open.end, open.head) = (t, *head);
                }
            }
            RunFact::Unposted { title } => drop(self.unposted.insert(title)),
            RunFact::Stall { ms } => self.stalls.push((t, *ms)),
            RunFact::Others { ms } => self.others.push((t, *ms)),
            RunFact::Drained { head } => (self.drained, self.drained_at) = (Some(*head), Some(t)),
            RunFact::Begun { at } => self.begun = Some(*at),
            RunFact::UpGap { title, audience, hash } => {
                let wish = self.wishes.entry(title).or_default();
                (wish.audience, wish.hash, wish.replay, wish.attempts) = (Some(audience), hash, true, 1);
            }
            RunFact::Log { log_id, floor, head } => self.log = Some((log_id, *floor, *head)),
            RunFact::Row { seq, id, title, hash, tombstone } => {
                self.rows.push(IndexedRow { seq: *seq, id, title, hash, tombstone: tombstone.as_deref(), parsed: None });
            }
            RunFact::Parsed { seq, hash } => {
                if let Some(row) = self.rows.last_mut().filter(|row| row.seq == *seq) {
                    row.parsed = Some(hash);
                }
            }
            _ => {}
        }
    }

    fn open(&mut self, t: Nanos, conn: u64, device: &'a str, from: i64, stream: Option<ConnStream<'a>>) {
        self.with_device(device, |device| device.conns.push(conn));
        self.conns.insert(conn, Conn { device, opened: t, closed: Nanos::MAX, from, stream, steps: Vec::new() });
    }

    /// A tab that stands still keeps the others waiting until one of them leads in its place.
    fn stuck(&mut self, from: Nanos, device: &str, to: Nanos) {
        let Some(stored) = self.devices.get(device).map(|device| device.stored) else { return };
        for device in self.devices.values_mut().filter(|device| device.stored == stored) {
            device.stuck.push((from, to));
        }
    }

    fn with_device(&mut self, name: &str, change: impl FnOnce(&mut IndexedDevice<'a>)) {
        if let Some(device) = self.devices.get_mut(name) {
            change(device);
        }
    }

    fn step(&mut self, conn: u64, t: Nanos, step: ConnStep<'a>) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.steps.push((t, step));
        }
    }

    /// Finds when the erasure of each tombstone began and ended. Erasures run one after the other, so it is the first
    /// one that was not done when the row changed.
    fn erased_when(&mut self) {
        for entry in self.history {
            let RunFact::Erased { seq, at } = &entry.fact else { continue };
            let Some(changed) = self.moment(*at) else { continue };
            let by = self.erasures.get(self.erasures.partition_point(|erasure| erasure.end < changed));
            let when = by.map_or((changed, Nanos::MAX), |erasure| (erasure.begin.min(changed), erasure.end));
            self.erased.entry(*seq).or_insert(when);
        }
    }

    /// Whether the device may miss this addressed notification at this time: the notification or its user was erased.
    pub fn may_be_left_out(&self, device: &str, seq: i64, at: Nanos) -> bool {
        if self.erased.get(&seq).is_some_and(|(begin, _)| *begin <= at) {
            return true;
        }
        let Some(device) = self.devices.get(device) else { return false };
        let mut of_user = self.erasures.iter().filter(|erasure| erasure.user == Some(device.user)).peekable();
        if of_user.peek().is_none() {
            return false;
        }
        let wish = self.row(seq).and_then(|row| self.wishes.get(row.title));
        let is_of_a_list = wish
            .is_some_and(|wish| matches!(wish.audience, Some(FactAudience::Users(users)) if users.iter().any(|user| user == device.user)));
        let asked = wish.and_then(|wish| wish.first_invoked).unwrap_or(0);
        is_of_a_list && of_user.any(|erasure| erasure.begin <= at && asked <= erasure.end)
    }

    /// Whether the user of a device was erased between two times.
    pub fn user_was_erased(&self, device: &IndexedDevice<'_>, from: Nanos, to: Nanos) -> bool {
        self.erasures.iter().any(|erasure| erasure.user == Some(device.user) && erasure.begin <= to && erasure.end >= from)
    }

    pub fn row(&self, seq: i64) -> Option<&IndexedRow<'a>> {
        self.by_seq.get(&seq).map(|at| &self.rows[*at])
    }

    /// All numbers of the log that are addressed to this device, in order.
    pub fn addressed(&self, device: &IndexedDevice<'_>) -> Vec<i64> {
        let topics = ["*".to_owned(), format!("a/{}", device.account), format!("u/{}", device.user)];
        let mut seqs: Vec<i64> = topics.iter().filter_map(|topic| self.topics.get(topic)).flatten().copied().collect();
        seqs.sort_unstable();
        seqs.dedup();
        seqs
    }

    /// The same without notifications that are delivered live only.
    pub fn owed(&self, device: &str) -> &[i64] {
        self.owed.get(device).map_or(&[], Vec::as_slice)
    }

    fn replayed(&self, device: &IndexedDevice<'_>) -> Vec<i64> {
        let mut seqs = self.addressed(device);
        seqs.retain(|seq| self.row(*seq).and_then(|row| self.wishes.get(row.title)).is_none_or(|wish| wish.replay));
        seqs
    }

    /// Converts a time of the machine's clock to a time of the run; [`Index::wall`] converts back.
    pub fn moment(&self, wall_ms: i64) -> Option<Nanos> {
        Some(u64::try_from(wall_ms - self.begun?).unwrap_or(0) * 1_000_000)
    }

    pub fn wall(&self, t: Nanos) -> Option<i64> {
        Some(self.begun? + i64::try_from(t / 1_000_000).ok()?)
    }

    pub fn nearest_fault(&self, at: Nanos) -> Option<String> {
        let distance = |fault: &IndexedFault<'_>| if at < fault.begin { fault.begin - at } else { at.saturating_sub(fault.end) };
        let fault = self.faults.iter().min_by_key(|fault| distance(fault))?;
        let when = if at < fault.begin { "will begin" } else { "began" };
        let apart = fault.begin.abs_diff(at) as f64 / 1e9;
        let order = if at < fault.begin { "later" } else { "before" };
        Some(format!("{} on {} {when} {apart:.3} s {order}", fault.name, fault.on))
    }

    /// The time between two times in which this program was not scheduled, by the larger of two measures. The limits
    /// are extended by as much.
    pub fn stalled_ms(&self, from: Nanos, to: Nanos) -> u64 {
        let sum = |times: &[(Nanos, u64)]| {
            times.iter().filter(|(t, ms)| *t >= from && t.saturating_sub(ms * 1_000_000) <= to).map(|(_, ms)| ms).sum::<u64>()
        };
        sum(&self.stalls).max(sum(&self.others))
    }
}

fn topics_of(audience: Option<&FactAudience>) -> Vec<String> {
    match audience {
        None => Vec::new(),
        Some(FactAudience::Everyone) => vec!["*".to_owned()],
        Some(FactAudience::Account(account)) => vec![format!("a/{account}")],
        Some(FactAudience::Users(users)) => users.iter().map(|user| format!("u/{user}")).collect(),
    }
}
