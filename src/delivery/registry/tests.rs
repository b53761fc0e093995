//! Tests the registry of connections.

use proptest::prelude::*;

use super::*;
use crate::domain::{Audience, MemberChange, MemberOp, Principal};
use crate::wire::type_filter::TypeFilter;

fn user() -> impl Strategy<Value = UserId> {
    "[ab]".prop_map(|s| UserId::parse(&s).unwrap())
}

fn account() -> impl Strategy<Value = AccountId> {
    "[xyz]".prop_map(|s| AccountId::parse(&s).unwrap())
}

fn audience() -> impl Strategy<Value = Audience> {
    let users = proptest::collection::btree_set(user(), 1..3).prop_map(|users| users.into_iter().collect());
    prop_oneof![
        Just(Audience::Everyone),
        account().prop_map(Audience::Account),
        (user(), proptest::option::of(account())).prop_map(|(user, account)| Audience::User { user, account }),
        (users, proptest::option::of(account())).prop_map(|(users, account)| Audience::Users { users, account }),
    ]
}

/// The topics under which a replay would find this audience.
fn topics_of(audience: &Audience) -> Vec<String> {
    match audience {
        Audience::Users { users, account } => {
            users.iter().map(|user| Audience::User { user: user.clone(), account: account.clone() }.topic()).collect()
        }
        other => vec![other.topic()],
    }
}

proptest! {
    /// Isolation: live delivery and replay find the same rows for every audience and user, and each row once.
    #[test]
    fn live_and_replay_agree_on_whom_a_notification_is_for(
        audience in audience(), user in user(), accounts in proptest::collection::btree_set(account(), 0..3), types in "[tu]",
    ) {
        let who = Principal { user, accounts: accounts.into_iter().collect() };
        let mut connection = Connection::new(who.clone(), ClientId::default_device(), "test");
        connection.types = TypeFilter::parse(&types);
        let event = SharedNotification::empty(Seq::from_db(1), audience.clone());
        let replayed = topics_of(&audience).iter().any(|topic| who.topics().contains(topic)) && connection.takes(&event.kind);
        let start = Position { log_id: LogId::new(), floor: Seq::ZERO, dispatched: Seq::ZERO };
        let registry = Registry::new(ConnectionLimits { connections: 9, per_user: 9, devices: 200, single: false }, start, FanOut::default());
        let (registration, _) = registry.join(connection).unwrap();
        registry.dispatch(std::slice::from_ref(&event));
        let send_queue = &registration.connection().send_queue;
        prop_assert_eq!(send_queue.pop().is_some(), replayed);
        prop_assert!(send_queue.pop().is_none(), "it came twice");
        drop(registration);
        prop_assert_eq!(registry.count(), 0);
    }

    /// A broadcast takes several turns, and connections join, fall behind and leave between them. Memberships
    /// change between the rows. Each connection gets from its send queue exactly its rows above the position it
    /// was given last, once and in order, and it has every row up to a quiet position.
    #[test]
    fn a_position_taken_between_two_turns_joins_table_and_outbox(
        rows in proptest::collection::vec(row(), 1..9),
        before in proptest::collection::vec((who(), any::<bool>()), 0..5),
        steps in proptest::collection::vec(step(), 0..80),
        most in 1usize..3,
    ) {
        let start = Position { log_id: LogId::new(), floor: Seq::ZERO, dispatched: Seq::ZERO };
        let registry = Registry::new(ConnectionLimits { connections: 99, per_user: 99, devices: 200, single: false }, start, FanOut::default());
        let log = TestLog::of(rows);
        let mut readers: Vec<TestReader> = before.into_iter().map(|(who, follows)| TestReader::join(&registry, who, follows)).collect();
        let mut round = DispatchRound { events: &log.events, at: 0, place: DispatchProgress::default() };
        for step in steps {
            match step {
                TestStep::Turn => drop(registry.turn(&mut round, most)),
                TestStep::Join(who, follows) => readers.push(TestReader::join(&registry, who, follows)),
                TestStep::Leave(at) if at < readers.len() => drop(readers.swap_remove(at)),
                TestStep::FallBack(at) if at < readers.len() => readers[at].fall_back(&registry),
                TestStep::Look(at, ahead) if at < readers.len() => readers[at].look(&registry, &log, ahead),
                TestStep::Enter(at) if at < readers.len() => readers[at].enter(&registry, &log),
                TestStep::Read(at) if at < readers.len() => readers[at].read(&registry, &log)?,
                _ => {}
            }
        }
        while !registry.turn(&mut round, most) {}
        let end = Seq::from_db(log.events.len() as i64);
        for reader in &mut readers {
            reader.enter(&registry, &log);
            reader.read(&registry, &log)?;
            prop_assert_eq!(reader.quiet, Some(end));
        }
        prop_assert_eq!(registry.position().dispatched, end);
        readers.clear();
        prop_assert!(registry.inside().by_account.is_empty(), "no account keeps a connection that has left");
    }
}

/// A row of a log: a notification, or a membership change.
#[derive(Debug, Clone)]
enum TestRow {
    To(Audience),
    Change(MemberChange),
}

fn row() -> impl Strategy<Value = TestRow> {
    let op = prop_oneof![Just(MemberOp::Add), Just(MemberOp::Remove)];
    prop_oneof![
        3 => audience().prop_map(TestRow::To),
        2 => (op, user(), account()).prop_map(|(op, user, account)| TestRow::Change(MemberChange { op, user, account })),
    ]
}

/// A log, and the memberships that its changes make.
struct TestLog {
    events: Vec<Arc<SharedNotification>>,
    intervals: Vec<(UserId, MemberInterval)>,
}

