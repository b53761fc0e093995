//! Defines to whom a notification is addressed.

use super::topic::{EVERYONE_TOPIC, LIST_TOPIC, account_topic, user_topic};
use super::{AccountId, UserId};

/// A list of at most this many users does not count as a broadcast.
const FEW_USERS: usize = 100;

/// The addressees of a notification. An account in addition to users limits it to their connections with that account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    Everyone,
    Account(AccountId),
    User { user: UserId, account: Option<AccountId> },
    Users { users: Vec<UserId>, account: Option<AccountId> },
}

impl Audience {
    /// The topic of the row. Ids contain no `/`, so two audiences never share a topic.
    pub fn topic(&self) -> String {
        match self {
            Self::Everyone => EVERYONE_TOPIC.to_owned(),
            Self::Account(account) => account_topic(account),
            Self::User { user, account } => user_topic(user, account.as_ref()),
            Self::Users { .. } => LIST_TOPIC.to_owned(),
        }
    }

    pub fn account(&self) -> Option<&AccountId> {
        match self {
            Self::Everyone => None,
            Self::Account(account) => Some(account),
            Self::User { account, .. } | Self::Users { account, .. } => account.as_ref(),
        }
    }

    /// Whether it has so many receivers that their reactions must be spread over time.
    pub fn is_for_many(&self) -> bool {
        match self {
            Self::Everyone | Self::Account(_) => true,
            Self::User { .. } => false,
            Self::Users { users, .. } => users.len() > FEW_USERS,
        }
    }

    /// The audience as the client sees it: itself, its account, or everyone.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Everyone => "everyone",
            Self::Account(_) => "account",
            Self::User { .. } | Self::Users { .. } => "user",
        }
    }

    /// The audience of rows that no user receives.
    pub fn no_user() -> Self {
        Self::User { user: UserId::none(), account: None }
    }

    pub fn is_for_no_user(&self) -> bool {
        matches!(self, Self::User { user, account: None } if *user == UserId::none())
    }
}
