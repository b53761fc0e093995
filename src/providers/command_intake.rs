//! Takes provider commands from connections and stores them.
//!
//! The instance that owns the provider session finds the commands in the database. The [`super::provider_status`] task
//! finds their outcomes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::delivery::arrived_connections::ArrivedConnections;
use crate::delivery::registry::Connection;
use crate::domain::{CommandId, CommandState, CommandTag, ProviderName};
use crate::store::providers::commands::{self, Accepted, CommandDraft, CommandOutcome};
use crate::store::{Reader, StoreError};

/// Longest wait for a command to be stored; the next command of the same connection waits meanwhile.
const STORE_LIMIT: Duration = Duration::from_secs(4);
/// Most commands whose outcome is tracked. When full, the sender learns the outcome by repeating the command or by
/// reconnecting.
const MOST_OPEN: usize = 20_000;

/// Settings of a provider that the users' side needs.
#[derive(Debug, Clone)]
pub struct ProviderRules {
    pub name: ProviderName,
    /// How long a provider session is kept after the user's last client disconnected.
    pub linger: Duration,
}

/// The configured providers, and the frame types that are commands for them.
#[derive(Debug, Clone, Default)]
pub struct CommandRules {
    pub providers: Vec<ProviderRules>,
    pub types: HashMap<String, ProviderName>,
    /// A command that no instance takes within this time is rejected.
    pub wait: Duration,
}

/// The immediate answer to the sender of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandReceipt {
    /// The command is stored. Its result follows by itself, or is queued already.
    Noted,
    /// The user has given this id to another command before.
    OtherCommand(CommandTag),
    /// The database did not answer: the command may be stored or not.
    Unknown,
}

/// Most connections that follow one command. A further one replaces the oldest.
const MOST_FOLLOWERS: usize = 8;

/// Shared by the connections and the provider status task.
#[derive(Debug)]
pub struct CommandIntake {
    pub(super) rules: CommandRules,
    reader: Reader,
    /// The connections that have begun, for the provider status task.
    pub arrivals: Arc<ArrivedConnections>,
    /// The connections that follow a command: its sender, and connections that repeated it since.
    open: Mutex<HashMap<CommandId, Vec<Weak<Connection>>>>,
    pub(super) wake: Notify,
}

impl CommandIntake {
    /// `reader` serves commands alone, so that they do not queue behind clients that resume.
    pub fn new(rules: CommandRules, reader: Reader) -> Arc<Self> {
        Arc::new(Self { rules, reader, arrivals: Arc::default(), open: Mutex::default(), wake: Notify::new() })
    }

    fn followers(&self) -> MutexGuard<'_, HashMap<CommandId, Vec<Weak<Connection>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether frames of this type are commands.
    pub fn takes(&self, kind: &str) -> bool {
        self.rules.types.contains_key(kind)
    }

    /// Sends the outcome of the command to this connection once it is known.
    pub(super) fn follow(&self, id: CommandId, connection: &Arc<Connection>) {
        let mut open = self.followers();
        if open.len() >= MOST_OPEN && !open.contains_key(&id) {
            return;
        }
        let followers = open.entry(id).or_default();
        let is_known = |known: &Weak<Connection>| known.upgrade().is_some_and(|known| known.session == connection.session);
        if followers.iter().any(is_known) {
            return;
        }
        if followers.len() >= MOST_FOLLOWERS {
            followers.remove(0);
        }
        followers.push(Arc::downgrade(connection));
    }

    /// The commands that have at least one connected follower.
    pub(super) fn open(&self) -> Vec<CommandId> {
        let mut open = self.followers();
        open.retain(|_, followers| followers.iter().any(|connection| connection.strong_count() > 0));
        open.keys().copied().collect()
    }

    /// Sends an outcome to the connections that follow the command, once.
    pub(super) fn settle(&self, outcome: &CommandOutcome) {
        let followers = self.followers().remove(&outcome.id).unwrap_or_default();
        for connection in followers.iter().filter_map(Weak::upgrade) {
            connection.tell_outcome(outcome);
        }
    }

    /// Stores a command of a configured type before anything else happens to it. A command without an id gets one. A
    /// type that is not configured returns [`CommandReceipt::Unknown`].
    pub async fn give(&self, connection: &Arc<Connection>, kind: &str, tag: Option<CommandTag>, payload: Option<String>) -> CommandReceipt {
        let Some(provider) = self.rules.types.get(kind) else { return CommandReceipt::Unknown };
        let id = CommandId::new();
        let Some(tag) = tag.or_else(|| CommandTag::parse(&id.to_string()).ok()) else { return CommandReceipt::Unknown };
        let command = CommandDraft {
            id,
            provider: provider.clone(),
            user: connection.who.user.clone(),
            client: connection.client.clone(),
            session: connection.session,
            tag: tag.clone(),
            kind: kind.to_owned(),
            payload,
        };
        let stored = timeout(STORE_LIMIT, self.store(&command)).await.unwrap_or(Err(StoreError::TimedOut(STORE_LIMIT)));
        match stored {
            Ok(Accepted::New(outcome) | Accepted::Known(outcome)) => {
                self.follow(outcome.id, connection);
                if outcome.state.is_settled() {
                    self.settle(&outcome);
                } else {
                    self.wake.notify_one();
                }
                CommandReceipt::Noted
            }
            Ok(Accepted::OtherCommand) => CommandReceipt::OtherCommand(tag),
            Err(error) => {
                tracing::warn!(%error, "could not confirm that a command was stored; its sender gets state unknown");
                let detail = Some("not_stored_for_sure".to_owned());
                connection.tell_outcome(&CommandOutcome { id, tag, state: CommandState::Unknown, detail });
                CommandReceipt::Unknown
            }
        }
    }

    async fn store(&self, command: &CommandDraft) -> Result<Accepted, StoreError> {
        let mut checkout = self.reader.checkout().await?;
        let accepted = commands::accept(checkout.connection(), command, self.rules.wait).await?;
        checkout.done();
        Ok(accepted)
    }

    /// Closes the database connections that store commands.
    pub async fn close(&self) {
        self.reader.close().await;
    }
}
