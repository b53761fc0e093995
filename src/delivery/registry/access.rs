//! Finds the connections that must end before their clients want to.

use std::collections::HashSet;
use std::sync::Arc;

use super::{CloseOrder, Connection, Registry};
use crate::domain::{AccountId, KeyTag, SessionId, TokenOrigin};
use crate::wire::close::CloseCode;

/// Most removed keys that are remembered. They matter for the moment between the check of a token and its connection,
/// and for tickets of 30 s; no issuer removes as many in that time.
const REMOVED_KEYS: usize = 10_000;

impl Registry {
    /// Notes which published keys were removed and added, and returns the connections of removed keys.
    pub fn change_keys(&self, removed: &[KeyTag], added: &[KeyTag]) -> Vec<Arc<Connection>> {
        {
            let keys = &mut self.inside().removed_keys;
            if keys.len() + removed.len() > REMOVED_KEYS {
                keys.clear();
            }
            keys.extend(removed);
            keys.retain(|key| !added.contains(key));
        }
        let mut connections = Vec::new();
        self.each(|connection| {
            if connection.origin().key.is_some_and(|key| removed.contains(&key)) {
                connections.push(Arc::clone(connection));
            }
        });
        connections
    }

    /// Whether the issuer of this key has removed it.
    pub fn is_removed(&self, key: Option<KeyTag>) -> bool {
        key.is_some_and(|key| self.inside().removed_keys.contains(&key))
    }

    /// Notes the origin of a newer token of this connection.
    pub fn renew_token(&self, connection: &Connection, origin: TokenOrigin) {
        // Under the lock: a removal sees either the new key, or is seen here.
        let inside = self.inside();
        connection.set_origin(origin);
        if origin.key.is_some_and(|key| inside.removed_keys.contains(&key)) {
            connection.send_queue.end(CloseOrder { close: CloseCode::TokenExpired, after_ms: 0 });
        }
    }

    /// The connections whose user is in this account now, by the token or by the table of members.
    pub fn of_account(&self, account: &AccountId) -> Vec<Arc<Connection>> {
        let inside = self.inside();
        let keys = inside.by_account.get(account);
        keys.into_iter().flatten().map(|key| Arc::clone(&inside.connections[*key])).collect()
    }

    /// The connections of these sessions that this instance has, in one walk over all.
    pub fn of_sessions(&self, sessions: &HashSet<SessionId>) -> Vec<Arc<Connection>> {
        let mut found = Vec::new();
        self.each(|connection| {
            if sessions.contains(&connection.session) {
                found.push(Arc::clone(connection));
            }
        });
        found
    }
}
