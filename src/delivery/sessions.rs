//! Connections on their way to becoming facts in the database.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::registry::Member;
use crate::domain::{LogId, Seq, SessionId};
use crate::store::sessions::SessionFact;

/// Most facts that wait; beyond it, a database that is away costs facts, not memory. What a fact lost here would have
/// said is then missing from the history of sessions; no notification depends on it.
const MOST_WAITING: usize = 50_000;

/// The facts that are not stored yet, and what was stored last of each live session.
#[derive(Debug, Default)]
pub struct SessionBook {
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    waiting: HashMap<SessionId, SessionFact>,
    known: HashMap<SessionId, (Seq, Seq, Duration)>,
}

impl SessionBook {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has begun.
    pub fn began(&self, member: &Member, log_id: LogId) {
        self.write(fact(member, log_id, None));
    }

    /// A connection has ended.
    pub fn ended(&self, member: &Member, log_id: LogId, why: &'static str) {
        self.write(fact(member, log_id, Some((Instant::now(), why))));
        self.pages().known.remove(&member.session);
    }

    fn write(&self, fact: SessionFact) {
        let mut pages = self.pages();
        if pages.waiting.len() < MOST_WAITING || pages.waiting.contains_key(&fact.session) {
            pages.waiting.insert(fact.session, fact);
        }
    }

    /// Adds what has changed since the last round.
    pub(super) fn refresh<'a>(&self, members: impl Iterator<Item = &'a Member>, log_id: LogId) {
        let mut pages = self.pages();
        for member in members {
            let now = (member.sent(), member.acked(), member.last_activity());
            if pages.known.insert(member.session, now) != Some(now)
                && !pages.waiting.contains_key(&member.session)
                && pages.waiting.len() < MOST_WAITING
            {
                pages.waiting.insert(member.session, fact(member, log_id, None));
            }
        }
    }

    pub(super) fn take(&self) -> Vec<SessionFact> {
        std::mem::take(&mut self.pages().waiting).into_values().collect()
    }

    /// Puts back what could not be stored, where nothing newer waits.
    pub(super) fn not_stored(&self, facts: Vec<SessionFact>) {
        let mut pages = self.pages();
        for fact in facts {
            if pages.waiting.len() < MOST_WAITING {
                pages.waiting.entry(fact.session).or_insert(fact);
            }
        }
    }
}

fn fact(member: &Member, log_id: LogId, end: Option<(Instant, &'static str)>) -> SessionFact {
    SessionFact {
        session: member.session,
        who: member.who.clone(),
        client: member.client.clone(),
        transport: member.transport,
        log_id,
        from: member.from(),
        sent: member.sent(),
        acked: member.acked(),
        connected: member.connected,
        last_activity: member.connected + member.last_activity(),
        end,
    }
}
