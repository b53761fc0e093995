//! Makes tokens with the hub's own secret.

use std::time::Duration;

use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value};

use super::OwnSecret;
use super::claim_path::ClaimPath;
use super::issuer::{PLAYGROUND_CLAIM, ROLE_CLAIM, TOKEN_MAX_BYTES};
use crate::config::JwtRules;
use crate::domain::{Principal, Role, UserId};

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
    encode(secret, rules, &NewToken { who, role, issued_at: now(), expires_at: after(ttl), is_playground: false })
}

/// The content of a new token.
struct NewToken<'a> {
    who: &'a Principal,
    role: Option<Role>,
    issued_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    is_playground: bool,
}

/// Now, in whole seconds as the claims have them.
fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap_or_default()
}

/// The whole second that lies `ttl` ahead.
fn after(ttl: Duration) -> DateTime<Utc> {
    let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    DateTime::from_timestamp(now().timestamp().saturating_add(seconds), 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

fn encode(secret: &OwnSecret, rules: &JwtRules, new: &NewToken<'_>) -> Result<String, jsonwebtoken::errors::Error> {
    let mut claims = Map::new();
    claims.insert("iat".into(), new.issued_at.timestamp().into());
    claims.insert("exp".into(), new.expires_at.timestamp().into());
    let mut put = |name: &str, value: Value| ClaimPath::of(name).put(&mut claims, value);
    put(&rules.user_claim, new.who.user.as_str().into());
    match new.who.accounts.as_slice() {
        [] => {}
        [one] => put(&rules.account_claim, one.as_str().into()),
        many => put(&rules.accounts_claim, many.iter().map(|account| Value::from(account.as_str())).collect()),
    }
    let mut named = |name: &str, value: Option<&str>| value.map(|value| claims.insert(name.to_owned(), value.into()));
    named("iss", rules.issuer.as_deref());
    named("aud", rules.audience.as_deref());
    named(ROLE_CLAIM, new.role.map(Role::as_str));
    if new.is_playground {
        claims.insert(PLAYGROUND_CLAIM.to_owned(), true.into());
    }
    let header = Header { kid: secret.kid.clone(), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret.secret.as_bytes())?)
}

/// Makes tokens with the hub's current secret.
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

    /// Makes a user's token for the playground, which lives for `ttl` or for as long as the hub's rules allow. A claim
    /// marks it.
    ///
    /// # Errors
    /// See [`MintError`].
    pub fn for_playground(&self, who: &Principal, ttl: Duration) -> Result<MintedToken, MintError> {
        self.mint(who, None, now(), ttl, true)
    }

    /// Makes an admin's token for a sign-in to the console, which counts as issued at `issued_at`.
    ///
    /// # Errors
    /// See [`MintError`].
    pub fn for_console(&self, admin: UserId, issued_at: DateTime<Utc>, ttl: Duration) -> Result<MintedToken, MintError> {
        let who = Principal { user: admin, accounts: Vec::new() };
        self.mint(&who, Some(Role::Admin), issued_at.min(now()), ttl, false)
    }

    fn mint(
        &self,
        who: &Principal,
        role: Option<Role>,
        issued_at: DateTime<Utc>,
        ttl: Duration,
        is_playground: bool,
    ) -> Result<MintedToken, MintError> {
        let expires_at = after(ttl.min(self.rules.max_lifetime));
        let new = NewToken { who, role, issued_at, expires_at, is_playground };
        let token = encode(&self.secret, &self.rules, &new).map_err(|_| MintError::Refused)?;
        if token.len() > TOKEN_MAX_BYTES {
            return Err(MintError::TooLong);
        }
        Ok(MintedToken { token, expires_at })
    }
}
