//! Who is connected to this instance, and the published number, under one gate.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use slab::Slab;
use tokio::sync::Notify;

use super::event::Event;
use super::outbox::{Ending, Outbox};
use super::reached::{News, Reached};
use crate::domain::{AccountId, Audience, ClientId, LogId, Principal, Seq, SessionId, UserId};
use crate::metrics;
use crate::wire::close::Close;

/// Most events that are published in one turn under the gate, so that a joining client does not wait long.
const TURN: usize = 64;

/// Where this instance stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub log_id: LogId,
    /// The highest number that retention has dropped.
    pub floor: Seq,
    /// Everything up to here has been handed on.
    pub published: Seq,
}

/// One connection, as the instance sees it. Shared by the registry, the connection's task and the statistics.
#[derive(Debug)]
pub struct Member {
    pub session: SessionId,
    pub who: Principal,
    pub client: ClientId,
    pub transport: &'static str,
    /// By this machine's clock, for whoever asks this instance.
    pub connected_at: DateTime<Utc>,
    /// For what is stored: the database is told how long ago things were.
    pub connected: Instant,
    pub outbox: Outbox,
    reached: Mutex<Reached>,
    /// Since `connected`.
    last_activity_ms: AtomicU64,
}

impl Member {
    pub fn new(who: Principal, client: ClientId, transport: &'static str) -> Self {
        Self {
            session: SessionId::new(),
            who,
            client,
            transport,
            connected_at: Utc::now(),
            connected: Instant::now(),
            outbox: Outbox::default(),
            reached: Mutex::default(),
            last_activity_ms: AtomicU64::new(0),
        }
    }

    /// Sets the place that the connection begins at, and up to where the device has confirmed.
    pub fn begin(&self, log_id: LogId, from: Seq, acked: Seq) {
        *self.reached() = Reached::begin(log_id, from, acked);
    }

    /// Held for moments, never across an await.
    fn reached(&self) -> MutexGuard<'_, Reached> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn from(&self) -> Seq {
        self.reached().from()
    }

    pub fn sent(&self) -> Seq {
        self.reached().sent()
    }

    pub fn set_sent(&self, sent: Seq) {
        self.reached().send(sent);
    }

    pub fn acked(&self) -> Seq {
        self.reached().acked()
    }

    /// Whether this says something new of the place.
    pub fn set_acked(&self, acked: Seq) -> bool {
        self.reached().ack(acked)
    }

    /// The device has acknowledged beside this connection.
    pub(super) fn acked_beside(&self, acked: Seq) {
        self.reached().acked_beside(acked);
    }

    /// What moved since the last call.
    pub(super) fn take_news(&self) -> Option<News> {
        self.reached().take_news()
    }

    /// The client has said something.
    pub fn touch(&self) {
        let since = u64::try_from(self.connected.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_activity_ms.store(since, Ordering::Relaxed);
    }

    /// How long after its beginning the client last said something.
    pub fn last_activity(&self) -> Duration {
        Duration::from_millis(self.last_activity_ms.load(Ordering::Relaxed))
    }
}

/// How many connections are let in.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub connections: usize,
    pub per_user: usize,
    /// A user's newest connection ends the older ones.
    pub single: bool,
}

/// Why a connection is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    User,
    Instance,
}

/// Everyone who is connected here.
#[derive(Debug)]
pub struct Registry {
    limits: Limits,
    gate: Mutex<Inside>,
    /// Something that goes to many was published.
    to_many: Notify,
}

#[derive(Debug)]
struct Inside {
    position: Position,
    members: Slab<Arc<Member>>,
    by_user: HashMap<UserId, Vec<usize>>,
    by_account: HashMap<AccountId, Vec<usize>>,
    /// Set when the instance stops: who comes too late is sent away like those who were here.
    closing: Option<Close>,
}

/// A member's place in the registry. Leaving is what dropping it does.
#[derive(Debug)]
pub struct Seat {
    registry: Arc<Registry>,
    member: Arc<Member>,
    key: usize,
}

impl Seat {
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.registry.leave(self.key);
    }
}

