//! Lists the connections that have begun, for a task that serves newcomers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use super::registry::Connection;

/// Most connections that wait to be taken. When full, the task's next pass over all connections finds the rest.
const MOST: usize = 100_000;

/// Shared by all connections and the one task that takes the list.
#[derive(Debug, Default)]
pub struct ArrivedConnections {
    waiting: Mutex<Vec<Weak<Connection>>>,
    arrived: Notify,
}

impl ArrivedConnections {
    fn waiting(&self) -> MutexGuard<'_, Vec<Weak<Connection>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a connection has begun.
    pub(super) fn add(&self, connection: &Arc<Connection>) {
        let mut waiting = self.waiting();
        if waiting.len() < MOST {
            waiting.push(Arc::downgrade(connection));
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Takes the list.
    pub fn take(&self) -> Vec<Weak<Connection>> {
        std::mem::take(&mut self.waiting())
    }

    /// Waits until a connection has begun since the last call.
    pub async fn wait(&self) {
        self.arrived.notified().await;
    }
}
