//! Holds the webhooks of this instance: claims, renews and releases their leases.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::poster::Poster;
use super::secret::{self, SecretKeys, WebhookSecret};
use super::target::TargetRules;
use super::worker::{OldSecret, Worker, WorkerContext, WorkerLease};
use crate::domain::InstanceId;
use crate::metrics;
use crate::outgoing::{ClockReading, Connector, LeaseRule};
use crate::sealing::Keyring;
use crate::store::dedicated_connection::DedicatedConnection;
use crate::store::webhooks::{self, BeatenWebhook, WebhookError, WebhookTerm};
use crate::store::{Database, StoreError};
use crate::tasks::{Stop, TaskName, Tasks};

/// A webhook whose hub is gone is taken over after this time.
const LEASE: LeaseRule = LeaseRule { lease: Duration::from_secs(15) };
/// Interval between two beats while webhooks exist.
const BEAT: Duration = Duration::from_secs(5);
/// The same while there are none: an idle hub asks little of its database. A NOTIFY wakes it.
const IDLE_BEAT: Duration = Duration::from_secs(15);
/// Shortest time between two beats, however often webhooks change.
const SPACING: Duration = Duration::from_millis(200);
/// For how long a webhook is left to other hubs after its secret could not be opened.
const SKIP: Duration = Duration::from_secs(300);
/// How long attempts that run may take when the hub stops.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long to wait for a pending answer of the database when the hub stops.
const LAST_ANSWER: Duration = Duration::from_millis(500);

/// Claims and renews leases, and starts and ends workers.
pub struct Supervisor {
    dedicated: DedicatedConnection,
    instance: InstanceId,
    shared: Arc<WorkerContext>,
    keys: SecretKeys,
    rules: Arc<TargetRules>,
    /// Made for the first webhook: it reads the certificate authorities of the machine.
    poster: Option<Poster>,
    tasks: Tasks,
    held: HashMap<String, Arc<WorkerLease>>,
    skipped: HashMap<String, Instant>,
}

impl Supervisor {
    pub fn new(
        database: Database,
        instance: InstanceId,
        shared: Arc<WorkerContext>,
        keys: SecretKeys,
        rules: Arc<TargetRules>,
        tasks: Tasks,
    ) -> Self {
        let dedicated = DedicatedConnection::new(database, "webhook supervisor");
        Self { dedicated, instance, shared, keys, rules, poster: None, tasks, held: HashMap::new(), skipped: HashMap::new() }
    }

    /// Runs until stopped; then lets attempts end, for a limited time, and gives the leases back.
    pub async fn run(mut self, changed: Arc<Notify>, mut stop: Stop) {
        while !stop.is_stopped() {
            let beaten_at = Instant::now();
            let stopped = async {
                stop.wait().await;
                sleep(LAST_ANSWER).await;
            };
            let beaten = tokio::select! {
                beaten = self.beat() => beaten,
                () = stopped => break,
            };
            let pause = beaten.unwrap_or_else(|error| {
                tracing::warn!(%error, "webhooks: could not renew the leases; retrying");
                self.dedicated.discard();
                BEAT / 5
            });
            tokio::select! {
                () = sleep_until(beaten_at + pause) => {}
                () = changed.notified() => {
                    self.skipped.clear();
                    sleep_until(beaten_at + SPACING).await;
                }
                () = stop.wait() => {}
            }
        }
        self.stop().await;
    }

    async fn stop(mut self) {
        self.held.values().for_each(|lease| lease.stop());
        let end = Instant::now() + FAREWELL;
        while self.held.values().any(|lease| !lease.has_ended()) && Instant::now() < end {
            sleep(Duration::from_millis(20)).await;
        }
        self.held.values().for_each(|lease| lease.lose());
        if !self.held.is_empty() {
            let released = match self.dedicated.get().await {
                Ok(connection) => webhooks::release(connection, self.instance).await,
                Err(error) => Err(error),
            };
            if let Err(error) = released {
                tracing::warn!(%error, "webhooks: could not give the leases back; other hubs take them over when they end");
            }
        }
        self.shared.calls.close().await;
    }

    /// Renews, claims, and starts and ends workers. Returns the pause until the next beat.
    async fn beat(&mut self) -> Result<Duration, StoreError> {
        let now = Instant::now();
        self.skipped.retain(|_, until| *until > now);
        let skip: Vec<String> = self.skipped.keys().cloned().collect();
        // Taken before the request, because the database counts from later.
        let asked_at = ClockReading::now();
        let beaten = webhooks::beat(self.dedicated.get().await?, self.instance, LEASE.lease, &skip).await?;
        measure(&beaten);
        self.held.retain(|name, lease| {
            let is_held = beaten.iter().any(|webhook| webhook.name == *name && webhook.term == Some(lease.term.term));
            if !is_held {
                lease.lose();
            }
            is_held && !lease.has_ended()
        });
        let trusted_until = LEASE.trusted_from(asked_at);
        let is_idle = beaten.is_empty();
        for webhook in beaten {
            let Some(term) = webhook.term else { continue };
            match self.held.get(&webhook.name) {
                Some(lease) => lease.renew(trusted_until),
                None => self.begin(webhook, term, trusted_until).await,
            }
        }
        Ok(if is_idle { IDLE_BEAT } else { BEAT })
    }

