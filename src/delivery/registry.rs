//! Holds this instance's connections and the dispatched number under one lock.

mod access;
mod connection;
mod dispatch;
pub mod fan_out;
mod members;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::{Notify, watch};

pub use self::connection::Connection;
use self::dispatch::{DispatchProgress, DispatchRound};
use self::fan_out::FanOut;
use super::event::SharedNotification;
use super::recent_posts::RecentPosts;
use super::send_queue::CloseOrder;
use crate::domain::{AccountId, ClientId, KeyTag, LogId, MemberInterval, RecountMark, Seq, UserId};
use crate::metrics;
use crate::wire::close::CloseCode;

/// Most connections that are visited, or handed a row, in one turn under the lock, so that a new connection waits only
/// some hundred microseconds. With far fewer, taking the lock would cost more than the work under it.
const TURN: usize = 1024;
/// Reconnect delay for a connection that was closed to make room for a newer one of its device. With a short delay, two
/// pages could push each other out forever, because an `EventSource` reconnects by itself.
const REPLACED_AFTER_MS: u64 = 60_000;
/// Longest wait between two turns for threads that want the lock.
const LET_IN: Duration = Duration::from_micros(200);

/// The position of this instance in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub log_id: LogId,
    /// The highest sequence number that retention has dropped.
    pub floor: Seq,
    /// Every row up to here has been dispatched.
    pub dispatched: Seq,
}

/// Limits on the number of connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    pub connections: usize,
    pub per_user: usize,
    /// Most devices of one user whose positions are kept.
    pub devices: usize,
    /// A user's newest connection closes the older ones.
    pub single: bool,
}

/// Which limit refused a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    User,
    Instance,
}

/// All connections of this instance.
#[derive(Debug)]
pub struct Registry {
    limits: ConnectionLimits,
    fan_out: FanOut,
    state: Mutex<RegistryState>,
    /// How many threads wait for the lock. A lock that is released and taken again at once would starve them.
    waiting: AtomicUsize,
    /// Signals that a row for many connections was dispatched.
    to_many: Notify,
    /// Wakes those who wait for a dispatched number.
    advanced: Notify,
    /// The posts to this hub that were dispatched last.
    pub(super) recent_posts: RecentPosts,
    /// What connections with an inbox must count anew.
    recounts: watch::Sender<RecountMark>,
}

#[derive(Debug)]
struct RegistryState {
    position: Position,
    /// The row that was handed to some of its connections and not yet to all, between two turns.
    unfinished: Option<Seq>,
    connections: Slab<Arc<Connection>>,
    by_user: HashMap<UserId, Vec<usize>>,
    by_account: HashMap<AccountId, Vec<usize>>,
    /// Set when the instance stops: later connections are closed like the existing ones.
    closing: Option<CloseCode>,
    /// Keys that their issuers have removed. A token that was checked before may join after.
    removed_keys: HashSet<KeyTag>,
}

/// A connection's entry in the registry. Dropping it removes the entry.
#[derive(Debug)]
pub struct Registration {
    registry: Arc<Registry>,
    connection: Arc<Connection>,
    key: usize,
}

impl Registration {
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.leave(self.key);
    }
}

impl Registry {
    /// Most devices of one user whose positions are kept.
    pub fn most_devices(&self) -> usize {
        self.limits.devices
    }

    pub fn new(limits: ConnectionLimits, position: Position, fan_out: FanOut) -> Arc<Self> {
        let inside = RegistryState {
            position,
            unfinished: None,
            connections: Slab::new(),
            by_user: HashMap::new(),
            by_account: HashMap::new(),
            closing: None,
            removed_keys: HashSet::new(),
        };
        Arc::new(Self {
            limits,
            fan_out,
            state: Mutex::new(inside),
            waiting: AtomicUsize::new(0),
            to_many: Notify::new(),
            advanced: Notify::new(),
            recent_posts: RecentPosts::default(),
            recounts: watch::Sender::default(),
        })
    }

