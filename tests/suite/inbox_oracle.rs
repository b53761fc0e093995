//! Promise: each count that a hub tells is the fold of the log at the number that it names.
//!
//! An oracle in memory folds the rows of the log one by one, and remembers the counts of each user at each number. Two
//! hubs serve devices of several users over every kind of stream, while random steps post, mark, mute, erase, drop and
//! reconnect. Each frame with counts and each answer is compared with the oracle at its `as_of`.
//!
//! A failure prints the seed: `INBOX_SEED=N cargo test --test suite -- inbox_oracle` repeats it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use recado::domain::{Seq, UserId};
use recado::log::retention::RetentionPolicy;
use recado::store::erase::{self, EraseTarget};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::time::Instant;

use super::retention::{knows_the_floor, retain};
use super::support::*;

const USERS: [&str; 3] = ["ann", "bob", "cleo"];
const ACCOUNTS: [&str; 3] = ["7", "8", "9"];
const TYPES: [&str; 5] = ["a", "b", "c", "d.x", "d.y"];
const MUTES: [&str; 5] = ["a", "b", "d.*", "d.x", "nothing"];
/// Users with the accounts of their token. The first three have devices, the others only ask.
const PRINCIPALS: [(&str, &[&str]); 5] = [("ann", &[]), ("ann", &["7"]), ("bob", &["7", "8"]), ("bob", &[]), ("cleo", &["9", "7"])];
const WITH_DEVICES: usize = 3;
const TRANSPORTS: [InboxTransport; 3] = [InboxTransport::WebSocket, InboxTransport::EventSource, InboxTransport::Lines];
/// Above each number that a run reaches.
const BEYOND: i64 = 1_000_000_000;
/// Steps between two waits until every device shows the counts of the head.
const QUIET_EVERY: usize = 40;

type Both = (u32, u32);

#[derive(Debug)]
struct Item {
    kind: String,
    account: Option<String>,
    /// `None`: for everyone, or everyone in the account.
    users: Option<Vec<String>>,
}

#[derive(Debug, Default)]
struct UserState {
    seen: i64,
    read: BTreeSet<i64>,
    archived: BTreeSet<i64>,
    muted: BTreeSet<String>,
    /// The sets of muted types, each with the number of its row.
    mutes: Vec<(i64, BTreeSet<String>)>,
}

#[derive(Debug)]
struct Membership {
    user: String,
    account: String,
    since: i64,
    until: Option<i64>,
}

/// A row of the log.
#[derive(sqlx::FromRow)]
struct Row {
    seq: i64,
    kind: String,
    title: String,
    user_id: Option<String>,
    account_id: Option<String>,
    user_ids: Option<Vec<String>>,
    data: Option<String>,
    is_item: bool,
}

/// An item of a page.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    seq: i64,
    read: bool,
    archived: bool,
    muted: bool,
}

/// The fold of the log.
struct Oracle {
    head: i64,
    floor: i64,
    items: BTreeMap<i64, Item>,
    users: BTreeMap<&'static str, UserState>,
    members: Vec<Membership>,
    /// From which number on everyone's and an account's items count, by user and topic.
    since: HashMap<(String, String), i64>,
    /// The counts of each of [`PRINCIPALS`] at each number. `None` in the middle of an erasure of the user.
    history: Vec<Vec<Option<Both>>>,
    /// The user who is being erased.
    erasing: Option<&'static str>,
    /// Rows that changed an inbox.
    changes: HashMap<i64, (String, Value)>,
    recounts: usize,
}

fn covers(muted: &BTreeSet<String>, kind: &str) -> bool {
    muted.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => kind.starts_with(start),
        None => pattern == kind,
    })
}

impl Oracle {
    fn new() -> Self {
        let users = USERS.into_iter().map(|user| (user, UserState::default())).collect();
        let history = PRINCIPALS.iter().map(|_| vec![Some((0, 0))]).collect();
        Self {
            head: 0,
            floor: 0,
            items: BTreeMap::new(),
            users,
            members: Vec::new(),
            since: HashMap::new(),
            history,
            erasing: None,
            changes: HashMap::new(),
            recounts: 0,
        }
    }

