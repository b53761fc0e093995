//! Collects the begin, progress and end of connections until they are stored as sessions.

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
    known: HashMap<SessionId, (Seq, Seq, Duration)>,
    /// Settled connections of devices, to be stored. Losing them costs nothing: the next connect settles them again.
    settled: HashMap<SessionId, SettledConnection>,
}

impl PendingSessions {
    fn pages(&self) -> MutexGuard<'_, SessionPages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a connection has begun.
    pub fn began(&self, connection: &Connection, log_id: LogId) {
        self.write(fact(connection, log_id, None));
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

    fn write(&self, fact: SessionFact) {
        let mut pages = self.pages();
        if pages.waiting.len() < MOST_WAITING || pages.waiting.contains_key(&fact.session) {
            pages.waiting.insert(fact.session, fact);
        }
        drop(pages);
        self.added.notify_one();
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
            let now = (connection.delivered(), connection.acked(), connection.last_activity());
            if pages.known.insert(connection.session, now) != Some(now)
                && !pages.waiting.contains_key(&connection.session)
                && pages.waiting.len() < MOST_WAITING
            {
                pages.waiting.insert(connection.session, fact(connection, log_id, None));
            }
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
}