impl TestLog {
    fn of(rows: Vec<TestRow>) -> Self {
        let mut log = Self { events: Vec::new(), intervals: Vec::new() };
        for (row, n) in rows.into_iter().zip(1..) {
            let seq = Seq::from_db(n);
            let event = match row {
                TestRow::To(audience) => SharedNotification::empty(seq, audience),
                TestRow::Change(change) => {
                    log.apply(seq, &change);
                    SharedNotification::change(seq, &change)
                }
            };
            log.events.push(event);
        }
        log
    }

    /// As the trigger `log_changes_members` does.
    fn apply(&mut self, seq: Seq, change: &MemberChange) {
        let is_his = |(user, interval): &&mut (UserId, MemberInterval)| {
            *user == change.user && interval.account == change.account && interval.until.is_none()
        };
        let open = self.intervals.iter_mut().find(is_his);
        match (change.op, open) {
            (MemberOp::Add, None) => {
                let interval = MemberInterval { account: change.account.clone(), since: seq, until: None };
                self.intervals.push((change.user.clone(), interval));
            }
            (MemberOp::Remove, Some((_, interval))) => interval.until = Some(seq),
            _ => {}
        }
    }

    /// The intervals of a user, as a snapshot of the log up to `seq` has them.
    fn snapshot(&self, user: &UserId, seq: Seq) -> Vec<MemberInterval> {
        let his = self.intervals.iter().filter(|(of, interval)| of == user && interval.since <= seq);
        his.map(|(_, interval)| MemberInterval { until: interval.until.filter(|until| *until <= seq), ..interval.clone() }).collect()
    }

    /// Whether the log's order makes this row one of the reader's.
    fn is_for(&self, event: &SharedNotification, who: &Principal, follows: bool) -> bool {
        if event.member_change().is_some() {
            return false;
        }
        let mut who = who.clone();
        if follows {
            let his = self.intervals.iter().filter(|(user, interval)| *user == who.user && interval.has(event.seq));
            who.accounts.extend(his.map(|(_, interval)| interval.account.clone()));
        }
        topics_of(&event.audience).iter().any(|topic| who.topics().contains(topic))
    }
}

fn who() -> impl Strategy<Value = Principal> {
    (user(), proptest::collection::btree_set(account(), 0..3))
        .prop_map(|(user, accounts)| Principal { user, accounts: accounts.into_iter().collect() })
}

#[derive(Debug, Clone)]
enum TestStep {
    Turn,
    /// Joins; with `true`, it follows the table of members.
    Join(Principal, bool),
    Leave(usize),
    FallBack(usize),
    /// Reads the intervals of the user from the table, which is so many rows ahead of this instance.
    Look(usize, i64),
    /// Enters the accounts that were read.
    Enter(usize),
    Read(usize),
}

fn step() -> impl Strategy<Value = TestStep> {
    prop_oneof![
        4 => Just(TestStep::Turn),
        2 => (who(), any::<bool>()).prop_map(|(who, follows)| TestStep::Join(who, follows)),
        1 => (0usize..6).prop_map(TestStep::Leave),
        2 => (0usize..6).prop_map(TestStep::FallBack),
        2 => (0usize..6, 0i64..4).prop_map(|(at, ahead)| TestStep::Look(at, ahead)),
        2 => (0usize..6).prop_map(TestStep::Enter),
        2 => (0usize..6).prop_map(TestStep::Read),
    ]
}

/// A connection that has every row up to `from` from the table.
struct TestReader {
    registration: Registration,
    follows: bool,
    /// The intervals that were read from the table.
    intervals: Option<Vec<MemberInterval>>,
    has_entered: bool,
    from: Seq,
    got: Vec<Seq>,
    quiet: Option<Seq>,
}

impl TestReader {
    fn join(registry: &Arc<Registry>, who: Principal, follows: bool) -> Self {
        let mut connection = Connection::new(who, ClientId::default_device(), "test");
        if follows {
            connection.follow_members();
        }
        let (registration, position) = registry.join(connection).unwrap();
        Self { registration, follows, intervals: None, has_entered: !follows, from: position.dispatched, got: Vec::new(), quiet: None }
    }

    fn fall_back(&mut self, registry: &Registry) {
        self.from = registry.retake(self.registration.connection()).dispatched;
        self.got.clear();
    }

    /// The table may be ahead of this instance, and the registry may move on before the intervals are entered.
    fn look(&mut self, registry: &Registry, log: &TestLog, ahead: i64) {
        if self.has_entered || self.intervals.is_some() {
            return;
        }
        let upto = registry.position().dispatched.get() + ahead;
        let user = &self.registration.connection().who.user;
        self.intervals = Some(log.snapshot(user, Seq::from_db(upto)));
    }

    fn enter(&mut self, registry: &Registry, log: &TestLog) {
        self.look(registry, log, 0);
        if let Some(intervals) = self.intervals.take() {
            self.from = registry.enter(&self.registration, &intervals).dispatched;
            self.has_entered = true;
            self.got.clear();
        }
    }

    fn read(&mut self, registry: &Registry, log: &TestLog) -> Result<(), TestCaseError> {
        if !self.has_entered {
            return Ok(());
        }
        let connection = self.registration.connection();
        self.got.extend(std::iter::from_fn(|| connection.send_queue.pop()).map(|event| event.seq));
        self.quiet = registry.quiet_at(connection);
        let upto = self.quiet.unwrap_or_default().max(self.got.last().copied().unwrap_or_default());
        let is_his = |event: &&Arc<SharedNotification>| log.is_for(event, &connection.who, self.follows);
        let his: Vec<Seq> =
            log.events.iter().filter(is_his).map(|event| event.seq).filter(|seq| *seq > self.from && *seq <= upto).collect();
        prop_assert_eq!(&self.got, &his);
        Ok(())
    }
}
