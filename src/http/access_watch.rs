//! Applies the changes that take access back: closes connections, refuses tokens, forgets keys.
//!
//! Changes are rows of the database, so that they reach every hub. A hub reads them when a NOTIFY says so, and every
//! two seconds in any case. So a change takes effect within five seconds on every hub whose database answers.
//!
//! A token may be checked before a revocation is known here, and its connection be registered after. So the watch first
//! notes the revocation and then looks at the connections, and a new connection is first registered and then checked
//! against the revocations once more (`stream::connect`). One of the two finds it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::auth::Auth;
use crate::delivery::send_queue::CloseOrder;
use crate::delivery::{Connection, Registry};
use crate::domain::InstanceId;
use crate::identity::Revocations;
use crate::store::access::{self, AccessChange, AccessChanges, AllRevocations, SessionsOf, TokenRenewal};
use crate::store::dedicated_connection::DedicatedConnection;
use crate::store::{Database, StoreError};
use crate::tasks::Stop;
use crate::wire::close::CloseCode;

/// Longest time between two reads. With the limit of a statement, a change is applied within five seconds.
const READ_EVERY: Duration = Duration::from_secs(2);

/// When a client comes back that does so whatever the reason: an `EventSource` without the code to stop. Long, so that
/// closing a session has an effect on it.
const CLOSED_AFTER_MS: u64 = 3_600_000;

/// The task that follows the changes.
pub struct AccessWatch {
    dedicated: DedicatedConnection,
    instance: InstanceId,
    registry: Arc<Registry>,
    auth: Auth,
    /// The last change that was applied.
    revision: i64,
}

impl AccessWatch {
    /// Reads the revocations that there are. A hub must not serve before.
    ///
    /// # Errors
    /// When the database is unavailable or slow.
    pub async fn begin(database: Database, instance: InstanceId, registry: Arc<Registry>, auth: Auth) -> Result<Self, StoreError> {
        let dedicated = DedicatedConnection::new(database, "access");
        let mut watch = Self { dedicated, instance, registry, auth, revision: 0 };
        watch.read_everything().await?;
        Ok(watch)
    }

    /// Applies changes until stopped. `hints` is notified when there may be some.
    pub async fn run(mut self, hints: Arc<Notify>, mut stop: Stop) {
        let mut is_failing = false;
        loop {
            tokio::select! {
                _ = timeout(READ_EVERY, hints.notified()) => {}
                () = stop.wait() => return,
            }
            match self.read().await {
                Ok(()) => is_failing = false,
                Err(error) => {
                    self.dedicated.discard();
                    if !is_failing {
                        tracing::warn!(%error, "could not read access changes; revocations wait until the database answers");
                    }
                    is_failing = true;
                }
            }
        }
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        loop {
            match access::changes(self.dedicated.get().await?, self.revision).await? {
                AccessChanges::Next(revision, changes) => {
                    let is_last = changes.is_empty() && revision == self.revision;
                    self.revision = revision;
                    changes.into_iter().for_each(|change| self.apply(change));
                    if is_last {
                        break;
                    }
                }
                AccessChanges::Lost => {
                    tracing::warn!(
                        revision = self.revision,
                        "access changes since this revision are no longer kept; reading all revocations"
                    );
                    self.read_everything().await?;
                }
            }
        }
        for renewal in access::take_renewals(self.dedicated.get().await?, self.instance).await? {
            self.renew(&renewal);
        }
        Ok(())
    }

    async fn read_everything(&mut self) -> Result<(), StoreError> {
        let AllRevocations { revision, users } = access::everything(self.dedicated.get().await?).await?;
        self.revocations().replace(users);
        self.revision = revision;
        self.auth.forget_keys();
        self.registry.each(|connection| end_if_revoked(self.auth.tokens.revocations(), connection));
        Ok(())
    }

    fn revocations(&self) -> &Revocations {
        self.auth.tokens.revocations()
    }

    fn apply(&self, change: AccessChange) {
        match change {
            AccessChange::RevokeUser(user, not_before) => {
                #[cfg(feature = "mutants")]
                if crate::mutants::is("revoke-new-only") {
                    self.revocations().revoke(user, not_before);
                    return;
                }
                self.revocations().revoke(user.clone(), not_before);
                let connections = self.registry.of_user(&user);
                tracing::info!(connections = connections.len(), "a user was revoked");
                connections.iter().for_each(|connection| end_if_revoked(self.revocations(), connection));
            }
            AccessChange::LiftRevocation(user) => self.revocations().lift(&user),
            AccessChange::Close(sessions) => {
                let connections = match sessions {
                    SessionsOf::Session(session) => self.registry.of_session(session).into_iter().collect(),
                    SessionsOf::User(user) => self.registry.of_user(&user),
                    SessionsOf::Account(account) => self.registry.of_account(&account),
                };
                tracing::info!(connections = connections.len(), "an admin closes sessions");
                for connection in connections {
                    connection.send_queue.end(CloseOrder { close: CloseCode::ClosedByAdmin, after_ms: CLOSED_AFTER_MS });
                }
            }
            AccessChange::ChangeKeys => self.auth.forget_keys(),
        }
    }

    fn renew(&self, renewal: &TokenRenewal) {
        let connections = self.registry.of_user(&renewal.user);
        if let Some(connection) = connections.iter().find(|connection| connection.session == renewal.session) {
            renew(&self.registry, self.revocations(), connection, renewal);
        }
    }
}

/// Gives a newer token to an open stream of this hub.
pub fn renew(registry: &Registry, revocations: &Revocations, connection: &Connection, renewal: &TokenRenewal) {
    registry.renew_token(connection, renewal.origin);
    // It may have been revoked on its way.
    end_if_revoked(revocations, connection);
    connection.send_queue.renew(renewal.expires_at);
}

/// Ends a connection whose token was revoked.
pub fn end_if_revoked(revocations: &Revocations, connection: &Connection) {
    if revocations.refuse(&connection.who.user, connection.origin()) {
        connection.send_queue.end(CloseOrder { close: CloseCode::TokenRevoked, after_ms: 0 });
    }
}
