//! Bundles the shared handles that a connection needs from its instance.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::arrived_connections::ArrivedConnections;
use super::connection_entries::EntryHandle;
use super::inbox_counter::UNASKED_COUNTS;
use super::pending_acks::PendingAcks;
use super::pending_facts::PendingFacts;
use super::pending_sessions::PendingSessions;
use super::registry::Registry;
use crate::domain::{ClientId, InstanceId, LogId, Seq, UserId};
use crate::store::Reader;

/// The resume window if no setting changes it.
const RESUME_WINDOW: Duration = Duration::from_secs(86_400);

/// The connections of this instance, their acknowledgements, and the facts to be stored about them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub registry: Arc<Registry>,
    pub acks: Arc<PendingAcks>,
    pub sessions: Arc<PendingSessions>,
    /// Where connections are listed when they begin; `None` if no task serves newcomers.
    pub(super) arrivals: Option<Arc<ArrivedConnections>>,
    pub facts: Arc<PendingFacts>,
    /// Stores new connections in groups; `None` if no task does.
    pub(super) entries: Option<EntryHandle>,
    pub(super) reader: Reader,
    pub(super) instance: InstanceId,
    /// How long the positions of a device's connections count after the connections end.
    pub(super) resume_window: Duration,
    /// Whether the accounts of a token count.
    pub(super) reads_token_accounts: bool,
    /// Turns for counts of inboxes that no row asked for.
    pub(super) inbox_counts: Arc<Semaphore>,
}

impl Delivery {
    /// `facts_every` is the time between two delivery facts of one connection; `None` turns delivery facts off.
    pub fn new(registry: Arc<Registry>, reader: Reader, facts_every: Option<Duration>) -> Self {
        let facts = Arc::new(PendingFacts::new(facts_every));
        let (instance, resume_window) = (InstanceId::new(), RESUME_WINDOW);
        Self {
            registry,
            acks: Arc::default(),
            sessions: Arc::default(),
            arrivals: None,
            facts,
            entries: None,
            reader,
            instance,
            resume_window,
            reads_token_accounts: true,
            inbox_counts: Arc::new(Semaphore::new(UNASKED_COUNTS)),
        }
    }

    /// Sets the instance id, and how long positions of ended connections count.
    #[must_use]
    pub fn with_resume(mut self, instance: InstanceId, window: Duration) -> Self {
        (self.instance, self.resume_window) = (instance, window);
        self
    }

    /// Sets whether the accounts of a token count.
    #[must_use]
    pub fn with_token_accounts(mut self, count: bool) -> Self {
        self.reads_token_accounts = count;
        self
    }

    /// Sets the list that each connection enters when it begins.
    #[must_use]
    pub fn with_arrivals(mut self, arrivals: Option<Arc<ArrivedConnections>>) -> Self {
        self.arrivals = arrivals;
        self
    }

    /// Sets the task that stores new connections.
    #[must_use]
    pub fn with_entries(mut self, entries: EntryHandle) -> Self {
        self.entries = Some(entries);
        self
    }

    /// Applies an acknowledgement made over REST, which is already stored.
    pub fn acked_beside(&self, user: &UserId, client: &ClientId, log_id: LogId, acked: Seq) {
        self.facts.acked_beside(user, client, log_id, acked);
        if self.registry.position().log_id == log_id {
            self.registry.of_device(user, client).iter().for_each(|connection| connection.acked_beside(acked));
        }
    }
}
