//! Applies the orders of admins: closes connections, refuses tokens, forgets keys, drains this hub.
//!
//! Changes are rows of the database, so that they reach every hub. A hub reads them when a NOTIFY says so. Otherwise
//! it knows at least every two seconds whether there are some: the tailer learns that with each of its reads, and the
//! watch reads by itself when the tailer has not ([`AccessSign`]). So a change takes effect within five seconds on
//! every hub whose database answers.
//!
//! A token may be checked before a revocation is known here, and its connection be registered after. So the watch first
//! notes the revocation and then looks at the connections, and a new connection is first registered and then checked
//! against the revocations once more (`stream::connect`). One of the two finds it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::auth::Auth;
use super::drain;
use super::state::HubState;
use crate::delivery::send_queue::CloseOrder;
use crate::delivery::{Connection, Registry};
use crate::domain::{SessionId, TokenOrigin, UserId};
use crate::identity::Revocations;
use crate::store::access::{self, AccessChange, AccessChanges, AccessRead, AccessRevision, AllRevocations, SessionsOf, TokenRenewal};
use crate::store::access_sign::AccessSign;
use crate::store::dedicated_connection::DedicatedConnection;
use crate::store::{Database, StoreError};
use crate::tasks::{Stop, Stopper, TaskName};
use crate::wire::close::CloseCode;

/// Longest time without knowing whether there is a change. With the limit of a statement, a change is applied within
/// five seconds.
const READ_EVERY: Duration = Duration::from_secs(2);
/// Shortest time between two reads.
const SPACING: Duration = Duration::from_millis(50);
/// How long the connections of a revoked user may be left open for the sake of their clients. The clocks of hub and
/// database may differ.
const WHOLE_SECOND: Duration = Duration::from_millis(1500);

/// When a client comes back that does so whatever the reason: an `EventSource` without the code to stop. Long, so that
/// closing a session has an effect on it.
const CLOSED_AFTER_MS: u64 = 3_600_000;

/// The task that follows the changes.
pub struct AccessWatch {
    dedicated: DedicatedConnection,
    hub: Arc<HubState>,
    registry: Arc<Registry>,
    auth: Auth,
    /// The last change that was applied.
    revision: AccessRevision,
    /// Users whose connections are to be closed, and when.
    due: Vec<(Instant, UserId)>,
    /// Ends the drain that runs.
    drain: Option<Stopper>,
}

impl AccessWatch {
    /// Reads the revocations that there are. A hub must not serve before.
    ///
    /// # Errors
    /// When the database is unavailable or slow.
    pub async fn begin(database: Database, hub: Arc<HubState>) -> Result<Self, StoreError> {
        let dedicated = DedicatedConnection::new(database, "access");
        let (registry, auth) = (Arc::clone(&hub.delivery.registry), hub.auth.clone());
        let mut watch = Self { dedicated, hub, registry, auth, revision: AccessRevision::default(), due: Vec::new(), drain: None };
        watch.read_everything().await?;
        Ok(watch)
    }

    /// Applies changes until stopped. `hints` is notified when there may be some. `sign` says until when there were
    /// none.
    pub async fn run(mut self, hints: Arc<Notify>, sign: Arc<AccessSign>, mut stop: Stop) {
        let mut is_failing = false;
        let mut known_at = Instant::now();
        loop {
            let read_at = known_at + READ_EVERY;
            let next = self.due.iter().map(|(at, _)| *at).min().map_or(read_at, |at| at.min(read_at));
            let is_hinted = tokio::select! {
                hinted = timeout_at(next, hints.notified()) => hinted.is_ok(),
                () = stop.wait() => return,
            };
            self.close_due();
            if !is_hinted {
                known_at = sign.confirmed(self.revision).map_or(known_at, |at| at.max(known_at));
                if Instant::now() < known_at + READ_EVERY {
                    continue;
                }
            }
            let asked_at = Instant::now();
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
            // A read that failed is repeated at the next time, or hint.
            known_at = asked_at;
            // Any login of the database can send the NOTIFY.
            tokio::time::sleep(SPACING).await;
        }
    }