    /// Held briefly, never across an await.
    fn inside(&self) -> MutexGuard<'_, RegistryState> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let inside = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        inside
    }

    /// Yields between two turns to threads that wait for the lock.
    fn let_others_in(&self) {
        let end = Instant::now() + LET_IN;
        while self.waiting.load(Ordering::Relaxed) > 0 && Instant::now() < end {
            std::thread::yield_now();
        }
    }

    pub fn position(&self) -> Position {
        self.inside().position
    }

    /// How many connections are open.
    pub fn count(&self) -> usize {
        self.inside().connections.len()
    }

    /// Visits all connections, in turns under the lock. A connection that joins or leaves meanwhile may be visited or
    /// not.
    pub fn each(&self, mut look: impl FnMut(&Arc<Connection>)) {
        let mut from = 0;
        loop {
            let inside = self.inside();
            let end = inside.connections.capacity();
            let upto = (from + TURN).min(end);
            (from..upto).filter_map(|key| inside.connections.get(key)).for_each(&mut look);
            drop(inside);
            if upto == end {
                return;
            }
            from = upto;
            self.let_others_in();
        }
    }

    /// All connections, as [`Registry::each`] visits them.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        let mut connections = Vec::new();
        self.each(|connection| connections.push(Arc::clone(connection)));
        connections
    }

    /// Whether this user is connected.
    pub fn has(&self, user: &UserId) -> bool {
        self.inside().by_user.contains_key(user)
    }

    pub fn users(&self) -> Vec<UserId> {
        self.inside().by_user.keys().cloned().collect()
    }

    pub fn of_user(&self, user: &UserId) -> Vec<Arc<Connection>> {
        let inside = self.inside();
        let keys = inside.by_user.get(user);
        keys.into_iter().flatten().map(|key| Arc::clone(&inside.connections[*key])).collect()
    }

    /// The connections of one device.
    pub(super) fn of_device(&self, user: &UserId, client: &ClientId) -> Vec<Arc<Connection>> {
        let mut connections = self.of_user(user);
        connections.retain(|connection| connection.client == *client);
        connections
    }

    /// Adds a connection. From now on every row above the returned position enters its send queue.
    ///
    /// If the user has reached the connection limit, the oldest connection of the same device is closed: its client
    /// most likely vanished silently. A connection of another device is never closed.
    ///
    /// # Errors
    /// When the user or the instance has reached its limit.
    pub fn join(self: &Arc<Self>, connection: Connection) -> Result<(Registration, Position), Full> {
        let connection = Arc::new(connection);
        let mut inside = self.inside();
        if inside.connections.len() >= self.limits.connections {
            return Err(Full::Instance);
        }
        let others: Vec<usize> = inside.by_user.get(&connection.who.user).cloned().unwrap_or_default();
        if self.limits.single {
            for key in others {
                inside.connections[key].send_queue.end(CloseOrder { close: CloseCode::SessionReplaced, after_ms: REPLACED_AFTER_MS });
            }
        } else if others.len() >= self.limits.per_user {
            let older = inside.oldest_of_device(&others, &connection.client);
            // Connections that were told to close still count for a moment.
            let Some(older) = older.filter(|_| others.len() < self.limits.per_user * 2) else { return Err(Full::User) };
            inside.connections[older].send_queue.end(CloseOrder { close: CloseCode::SessionReplaced, after_ms: REPLACED_AFTER_MS });
        }
        let key = inside.connections.insert(Arc::clone(&connection));
        inside.by_user.entry(connection.who.user.clone()).or_default().push(key);
        for account in &connection.who.accounts {
            inside.by_account.entry(account.clone()).or_default().push(key);
        }
        if let Some(close) = inside.closing {
            connection.send_queue.end(CloseOrder { close, after_ms: 0 });
        }
        if connection.origin().key.is_some_and(|key| inside.removed_keys.contains(&key)) {
            connection.send_queue.end(CloseOrder { close: CloseCode::TokenExpired, after_ms: 0 });
        }
        let position = inside.begin(&connection);
        drop(inside);
        Ok((Registration { registry: Arc::clone(self), connection, key }, position))
    }

    /// Tells a connection its user's intervals, as they were read after it joined. From now on the connection has the
    /// accounts of the table as of each dispatched number. Restarts its send queue; see [`Registry::retake`].
    pub(super) fn enter(&self, registration: &Registration, intervals: &[MemberInterval]) -> Position {
        let mut inside = self.inside();
        let position = inside.begin(&registration.connection);
        inside.know(registration, intervals, position.dispatched);
        position
    }

    fn leave(&self, key: usize) {
        let mut inside = self.inside();
        let Some(connection) = inside.connections.try_remove(key) else { return };
        forget(&mut inside.by_user, &connection.who.user, key);
        for account in &connection.accounts() {
            forget(&mut inside.by_account, account, key);
        }
    }

    /// Dispatches rows in the order of their sequence numbers. Only the tailer calls this.
    pub(super) fn dispatch(&self, events: &[Arc<SharedNotification>]) {
        metrics::DISPATCHED.add(events.len());
        let to_many = events.iter().any(|event| event.audience.is_for_many());
        #[cfg(feature = "mutants")]
        if crate::mutants::is("members-early") {
            let mut inside = self.inside();
            for change in events.iter().filter_map(|event| event.member_change()) {
                inside.change_members(change);
            }
        }
        // Before the rows that follow: their counts must not build on counts that are too high.
        for recount in events.iter().filter_map(|event| event.recount()) {
            self.recounts.send_modify(|mark| mark.add(recount));
        }
        self.recent_posts.add(events.iter().filter_map(|event| Some((event.seq, event.posted?, event.trace))));
        let mut round = DispatchRound { events, at: 0, place: DispatchProgress::default() };
        while !self.turn(&mut round, TURN) {
            self.let_others_in();
        }
        self.advanced.notify_waiters();
        if to_many {
            self.to_many.notify_one();
        }
    }

    /// What connections with an inbox must count anew.
    pub(super) fn recounts(&self) -> watch::Receiver<RecountMark> {
        self.recounts.subscribe()
    }

    /// Waits until everything up to `seq` is dispatched. Safe to drop.
    pub async fn dispatched(&self, seq: Seq) {
        loop {
            let mut advanced = pin!(self.advanced.notified());
            // From now on no step is missed.
            advanced.as_mut().enable();
            if self.position().dispatched >= seq {
                return;
            }
            advanced.await;
        }
    }

    /// Returns once a row for many connections was dispatched since the last call. For one task only.
    pub(super) async fn given_to_many(&self) {
        self.to_many.notified().await;
    }

    /// Connections that received a broadcast and have not been pinged for it yet.
    pub(super) fn unasked(&self) -> Vec<Arc<Connection>> {
        let mut unasked = Vec::new();
        self.each(|connection| unasked.extend(connection.send_queue.is_unasked().then(|| Arc::clone(connection))));
        unasked
    }

    /// Empties the send queue of a connection that fell behind. Returns the position from which the queue fills again.
    pub(super) fn retake(&self, connection: &Connection) -> Position {
        self.inside().begin(connection)
    }

    /// The dispatched number, if every row for this connection up to it has left the send queue.
    pub(super) fn quiet_at(&self, connection: &Connection) -> Option<Seq> {
        let inside = self.inside();
        connection.send_queue.is_clear().then_some(inside.position.dispatched)
    }

    /// Raises the floor after retention has dropped rows.
    pub(super) fn raise_floor(&self, floor: Seq) {
        let mut inside = self.inside();
        inside.position.floor = inside.position.floor.max(floor);
    }

    /// Closes all connections because the log is another one, or because rows that were never dispatched are gone. No
    /// stream can continue across that. The clients reconnect and are then told what happened.
    pub(super) fn restart_at(&self, position: Position) {
        self.recent_posts.clear();
        // Its numbers may be above the end of the log now: no count would ever reach them.
        self.recounts.send_replace(RecountMark::default());
        let mut inside = self.inside();
        inside.position = position;
        self.advanced.notify_waiters();
        metrics::HEAD_SEEN.set(position.dispatched.get());
        for (_, connection) in &inside.connections {
            connection.send_queue.end(CloseOrder { close: CloseCode::ServerError, after_ms: 0 });
        }
    }

    /// Asks all connections, and those that still join, to reconnect later, each at a different time within the window.
    pub fn end_all(&self, close: CloseCode, window_ms: u64) {
        let mut inside = self.inside();
        inside.closing = Some(close);
        let count = inside.connections.len().max(1) as u64;
        for (at, (_, connection)) in inside.connections.iter().enumerate() {
            connection.send_queue.end(CloseOrder { close, after_ms: window_ms * at as u64 / count });
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

impl RegistryState {
    /// Returns the oldest of these connections that belongs to this device and is not closing yet.
    fn oldest_of_device(&self, keys: &[usize], client: &ClientId) -> Option<usize> {
        let of_device =
            keys.iter().copied().filter(|key| self.connections[*key].client == *client && !self.connections[*key].send_queue.is_ending());
        of_device.min_by_key(|key| self.connections[*key].connected)
    }

    /// Starts or restarts a connection: its send queue is empty and accepts rows above the returned position. An
    /// unfinished row counts as dispatched: the table has it, and the send queue will not accept it.
    fn begin(&self, connection: &Connection) -> Position {
        let dispatched = self.unfinished.unwrap_or(self.position.dispatched);
        connection.send_queue.restart(dispatched);
        Position { dispatched, ..self.position }
    }
}

#[cfg(test)]
mod tests;
