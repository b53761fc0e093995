//! Stores provider sessions and commands: which instance holds a session, and under which term.
//!
//! # The fence
//! An instance *claims* a session: the row then names the instance, a new *term*, and the end of the *lease*, all by
//! the clock of the database. Each act of the owner (renew, checkpoint, take commands, append) names owner and term,
//! and is refused when the row has others or the lease has expired. An expired lease is never renewed, even when no
//! other instance has claimed. So expiry is final, and an instance that sees it may act on it without checking again.
//!
//! # The races, and what decides them
//! - *Two claims at once*: row locks; the second claim skips what the first has locked, and then finds an owner.
//! - *A frozen owner wakes*: each of its calls finds an expired lease or a higher term, and changes nothing.
//! - *An append while the session is claimed*: the append locks the session row until its commit, and the claim skips
//!   it.
//! - *Taking a command while the session is claimed*: the same; and the claim looks for taken commands only after it
//!   has the session.
//! - *Settling a command while it is marked unknown*: both change it only from `sending`; the first one stays.
//! - *Rejecting a command while it is taken*: both change it only from `accepted`; and it is taken only before, and
//!   rejected only after, the same time in its row.
//! - *One id from two devices at once*: a unique constraint; the second waits for the first and gets its command.
//!
//! `V8__upstream.sql` defines the order of the locks.

pub mod admin;
pub mod append;
pub mod chores;
pub mod commands;
pub mod forget;
pub mod leases;
pub mod sessions;

pub use commands::{CommandOutcome, SettleResult, TakenCommand};
pub use leases::{AdminRequest, Checkpoint, CheckpointChange, Claimed, RenewRequest, Renewed, StaleTerm};
pub use sessions::{SessionView, UpstreamState};

use crate::domain::{ProviderName, Term, UserId};

/// The channel of hints about sessions and commands.
pub const CHANNEL: &str = "recado_upstream";

/// A session, as its owner names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease {
    pub provider: ProviderName,
    pub user: UserId,
    pub term: Term,
}

/// A hint that something has changed. It says nothing that the tables do not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderHint {
    /// There may be a session to claim.
    Want,
    /// An admin has a request for an owner.
    Ask,
    /// The state of a session changed.
    State { provider: ProviderName, user: UserId },
    /// A command of a session was accepted or settled.
    Command { provider: ProviderName, user: UserId },
    /// Hints were lost: look at everything.
    Everything,
}

impl ProviderHint {
    /// Parses a payload of `recado.upstream_hint`. Any other payload is ignored.
    pub(super) fn parse(payload: &str) -> Option<Self> {
        let mut words = payload.split(' ');
        let what = words.next()?;
        let mut named = || Some((ProviderName::parse(words.next()?).ok()?, UserId::parse(words.next()?).ok()?));
        match what {
            "want" => Some(Self::Want),
            "ask" => Some(Self::Ask),
            "state" => named().map(|(provider, user)| Self::State { provider, user }),
            "command" => named().map(|(provider, user)| Self::Command { provider, user }),
            _ => None,
        }
    }
}

/// A batch of leases as columns, in the order of locks.
struct LeaseColumns<'a> {
    provider: Vec<&'a str>,
    user: Vec<&'a str>,
    term: Vec<i64>,
}

impl<'a> LeaseColumns<'a> {
    fn of(leases: impl Iterator<Item = &'a Lease>) -> Self {
        let mut columns = Self { provider: Vec::new(), user: Vec::new(), term: Vec::new() };
        for lease in leases {
            columns.provider.push(lease.provider.as_str());
            columns.user.push(lease.user.as_str());
            columns.term.push(lease.term.get());
        }
        columns
    }
}

/// Parses a provider's name. This module wrote the row, through the same types.
fn name(provider: &str) -> Result<ProviderName, sqlx::Error> {
    ProviderName::parse(provider).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn user(text: &str) -> Result<UserId, sqlx::Error> {
    UserId::parse(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_read_and_anything_else_is_ignored() {
        let (provider, user) = (ProviderName::parse("p-1").unwrap(), UserId::parse("ann:2").unwrap());
        assert_eq!(ProviderHint::parse("want"), Some(ProviderHint::Want));
        assert_eq!(ProviderHint::parse("ask"), Some(ProviderHint::Ask));
        assert_eq!(ProviderHint::parse("state p-1 ann:2"), Some(ProviderHint::State { provider: provider.clone(), user: user.clone() }));
        assert_eq!(ProviderHint::parse("command p-1 ann:2"), Some(ProviderHint::Command { provider, user }));
        for other in ["", "state", "state p-1", "state P ann", "9 x"] {
            assert_eq!(ProviderHint::parse(other), None, "{other:?}");
        }
    }
}
