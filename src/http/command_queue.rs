//! Stores the commands of one connection in the database: one at a time, in order.
//!
//! The stream of the connection goes on meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use crate::delivery::Connection;
use crate::domain::CommandTag;
use crate::providers::command_intake::{CommandIntake, CommandReceipt};

/// Maximum number of commands that wait for the one that is being stored. Full: the connection is not read.
const WAITING_MAX: usize = 16;
/// Time limit for storing the remaining commands of a connection that ended.
const LAST_STORE_LIMIT: Duration = Duration::from_secs(4);

/// Belongs to the connection's task, which polls it together with the socket and the stream.
#[derive(Default)]
pub struct CommandQueue {
    waiting: VecDeque<QueuedCommand>,
    storing: Option<BoxFuture<'static, CommandReceipt>>,
}

struct QueuedCommand {
    command_intake: Arc<CommandIntake>,
    connection: Arc<Connection>,
    kind: String,
    tag: Option<CommandTag>,
    payload: Option<String>,
}

impl CommandQueue {
    pub fn is_busy(&self) -> bool {
        self.storing.is_some()
    }

    pub fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    /// Appends a command to the queue.
    pub fn take(
        &mut self,
        command_intake: Arc<CommandIntake>,
        connection: Arc<Connection>,
        kind: String,
        tag: Option<CommandTag>,
        payload: Option<String>,
    ) {
        self.waiting.push_back(QueuedCommand { command_intake, connection, kind, tag, payload });
        self.store_next();
    }

    /// Returns the outcome of the current command once it is stored or was refused. Never returns if there is none.
    /// Safe to cancel and call again.
    pub async fn stored(&mut self) -> CommandReceipt {
        let Some(storing) = &mut self.storing else { return std::future::pending().await };
        let given = storing.await;
        self.storing = None;
        self.store_next();
        given
    }

    /// Stores the remaining commands of a connection that has ended: a client may send a command and disconnect.
    pub async fn finish(mut self) {
        let all = async {
            while self.is_busy() {
                self.stored().await;
            }
        };
        let _ = timeout(LAST_STORE_LIMIT, all).await;
        if !self.waiting.is_empty() {
            tracing::warn!(commands = self.waiting.len(), "commands not stored in time after their connection ended");
        }
    }

    fn store_next(&mut self) {
        if self.storing.is_none()
            && let Some(QueuedCommand { command_intake, connection, kind, tag, payload }) = self.waiting.pop_front()
        {
            self.storing = Some(async move { command_intake.give(&connection, &kind, tag, payload).await }.boxed());
        }
    }
}
