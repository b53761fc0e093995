//! The live side of one instance: what a connection needs of it.

use std::sync::Arc;

use super::acks::AckBook;
use super::registry::Registry;
use super::sessions::SessionBook;
use crate::store::Reader;

/// Who is connected, what they acknowledged, what is to be written down about them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub registry: Arc<Registry>,
    pub acks: Arc<AckBook>,
    pub sessions: Arc<SessionBook>,
    pub(super) reader: Reader,
}

impl Delivery {
    pub fn new(registry: Arc<Registry>, reader: Reader) -> Self {
        Self { registry, acks: Arc::default(), sessions: Arc::default(), reader }
    }
}
