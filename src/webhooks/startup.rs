//! Starts the supervisor of webhooks.

use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};

use super::secret::SecretKeys;
use super::supervisor::Supervisor;
use super::target::TargetRules;
use super::worker::{ATTEMPTS_OF_ALL, WorkerContext};
use crate::delivery::Registry;
use crate::domain::InstanceId;
use crate::store::Database;
use crate::store::turn_pool::TurnPool;
use crate::tasks::{Stop, TaskName, Tasks};

/// Database connections of the workers.
pub const CONNECTIONS: u32 = 2;

/// The parameters of [`start`].
pub struct WebhookSetup {
    pub database: Database,
    pub instance: InstanceId,
    pub registry: Arc<Registry>,
    pub keys: SecretKeys,
    pub rules: TargetRules,
    /// Notified when webhooks have changed.
    pub changed: Arc<Notify>,
}

/// Starts the supervisor, which starts a worker for each webhook that this instance owns.
pub fn start(setup: WebhookSetup, tasks: &Tasks, stop: Stop) {
    let WebhookSetup { database, instance, registry, keys, rules, changed } = setup;
    let shared = Arc::new(WorkerContext {
        calls: TurnPool::new(database.reader("webhooks", CONNECTIONS)),
        registry,
        attempts: Semaphore::new(ATTEMPTS_OF_ALL),
    });
    let supervisor = Supervisor::new(database, instance, shared, keys, Arc::new(rules), tasks.clone());
    tasks.essential(TaskName::WebhookSupervisor, supervisor.run(changed, stop));
}