    /// Folds the rows that the log has by now.
    async fn fold(&mut self, sql: &mut PgConnection) {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT seq, type AS kind, title, user_id, account_id, user_ids, data::text AS data,
                    inbox AND replay AND expires_at IS NULL AS is_item
               FROM recado.log WHERE seq > $1 ORDER BY seq",
        )
        .bind(self.head)
        .fetch_all(sql)
        .await
        .unwrap();
        for row in rows {
            assert_eq!(row.seq, self.head + 1, "numbers are dense");
            self.apply(row);
        }
    }

    fn apply(&mut self, row: Row) {
        let Row { seq, kind, title, user_id, account_id, user_ids, data, is_item } = row;
        let data: Value = data.map_or(Value::Null, |data| serde_json::from_str(&data).unwrap());
        self.head = seq;
        let mut concerned: Option<Vec<String>> = None;
        match kind.as_str() {
            "inbox" => {
                let user = user_id.unwrap();
                assert!(!is_item, "a change is no item");
                let has_effect = self.change(&user, &data, seq);
                // SQL names numbers that are no items, and looks at none.
                let is_call = data["seqs"].as_array().is_some_and(|seqs| seqs.iter().any(|seq| seq.as_i64() >= Some(BEYOND)));
                assert!(has_effect || is_call, "{seq}: a change without effect has a row: {data}");
                concerned = Some(vec![user.clone()]);
                self.changes.insert(seq, (user, data));
            }
            "preferences" => {
                let user = user_id.unwrap();
                let muted: BTreeSet<String> = serde_json::from_value(data["muted"].clone()).unwrap();
                let state = self.users.get_mut(user.as_str()).unwrap();
                assert_ne!(muted, state.muted, "{seq}: the same set again");
                state.mutes.push((seq, muted.clone()));
                state.muted = muted;
                concerned = Some(vec![user.clone()]);
                self.changes.insert(seq, (user, data));
            }
            "recado_member" => {
                let [user, account] = ["user_id", "account_id"].map(|name| data[name].as_str().unwrap().to_owned());
                let open =
                    self.members.iter_mut().find(|member| member.user == user && member.account == account && member.until.is_none());
                match (data["op"].as_str().unwrap(), open) {
                    ("add", None) => self.members.push(Membership { user, account, since: seq, until: None }),
                    ("remove", Some(member)) => member.until = Some(seq),
                    _ => {}
                }
                concerned = Some(Vec::new());
            }
            "recado_recount" => {
                self.floor = self.floor.max(data["floor"].as_i64().unwrap());
                self.recounts += 1;
                let floor = self.floor;
                self.items.retain(|seq, _| *seq > floor);
            }
            _ => {
                assert_eq!(is_item, title == "item", "{seq}: its post said what it is");
                concerned = Some(Vec::new());
                if is_item {
                    let users = user_ids.or_else(|| user_id.map(|user| vec![user]));
                    concerned.clone_from(&users);
                    self.items.insert(seq, Item { kind, account: account_id, users });
                }
            }
        }
        for (at, (user, accounts)) in PRINCIPALS.iter().enumerate() {
            let is_same = concerned.as_ref().is_some_and(|concerned| !concerned.iter().any(|one| one == user));
            let counts = if self.erasing == Some(user) {
                None
            } else if is_same && let Some(Some(last)) = self.history[at].last() {
                Some(*last)
            } else {
                Some(self.counts(user, accounts))
            };
            self.history[at].push(counts);
        }
    }

    /// Applies a change. Returns whether it had an effect.
    fn change(&mut self, user: &str, data: &Value, at: i64) -> bool {
        let op = data["op"].as_str().unwrap();
        let state = self.users.get_mut(user).unwrap();
        let before = (state.seen, state.read.len(), state.archived.len());
        if let Some(upto) = data["up_to"].as_i64() {
            let upto = upto.min(at - 1);
            let all = self.items.range(..=upto).map(|(seq, _)| *seq);
            match op {
                "read" => state.read.extend(all),
                "archive" => state.archived.extend(all),
                "seen" => {}
                other => panic!("{other} with up_to"),
            }
            state.seen = state.seen.max(upto);
            // A watermark may rise where no item is.
            return true;
        }
        for seq in data["seqs"].as_array().unwrap().iter().map(|seq| seq.as_i64().unwrap()) {
            match op {
                "read" => drop(state.read.insert(seq)),
                "unread" => drop(state.read.remove(&seq)),
                "archive" => drop(state.archived.insert(seq)),
                "unarchive" => drop(state.archived.remove(&seq)),
                other => panic!("{other} with seqs"),
            }
        }
        before != (state.seen, state.read.len(), state.archived.len())
    }

    /// Whether a change would have an effect now, if the oracle can tell.
    fn would_change(&self, user: &str, body: &Value) -> Option<bool> {
        let state = &self.users[user];
        let set = if body["op"].as_str()?.ends_with("read") { &state.read } else { &state.archived };
        let seqs = body["seqs"].as_array()?;
        let marks = matches!(body["op"].as_str()?, "read" | "archive");
        Some(seqs.iter().any(|seq| set.contains(&seq.as_i64().unwrap()) != marks))
    }

    fn is_member(&self, user: &str, account: &str, seq: i64) -> bool {
        let within = |member: &Membership| member.since < seq && member.until.is_none_or(|until| seq < until);
        self.members.iter().any(|member| member.user == user && member.account == account && within(member))
    }

    fn counts_from(&self, user: &str, topic: &str, seq: i64) -> bool {
        self.since.get(&(user.to_owned(), topic.to_owned())).is_some_and(|since| seq > *since)
    }

    fn is_visible(&self, user: &str, accounts: &[&str], seq: i64, item: &Item) -> bool {
        match (&item.users, &item.account) {
            (Some(users), account) => {
                users.iter().any(|one| one == user)
                    && account.as_ref().is_none_or(|account| accounts.contains(&account.as_str()) || self.is_member(user, account, seq))
            }
            (None, None) => self.counts_from(user, "*", seq),
            (None, Some(account)) if accounts.contains(&account.as_str()) => self.counts_from(user, &format!("a/{account}"), seq),
            (None, Some(account)) => self.is_member(user, account, seq) && self.counts_from(user, "*", seq),
        }
    }

    fn visible(&self, user: &str, accounts: &[&str]) -> Vec<i64> {
        self.items.iter().filter(|(seq, item)| self.is_visible(user, accounts, **seq, item)).map(|(seq, _)| *seq).collect()
    }

    fn counts(&self, user: &str, accounts: &[&str]) -> Both {
        let state = &self.users[user];
        let (mut unread, mut unseen) = (0, 0);
        for (seq, item) in &self.items {
            if state.archived.contains(seq) || state.read.contains(seq) && *seq <= state.seen || covers(&state.muted, &item.kind) {
                continue;
            }
            if self.is_visible(user, accounts, *seq, item) {
                unread += u32::from(!state.read.contains(seq));
                unseen += u32::from(*seq > state.seen);
            }
        }
        (unread.min(1000), unseen.min(1000))
    }

    fn page(&self, (user, accounts): (&str, &[&str]), filter: &str, before: i64, limit: usize) -> Vec<Listed> {
        let state = &self.users[user];
        let listed =
            self.items.range(..before).rev().filter(|(seq, item)| self.is_visible(user, accounts, **seq, item)).map(|(seq, item)| Listed {
                seq: *seq,
                read: state.read.contains(seq),
                archived: state.archived.contains(seq),
                muted: covers(&state.muted, &item.kind),
            });
        listed
            .filter(|item| match filter {
                "unread" => !item.read && !item.archived && !item.muted,
                "archived" => item.archived,
                _ => !item.archived,
            })
            .take(limit)
            .collect()
    }

    /// Computes the counts of the head again, after an erasure that no row describes.
    fn correct(&mut self) {
        for (at, (user, accounts)) in PRINCIPALS.iter().enumerate() {
            let counts = self.counts(user, accounts);
            *self.history[at].last_mut().unwrap() = Some(counts);
        }
    }

    fn forget(&mut self, user: &str) {
        self.users.insert(USERS.into_iter().find(|known| *known == user).unwrap(), UserState::default());
        self.since.retain(|(of, _), _| of != user);
        self.members.retain(|member| member.user != user);
        for item in self.items.values_mut() {
            if let Some(users) = &mut item.users {
                users.retain(|one| one != user);
            }
        }
        self.items.retain(|_, item| item.users.as_ref().is_none_or(|users| !users.is_empty()));
    }

    /// Whether a type was muted for a user at this number, or at any later one.
    fn muting(&self, user: &str, kind: &str, seq: i64) -> BTreeSet<bool> {
        let mutes = &self.users[user].mutes;
        let at = mutes.partition_point(|(at, _)| *at <= seq);
        let first = if at == 0 { false } else { covers(&mutes[at - 1].1, kind) };
        mutes[at..].iter().map(|(_, muted)| covers(muted, kind)).chain([first]).collect()
    }
}