impl Registry {
    pub fn new(limits: Limits, position: Position) -> Arc<Self> {
        let inside = Inside { position, members: Slab::new(), by_user: HashMap::new(), by_account: HashMap::new(), closing: None };
        Arc::new(Self { limits, gate: Mutex::new(inside), to_many: Notify::new() })
    }

    /// Held for moments, never across an await.
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn position(&self) -> Position {
        self.inside().position
    }

    /// How many are connected.
    pub fn count(&self) -> usize {
        self.inside().members.len()
    }

    /// Looks at everyone. Holds the gate meanwhile.
    pub fn each(&self, mut look: impl FnMut(&Member)) {
        self.inside().members.iter().for_each(|(_, member)| look(member));
    }

    pub fn members(&self) -> Vec<Arc<Member>> {
        self.inside().members.iter().map(|(_, member)| Arc::clone(member)).collect()
    }

    /// Whether this user is connected.
    pub fn has(&self, user: &UserId) -> bool {
        self.inside().by_user.contains_key(user)
    }

    pub fn users(&self) -> Vec<UserId> {
        self.inside().by_user.keys().cloned().collect()
    }

    pub fn of_user(&self, user: &UserId) -> Vec<Arc<Member>> {
        let inside = self.inside();
        let keys = inside.by_user.get(user);
        keys.into_iter().flatten().map(|key| Arc::clone(&inside.members[*key])).collect()
    }

    /// The connections of one device.
    pub(super) fn of_device(&self, user: &UserId, client: &ClientId) -> Vec<Arc<Member>> {
        let mut members = self.of_user(user);
        members.retain(|member| member.client == *client);
        members
    }

    /// Lets a connection in. From now on everything above the returned position comes to its outbox.
    ///
    /// # Errors
    /// When the user or the instance has as many connections as it may have.
    pub fn join(self: &Arc<Self>, member: Member) -> Result<(Seat, Position), Full> {
        let member = Arc::new(member);
        let mut inside = self.inside();
        if inside.members.len() >= self.limits.connections {
            return Err(Full::Instance);
        }
        let others: Vec<usize> = inside.by_user.get(&member.who.user).cloned().unwrap_or_default();
        if self.limits.single {
            for key in others {
                inside.members[key].outbox.end(Ending { close: Close::SessionReplaced, after_ms: 0 });
            }
        } else if others.len() >= self.limits.per_user {
            return Err(Full::User);
        }
        let key = inside.members.insert(Arc::clone(&member));
        inside.by_user.entry(member.who.user.clone()).or_default().push(key);
        for account in &member.who.accounts {
            inside.by_account.entry(account.clone()).or_default().push(key);
        }
        if let Some(close) = inside.closing {
            member.outbox.end(Ending { close, after_ms: 0 });
        }
        let position = inside.position;
        drop(inside);
        Ok((Seat { registry: Arc::clone(self), member, key }, position))
    }

    fn leave(&self, key: usize) {
        let mut inside = self.inside();
        let Some(member) = inside.members.try_remove(key) else { return };
        forget(&mut inside.by_user, &member.who.user, key);
        for account in &member.who.accounts {
            forget(&mut inside.by_account, account, key);
        }
    }

    /// Hands events on, in the order of their numbers. Only the tailer calls this.
    pub(super) fn publish(&self, events: &[Arc<Event>]) {
        metrics::PUBLISHED.add(events.len());
        let mut to_many = false;
        for turn in events.chunks(TURN) {
            let mut inside = self.inside();
            for event in turn {
                let for_many = event.audience.is_for_many();
                to_many |= for_many;
                inside.deliver(event, for_many);
                inside.position.published = event.seq;
            }
        }
        if to_many {
            self.to_many.notify_one();
        }
    }

    /// Returns when something was published that goes to many, if none was since the last call. For one task only.
    pub(super) async fn given_to_many(&self) {
        self.to_many.notified().await;
    }

    /// Those who came by something that went to many, and are yet to be asked about it.
    pub(super) fn unasked(&self) -> Vec<Arc<Member>> {
        let inside = self.inside();
        inside.members.iter().filter(|(_, member)| member.outbox.is_unasked()).map(|(_, member)| Arc::clone(member)).collect()
    }

    /// Empties the outbox of a connection that fell behind, and says from where on it is filled again.
    pub(super) fn retake(&self, member: &Member) -> Position {
        let inside = self.inside();
        member.outbox.restart();
        inside.position
    }

