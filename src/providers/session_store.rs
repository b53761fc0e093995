//! Holds the mailboxes of the sessions that this instance owns.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::mailbox::Mailbox;
use crate::domain::{ProviderName, UserId};
use crate::store::providers::{Lease, UpstreamState};

/// A session without its term: there is one per provider and user.
type SessionKey = (ProviderName, UserId);

/// The mailboxes. The lock is held for a look-up, never across a wait.
#[derive(Debug, Default)]
pub struct SessionStore(Mutex<HashMap<SessionKey, Arc<Mailbox>>>);

impl SessionStore {
    /// Adds a session. If an older term of it is still held here, the new one replaces it, and the older one loses its
    /// lease.
    pub fn add(&self, mailbox: Arc<Mailbox>) {
        mailbox.show(UpstreamState::Waiting);
        let key = (mailbox.lease.provider.clone(), mailbox.lease.user.clone());
        if let Some(older) = self.all().insert(key, mailbox) {
            older.lose();
        }
    }

    /// Removes the session if it is held under exactly this term.
    pub fn remove(&self, lease: &Lease) {
        let key = (lease.provider.clone(), lease.user.clone());
        let mut all = self.all();
        if all.get(&key).is_some_and(|mailbox| mailbox.lease.term == lease.term) {
            all.remove(&key);
        }
    }

    pub fn get(&self, lease: &Lease) -> Option<Arc<Mailbox>> {
        let key = (lease.provider.clone(), lease.user.clone());
        self.all().get(&key).filter(|mailbox| mailbox.lease.term == lease.term).cloned()
    }

    pub fn holds(&self, provider: &ProviderName, user: &UserId) -> bool {
        self.all().contains_key(&(provider.clone(), user.clone()))
    }

    pub fn mailboxes(&self) -> Vec<Arc<Mailbox>> {
        self.all().values().cloned().collect()
    }

    pub fn leases_of(&self, which: impl Fn(&Mailbox) -> bool) -> Vec<Lease> {
        self.all().values().filter(|mailbox| which(mailbox)).map(|mailbox| mailbox.lease.clone()).collect()
    }

    pub fn count(&self) -> usize {
        self.all().len()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<SessionKey, Arc<Mailbox>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
