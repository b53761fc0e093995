//! Chooses the standby that reads a page.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::primary_facts::PrimaryFacts;
use super::server::{PastRead, Standby, StandbyState, Tried};
use crate::domain::Seq;
use crate::store::database_route::Route;
use crate::store::read_pool::ReadPool;
use crate::store::settings::SessionSettings;

/// Most standbys. Each has a label of the metrics.
pub const STANDBYS_MAX: usize = LABELS.len();
/// The labels of the metrics and of the log: the standby's place in the setting.
const LABELS: [&str; 8] = ["1", "2", "3", "4", "5", "6", "7", "8"];
/// How long a page tries standbys, with the question to the primary. Then the primary reads it.
const TRY_LIMIT: Duration = Duration::from_millis(2500);

/// The standbys of the primary.
#[derive(Debug)]
pub struct Standbys {
    list: Vec<Arc<Standby>>,
    facts: PrimaryFacts,
    /// Whose turn it is.
    next: AtomicUsize,
}

impl Standbys {
    pub(in crate::store) fn new(servers: impl Iterator<Item = (Arc<Route>, SessionSettings)>, connections: u32) -> Self {
        let list = LABELS.into_iter().zip(servers);
        let list = list.map(|(label, (route, wanted))| Arc::new(Standby::new(label, route, wanted, connections))).collect();
        Self { list, facts: PrimaryFacts::default(), next: AtomicUsize::new(0) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    pub(super) fn get(&self, at: usize) -> Arc<Standby> {
        Arc::clone(&self.list[at])
    }

    /// What `GET /metrics` shows of each.
    pub fn states(&self) -> Vec<StandbyState> {
        self.list.iter().map(|standby| standby.state()).collect()
    }

    /// Answers `what` from a standby that has everything up to `upto`. `None`: the primary must answer.
    pub(in crate::store) async fn read<R: PastRead>(&self, primary: &ReadPool, upto: Seq, what: &R) -> Option<R::Answer> {
        if upto == Seq::ZERO || !self.list.iter().any(|standby| standby.is_in_use()) {
            return None;
        }
        tokio::time::timeout(TRY_LIMIT, self.try_each(primary, upto, what)).await.ok().flatten()
    }

    async fn try_each<R: PastRead>(&self, primary: &ReadPool, upto: Seq, what: &R) -> Option<R::Answer> {
        let required = self.facts.ask(primary, upto).await?;
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        for step in 0..self.list.len() {
            let standby = &self.list[(first.wrapping_add(step)) % self.list.len()];
            if let Tried::Answered(answer) = standby.read(&required, what).await {
                return Some(answer);
            }
        }
        None
    }

    pub(in crate::store) async fn close(&self) {
        for standby in &self.list {
            standby.close().await;
        }
    }
}