/// A request of a step.
enum Request {
    Post(Vec<Note>),
    Change {
        who: usize,
        body: Value,
        broken: Vec<String>,
    },
    Mute {
        who: usize,
        muted: Vec<&'static str>,
    },
    Page {
        who: usize,
        filter: &'static str,
        before: Option<i64>,
        limit: usize,
    },
    Member {
        account: &'static str,
        user: &'static str,
        adds: bool,
    },
    /// A call in SQL, which returns the id of its row.
    Sql(String),
}

/// How many frames and answers were compared.
#[derive(Debug, Default)]
struct Compared {
    frames: BTreeMap<(InboxTransport, String), usize>,
    answers: usize,
    pages: usize,
    views: usize,
    quiet: usize,
    resumes: usize,
    erasures: usize,
    retentions: usize,
}

impl Compared {
    fn of(&self, kind: &str) -> usize {
        self.frames.iter().filter(|((_, of), _)| of == kind).map(|(_, count)| count).sum()
    }

    fn over(&self, transport: InboxTransport) -> usize {
        self.frames.iter().filter(|((over, _), _)| *over == transport).map(|(_, count)| count).sum()
    }
}

struct World {
    seed: u64,
    random: StdRng,
    db: TestDb,
    sql: PgConnection,
    hubs: [TestHub; 2],
    oracle: Oracle,
    devices: Vec<(usize, Option<InboxDevice>)>,
    has_calls: bool,
    has_views: bool,
    compared: Compared,
    steps: usize,
}

fn stream(who: usize, device: &str, transport: InboxTransport) -> InboxStream {
    let (user, accounts) = PRINCIPALS[who];
    InboxStream::of(user, accounts, device, transport)
}

