//! Whom a notification is for.

use super::{AccountId, Principal, UserId};

/// The topic of a notification to everyone.
pub const EVERYONE_TOPIC: &str = "*";
/// The topic of a notification to a list of users; its readers find it by membership.
pub const LIST_TOPIC: &str = "l";

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

    /// What the client is told: to itself, to its account, or to everyone.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Everyone => "everyone",
            Self::Account(_) => "account",
            Self::User { .. } | Self::Users { .. } => "user",
        }
    }

    /// The rule of isolation, in one place for the live path; for the replay the topics of [`Principal::topics`] say the same.
    pub fn includes(&self, who: &Principal) -> bool {
        match self {
            Self::Everyone => true,
            Self::Account(account) => who.accounts.contains(account),
            Self::User { user, .. } => *user == who.user && self.reaches_account_of(who),
            Self::Users { users, .. } => users.contains(&who.user) && self.reaches_account_of(who),
        }
    }

    /// The second half of the rule, for someone who was found as one of the users or of the account.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user() -> impl Strategy<Value = UserId> {
        "[ab]".prop_map(|s| UserId::parse(&s).unwrap())
    }

    fn account() -> impl Strategy<Value = AccountId> {
        "[xyz]".prop_map(|s| AccountId::parse(&s).unwrap())
    }

    fn audience() -> impl Strategy<Value = Audience> {
        prop_oneof![
            Just(Audience::Everyone),
            account().prop_map(Audience::Account),
            (user(), proptest::option::of(account())).prop_map(|(user, account)| Audience::User { user, account }),
            (proptest::collection::vec(user(), 1..3), proptest::option::of(account()))
                .prop_map(|(users, account)| Audience::Users { users, account }),
        ]
    }

    proptest! {
        /// The live rule and the replay's topics agree for every audience and principal.
        #[test]
        fn a_topic_of_the_reader_matches_exactly_when_the_audience_includes_them(
            audience in audience(), user in user(), accounts in proptest::collection::vec(account(), 0..3),
        ) {
            let who = Principal { user, accounts };
            let topics = who.topics();
            let found = match &audience {
                Audience::Users { users, account } =>
                    users.iter().any(|u| topics.contains(&user_topic(u, account.as_ref()))),
                other => topics.contains(&other.topic()),
            };
            prop_assert_eq!(found, audience.includes(&who));
        }
    }
}
