//! Upstream sessions and commands in the database: who holds a session, under which term, and what may be done with it.
//!
//! # The fence
//! An instance *claims* a session: the row names it, a new *term*, and until when the *lease* lasts, all by the clock of
//! the database. Each act of the owner (renew, checkpoint, take commands, append) names owner and term, and is refused
//! where they do not stand in the row or the lease is over. A lease that is over is never renewed, even when nobody else
//! has claimed: so "over" is final, and whoever sees it may act on it without asking again.
//!
//! # The races, and what decides them
//! - *Two claims at once*: row locks; the second skips what the first has locked, and then finds an owner.
//! - *A frozen owner wakes*: each of its calls finds the lease over or a higher term, and changes nothing.
//! - *An append while the session is claimed*: the append holds the session row until its commit, and the claim skips it.
//! - *Taking a command while the session is claimed*: the same; and the claim looks for commands that were taken only
//!   after it has the session.
//! - *Settling a command while it is called unknown*: both change it only from `sending`; the first one stays.
//! - *Rejecting a command while it is taken*: both change it only from `accepted`; and it is taken only before, rejected
//!   only after the same moment in its row.
//! - *One id from two devices at once*: a unique constraint; the second waits for the first and is told of its command.
//!
//! `V8__upstream.sql` has the order of the locks.

pub mod admin;
pub mod append;
pub mod chores;
pub mod commands;
pub mod forget;
pub mod leases;
pub mod sessions;

pub use commands::{Command, CommandOutcome, Settled};
pub use leases::{Asked, Change, Checkpoint, Claimed, Fenced, Held, Renewed};
pub use sessions::{SessionView, UpstreamState};

use crate::domain::{ProviderName, Term, UserId};

/// The channel of hints about sessions and commands.
pub const CHANNEL: &str = "recado_upstream";

/// A session as its owner names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease {
    pub provider: ProviderName,
    pub user: UserId,
    pub term: Term,
}

/// Something has changed that one may want to look at. It says nothing that the tables do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// A session may be there to claim.
    Want,
    /// An admin asks something of an owner.
    Ask,
    /// The state of a session.
    State { provider: ProviderName, user: UserId },
    /// A command of a session was accepted or settled.
    Command { provider: ProviderName, user: UserId },
    /// Hints were lost: look at everything.
    Everything,
}

impl Hint {
    /// As `recado.upstream_hint` writes it. Anything else on the channel is not ours, and ignored.
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

/// A batch of leases turned by ninety degrees, in the order of locks.
struct Columns<'a> {
    provider: Vec<&'a str>,
    user: Vec<&'a str>,
    term: Vec<i64>,
}

impl<'a> Columns<'a> {
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

/// Names come from rows that were written by this room, through the same types.
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
        assert_eq!(Hint::parse("want"), Some(Hint::Want));
        assert_eq!(Hint::parse("ask"), Some(Hint::Ask));
        assert_eq!(Hint::parse("state p-1 ann:2"), Some(Hint::State { provider: provider.clone(), user: user.clone() }));
        assert_eq!(Hint::parse("command p-1 ann:2"), Some(Hint::Command { provider, user }));
        for other in ["", "state", "state p-1", "state P ann", "9 x"] {
            assert_eq!(Hint::parse(other), None, "{other:?}");
        }
    }
}
