//! Makes tokens with the hub's own secret.

use std::time::Duration;

use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value};

use super::OwnSecret;
use super::claim_path::ClaimPath;
use super::issuer::{ROLE_CLAIM, TOKEN_MAX_BYTES};
use crate::config::JwtRules;
use crate::domain::{Principal, Role};

/// Makes a token with a secret that has no name.
///
/// # Errors
/// When the crypto library refuses, which it does not for HS256 and a secret that is not empty.
pub fn mint(
    secret: &str,
    rules: &JwtRules,
    who: &Principal,
    role: Option<Role>,
    ttl: Duration,
) -> Result<String, jsonwebtoken::errors::Error> {
    mint_with(&OwnSecret { kid: None, secret: secret.to_owned() }, rules, who, role, ttl)
}

/// Makes a token. The name of the secret, if it has one, becomes the token's `kid`.
///
/// # Errors
/// As [`mint`].
pub fn mint_with(
    secret: &OwnSecret,
    rules: &JwtRules,
    who: &Principal,
    role: Option<Role>,
    ttl: Duration,
) -> Result<String, jsonwebtoken::errors::Error> {
    let now = Utc::now().timestamp();
    let mut claims = Map::new();
    claims.insert("iat".into(), now.into());
    claims.insert("exp".into(), (now.saturating_add(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX))).into());
    let mut put = |name: &str, value: Value| ClaimPath::of(name).put(&mut claims, value);
    put(&rules.user_claim, who.user.as_str().into());
    match who.accounts.as_slice() {
        [] => {}
        [one] => put(&rules.account_claim, one.as_str().into()),
        many => put(&rules.accounts_claim, many.iter().map(|account| Value::from(account.as_str())).collect()),
    }
    let mut named = |name: &str, value: Option<&str>| value.map(|value| claims.insert(name.to_owned(), value.into()));
    named("iss", rules.issuer.as_deref());
    named("aud", rules.audience.as_deref());
    named(ROLE_CLAIM, role.map(Role::as_str));
    let header = Header { kid: secret.kid.clone(), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret.secret.as_bytes())?)
}

/// Makes tokens of users with the hub's current secret.
pub struct TokenMinter {
    secret: OwnSecret,
    rules: JwtRules,
}

/// A token, and when it expires.
pub struct MintedToken {
    pub token: String,
    pub expires_at: DateTime<Utc>,
}

/// Why no token was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MintError {
    /// The hub would refuse a token of this length.
    TooLong,
    /// The crypto library refused.
    Refused,
}

impl TokenMinter {
    pub const fn new(secret: OwnSecret, rules: JwtRules) -> Self {
        Self { secret, rules }
    }

    /// Makes a token without a role, which lives for `ttl` or for as long as the hub's rules allow.
    ///
    /// # Errors
    /// See [`MintError`].
    pub fn mint(&self, who: &Principal, ttl: Duration) -> Result<MintedToken, MintError> {
        let ttl = ttl.min(self.rules.max_lifetime);
        // The claim has whole seconds.
        let expires_at = DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap_or_default() + ttl;
        let token = mint_with(&self.secret, &self.rules, who, None, ttl).map_err(|_| MintError::Refused)?;
        if token.len() > TOKEN_MAX_BYTES {
            return Err(MintError::TooLong);
        }
        Ok(MintedToken { token, expires_at })
    }
}