impl World {
    async fn start(seed: u64) -> Self {
        let db = TestDb::new().await;
        let hub = TestHub::on(&db)
            .with("RECADO_ACCOUNTS", "both")
            .with("RECADO_USER_RATE", "0")
            .with("RECADO_MAX_CONNECTIONS_PER_USER", "10000")
            .with("RECADO_LOG", "info");
        let hubs = [hub.start().await, hub.start().await];
        let has = async |what: &str| db.number(&format!("SELECT ({what} IS NOT NULL)::int::bigint")).await == 1;
        let has_calls = has("to_regprocedure('recado.mark_read(text,bigint[],bigint)')").await;
        let has_views = has("to_regclass('recado_views.inbox_counts')").await;
        let sql = db.connect().await;
        let mut world = Self {
            seed,
            random: StdRng::seed_from_u64(seed),
            sql,
            db,
            hubs,
            oracle: Oracle::new(),
            devices: Vec::new(),
            has_calls,
            has_views,
            compared: Compared::default(),
            steps: 0,
        };
        for who in 0..WITH_DEVICES {
            for (at, transport) in TRANSPORTS.into_iter().enumerate() {
                let hub = &world.hubs[(who + at) % 2];
                let device = stream(who, &format!("d{at}"), transport).connect(&hub.address, None).await;
                world.devices.push((who, Some(device)));
            }
        }
        for who in WITH_DEVICES..PRINCIPALS.len() {
            let (status, _) = stream(who, "d", InboxTransport::Lines).page(&world.hubs[0].address, "").await;
            assert_eq!(status, 200);
        }
        world.read_since(0).await;
        world
    }

    fn any<T: Copy>(&mut self, of: &[T]) -> T {
        *of.choose(&mut self.random).unwrap()
    }

    fn hub(&mut self) -> &TestHub {
        let at = self.random.random_range(0..2);
        &self.hubs[at]
    }

    /// Reads from which numbers on accounts and everyone count. New ones must be heads since `before`.
    async fn read_since(&mut self, before: i64) {
        let rows: Vec<(String, String, i64)> =
            sqlx::query_as("SELECT user_id, topic, seq FROM recado.inbox_since").fetch_all(&mut self.sql).await.unwrap();
        let head = self.db.head().await;
        for (user, topic, seq) in rows {
            let known = *self.oracle.since.entry((user.clone(), topic.clone())).or_insert(seq);
            assert_eq!(known, seq, "{user} {topic} counts from one number on");
            assert!(seq <= head && (seq >= before || known == seq));
        }
    }

    fn compare(&self, who: usize, counts: ToldCounts, what: &dyn std::fmt::Display) {
        let ToldCounts { as_of, .. } = counts;
        let at = usize::try_from(as_of).unwrap();
        let known = self.oracle.history[who].get(at);
        let known = known.unwrap_or_else(|| panic!("seed {}, step {}: as_of {as_of} is above the head: {what}", self.seed, self.steps));
        if let Some(known) = known {
            assert_eq!(counts.both(), *known, "seed {}, step {}: {:?} at {as_of}: {what}", self.seed, self.steps, PRINCIPALS[who]);
        }
    }

    /// Compares the frames that have come.
    fn listen(&mut self) {
        let mut devices = std::mem::take(&mut self.devices);
        for (who, device) in &mut devices {
            let Some(device) = device else { continue };
            let has_ended = device.has_ended();
            let mut last = Value::Null;
            while let Some(frame) = device.waiting() {
                self.look_at(*who, device, &frame);
                last = frame;
            }
            assert!(!has_ended, "seed {}, step {}: the connection of {:?} ended after {last}", self.seed, self.steps, device.stream);
        }
        self.devices = devices;
    }

    fn look_at(&mut self, who: usize, device: &mut InboxDevice, frame: &Value) {
        let kind = frame["type"].as_str().unwrap();
        let row = frame["id"].is_string();
        let group = match kind {
            "inbox" | "preferences" => "change",
            _ if row => "item",
            control => control,
        };
        let counts = ToldCounts::of(frame);
        if let Some(counts) = counts {
            self.compare(who, counts, frame);
            *self.compared.frames.entry((device.stream.transport, group.to_owned())).or_default() += 1;
        }
        let described = || format!("seed {}, step {}: {:?}: {frame}", self.seed, self.steps, device.stream);
        let replayed = frame["replayed"] == true;
        match group {
            "connection_established" | "caught_up" | "inbox_counts" => assert!(counts.is_some(), "no counts: {}", described()),
            "heartbeat" => assert!(counts.is_none(), "{}", described()),
            "change" => {
                assert!((&frame["title"], &frame["message"]) == (&json!(""), &json!("")), "{}", described());
                assert!(frame["muted"].is_null() && (!replayed || counts.is_none()), "{}", described());
                if let Some(counts) = counts {
                    assert!(counts.as_of >= frame["seq"].as_i64().unwrap(), "{}", described());
                } else if !replayed {
                    device.owed = frame["seq"].as_i64().unwrap();
                }
            }
            "item" => {
                let seq = frame["seq"].as_i64().unwrap();
                if let Some(counts) = counts {
                    assert!(!replayed && counts.as_of == seq && frame["title"] == "item" && frame["muted"].is_null(), "{}", described());
                } else if !replayed && frame["title"] == "item" && frame["muted"].is_null() {
                    device.owed = seq;
                }
                let muting = self.oracle.muting(PRINCIPALS[who].0, kind, seq);
                assert!(muting.contains(&(frame["muted"] == true)), "muted is one of {muting:?}: {}", described());
            }
            other => panic!("an unknown frame {other}: {}", described()),
        }
    }

