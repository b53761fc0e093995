//! The live side of one instance: what a connection needs of it.

use std::sync::Arc;
use std::time::Duration;

use super::acks::AckBook;
use super::desk::Desk;
use super::progress::ProgressBook;
use super::registry::Registry;
use super::sessions::SessionBook;
use crate::domain::{ClientId, LogId, Seq, UserId};
use crate::store::Reader;

/// Who is connected, what they acknowledged, what is to be written down about them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub registry: Arc<Registry>,
    pub acks: Arc<AckBook>,
    pub sessions: Arc<SessionBook>,
    /// For users' upstream sessions; `None` where no provider is configured.
    pub desk: Option<Arc<Desk>>,
    pub progress: Arc<ProgressBook>,
    pub(super) reader: Reader,
}

impl Delivery {
    /// `facts_every`: between two delivery facts of one connection; `None`: none are kept.
    pub fn new(registry: Arc<Registry>, reader: Reader, facts_every: Option<Duration>) -> Self {
        let progress = Arc::new(ProgressBook::new(facts_every));
        Self { registry, acks: Arc::default(), sessions: Arc::default(), desk: None, progress, reader }
    }

    #[must_use]
    pub fn with_desk(mut self, desk: Option<Arc<Desk>>) -> Self {
        self.desk = desk;
        self
    }

    /// A device has acknowledged beside its connections, and that is stored.
    pub fn acked_beside(&self, user: &UserId, client: &ClientId, log_id: LogId, acked: Seq) {
        self.progress.acked_beside(user, client, log_id, acked);
        if self.registry.position().log_id == log_id {
            self.registry.of_device(user, client).iter().for_each(|member| member.acked_beside(acked));
        }
    }
}
