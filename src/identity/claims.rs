//! Defines what a valid token says, and why a token is refused.

use chrono::{DateTime, Utc};

use crate::domain::{Principal, Role, TokenOrigin};

/// Maximum number of accounts of one user.
pub const ACCOUNTS_MAX: usize = 100;

/// The content of a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub who: Principal,
    pub expires_at: DateTime<Utc>,
    /// Set in a service's or an admin's token. Such a token opens no stream.
    pub role: Option<Role>,
    pub origin: TokenOrigin,
}

/// Why a token is refused. The texts are for the token's issuer and contain nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token has expired")]
    Expired,
    #[error("the token is refused: {0}")]
    Invalid(&'static str),
    /// An admin has revoked the user's tokens of before some time, and this is one of them.
    #[error("the token was revoked; sign in again")]
    Revoked,
    /// Nothing is known against the token.
    #[error("the token cannot be checked: the keys of its issuer could not be fetched; try again later")]
    Unavailable,
}

impl TokenError {
    pub(super) const fn outcome(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Invalid(_) => "refused",
            Self::Revoked => "revoked",
            Self::Unavailable => "unavailable",
        }
    }
}
