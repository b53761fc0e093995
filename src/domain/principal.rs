//! Defines who calls the hub: a user who connects, or a service that posts.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::topic::{EVERYONE_TOPIC, account_topic, user_topic};
use super::{AccountId, ScopeJudge, UserId};

/// A user with a valid token, whose notifications a connection gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub user: UserId,
    pub accounts: Vec<AccountId>,
}

impl Principal {
    /// All topics of this principal, for reading the log.
    pub fn topics(&self) -> Vec<String> {
        let mut topics = Vec::with_capacity(2 + 2 * self.accounts.len());
        topics.push(EVERYONE_TOPIC.to_owned());
        topics.push(user_topic(&self.user, None));
        for account in &self.accounts {
            topics.push(account_topic(account));
            topics.push(user_topic(&self.user, Some(account)));
        }
        topics.sort_unstable();
        topics.dedup();
        topics
    }
}

/// Recognises the published key that checked a user's token, so that its connections can be closed when the issuer
/// removes the key. 32 bits of a hash of the key: a ticket has room for no more, and a collision of two keys of one
/// hub would only keep a connection open, or close it, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyTag(pub u32);

/// What is remembered of the token that admitted a connection, so that the connection ends when the token no longer
/// counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenOrigin {
    /// The published key that checked the token; `None` for a key that the configuration holds.
    pub key: Option<KeyTag>,
    /// When the token was issued (`iat`), if it says so.
    pub issued_at: Option<DateTime<Utc>>,
    /// The token was made for the playground of the console.
    pub is_playground: bool,
}

/// The permissions of a service key or service token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// May post.
    Service,
    /// May post, read `/stats` and use `/api/admin/`.
    Admin,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Admin => "admin",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "service" => Some(Self::Service),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }
}

/// A service with a valid key or token. Its name is stored in each row that it posts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCaller {
    pub name: String,
    pub role: Role,
    /// What the key may do; `None` for everything that its role allows. A token has no scopes.
    pub scopes: Option<Arc<ScopeJudge>>,
}
