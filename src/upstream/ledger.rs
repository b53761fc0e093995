//! What sessions have to write down, until it is written: their latest state, and what became of their commands.
//!
//! A session never waits for the database to write a word: what it notes here twice is written once, as it is by then. So
//! the ledger is bounded by the number of sessions, and their commands under way.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::mailbox::Mailbox;
use crate::domain::CommandId;
use crate::store::upstream::commands::Sent;
use crate::store::upstream::{Change, Lease, UpstreamState};

/// What became of a command.
#[derive(Debug, Clone)]
pub struct Settlement {
    pub id: CommandId,
    pub outcome: Sent,
    pub detail: Option<&'static str>,
}

/// What one session has to write down.
#[derive(Debug)]
pub struct Dues {
    pub mailbox: Arc<Mailbox>,
    pub settled: Vec<Settlement>,
    pub change: Option<Change>,
    /// It has ended, and gives its lease back.
    pub release: bool,
}

impl Dues {
    fn none(mailbox: Arc<Mailbox>) -> Self {
        Self { mailbox, settled: Vec::new(), change: None, release: false }
    }
}

/// The dues of all sessions, in the order in which they were first noted.
#[derive(Debug, Default)]
pub struct Ledger {
    book: Mutex<Book>,
    noted: Notify,
}

#[derive(Debug, Default)]
struct Book {
    order: VecDeque<Lease>,
    dues: HashMap<Lease, Dues>,
}

impl Book {
    fn of(&mut self, mailbox: &Arc<Mailbox>) -> &mut Dues {
        self.dues.entry(mailbox.lease.clone()).or_insert_with(|| {
            self.order.push_back(mailbox.lease.clone());
            Dues::none(Arc::clone(mailbox))
        })
    }
}

impl Ledger {
    pub fn change(&self, mailbox: &Arc<Mailbox>, newer: Change) {
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

    /// The next few, oldest first.
    pub fn take(&self, most: usize) -> Vec<Dues> {
        let mut book = self.book();
        let count = most.min(book.order.len());
        let leases: Vec<Lease> = book.order.drain(..count).collect();
        leases.iter().filter_map(|lease| book.dues.remove(lease)).collect()
    }

    /// What could not be written. What was noted since is newer.
    pub fn put_back(&self, older: Dues) {
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

    /// Returns once something was noted since the last call. Safe to drop and call again.
    pub async fn noted(&self) {
        self.noted.notified().await;
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newer one, with what only the older one says.
fn merged(older: Change, newer: Change) -> Change {
    // A failure that mended before anybody was told is nobody's news.
    let error = if newer.state == UpstreamState::Live { None } else { newer.error.or(older.error) };
    Change { secret: newer.secret.or(older.secret), message: newer.message.or(older.message), error, ..newer }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{ProviderName, Term, UserId};
    use crate::upstream::clock::Moment;

    fn mailbox(user: &str) -> Arc<Mailbox> {
        let (provider, user) = (ProviderName::parse("p").unwrap(), UserId::parse(user).unwrap());
        Arc::new(Mailbox::new(Lease { provider, user, term: Term::from_db(1) }, Moment::now().plus(Duration::from_secs(9))))
    }

    #[test]
    fn a_session_stands_once_with_its_latest_state_and_the_secret_of_before() {
        let (ledger, ann, bob) = (Ledger::default(), mailbox("ann"), mailbox("bob"));
        ledger.change(&ann, Change { secret: Some(Some(vec![7])), ..Change::to(UpstreamState::Connecting) });
        ledger.change(&bob, Change::to(UpstreamState::SigningIn));
        ledger.change(&ann, Change::to(UpstreamState::Live));
        let taken = ledger.take(10);
        assert_eq!(taken.iter().map(|dues| dues.mailbox.lease.user.as_str()).collect::<Vec<_>>(), ["ann", "bob"]);
        let change = taken[0].change.as_ref().unwrap();
        assert_eq!((change.state, change.secret.clone()), (UpstreamState::Live, Some(Some(vec![7]))));
        assert!(ledger.is_empty());
    }

    #[test]
    fn what_could_not_be_written_does_not_hide_what_came_since() {
        let (ledger, ann) = (Ledger::default(), mailbox("ann"));
        let settlement = |detail| Settlement { id: CommandId::new(), outcome: Sent::Sent, detail: Some(detail) };
        ledger.settle(&ann, settlement("first"));
        ledger.change(&ann, Change { error: Some("e".into()), ..Change::to(UpstreamState::BackingOff) });
        let failed = ledger.take(1).remove(0);
        ledger.settle(&ann, settlement("second"));
        ledger.change(&ann, Change::to(UpstreamState::SigningIn));
        ledger.release(&ann);
        ledger.put_back(failed);
        let dues = ledger.take(1).remove(0);
        assert_eq!(dues.settled.iter().filter_map(|settled| settled.detail).collect::<Vec<_>>(), ["first", "second"]);
        let change = dues.change.unwrap();
        assert_eq!((change.state, change.error.as_deref(), dues.release), (UpstreamState::SigningIn, Some("e"), true));
    }
}