    fn note(&mut self) -> Note {
        let (user, kind) = (self.any(&USERS), self.any(&TYPES));
        let account = if self.random.random_bool(0.5) { Some(self.any(&ACCOUNTS)) } else { None };
        let is_item = self.random.random_bool(0.85);
        let mut note = note(if is_item { "item" } else { "none" }).raw("type", &json!(kind).to_string());
        if !is_item {
            note = match self.random.random_range(0..3) {
                0 => note.raw("inbox", "false"),
                1 => note.ttl(3600),
                _ => note.never_replayed(),
            };
        } else if self.random.random_bool(0.2) {
            note = note.raw("inbox", "true");
        }
        let in_account = |note: Note| if let Some(account) = account { note.account(account) } else { note };
        match self.random.random_range(0..5) {
            0 => note.to_everyone(),
            1 => note.account(account.unwrap_or("7")),
            2 => {
                let count = self.random.random_range(1..=3);
                let users: Vec<&str> = USERS.choose_multiple(&mut self.random, count).copied().collect();
                in_account(note).to_users(&users)
            }
            _ => in_account(note).to_user(user),
        }
    }

    fn change(&mut self) -> Request {
        let who = self.random.random_range(0..PRINCIPALS.len());
        let (user, accounts) = PRINCIPALS[who];
        let head = self.oracle.head;
        let mut broken = Vec::new();
        if self.random.random_bool(0.2) {
            let op = self.any(&["read", "archive", "seen"]);
            let mut upto = self.random.random_range((head - 60).max(0)..=head);
            if self.random.random_bool(0.05) {
                upto += BEYOND;
                broken.push("/up_to".to_owned());
            }
            return Request::Change { who, body: json!({ "op": op, "up_to": upto }), broken };
        }
        let op = self.any(&["read", "read", "unread", "archive", "unarchive"]);
        let visible = self.oracle.visible(user, accounts);
        let count = self.random.random_range(1..=5);
        let mut seqs: Vec<i64> = visible.choose_multiple(&mut self.random, count).copied().collect();
        if !seqs.is_empty() && self.random.random_bool(0.1) {
            seqs.push(seqs[0]);
        }
        if seqs.is_empty() || self.random.random_bool(0.08) {
            // A number of the future, one of a row that is no item, and an item of others.
            let others: Vec<i64> = (1..=head).filter(|seq| visible.binary_search(seq).is_err()).collect();
            let seq = if self.random.random_bool(0.5) { others.choose(&mut self.random).copied() } else { None };
            broken.push(format!("/seqs/{}", seqs.len()));
            seqs.push(seq.unwrap_or(head + BEYOND));
        }
        Request::Change { who, body: json!({ "op": op, "seqs": seqs }), broken }
    }

    fn call(&mut self) -> Request {
        let user = self.any(&USERS);
        let accounts: &[&str] = &["7"];
        let head = self.oracle.head;
        let visible = self.oracle.visible(user, accounts);
        let seqs: Vec<String> =
            visible.choose_multiple(&mut self.random, 3).map(ToString::to_string).chain([(head + BEYOND).to_string()]).collect();
        let upto = self.random.random_range((head - 60).max(0)..=head);
        let seqs = seqs.join(",");
        let calls = [
            format!("mark_read('{user}', '{{{seqs}}}')"),
            format!("mark_read('{user}', up_to => {upto})"),
            format!("mark_unread('{user}', '{{{seqs}}}')"),
            format!("archive_items('{user}', '{{{seqs}}}')"),
            format!("unarchive_items('{user}', '{{{seqs}}}')"),
            format!("mark_seen('{user}', {upto})"),
        ];
        let at = self.random.random_range(0..calls.len());
        Request::Sql(calls[at].clone())
    }

    fn request(&mut self) -> Request {
        match self.random.random_range(0..100) {
            0..38 => Request::Post(vec![self.note()]),
            38..44 => {
                let count = self.random.random_range(2..=8);
                Request::Post((0..count).map(|_| self.note()).collect())
            }
            44..74 => self.change(),
            74..79 => {
                let count = self.random.random_range(0..=2);
                let muted = MUTES.choose_multiple(&mut self.random, count).copied().collect();
                Request::Mute { who: self.random.random_range(0..PRINCIPALS.len()), muted }
            }
            79..90 => {
                let before = if self.random.random_bool(0.5) { Some(self.random.random_range(0..=self.oracle.head + 1)) } else { None };
                let (filter, limit) = (self.any(&["all", "unread", "archived"]), self.random.random_range(1..=200));
                Request::Page { who: self.random.random_range(0..PRINCIPALS.len()), filter, before, limit }
            }
            90..95 => Request::Member { account: self.any(&ACCOUNTS), user: self.any(&USERS), adds: self.random.random_bool(0.6) },
            _ if self.has_calls => self.call(),
            _ => Request::Post(vec![self.note()]),
        }
    }