    fn close_due(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.due).into_iter().partition(|(at, _)| *at <= now);
        self.due = later;
        for (_, user) in due {
            self.close_revoked(&user);
        }
    }

    fn close_revoked(&self, user: &UserId) {
        let connections = self.registry.of_user(user);
        tracing::info!(connections = connections.len(), "a user was revoked");
        connections.iter().for_each(|connection| end_if_revoked(self.revocations(), connection));
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        let has_renewals = loop {
            let AccessRead { changes, has_renewals } =
                access::changes(self.dedicated.get().await?, self.revision, self.hub.instance).await?;
            match changes {
                AccessChanges::Next(revision, changes) => {
                    let is_last = changes.is_empty() && revision == self.revision;
                    self.revision = revision;
                    self.apply_all(changes);
                    if is_last {
                        break has_renewals;
                    }
                }
                AccessChanges::Lost => {
                    tracing::warn!("access changes since this revision are no longer kept; reading all revocations");
                    self.read_everything().await?;
                }
            }
        };
        if !has_renewals {
            return Ok(());
        }
        for renewal in access::take_renewals(self.dedicated.get().await?, self.hub.instance).await? {
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

    /// Applies changes in their order. Single sessions that are closed one after the other are found in one walk over
    /// all connections: an admin may close ten thousand at once.
    fn apply_all(&mut self, changes: Vec<AccessChange>) {
        let mut sessions = HashSet::new();
        for change in changes {
            if let AccessChange::Close(SessionsOf::Session(session)) = change {
                sessions.insert(session);
                continue;
            }
            self.close_sessions(&mut sessions);
            self.apply(change);
        }
        self.close_sessions(&mut sessions);
    }

    fn close_sessions(&self, sessions: &mut HashSet<SessionId>) {
        if !sessions.is_empty() {
            close(&self.registry.of_sessions(sessions));
            sessions.clear();
        }
    }

    fn apply(&mut self, change: AccessChange) {
        match change {
            AccessChange::RevokeUser(user, not_before) => {
                #[cfg(feature = "mutants")]
                if crate::mutants::is("revoke-new-only") {
                    self.revocations().revoke(user, not_before);
                    return;
                }
                self.revocations().revoke(user.clone(), not_before);
                // A client fetches a new token once its connection is closed, and gives up after some refusals. A token
                // names the whole second in which it was issued. So connections are closed when that second is over.
                let left = (not_before - Utc::now()).to_std().unwrap_or_default();
                if left.is_zero() || left > WHOLE_SECOND {
                    self.close_revoked(&user);
                } else {
                    self.due.push((Instant::now() + left + SPACING, user));
                }
            }
            AccessChange::LiftRevocation(user) => self.revocations().lift(&user),
            AccessChange::Close(sessions) => {
                close(&match sessions {
                    SessionsOf::Session(session) => self.registry.of_sessions(&HashSet::from([session])),
                    SessionsOf::User(user) => self.registry.of_user(&user),
                    SessionsOf::Account(account) => self.registry.of_account(&account),
                });
            }
            AccessChange::ChangeKeys => self.auth.forget_keys(),
            AccessChange::Drain(instance, window) if instance == self.hub.instance => self.drain(window),
            AccessChange::Drain(..) => {}
        }
    }

    /// Begins to drain. A drain that runs ends: the newer order counts.
    fn drain(&mut self, window: Duration) {
        let (stopper, stop) = Stopper::new();
        self.drain = Some(stopper);
        self.hub.tasks.contained(TaskName::Drain, drain::run(Arc::clone(&self.hub), window, stop));
    }

    fn renew(&self, renewal: &TokenRenewal) {
        let connections = self.registry.of_user(&renewal.user);
        if let Some(connection) = connections.iter().find(|connection| connection.session == renewal.session) {
            renew(&self.registry, self.revocations(), connection, renewal);
        }
    }
}

fn close(connections: &[Arc<Connection>]) {
    tracing::info!(connections = connections.len(), "an admin closes sessions");
    for connection in connections {
        connection.send_queue.end(CloseOrder { close: CloseCode::ClosedByAdmin, after_ms: CLOSED_AFTER_MS });
    }
}

/// Gives a newer token to an open stream of this hub.
pub fn renew(registry: &Registry, revocations: &Revocations, connection: &Connection, renewal: &TokenRenewal) {
    take_token(registry, revocations, connection, renewal.origin);
    connection.send_queue.renew(renewal.expires_at);
}

/// Notes the origin of a newer token. The connection ends if the token no longer counts.
pub fn take_token(registry: &Registry, revocations: &Revocations, connection: &Connection, origin: TokenOrigin) {
    registry.renew_token(connection, origin);
    // It may have been revoked on its way.
    end_if_revoked(revocations, connection);
}

/// Ends a connection whose token was revoked.
fn end_if_revoked(revocations: &Revocations, connection: &Connection) {
    if revocations.refuse(&connection.who.user, connection.origin()) {
        connection.send_queue.end(CloseOrder { close: CloseCode::TokenRevoked, after_ms: 0 });
    }
}
