//! The task that holds this instance's sessions: claims, renews, and gives back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::clock::{LeaseRule, Moment};
use super::holdings::Holdings;
use super::mailbox::Mailbox;
use super::provider::Providers;
use super::session::{Outward, Session};
use crate::domain::{InstanceId, ProviderName};
use crate::store::lane::Lane;
use crate::store::upstream::{Claimed, Held, Hint, Lease, leases};
use crate::store::{Database, StoreError};
use crate::tasks::{Stop, Tasks};

/// Between two looks for sessions to claim when nobody hints at one.
const POLL: Duration = Duration::from_secs(1);
/// Between two looks at the trust of all sessions. A session looks at its own before it does anything; this is for one
/// that has nothing to do, and would keep its socket open.
const WATCH: Duration = Duration::from_millis(200);
/// A renewal also says whether a session is still wanted, and that should not wait for a long lease's third.
const LONGEST_RENEWAL: Duration = Duration::from_secs(5);
/// How long the sessions may take to say goodbye and to be written down when the hub stops.
const FAREWELL: Duration = Duration::from_secs(4);

/// The name of a session's task.
pub const SESSION_TASK: &str = "upstream session";

/// How many sessions an instance holds, and how fast it takes them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub lease: LeaseRule,
    pub most: usize,
}

pub struct Supervisor {
    lane: Lane,
    instance: InstanceId,
    providers: Providers,
    names: Vec<ProviderName>,
    shared: Arc<Outward>,
    holdings: Arc<Holdings>,
    limits: Limits,
    tasks: Tasks,
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Claim,
    Asks,
}

impl Supervisor {
    pub fn new(database: Database, instance: InstanceId, providers: Providers, shared: Arc<Outward>, limits: Limits, tasks: Tasks) -> Self {
        let (names, holdings) = (providers.names(), Arc::clone(&shared.holdings));
        Self { lane: Lane::new(database, "upstream supervisor"), instance, providers, names, shared, holdings, limits, tasks }
    }

    /// Runs until stopped; then ends all sessions and waits until they are given back, for a while. `hints` is bounded;
    /// what finds no room is found by the next look.
    pub async fn run(mut self, mut hints: mpsc::Receiver<Hint>, mut stop: Stop) {
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renew_at = Instant::now();
        while !stop.is_stopped() {
            let due = tokio::select! {
                Some(hint) = hints.recv() => match hint {
                    Hint::Want | Hint::Everything => Some(Due::Claim),
                    Hint::Ask => Some(Due::Asks),
                    Hint::State { .. } | Hint::Command { .. } => None,
                },
                _ = poll.tick() => Some(Due::Claim),
                () = tokio::time::sleep_until(renew_at) => None,
                () = stop.wait() => break,
            };
            if Instant::now() >= renew_at {
                renew_at = Instant::now() + self.limits.lease.renew_every().min(LONGEST_RENEWAL);
                self.tried("renewed", Self::renew).await;
            }
            match due {
                Some(Due::Claim) => self.tried("claimed", Self::claim).await,
                Some(Due::Asks) => self.tried("asked for", Self::take_asks).await,
                None => {}
            }
        }
        self.holdings.mailboxes().iter().for_each(|mailbox| mailbox.stop());
        let end = Instant::now() + FAREWELL;
        while self.holdings.count() > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn tried(&mut self, what: &str, step: impl AsyncFnOnce(&mut Self) -> Result<(), StoreError>) {
        if let Err(error) = step(self).await {
            tracing::warn!(%error, "upstream sessions could not be {what}");
            self.lane.discard();
        }
    }

    /// One statement for all. What is not in the answer is lost.
    async fn renew(&mut self) -> Result<(), StoreError> {
        let mailboxes = self.holdings.mailboxes();
        if mailboxes.is_empty() {
            return Ok(());
        }
        let held: Vec<Held> = mailboxes.iter().map(|mailbox| held(mailbox)).collect();
        // From before we ask: the database counts from later.
        let asked_at = Moment::now();
        let (rule, instance) = (self.limits.lease, self.instance);
        let renewed = leases::renew(self.lane.get().await?, instance, rule.lease, &held).await?;
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
        let leases = self.holdings.leases_of(|_| true);
        if leases.is_empty() {
            return Ok(());
        }
        let instance = self.instance;
        for (lease, asked) in leases::take_asks(self.lane.get().await?, instance, &leases).await? {
            if let Some(mailbox) = self.holdings.get(&lease) {
                mailbox.ask(asked);
            }
        }
        Ok(())
    }

    /// As many as the gate lets through until the next look, so that what one instance cannot begin soon is another's.
    async fn claim(&mut self) -> Result<(), StoreError> {
        let room = self.limits.most.saturating_sub(self.holdings.count()).min(self.shared.gate.room_within(POLL));
        if room == 0 {
            return Ok(());
        }
        let asked_at = Moment::now();
        let (rule, instance) = (self.limits.lease, self.instance);
        let claimed = leases::claim(self.lane.get().await?, instance, rule.lease, room, &self.names).await?;
        for claimed in claimed {
            self.begin(&claimed, rule.trusted_from(asked_at));
        }
        Ok(())
    }

    fn begin(&self, claimed: &Claimed, trusted_until: Moment) {
        let Some(provider) = self.providers.get(claimed.provider.as_str()) else { return };
        let lease = claimed.lease();
        if claimed.unknown > 0 {
            tracing::warn!(session = ?lease, commands = claimed.unknown, "the outcome of commands of the last owner is unknown");
        }
        let mailbox = Arc::new(Mailbox::new(lease, trusted_until));
        self.holdings.add(Arc::clone(&mailbox));
        let session = Session::new(Arc::clone(&self.shared), Arc::clone(provider), mailbox, claimed, rand::random());
        // On the heap: a task is as big as the largest moment of what it runs.
        self.tasks.contained(SESSION_TASK, Box::pin(session.run()));
    }
}

fn held(mailbox: &Mailbox) -> Held {
    let (last_message, last_ping) = mailbox.ages();
    Held { lease: mailbox.lease.clone(), last_message, last_ping }
}

/// The task that ends sessions whose trust is over, whatever the supervisor waits for.
pub async fn watch(holdings: Arc<Holdings>, mut stop: Stop) {
    let mut look = tokio::time::interval(WATCH);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = stop.wait() => return,
        }
        for mailbox in holdings.mailboxes().iter().filter(|mailbox| mailbox.trust.is_over()) {
            mailbox.lose();
        }
    }
}
