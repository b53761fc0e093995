//! Where connections leave what concerns their users' upstream sessions: that they have come, and their commands.
//! The [`super::herald`] looks here; the database is where the other side finds it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::registry::Member;
use crate::domain::{CommandId, CommandState, CommandTag, ProviderName};
use crate::store::upstream::commands::{self, Accepted, CommandOutcome, NewCommand};
use crate::store::{Reader, StoreError};

/// Longest wait for a command to be stored; its connection says and hears nothing meanwhile.
const STORE_LIMIT: Duration = Duration::from_secs(4);
/// Most newcomers that wait for the herald's look. Full: they are found by its next look at everyone.
const MOST_NEWCOMERS: usize = 100_000;
/// Most commands whose outcome is waited for. Full: the sender learns it by repeating the command, or when it comes back.
const MOST_OPEN: usize = 20_000;

/// What this side has to know of a provider.
#[derive(Debug, Clone)]
pub struct ProviderRules {
    pub name: ProviderName,
    /// How long a session is kept after the user's last client left.
    pub linger: Duration,
}

/// Which providers there are, and which types of frames are commands for them.
#[derive(Debug, Clone, Default)]
pub struct CommandRules {
    pub providers: Vec<ProviderRules>,
    pub types: HashMap<String, ProviderName>,
    /// A command that nobody takes in this time is rejected.
    pub wait: Duration,
}

/// What the sender of a command is told at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// Its result comes by itself, or waits already.
    Noted,
    /// The user gave another command this id before.
    OtherCommand,
    /// The database did not answer: it may be stored, or not.
    Unknown,
}

/// Most connections that follow one command. A further one takes the place of the first.
const MOST_FOLLOWERS: usize = 8;

/// Shared by the connections and the herald.
#[derive(Debug)]
pub struct Desk {
    pub(super) rules: CommandRules,
    reader: Reader,
    left: Mutex<Left>,
    pub(super) wake: Notify,
}

#[derive(Debug, Default)]
struct Left {
    newcomers: Vec<Weak<Member>>,
    /// Who follows a command: the one that gave it, and who has repeated it since.
    open: HashMap<CommandId, Vec<Weak<Member>>>,
}

impl Desk {
    /// `reader` is for commands alone: they must not stand in line behind those who resume.
    pub fn new(rules: CommandRules, reader: Reader) -> Arc<Self> {
        Arc::new(Self { rules, reader, left: Mutex::default(), wake: Notify::new() })
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether frames of this type are commands.
    pub fn takes(&self, kind: &str) -> bool {
        self.rules.types.contains_key(kind)
    }

    /// Somebody is connected.
    pub(super) fn arrived(&self, member: &Arc<Member>) {
        let mut left = self.left();
        if left.newcomers.len() < MOST_NEWCOMERS {
            left.newcomers.push(Arc::downgrade(member));
        }
        drop(left);
        self.wake.notify_one();
    }

    pub(super) fn newcomers(&self) -> Vec<Weak<Member>> {
        std::mem::take(&mut self.left().newcomers)
    }

    /// This connection is to be told how the command ends.
    pub(super) fn follow(&self, id: CommandId, member: &Arc<Member>) {
        let mut left = self.left();
        if left.open.len() >= MOST_OPEN && !left.open.contains_key(&id) {
            return;
        }
        let followers = left.open.entry(id).or_default();
        let is_member = |known: &Weak<Member>| known.upgrade().is_some_and(|known| known.session == member.session);
        if followers.iter().any(is_member) {
            return;
        }
        if followers.len() >= MOST_FOLLOWERS {
            followers.remove(0);
        }
        followers.push(Arc::downgrade(member));
    }

    /// The commands that are followed by somebody who is still connected.
    pub(super) fn open(&self) -> Vec<CommandId> {
        let mut left = self.left();
        left.open.retain(|_, followers| followers.iter().any(|member| member.strong_count() > 0));
        left.open.keys().copied().collect()
    }

    /// Tells an outcome to whoever follows it, once.
    pub(super) fn settle(&self, outcome: &CommandOutcome) {
        let followers = self.left().open.remove(&outcome.id).unwrap_or_default();
        for member in followers.iter().filter_map(Weak::upgrade) {
            member.outbox.notify(|notices| notices.result(outcome));
        }
    }

    /// Takes a command of a type that is known here. It is stored before anything else happens to it. Without an id it gets one.
    pub async fn give(&self, member: &Arc<Member>, kind: &str, tag: Option<CommandTag>, payload: Option<String>) -> Given {
        let Some(provider) = self.rules.types.get(kind) else { return Given::Unknown };
        let id = CommandId::new();
        let Some(tag) = tag.or_else(|| CommandTag::parse(&id.to_string()).ok()) else { return Given::Unknown };
        let command = NewCommand {
            id,
            provider: provider.clone(),
            user: member.who.user.clone(),
            client: member.client.clone(),
            session: member.session,
            tag: tag.clone(),
            kind: kind.to_owned(),
            payload,
        };
        let stored = timeout(STORE_LIMIT, self.store(&command)).await.unwrap_or(Err(StoreError::TimedOut(STORE_LIMIT)));
        match stored {
            Ok(Accepted::New(outcome) | Accepted::Known(outcome)) => {
                self.follow(outcome.id, member);
                if outcome.state.is_settled() {
                    self.settle(&outcome);
                } else {
                    self.wake.notify_one();
                }
                Given::Noted
            }
            Ok(Accepted::OtherCommand) => Given::OtherCommand,
            Err(error) => {
                tracing::warn!(%error, "whether a command was stored is not known");
                let detail = Some("not_stored_for_sure".to_owned());
                member.outbox.notify(|notices| notices.result(&CommandOutcome { id, tag, state: CommandState::Unknown, detail }));
                Given::Unknown
            }
        }
    }

    async fn store(&self, command: &NewCommand) -> Result<Accepted, StoreError> {
        let mut checkout = self.reader.checkout().await?;
        let accepted = commands::accept(checkout.connection(), command, self.rules.wait).await?;
        checkout.done();
        Ok(accepted)
    }

    /// Ends the connections that commands are stored over.
    pub async fn close(&self) {
        self.reader.close().await;
    }
}