    /// Some requests at once, maybe while one device reconnects.
    async fn burst(&mut self) {
        let count = if self.random.random_bool(0.25) { 1 } else { self.random.random_range(1..=5) };
        let requests: Vec<(usize, Request)> = (0..count).map(|_| (self.random.random_range(0..2), self.request())).collect();
        self.steps += requests.len();
        let alone = match &requests[..] {
            [(_, Request::Change { who, body, .. })] => self.oracle.would_change(PRINCIPALS[*who].0, body),
            _ => None,
        };
        let reconnect = if self.random.random_bool(0.12) { Some(self.random.random_range(0..self.devices.len())) } else { None };
        let mut opening = None;
        if let Some(at) = reconnect {
            let (who, device) = &mut self.devices[at];
            let device = device.take().unwrap();
            // What a client has not read before it left, it has not seen.
            let since = match self.random.random_range(0..3) {
                0 => None,
                1 => Some(device.given),
                _ => Some((device.given - 5).max(0)),
            };
            let lines = device.stream.transport == InboxTransport::Lines;
            let since = if lines { since.or(Some(device.given)) } else { since }.map(|since| since.max(self.oracle.floor));
            opening = Some((*who, device.stream.clone(), self.random.random_range(0..2), since));
        }
        let hubs = &self.hubs;
        let db = &self.db;
        let sent = join_all(requests.iter().map(|(at, request)| send(db, &hubs[*at], request)));
        let opened = async {
            let Some((who, stream, at, since)) = &opening else { return None };
            Some((*who, stream.connect(&hubs[*at].address, *since).await))
        };
        let (answers, opened) = tokio::join!(sent, opened);
        self.oracle.fold(&mut self.sql).await;
        if let (Some(at), Some((who, mut device))) = (reconnect, opened) {
            let hello = device.hello.clone();
            self.look_at(who, &mut device, &hello);
            self.devices[at].1 = Some(device);
            self.compared.resumes += 1;
        }
        let is_alone = requests.len() == 1;
        for ((_, request), answer) in requests.iter().zip(answers) {
            let Some((status, body)) = answer else { continue };
            self.check_answer(request, status, &body, is_alone, alone);
        }
        self.listen();
    }

    fn check_answer(&mut self, request: &Request, status: u16, body: &Value, is_alone: bool, would_change: Option<bool>) {
        let context = format!("seed {}, step {}: {status} {body}", self.seed, self.steps);
        let (who, counts) = match request {
            Request::Post(_) | Request::Member { .. } | Request::Sql(_) => return,
            Request::Change { who, body: asked, broken } if !broken.is_empty() => {
                assert_eq!((status, body["code"].as_str()), (422, Some("invalid_field")), "{asked}: {context}");
                let pointers: Vec<&str> =
                    body["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
                assert_eq!(&pointers, broken, "{:?} {asked}: {context}", PRINCIPALS[*who]);
                self.compared.answers += 1;
                return;
            }
            Request::Change { who, body: asked, .. } => {
                assert_eq!(status, 200, "{asked}: {context}");
                if let Some(seq) = body["seq"].as_i64() {
                    let (user, made) = &self.oracle.changes[&seq];
                    assert!(
                        user == PRINCIPALS[*who].0 && made["op"] == asked["op"] && made["up_to"] == asked["up_to"],
                        "{asked} {made}: {context}"
                    );
                    assert!(body["as_of"].as_i64().unwrap() >= seq, "{context}");
                }
                if let Some(would_change) = would_change {
                    assert_eq!(body["seq"].is_i64(), would_change, "{asked}: {context}");
                }
                (*who, ToldCounts::of(body).unwrap())
            }
            Request::Mute { who, muted } => {
                assert_eq!(status, 200, "{context}");
                // The answer is as of its number: another change may have come between.
                let as_of = body["as_of"].as_i64().unwrap();
                let mutes = &self.oracle.users[PRINCIPALS[*who].0].mutes;
                let known = mutes.iter().rev().find(|(seq, _)| *seq <= as_of).map_or_else(BTreeSet::new, |(_, muted)| muted.clone());
                assert_eq!(body["muted"], json!(known), "{context}");
                assert!(!is_alone || known.iter().eq(muted.iter().copied().collect::<BTreeSet<_>>()), "{muted:?}: {context}");
                (*who, ToldCounts::of(body).unwrap())
            }
            Request::Page { who, filter, before, limit } => {
                assert_eq!(status, 200, "{context}");
                if is_alone {
                    self.check_page(*who, filter, before.unwrap_or(i64::MAX), *limit, body);
                }
                (*who, ToldCounts::of(body).unwrap())
            }
        };
        self.compare(who, counts, &context);
        self.compared.answers += 1;
        // The answer is for the page that asked: one of the devices.
        let mut mine: Vec<&mut InboxDevice> =
            self.devices.iter_mut().filter(|(of, _)| *of == who).filter_map(|(_, device)| device.as_mut()).collect();
        if !mine.is_empty() {
            let at = self.random.random_range(0..mine.len());
            mine[at].merge(counts);
        }
    }

    fn check_page(&mut self, who: usize, filter: &str, before: i64, limit: usize, body: &Value) {
        let listed: Vec<Listed> = body["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| Listed {
                seq: item["seq"].as_i64().unwrap(),
                read: item["read"].as_bool().unwrap(),
                archived: item["archived"].as_bool().unwrap(),
                muted: item["muted"] == true,
            })
            .collect();
        let expected = self.oracle.page(PRINCIPALS[who], filter, before, limit + 1);
        let next = (expected.len() > limit).then(|| expected[limit - 1].seq);
        assert_eq!(body["next"].as_i64(), next, "seed {}, step {}: {body}", self.seed, self.steps);
        let expected: Vec<Listed> = expected.into_iter().take(limit).collect();
        assert_eq!(listed, expected, "seed {}, step {}: {:?} {filter} below {before}", self.seed, self.steps, PRINCIPALS[who]);
        self.compared.pages += 1;
    }

