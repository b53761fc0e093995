//! Who is at the door: a user with a token, or a service with a key or a token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use chrono::Utc;
use tokio::time::{Instant, timeout};

use super::problems::Refused;
use super::token::{Claims, TokenError, TokenRules};
use crate::domain::{Caller, Role};
use crate::store::{Reader, StoreError, keys};
use crate::wire::problem::Problem;

/// How long a known key is taken without asking the database again; so long does a revoked one live on.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// While the database is away, a key that was known so recently is still taken: a service
/// should not be told that its key is unknown because nobody could be asked. So long, then, may a revoked one live on.
const KNOWN_AWAY_FOR: Duration = Duration::from_secs(300);
/// Longest wait for the database's word on a key: a request has five seconds in all, and the append needs its part.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(2);
/// How long an unknown key is refused without asking.
const UNKNOWN_FOR: Duration = Duration::from_secs(2);
/// Most remembered keys. Guesses cannot fill the memory.
const REMEMBERED: usize = 10_000;

/// Checks keys and tokens. Cheap to clone.
#[derive(Clone)]
pub struct Auth {
    pub tokens: TokenRules,
    reader: Reader,
    seen: Arc<Mutex<HashMap<[u8; 32], Seen>>>,
}

#[derive(Clone)]
struct Seen {
    caller: Option<Caller>,
    at: Instant,
}

impl Auth {
    /// `reader` is for keys alone: whoever publishes must not stand in line behind those who resume.
    pub fn new(tokens: TokenRules, reader: Reader) -> Self {
        Self { tokens, reader, seen: Arc::default() }
    }

    /// The service that asks.
    ///
    /// # Errors
    /// 401 without a valid key or token, 403 with a user's token, 503 when the database cannot be asked.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refused> {
        let bearer = bearer(headers).ok_or_else(|| {
            Problem::new(401, "unauthorized", "send Authorization: Bearer with a service key; recado key create NAME makes one")
        })?;
        if bearer.starts_with(keys::PREFIX) {
            let known = self.by_key(bearer).await?;
            return known.ok_or_else(|| Problem::new(401, "unauthorized", "the key is not known, or was revoked").into());
        }
        let claims = self.tokens.check(bearer).map_err(|error| refused_token(&error))?;
        let role = claims
            .role
            .ok_or_else(|| Problem::new(403, "forbidden", "this is a user's token; a service key or a token with a role is needed here"))?;
        Ok(Caller { name: claims.who.user.as_str().to_owned(), role })
    }

    /// An admin.
    ///
    /// # Errors
    /// As [`Auth::caller`], and 403 for a service that is no admin.
    pub async fn admin(&self, headers: &HeaderMap) -> Result<Caller, Refused> {
        let caller = self.caller(headers).await?;
        if caller.role == Role::Admin {
            return Ok(caller);
        }
        Err(Problem::new(403, "forbidden", "an admin key is needed here; recado key create NAME --role admin makes one").into())
    }

    /// Ends the connections that keys are looked up over.
    pub async fn close(&self) {
        self.reader.close().await;
    }

    /// The user that asks, by the token of the header, or the one in the query for who can set no header.
    ///
    /// # Errors
    /// 401 without a valid token, 403 with a service's.
    pub fn user(&self, headers: &HeaderMap, in_query: Option<&str>) -> Result<Claims, Refused> {
        let token = bearer(headers).or(in_query).ok_or_else(|| {
            Problem::new(401, "unauthorized", "send Authorization: Bearer with a user's token, or ?token= where no header can be set")
        })?;
        let claims = self.tokens.check(token).map_err(|error| refused_token(&error))?;
        if claims.role.is_some() {
            return Err(Problem::new(403, "forbidden", "this is a service's token; a user's is needed here").into());
        }
        Ok(claims)
    }

    /// The user that asks for a stream. It ends with the token, so one that is only still taken for the sake of clocks
    /// that differ would open a stream that ends at once, again and again.
    ///
    /// # Errors
    /// As [`Auth::user`].
    pub fn listener(&self, headers: &HeaderMap, in_query: Option<&str>) -> Result<Claims, Refused> {
        let claims = self.user(headers, in_query)?;
        if claims.expires_at <= Utc::now() {
            return Err(refused_token(&TokenError::Expired));
        }
        Ok(claims)
    }

    async fn by_key(&self, key: &str) -> Result<Option<Caller>, StoreError> {
        let hash = keys::hash(key);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
        if let Some(seen) = &seen {
            let fresh = if seen.caller.is_some() { KNOWN_FOR } else { UNKNOWN_FOR };
            if seen.at.elapsed() < fresh {
                return Ok(seen.caller.clone());
            }
        }
        let found = match timeout(LOOK_UP_LIMIT, keys::find(&self.reader, &hash)).await {
            Ok(found) => found,
            Err(_) => Err(StoreError::TimedOut(LOOK_UP_LIMIT)),
        };
        let caller = match (found, seen) {
            (Ok(caller), _) => caller,
            (Err(_), Some(Seen { caller: Some(caller), at })) if at.elapsed() < KNOWN_AWAY_FOR => return Ok(Some(caller)),
            (Err(error), _) => return Err(error),
        };
        let mut remembered = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED {
            remembered.retain(|_, seen| seen.caller.is_some() && seen.at.elapsed() < KNOWN_FOR);
        }
        remembered.insert(hash, Seen { caller: caller.clone(), at: Instant::now() });
        Ok(caller)
    }
}

/// What follows `Bearer` (RFC 6750), the scheme in any case.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start())
}

/// What is said over HTTP of a token, or a ticket, that opens nothing.
pub fn refused_token(error: &TokenError) -> Refused {
    let code = match error {
        TokenError::Expired => "token_expired",
        TokenError::Invalid(_) => "unauthorized",
    };
    Problem::new(401, code, error.to_string()).into()
}
