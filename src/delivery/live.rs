//! The live side of one instance: what a connection needs of it.

use std::sync::Arc;

use super::acks::AckBook;
use super::desk::Desk;
use super::registry::Registry;
use super::sessions::SessionBook;
use crate::store::Reader;

/// Who is connected, what they acknowledged, what is to be written down about them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub registry: Arc<Registry>,
    pub acks: Arc<AckBook>,
    pub sessions: Arc<SessionBook>,
    /// For users' upstream sessions; `None` where no provider is configured.
    pub desk: Option<Arc<Desk>>,
    pub(super) reader: Reader,
}

impl Delivery {
    pub fn new(registry: Arc<Registry>, reader: Reader) -> Self {
        Self { registry, acks: Arc::default(), sessions: Arc::default(), desk: None, reader }
    }

    #[must_use]
    pub fn with_desk(mut self, desk: Option<Arc<Desk>>) -> Self {
        self.desk = desk;
        self
    }
}
