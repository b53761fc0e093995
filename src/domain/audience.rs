//! Whom a notification is for.

use super::{AccountId, Principal, UserId};

/// The topic of a notification to everyone.
pub const EVERYONE_TOPIC: &str = "*";
/// The topic of a notification to a list of users; its readers find it by membership.
pub const LIST_TOPIC: &str = "l";

/// A list of so many users at most is one of a few.
const FEW_USERS: usize = 100;

/// Whom a notification is for. An account beside users narrows it to their sessions in that account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    Everyone,
    Account(AccountId),
    User { user: UserId, account: Option<AccountId> },
    Users { users: Vec<UserId>, account: Option<AccountId> },
}

impl Audience {
    /// The one address under which a reader finds the row. Ids hold no `/`, so two audiences never share a topic.
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

    /// Whether so many get it that what each of them does next has to be spread over time.
    pub fn is_for_many(&self) -> bool {
        match self {
            Self::Everyone | Self::Account(_) => true,
            Self::User { .. } => false,
            Self::Users { users, .. } => users.len() > FEW_USERS,
        }
    }

    /// What the client is told: to itself, to its account, or to everyone.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Everyone => "everyone",
            Self::Account(_) => "account",
            Self::User { .. } | Self::Users { .. } => "user",
        }
    }

    /// Whether it reaches someone who was found as one of its users, or in its account: the narrowing to an account.
    pub fn reaches_account_of(&self, who: &Principal) -> bool {
        self.account().is_none_or(|account| who.accounts.contains(account))
    }
}

pub(super) fn account_topic(account: &AccountId) -> String {
    format!("a/{account}")
}

pub(super) fn user_topic(user: &UserId, account: Option<&AccountId>) -> String {
    match account {
        None => format!("u/{user}"),
        Some(account) => format!("u/{user}/{account}"),
    }
}