    /// Starts the worker of a webhook.
    async fn begin(&mut self, webhook: BeatenWebhook, term: i64, trusted_until: ClockReading) {
        let term = WebhookTerm { name: webhook.name.clone(), term };
        let Some((keys, opened)) = self.keys.read().and_then(|keys| open(&keys, &webhook).map(|opened| (keys, opened))) else {
            tracing::warn!(
                webhook = webhook.name,
                "the secret of a webhook cannot be opened with the keys of this hub; give every hub and the command line the same \
                 RECADO_UPSTREAM_KEY"
            );
            self.skipped.insert(webhook.name, Instant::now() + SKIP);
            return;
        };
        if !opened.is_current {
            self.reseal(&keys, &term, &opened).await;
        }
        let Some(poster) = self.poster().await else { return };
        tracing::info!(webhook = webhook.name, term = term.term, "posting for a webhook");
        let lease = Arc::new(WorkerLease::new(term, trusted_until));
        self.held.insert(webhook.name, Arc::clone(&lease));
        let worker = Worker::new(Arc::clone(&self.shared), lease, poster, webhook.url, opened.secret, opened.old);
        // Boxed, because a task is as large as the largest future that it runs.
        self.tasks.contained(TaskName::Webhook, Box::pin(worker.run()));
    }

    /// Seals the secrets with the current key, so that an earlier key can be forgotten.
    async fn reseal(&mut self, keys: &Keyring, term: &WebhookTerm, opened: &OpenedSecrets) {
        let seal = |secret: &WebhookSecret| secret::seal(keys, &term.name, secret);
        let Ok(secret) = seal(&opened.secret) else { return };
        let Ok(old) = opened.old.as_ref().map(|old| seal(&old.secret)).transpose() else { return };
        let resealed = match self.dedicated.get().await {
            Ok(connection) => webhooks::reseal(connection, term, &secret, old.as_deref()).await,
            Err(error) => Err(WebhookError::Store(error)),
        };
        match resealed {
            Ok(()) => tracing::info!(webhook = term.name, "sealed the secret of a webhook with the current key"),
            Err(error) => {
                tracing::warn!(%error, webhook = term.name, "could not seal the secret of a webhook with the current key");
                self.dedicated.discard();
            }
        }
    }

    async fn poster(&mut self) -> Option<Poster> {
        if self.poster.is_none() {
            match tokio::task::spawn_blocking(Connector::new).await {
                Ok(Ok(connector)) => self.poster = Some(Poster::new(connector, Arc::clone(&self.rules))),
                Ok(Err(error)) => tracing::error!(%error, "webhooks: could not set up TLS"),
                Err(error) => tracing::error!(%error, "webhooks: could not read the certificate authorities"),
            }
        }
        self.poster.clone()
    }
}

struct OpenedSecrets {
    secret: WebhookSecret,
    old: Option<OldSecret>,
    /// Both were sealed with the current key.
    is_current: bool,
}

fn open(keys: &Keyring, webhook: &BeatenWebhook) -> Option<OpenedSecrets> {
    let (secret, mut is_current) = secret::open(keys, &webhook.name, &webhook.secret)?;
    let old = webhook.old_secret.as_deref().zip(webhook.old_left).and_then(|(sealed, left)| {
        let (secret, current) = secret::open(keys, &webhook.name, sealed)?;
        is_current &= current;
        Some(OldSecret { secret, until: Instant::now() + Duration::from_secs_f64(left.clamp(0.0, 30.0 * 86_400.0)) })
    });
    Some(OpenedSecrets { secret, old, is_current })
}

fn measure(beaten: &[BeatenWebhook]) {
    let lag = beaten.iter().filter_map(|webhook| webhook.lag).fold(0.0, f64::max);
    let stopped = beaten.iter().filter(|webhook| matches!(webhook.state.as_str(), "disabled" | "reset")).count();
    metrics::WEBHOOKS_LAG.set(lag);
    metrics::WEBHOOKS_DEAD.set(beaten.iter().map(|webhook| webhook.dead as f64).sum());
    metrics::WEBHOOKS_STOPPED.set(stopped as f64);
}
