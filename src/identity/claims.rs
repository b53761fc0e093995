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

/// Texts of [`TokenError::Invalid`] that have a reason of their own in the metric of refused sign-ins.
pub(super) const WRONG_ISSUER: &str = "iss is not the configured issuer";
pub(super) const WRONG_AUDIENCE: &str = "aud does not contain the configured audience";
pub(super) const UNKNOWN_KEY: &str = "its issuer has published no key with this kid";
pub(super) const NOT_OUR_SIGNATURE: &str = "the signature or algorithm does not match (expected HS256 with this hub's secret)";
pub(super) const NO_KEY_FITS: &str = "the signature or algorithm does not match a key of its issuer";
pub(super) const NO_TOKEN: &str = "there is none";

impl TokenError {
    /// The reason of a refused sign-in: a value of the metric's label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Unavailable => "keys_unavailable",
            Self::Invalid(WRONG_ISSUER) => "wrong_issuer",
            Self::Invalid(WRONG_AUDIENCE) => "wrong_audience",
            Self::Invalid(UNKNOWN_KEY) => "unknown_key",
            Self::Invalid(NOT_OUR_SIGNATURE | NO_KEY_FITS) => "bad_signature",
            Self::Invalid(NO_TOKEN) => "no_credential",
            Self::Invalid(_) => "invalid_token",
        }
    }

    pub(super) const fn outcome(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Invalid(_) => "refused",
            Self::Revoked => "revoked",
            Self::Unavailable => "unavailable",
        }
    }
}
