//! Collects the begin, progress and end of connections until they are stored as sessions.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::registry::Connection;
use crate::domain::resume::SettledConnection;
use crate::domain::{LogId, Seq, SessionId};
use crate::store::sessions::SessionFact;

/// Most facts that wait. While the database is unreachable, further facts are dropped to save memory. A dropped fact is
/// missing from the session history; no notification depends on it.
const MOST_WAITING: usize = 50_000;

/// Most settled connections that wait; they are written in one statement.
const MOST_SETTLED: usize = 2000;

/// A sign of life alone is stored again after this time. An open connection answers pings, so the stored time adds
/// little while its hub lives. After a hub was killed, an older time makes a resume more careful, never less
/// (`domain/resume.rs`).
const ACTIVITY: Duration = Duration::from_secs(300);

/// The facts that are not stored yet, and the last stored values of each live session.
#[derive(Debug, Default)]
pub struct PendingSessions {
    pages: Mutex<SessionPages>,
    added: Notify,
}

#[derive(Debug, Default)]
struct SessionPages {
    waiting: HashMap<SessionId, SessionFact>,
    /// The ends that are being written, kept until the next batch is taken.
    leaving: HashMap<SessionId, SessionFact>,
    known: HashMap<SessionId, StoredProgress>,
    /// Settled connections of devices, to be stored. Losing them costs nothing: the next connect settles them again.
    settled: HashMap<SessionId, SettledConnection>,
}

/// What was last stored of a live session, or waits to be stored.
#[derive(Debug, Clone, Copy)]
struct StoredProgress {
    delivered: Seq,
    acked: Seq,
    active: Duration,
}

impl StoredProgress {
    fn of(connection: &Connection) -> Self {
        Self { delivered: connection.delivered(), acked: connection.acked(), active: connection.last_activity() }
    }

    fn is_outdated(&self, now: &Self) -> bool {
        (self.delivered, self.acked) != (now.delivered, now.acked) || now.active.saturating_sub(self.active) >= ACTIVITY
    }
}

impl PendingSessions {
    fn pages(&self) -> MutexGuard<'_, SessionPages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a connection has begun.
    pub fn began(&self, connection: &Connection, log_id: LogId) {
        // Before the fact: what moves in between counts as not stored.
        let progress = StoredProgress::of(connection);
        if self.write(fact(connection, log_id, None)) {
            self.pages().known.insert(connection.session, progress);
        }
    }

    /// Notes that a connection has ended.
    pub fn ended(&self, connection: &Connection, log_id: LogId, why: &'static str) {
        self.write(fact(connection, log_id, Some((Instant::now(), why))));
        self.pages().known.remove(&connection.session);
    }

    /// Notes that a connection was stored and ended before its stream began. Its position is not kept.
    pub fn never_began(&self, connection: &Connection, log_id: LogId) {
        let end = Some((Instant::now(), "not_begun"));
        self.write(SessionFact { is_kept: false, ..fact(connection, log_id, end) });
    }

    /// The fact of an ended connection of this instance, if it is not stored yet.
    pub(super) fn ended_fact(&self, session: SessionId) -> Option<SessionFact> {
        let pages = self.pages();
        let fact = pages.waiting.get(&session).or_else(|| pages.leaving.get(&session))?;
        fact.end.is_some().then(|| fact.clone())
    }

    /// Notes what a connect has settled; it is stored after the beginning of that connection.
    pub(super) fn settle(&self, settled: Vec<SettledConnection>) {
        let mut pages = self.pages();
        // All of one connect or nothing: a used-up position must not be stored without the connection that used it.
        if pages.settled.len() + settled.len() > MOST_SETTLED {
            return;
        }
        for one in settled {
            pages.settled.entry(one.session).and_modify(|known| known.merge(&one)).or_insert(one);
        }
    }

    pub(super) fn take_settled(&self) -> Vec<SettledConnection> {
        std::mem::take(&mut self.pages().settled).into_values().collect()
    }

    /// Returns whether there was room.
    fn write(&self, fact: SessionFact) -> bool {
        let mut pages = self.pages();
        let has_room = pages.waiting.len() < MOST_WAITING || pages.waiting.contains_key(&fact.session);
        if has_room {
            pages.waiting.insert(fact.session, fact);
        }
        drop(pages);
        self.added.notify_one();
        has_room
    }

