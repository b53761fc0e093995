//! Holds this instance's provider sessions: claims, renews and releases their leases.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::mailbox::Mailbox;
use super::provider::Providers;
use super::session::{ProviderSession, SessionContext};
use super::session_store::SessionStore;
use crate::domain::{InstanceId, ProviderName};
use crate::outgoing::{ClockReading, LeaseRule};
use crate::store::dedicated_connection::DedicatedConnection;
use crate::store::providers::{Claimed, Lease, ProviderHint, RenewRequest, chores, leases};
use crate::store::{Database, StoreError};
use crate::tasks::{Stop, TaskName, Tasks};

/// Interval between two attempts to claim sessions if no hint arrives.
const POLL: Duration = Duration::from_secs(1);
/// Interval between two checks of the trust of all sessions. A session checks its own before each action; this check is
/// for an inactive session, which would keep its socket open.
const WATCH: Duration = Duration::from_millis(200);
/// A renewal also reports whether a session is still wanted, which should not wait for a third of a long lease.
const LONGEST_RENEWAL: Duration = Duration::from_secs(5);
/// Interval between two searches for stored times that lie in the future because the database's clock was set back.
const DISBELIEVE_EVERY: Duration = Duration::from_secs(10);
/// How long to wait for a pending answer of the database when the hub stops.
const LAST_ANSWER: Duration = Duration::from_millis(500);
/// How long the sessions may take to close and to be written when the hub stops.
const FAREWELL: Duration = Duration::from_secs(4);

/// Limits on the sessions that an instance holds, and on their leases.
#[derive(Debug, Clone, Copy)]
pub struct SupervisorLimits {
    pub lease: LeaseRule,
    pub most: usize,
}

pub struct Supervisor {
    dedicated: DedicatedConnection,
    instance: InstanceId,
    providers: Providers,
    names: Vec<ProviderName>,
    shared: Arc<SessionContext>,
    session_store: Arc<SessionStore>,
    limits: SupervisorLimits,
    tasks: Tasks,
    disbelieve_at: Instant,
}

/// The next work of the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SupervisorDue {
    Claim,
    Asks,
}

impl Supervisor {
    pub fn new(
        database: Database,
        instance: InstanceId,
        providers: Providers,
        shared: Arc<SessionContext>,
        limits: SupervisorLimits,
        tasks: Tasks,
    ) -> Self {
        let (names, session_store) = (providers.names(), Arc::clone(&shared.session_store));
        Self {
            dedicated: DedicatedConnection::new(database, "upstream supervisor"),
            instance,
            providers,
            names,
            shared,
            session_store,
            limits,
            tasks,
            disbelieve_at: Instant::now(),
        }
    }

