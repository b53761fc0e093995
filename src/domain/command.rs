//! Defines commands from a user to a provider, and the term that sends them.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{IdempotencyKey, ProviderName, UserId};

/// The number of a claim of a provider session; a later claim has a higher number. Every write of an owner names its
/// term, and the database refuses writes under an old term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(i64);

impl Term {
    /// From the value in the database.
    pub const fn from_db(term: i64) -> Self {
        Self(term)
    }

    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Term {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0)
    }
}

/// The state of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CommandState {
    /// Stored; no owner has taken it yet.
    Accepted,
    /// Taken by an owner; its bytes may leave at any moment.
    Sending,
    /// Its bytes were written to the provider's socket.
    Sent,
    /// It was not sent and will not be.
    Rejected,
    /// The owner tried to send it and failed.
    Failed,
    /// It may have been sent. It is not sent again.
    Unknown,
}

impl CommandState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Accepted, Self::Sending, Self::Sent, Self::Rejected, Self::Failed, Self::Unknown].into_iter().find(|s| s.as_str() == text)
    }

    pub const fn is_settled(self) -> bool {
        !matches!(self, Self::Accepted | Self::Sending)
    }
}

impl IdempotencyKey {
    /// The key of a provider's message: the `counter`-th that was received under this term. No term is assigned twice,
    /// so exactly those appends share a key that repeat the same message after an unknown outcome.
    pub fn of_message(provider: &ProviderName, user: &UserId, term: Term, counter: u64) -> Self {
        Self::new(&message_source(provider), &format!("{user}/{term}/{counter}"))
    }
}

/// The `source` of notifications from a provider's messages. No service can have this name, because it contains a
/// slash.
pub fn message_source(provider: &ProviderName) -> String {
    format!("upstream/{provider}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_has_a_key_of_its_own_and_keeps_it() {
        let (provider, user) = (ProviderName::parse("p").unwrap(), UserId::parse("u").unwrap());
        let key = |term, counter| IdempotencyKey::of_message(&provider, &user, Term::from_db(term), counter);
        assert_eq!(key(1, 2), key(1, 2));
        assert_ne!(key(1, 2), key(2, 1));
        assert_ne!(key(1, 12), key(11, 2));
    }

    #[test]
    fn states_are_read_as_they_are_written() {
        for text in ["accepted", "sending", "sent", "rejected", "failed", "unknown"] {
            assert_eq!(CommandState::parse(text).unwrap().as_str(), text);
        }
        assert_eq!(CommandState::parse("gone"), None);
    }
}