    /// The published number, if everything up to it that concerns this member has left its outbox.
    pub(super) fn quiet_at(&self, member: &Member) -> Option<Seq> {
        let inside = self.inside();
        member.outbox.is_clear().then_some(inside.position.published)
    }

    /// Follows retention.
    pub(super) fn raise_floor(&self, floor: Seq) {
        let mut inside = self.inside();
        inside.position.floor = inside.position.floor.max(floor);
    }

    /// The history is another one, or a part that was never published is gone: nobody's stream can simply go on.
    /// Everyone is asked to come back, and is then told what happened.
    pub(super) fn restart_at(&self, position: Position) {
        let mut inside = self.inside();
        inside.position = position;
        metrics::HEAD_SEEN.set(position.published.get());
        for (_, member) in &inside.members {
            member.outbox.end(Ending { close: Close::ServerError, after_ms: 0 });
        }
    }

    /// Asks everyone, and everyone who still comes, to come back later, each at another moment of the window.
    pub fn end_all(&self, close: Close, window_ms: u64) {
        let mut inside = self.inside();
        inside.closing = Some(close);
        let count = inside.members.len().max(1) as u64;
        for (at, (_, member)) in inside.members.iter().enumerate() {
            member.outbox.end(Ending { close, after_ms: window_ms * at as u64 / count });
        }
    }
}

fn forget<K: std::hash::Hash + Eq + Clone>(index: &mut HashMap<K, Vec<usize>>, name: &K, key: usize) {
    if let Entry::Occupied(mut entry) = index.entry(name.clone()) {
        entry.get_mut().retain(|k| *k != key);
        if entry.get().is_empty() {
            entry.remove();
        }
    }
}

impl Inside {
    fn deliver(&self, event: &Arc<Event>, for_many: bool) {
        let push_to = |keys| self.push_to(keys, event, for_many);
        match &event.audience {
            Audience::Everyone => self.members.iter().for_each(|(_, member)| member.outbox.push(event, for_many)),
            Audience::Account(account) => push_to(self.by_account.get(account)),
            Audience::User { user, .. } => push_to(self.by_user.get(user)),
            // A list holds a user once, so nobody gets it twice.
            Audience::Users { users, .. } => users.iter().for_each(|user| push_to(self.by_user.get(user))),
        }
    }

    fn push_to(&self, keys: Option<&Vec<usize>>, event: &Arc<Event>, for_many: bool) {
        for key in keys.into_iter().flatten() {
            let member = &self.members[*key];
            // The index has found the user; searching a list for each of its users would take its length squared.
            if event.audience.reaches_account_of(&member.who) {
                member.outbox.push(event, for_many);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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

    /// The topics under which the table would be read for this audience.
    fn topics_of(audience: &Audience) -> Vec<String> {
        match audience {
            Audience::Users { users, account } => {
                users.iter().map(|user| Audience::User { user: user.clone(), account: account.clone() }.topic()).collect()
            }
            other => vec![other.topic()],
        }
    }

    proptest! {
        /// Isolation: what comes live is what the replay would find, for every audience and reader, and once.
        #[test]
        fn live_and_replay_agree_on_whom_a_notification_is_for(
            audience in audience(), user in user(), accounts in proptest::collection::btree_set(account(), 0..3),
        ) {
            let who = Principal { user, accounts: accounts.into_iter().collect() };
            let replayed = topics_of(&audience).iter().any(|topic| who.topics().contains(topic));
            let start = Position { log_id: LogId::new(), floor: Seq::ZERO, published: Seq::ZERO };
            let registry = Registry::new(Limits { connections: 9, per_user: 9, single: false }, start);
            let (seat, _) = registry.join(Member::new(who, ClientId::default_device(), "test")).unwrap();
            let event = Event::empty(Seq::from_db(1), audience);
            registry.publish(std::slice::from_ref(&event));
            let outbox = &seat.member().outbox;
            prop_assert_eq!(outbox.pop().is_some(), replayed);
            prop_assert!(outbox.pop().is_none(), "it came twice");
            drop(seat);
            prop_assert_eq!(registry.count(), 0);
        }
    }
}