    /// Erases a row that is an item, while nothing else happens.
    async fn erase_one(&mut self) {
        let all: Vec<i64> = self.oracle.items.keys().copied().collect();
        let Some(seq) = all.choose(&mut self.random).copied() else { return };
        let recounts = self.oracle.recounts;
        erase::erase(&mut self.sql, &EraseTarget::Seq(Seq::new(seq).unwrap()), "a test").await.unwrap();
        self.oracle.fold(&mut self.sql).await;
        assert_eq!(self.oracle.recounts, recounts + 1, "the log tells an erasure");
        self.oracle.items.remove(&seq);
        self.oracle.correct();
        self.compared.erasures += 1;
        self.listen();
    }

    /// Erases a user whose devices are off, as an operator should.
    async fn erase_user(&mut self) {
        let user = self.any(&USERS);
        self.quiet().await;
        let mut off = Vec::new();
        for (at, (who, device)) in self.devices.iter_mut().enumerate() {
            if PRINCIPALS[*who].0 == user {
                off.push((at, device.take().unwrap().stream.clone()));
            }
        }
        self.oracle.erasing = Some(user);
        erase::erase(&mut self.sql, &EraseTarget::User(UserId::parse(user).unwrap()), "a test").await.unwrap();
        self.oracle.fold(&mut self.sql).await;
        self.oracle.erasing = None;
        self.oracle.forget(user);
        self.oracle.correct();
        let before = self.oracle.head;
        for (at, stream) in off {
            let hub = self.hub().address.clone();
            let device = stream.connect(&hub, Some(before)).await;
            self.devices[at].1 = Some(device);
        }
        for (who, (of, _)) in PRINCIPALS.iter().enumerate().skip(WITH_DEVICES) {
            if *of == user {
                let hub = self.hub().address.clone();
                assert_eq!(stream(who, "d", InboxTransport::Lines).page(&hub, "").await.0, 200);
            }
        }
        self.read_since(before).await;
        self.compared.erasures += 1;
        self.listen();
    }

    /// Drops the oldest rows, as retention does.
    async fn retain(&mut self) {
        // A client that is still reading rows that are dropped is disconnected.
        self.quiet().await;
        let head = self.oracle.head;
        let upto = self.random.random_range(self.oracle.floor..=(head - 30).max(self.oracle.floor));
        self.db
            .run(&format!(
                "SET session_replication_role = replica;
                 UPDATE recado.log SET created_at = created_at - interval '30 days' WHERE seq <= {upto}"
            ))
            .await;
        let before = self.oracle.floor;
        let day = RetentionPolicy { age: Some(Duration::from_secs(86_400)), ..RetentionPolicy::default() };
        retain(&self.db, day).await;
        self.oracle.fold(&mut self.sql).await;
        assert_eq!(self.oracle.floor, upto.max(before), "the log tells the floor");
        self.compared.retentions += usize::from(upto > before);
        // A device that resumes below the floor before its hub knows the floor is disconnected.
        for hub in &self.hubs {
            knows_the_floor(hub, self.oracle.floor + 1).await;
        }
        self.listen();
    }