    /// Runs until stopped; then ends all sessions and waits, for a limited time, until they are given back. `hints` is
    /// a bounded channel; the next poll finds what a dropped hint would have named.
    pub async fn run(mut self, mut hints: mpsc::Receiver<ProviderHint>, mut stop: Stop) {
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renew_at = Instant::now();
        while !stop.is_stopped() {
            let due = tokio::select! {
                Some(hint) = hints.recv() => match hint {
                    ProviderHint::Want | ProviderHint::Everything => Some(SupervisorDue::Claim),
                    ProviderHint::Ask => Some(SupervisorDue::Asks),
                    ProviderHint::State { .. } | ProviderHint::Command { .. } => None,
                },
                _ = poll.tick() => Some(SupervisorDue::Claim),
                () = tokio::time::sleep_until(renew_at) => None,
                () = stop.wait() => break,
            };
            if Instant::now() >= renew_at {
                renew_at = Instant::now() + self.limits.lease.renew_every().min(LONGEST_RENEWAL);
                self.tried(&mut stop, "renew", Self::renew).await;
            }
            match due {
                Some(SupervisorDue::Claim) => self.tried(&mut stop, "claim", Self::claim).await,
                Some(SupervisorDue::Asks) => self.tried(&mut stop, "admin requests", Self::take_asks).await,
                None => {}
            }
        }
        self.session_store.mailboxes().iter().for_each(|mailbox| mailbox.stop());
        let end = Instant::now() + FAREWELL;
        while self.session_store.count() > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Performs a step. A stop does not wait long for a slow database, because the sessions' sockets are to be closed
    /// now.
    async fn tried(&mut self, stop: &mut Stop, name: &str, step: impl AsyncFnOnce(&mut Self) -> Result<(), StoreError>) {
        let stopped = async {
            stop.wait().await;
            tokio::time::sleep(LAST_ANSWER).await;
        };
        let done = tokio::select! {
            done = step(self) => done,
            () = stopped => return,
        };
        if let Err(error) = done {
            tracing::warn!(%error, step = name, "provider sessions: database step failed; retrying");
            self.dedicated.discard();
        }
    }

    /// Renews all leases in one statement. A session that is missing in the answer has lost its lease.
    async fn renew(&mut self) -> Result<(), StoreError> {
        let mailboxes = self.session_store.mailboxes();
        if mailboxes.is_empty() {
            return Ok(());
        }
        let held: Vec<RenewRequest> = mailboxes.iter().map(|mailbox| held(mailbox)).collect();
        // Taken before the request, because the database counts from later.
        let asked_at = ClockReading::now();
        let (rule, instance) = (self.limits.lease, self.instance);
        let renewed = leases::renew(self.dedicated.get().await?, instance, rule.lease, &held).await?;
        let renewed: std::collections::HashMap<&Lease, _> = renewed.iter().map(|renewed| (&renewed.lease, renewed)).collect();
        let mut is_asked = false;
        for mailbox in &mailboxes {
            match renewed.get(&mailbox.lease) {
                None => mailbox.lose(),
                Some(renewed) => {
                    mailbox.trust.extend(rule.trusted_from(asked_at));
                    is_asked |= renewed.is_asked;
                    if !renewed.wanted {
                        mailbox.unwanted();
                    }
                }
            }
        }
        if is_asked { self.take_asks().await } else { Ok(()) }
    }

    async fn take_asks(&mut self) -> Result<(), StoreError> {
        let leases = self.session_store.leases_of(|_| true);
        if leases.is_empty() {
            return Ok(());
        }
        let instance = self.instance;
        for (lease, asked) in leases::take_asks(self.dedicated.get().await?, instance, &leases).await? {
            if let Some(mailbox) = self.session_store.get(&lease) {
                mailbox.ask(asked);
            }
        }
        Ok(())
    }

    /// Claims as many sessions as the dial rate allows until the next poll, so that other instances can claim the rest.
    async fn claim(&mut self) -> Result<(), StoreError> {
        if Instant::now() >= self.disbelieve_at {
            let changed = chores::disbelieve_the_future(self.dedicated.get().await?, self.limits.lease.lease).await?;
            if changed > 0 {
                tracing::warn!(
                    sessions = changed,
                    "times of provider sessions were too far in the future: the database's clock was set back"
                );
            }
            self.disbelieve_at = Instant::now() + DISBELIEVE_EVERY;
        }
        let room = self.limits.most.saturating_sub(self.session_store.count()).min(self.shared.dial_rate.room_within(POLL));
        if room == 0 {
            return Ok(());
        }
        let asked_at = ClockReading::now();
        let (rule, instance) = (self.limits.lease, self.instance);
        let claimed = leases::claim(self.dedicated.get().await?, instance, rule.lease, room, &self.names).await?;
        for claimed in claimed {
            self.begin(&claimed, rule.trusted_from(asked_at));
        }
        Ok(())
    }

    fn begin(&self, claimed: &Claimed, trusted_until: ClockReading) {
        let Some(provider) = self.providers.get(claimed.provider.as_str()) else { return };
        let lease = claimed.lease();
        if claimed.unknown > 0 {
            tracing::warn!(session = ?lease, commands = claimed.unknown, "commands of the last owner have an unknown outcome");
        }
        let mailbox = Arc::new(Mailbox::new(lease, trusted_until));
        self.session_store.add(Arc::clone(&mailbox));
        let session = ProviderSession::new(Arc::clone(&self.shared), Arc::clone(provider), mailbox, claimed, rand::random());
        // Boxed, because a task is as large as the largest future that it runs.
        self.tasks.contained(TaskName::ProviderSession, Box::pin(session.run()));
    }
}

fn held(mailbox: &Mailbox) -> RenewRequest {
    let (last_message, last_ping) = mailbox.ages();
    RenewRequest { lease: mailbox.lease.clone(), last_message, last_ping }
}

/// Ends sessions whose trust is over, even while the supervisor waits.
pub async fn watch(session_store: Arc<SessionStore>, mut stop: Stop) {
    let mut look = tokio::time::interval(WATCH);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = stop.wait() => return,
        }
        for mailbox in session_store.mailboxes().iter().filter(|mailbox| mailbox.trust.is_over()) {
            mailbox.lose();
        }
    }
}