    /// Returns when a connection has begun or ended since the last return.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// Adds what has changed since the last round. `connections` has every connection of this instance.
    pub(super) fn refresh<'a>(&self, connections: impl Iterator<Item = &'a Connection>, log_id: LogId) {
        let mut pages = self.pages();
        let mut present = HashSet::new();
        for connection in connections.filter(|connection| connection.has_begun()) {
            present.insert(connection.session);
            let now = StoredProgress::of(connection);
            if pages.known.get(&connection.session).is_some_and(|stored| !stored.is_outdated(&now)) {
                continue;
            }
            let is_full = pages.waiting.len() >= MOST_WAITING;
            match pages.waiting.entry(connection.session) {
                // It has ended since `connections` was read.
                Entry::Occupied(waiting) if waiting.get().end.is_some() => continue,
                Entry::Vacant(_) if is_full => continue,
                place => place.insert_entry(fact(connection, log_id, None)),
            };
            pages.known.insert(connection.session, now);
        }
        // A connection may have ended after `connections` was read; no other code would remove its entry.
        pages.known.retain(|session, _| present.contains(session));
    }

    pub(super) fn take(&self) -> Vec<SessionFact> {
        let mut pages = self.pages();
        let taken = std::mem::take(&mut pages.waiting);
        pages.leaving = taken.iter().filter(|(_, fact)| fact.end.is_some()).map(|(session, fact)| (*session, fact.clone())).collect();
        taken.into_values().collect()
    }

    /// Puts back facts that could not be stored, unless a newer fact of the same session waits.
    pub(super) fn not_stored(&self, facts: Vec<SessionFact>) {
        let mut pages = self.pages();
        for fact in facts {
            if pages.waiting.len() < MOST_WAITING {
                pages.waiting.entry(fact.session).or_insert(fact);
            }
        }
    }
}

fn fact(connection: &Connection, log_id: LogId, end: Option<(Instant, &'static str)>) -> SessionFact {
    SessionFact {
        session: connection.session,
        who: connection.who.clone(),
        client: connection.client.clone(),
        transport: connection.transport,
        log_id,
        from: connection.from(),
        sent: connection.delivered(),
        acked: connection.acked(),
        own_acked: connection.own_acked(),
        is_kept: connection.is_kept,
        follows_members: connection.follows_members(),
        types: connection.types.as_ref().map(ToString::to_string),
        is_playground: connection.origin().is_playground,
        connected: connection.connected,
        last_activity: connection.connected + connection.last_activity(),
        end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ClientId, Principal, UserId};

    #[test]
    fn a_connection_that_ends_while_it_is_looked_at_is_not_remembered() {
        let who = Principal { user: UserId::parse("ann").unwrap(), accounts: Vec::new() };
        let connection = Connection::new(who, ClientId::default_device(), "test");
        let (pending, log_id) = (PendingSessions::default(), LogId::new());
        pending.began(&connection, log_id);
        // The registry still listed the connection; it ends before `refresh` runs.
        pending.ended(&connection, log_id, "lost");
        pending.refresh(std::iter::once(&connection), log_id);
        pending.refresh(std::iter::empty(), log_id);
        assert!(pending.pages().known.is_empty());
    }

    #[test]
    fn progress_that_comes_while_the_beginning_waits_is_stored_with_it() {
        let who = Principal { user: UserId::parse("ann").unwrap(), accounts: Vec::new() };
        let connection = Connection::new(who, ClientId::default_device(), "test");
        let (pending, log_id) = (PendingSessions::default(), LogId::new());
        connection.begin(log_id, Seq::ZERO, Seq::ZERO);
        pending.began(&connection, log_id);
        connection.set_delivered(Seq::from_db(7));
        pending.refresh(std::iter::once(&connection), log_id);
        assert_eq!(pending.take()[0].sent, Seq::from_db(7));
        // The end is the last fact, whatever was listed before.
        connection.set_delivered(Seq::from_db(8));
        pending.ended(&connection, log_id, "lost");
        pending.refresh(std::iter::once(&connection), log_id);
        assert!(pending.take()[0].end.is_some());
    }

    #[test]
    fn a_sign_of_life_alone_is_stored_rarely_and_progress_at_once() {
        let who = Principal { user: UserId::parse("ann").unwrap(), accounts: Vec::new() };
        let connection = Connection::new(who, ClientId::default_device(), "test");
        let (pending, log_id) = (PendingSessions::default(), LogId::new());
        connection.begin(log_id, Seq::ZERO, Seq::ZERO);
        pending.began(&connection, log_id);
        let refreshed = || {
            pending.refresh(std::iter::once(&connection), log_id);
            pending.take().len()
        };
        assert_eq!((refreshed(), refreshed()), (1, 0), "its beginning is stored once");
        while connection.last_activity().is_zero() {
            connection.touch();
        }
        assert_eq!(refreshed(), 0, "a pong");
        connection.set_delivered(Seq::from_db(1));
        assert_eq!((refreshed(), refreshed()), (1, 0));
        let old = StoredProgress::of(&connection);
        assert!(old.is_outdated(&StoredProgress { active: old.active + ACTIVITY, ..old }));
    }
}