    /// Waits until every device shows the counts of the head and was told counts since the last frame without, and
    /// compares the view of analysts.
    async fn quiet(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.listen();
            let wrong = |(who, device): &&(usize, Option<InboxDevice>)| {
                let shown = device.as_ref().and_then(|device| device.counts).map(ToldCounts::both);
                shown != *self.oracle.history[*who].last().unwrap()
                    || device.as_ref().is_some_and(|device| !device.caught_up || device.told.is_none_or(|told| told.as_of < device.owed))
            };
            let Some((who, device)) = self.devices.iter().find(wrong) else { break };
            let device = device.as_ref().unwrap();
            assert!(
                Instant::now() < end,
                "seed {}, step {}: {:?} shows {:?}, told {:?}, but at the head {} it is {:?}",
                self.seed,
                self.steps,
                device.stream,
                device.counts,
                device.told,
                self.oracle.head,
                self.oracle.history[*who].last().unwrap()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.compared.quiet += 1;
        if self.has_views {
            self.look_at_views().await;
        }
    }

    /// The view counts over all accounts that the user came with.
    async fn look_at_views(&mut self) {
        let rows: Vec<(String, i32, i32, i64)> =
            sqlx::query_as("SELECT user_id, unread, unseen, as_of FROM recado_views.inbox_counts").fetch_all(&mut self.sql).await.unwrap();
        for (user, unread, unseen, as_of) in rows {
            let accounts: Vec<&str> =
                self.oracle.since.keys().filter(|(of, _)| *of == user).filter_map(|(_, topic)| topic.strip_prefix("a/")).collect();
            let known = self.oracle.counts(&user, &accounts);
            let shown = (u32::try_from(unread).unwrap(), u32::try_from(unseen).unwrap());
            assert_eq!((shown, as_of), (known, self.oracle.head), "seed {}, step {}: the view of {user}", self.seed, self.steps);
            self.compared.views += 1;
        }
    }

    async fn run(&mut self, steps: usize) {
        let mut next_quiet = QUIET_EVERY;
        while self.steps < steps {
            match self.random.random_range(0..1000) {
                0..25 => self.erase_one().await,
                25..28 => self.erase_user().await,
                28..36 => self.retain().await,
                _ => self.burst().await,
            }
            if self.steps >= next_quiet {
                next_quiet = self.steps + QUIET_EVERY;
                self.quiet().await;
            }
        }
        self.quiet().await;
    }
}

/// Sends a request. Returns status and body, except for a call in SQL.
async fn send(db: &TestDb, hub: &TestHub, request: &Request) -> Option<(u16, Value)> {
    let any = |who: usize| stream(who, "d", InboxTransport::Lines);
    match request {
        Request::Post(notes) => {
            if let [one] = &notes[..] {
                hub.post(one).await;
            } else {
                let bodies: Vec<String> = notes.iter().map(Note::body).collect();
                let body = format!("{{\"items\":[{}]}}", bodies.join(","));
                let answer = hub.post_raw("/api/internal/notify/batch", &[("content-type", "application/json")], body).await;
                assert_eq!(answer.status, 201, "{}", answer.body);
            }
            None
        }
        Request::Change { who, body, .. } => Some(any(*who).change(&hub.address, body).await),
        Request::Mute { who, muted } => Some(any(*who).mute(&hub.address, muted).await),
        Request::Page { who, filter, before, limit } => {
            let before = before.map(|before| format!("&before={before}")).unwrap_or_default();
            Some(any(*who).page(&hub.address, &format!("?filter={filter}&limit={limit}{before}")).await)
        }
        Request::Member { account, user, adds } => {
            let method = if *adds { "PUT" } else { "DELETE" };
            let (status, body) =
                inbox_request(method, &hub.address, &format!("/api/internal/accounts/{account}/members/{user}"), hub.key(), None).await;
            assert_eq!(status, 200, "{body}");
            None
        }
        Request::Sql(call) => {
            let mut sql = db.connect().await;
            let id: sqlx::types::Uuid = sqlx::query_scalar(AssertSqlSafe(format!("SELECT recado.{call}")))
                .fetch_one(&mut sql)
                .await
                .unwrap_or_else(|error| panic!("{call}: {error}"));
            let end = Instant::now() + PATIENCE;
            loop {
                let there: bool =
                    sqlx::query_scalar("SELECT EXISTS (SELECT FROM recado.log WHERE id = $1)").bind(id).fetch_one(&mut sql).await.unwrap();
                if there {
                    break;
                }
                assert!(Instant::now() < end, "not moved into the log: {call}");
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            None
        }
    }
}

/// Runs so many steps. Fails when too little was compared: a check that cannot fail is none.
async fn check(seed: u64, steps: usize) {
    let begun = Instant::now();
    let mut world = World::start(seed).await;
    world.run(steps).await;
    let compared = &world.compared;
    eprintln!(
        "seed {seed}: {} steps, head {}, floor {}, {:?}: {compared:?}",
        world.steps,
        world.oracle.head,
        world.oracle.floor,
        begun.elapsed()
    );
    for transport in TRANSPORTS {
        assert!(compared.over(transport) > steps / 4, "{transport:?}: {compared:?}");
    }
    for (kind, least) in [("item", steps / 2), ("change", steps / 4), ("caught_up", 5), ("connection_established", 5), ("inbox_counts", 1)]
    {
        assert!(compared.of(kind) >= least, "{kind}: {compared:?}");
    }
    assert!(compared.answers > steps / 4 && compared.pages > steps / 200 && compared.resumes > steps / 100, "{compared:?}");
    assert!(compared.quiet >= steps / QUIET_EVERY / 2 && compared.erasures > 0, "{compared:?}");
    assert!(!world.has_views || compared.views > 0, "{compared:?}");
}

fn seed() -> u64 {
    std::env::var("INBOX_SEED").ok().map_or_else(|| rand::rng().random_range(0..1_000_000), |seed| seed.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_are_the_fold_of_the_log_at_the_number_that_they_name() {
    let seed = seed();
    eprintln!("INBOX_SEED={seed}");
    check(seed, 600).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn counts_are_the_fold_of_a_long_log() {
    let _turn = heavy().await;
    let first = seed();
    eprintln!("INBOX_SEED={first}");
    // Two at a time: each of them waits for its hubs half of the time.
    for seed in (first..first + 10).step_by(2) {
        tokio::join!(check(seed, 2000), check(seed + 1, 2000));
    }
}
