//! Names the topics that rows of the log are filed under.

use super::{AccountId, UserId};

/// The topic of a notification to everyone.
pub const EVERYONE_TOPIC: &str = "*";
/// The topic of a notification to a list of users; its receivers find it by membership.
pub const LIST_TOPIC: &str = "l";

pub(super) fn account_topic(account: &AccountId) -> String {
    format!("a/{account}")
}

pub(super) fn user_topic(user: &UserId, account: Option<&AccountId>) -> String {
    match account {
        None => format!("u/{user}"),
        Some(account) => format!("u/{user}/{account}"),
    }
}
