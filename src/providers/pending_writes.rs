//! Collects the state changes and command outcomes of sessions until they are written.
//!
//! A session never waits for the database to write. If it notes a change twice, only the newest is written. So the size
//! of the pending writes is bounded by the number of sessions and of their unsettled commands.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::mailbox::Mailbox;
use crate::domain::CommandId;
use crate::store::providers::commands::MarkedSent;
use crate::store::providers::{CheckpointChange, Lease, UpstreamState};

/// The outcome of a command.
#[derive(Debug, Clone)]
pub struct Settlement {
    pub id: CommandId,
    pub outcome: MarkedSent,
    pub detail: Option<&'static str>,
}

/// The pending writes of one session.
#[derive(Debug)]
pub struct SessionWrites {
    pub mailbox: Arc<Mailbox>,
    pub settled: Vec<Settlement>,
    pub change: Option<CheckpointChange>,
    /// The session has ended and gives its lease back.
    pub release: bool,
}

impl SessionWrites {
    fn none(mailbox: Arc<Mailbox>) -> Self {
        Self { mailbox, settled: Vec::new(), change: None, release: false }
    }
}

/// The pending writes of all sessions, in the order in which they were first noted.
#[derive(Debug, Default)]
pub struct PendingWrites {
    book: Mutex<PendingBySession>,
    noted: Notify,
}

#[derive(Debug, Default)]
struct PendingBySession {
    order: VecDeque<Lease>,
    dues: HashMap<Lease, SessionWrites>,
}

impl PendingBySession {
    fn of(&mut self, mailbox: &Arc<Mailbox>) -> &mut SessionWrites {
        self.dues.entry(mailbox.lease.clone()).or_insert_with(|| {
            self.order.push_back(mailbox.lease.clone());
            SessionWrites::none(Arc::clone(mailbox))
        })
    }
}

impl PendingWrites {
    pub fn change(&self, mailbox: &Arc<Mailbox>, newer: CheckpointChange) {
        mailbox.show(newer.state);
        let mut book = self.book();
        let dues = book.of(mailbox);
        dues.change = Some(dues.change.take().map_or_else(|| newer.clone(), |older| merged(older, newer.clone())));
        drop(book);
        self.noted.notify_one();
    }

    pub fn settle(&self, mailbox: &Arc<Mailbox>, settlement: Settlement) {
        self.book().of(mailbox).settled.push(settlement);
        self.noted.notify_one();
    }

    pub fn release(&self, mailbox: &Arc<Mailbox>) {
        self.book().of(mailbox).release = true;
        self.noted.notify_one();
    }

    /// Takes the next few, oldest first.
    pub fn take(&self, most: usize) -> Vec<SessionWrites> {
        let mut book = self.book();
        let count = most.min(book.order.len());
        let leases: Vec<Lease> = book.order.drain(..count).collect();
        leases.iter().filter_map(|lease| book.dues.remove(lease)).collect()
    }

    /// Puts back a write that failed. Changes noted since are newer.
    pub fn put_back(&self, older: SessionWrites) {
        let mut book = self.book();
        let dues = book.of(&older.mailbox);
        let mut settled = older.settled;
        settled.append(&mut dues.settled);
        dues.settled = settled;
        dues.release |= older.release;
        dues.change = match (older.change, dues.change.take()) {
            (Some(older), Some(newer)) => Some(merged(older, newer)),
            (older, newer) => newer.or(older),
        };
    }

    pub fn is_empty(&self) -> bool {
        self.book().order.is_empty()
    }

    /// Returns once a write was noted since the last call. Safe to drop and call again.
    pub async fn noted(&self) {
        self.noted.notified().await;
    }

    fn book(&self) -> MutexGuard<'_, PendingBySession> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newer change, with the fields that only the older one has.
fn merged(older: CheckpointChange, newer: CheckpointChange) -> CheckpointChange {
    // An error that was repaired before it was written is not reported to the user.
    let error = if newer.state == UpstreamState::Live { None } else { newer.error.or(older.error) };
    CheckpointChange { secret: newer.secret.or(older.secret), message: newer.message.or(older.message), error, ..newer }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{ProviderName, Term, UserId};
    use crate::outgoing::ClockReading;

    fn mailbox(user: &str) -> Arc<Mailbox> {
        let (provider, user) = (ProviderName::parse("p").unwrap(), UserId::parse(user).unwrap());
        Arc::new(Mailbox::new(Lease { provider, user, term: Term::from_db(1) }, ClockReading::now().plus(Duration::from_secs(9))))
    }

    #[test]
    fn a_session_stands_once_with_its_latest_state_and_the_secret_of_before() {
        let (writes, ann, bob) = (PendingWrites::default(), mailbox("ann"), mailbox("bob"));
        writes.change(&ann, CheckpointChange { secret: Some(Some(vec![7])), ..CheckpointChange::to(UpstreamState::Connecting) });
        writes.change(&bob, CheckpointChange::to(UpstreamState::SigningIn));
        writes.change(&ann, CheckpointChange::to(UpstreamState::Live));
        let taken = writes.take(10);
        assert_eq!(taken.iter().map(|dues| dues.mailbox.lease.user.as_str()).collect::<Vec<_>>(), ["ann", "bob"]);
        let change = taken[0].change.as_ref().unwrap();
        assert_eq!((change.state, change.secret.clone()), (UpstreamState::Live, Some(Some(vec![7]))));
        assert!(writes.is_empty());
    }

    #[test]
    fn what_could_not_be_written_does_not_hide_what_came_since() {
        let (writes, ann) = (PendingWrites::default(), mailbox("ann"));
        let settlement = |detail| Settlement { id: CommandId::new(), outcome: MarkedSent::Sent, detail: Some(detail) };
        writes.settle(&ann, settlement("first"));
        writes.change(&ann, CheckpointChange { error: Some("e".into()), ..CheckpointChange::to(UpstreamState::BackingOff) });
        let failed = writes.take(1).remove(0);
        writes.settle(&ann, settlement("second"));
        writes.change(&ann, CheckpointChange::to(UpstreamState::SigningIn));
        writes.release(&ann);
        writes.put_back(failed);
        let dues = writes.take(1).remove(0);
        assert_eq!(dues.settled.iter().filter_map(|settled| settled.detail).collect::<Vec<_>>(), ["first", "second"]);
        let change = dues.change.unwrap();
        assert_eq!((change.state, change.error.as_deref(), dues.release), (UpstreamState::SigningIn, Some("e"), true));
    }
}
