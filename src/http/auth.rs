//! Authenticates requests: users by token, services by key or token.

use axum::http::{HeaderMap, header};
use chrono::Utc;

use super::connection_slots::{HERE, SlotClass, vouch};
use super::key_cache::KeyCache;
use super::problems::RefusedRequest;
use super::scopes;
use crate::domain::audit::{Actor, Via};
use crate::domain::{Role, ServiceCaller};
use crate::identity::{Claims, TokenError, TokenRules};
use crate::metrics::SIGN_INS_REFUSED;
use crate::store::key_uses::KeyUses;
use crate::store::keys;
use crate::wire::problem::Problem;

/// When a client may try again whose token could not be checked.
const KEYS_RETRY_S: u32 = 5;

/// Checks keys and tokens. Cheap to clone.
#[derive(Clone)]
pub struct Auth {
    pub tokens: TokenRules,
    keys: KeyCache,
}

impl Auth {
    pub fn new(tokens: TokenRules, keys: KeyCache) -> Self {
        Self { tokens, keys }
    }

    /// Makes every cached key be looked up again, after a key was revoked or limited on any hub.
    pub fn forget_keys(&self) {
        self.keys.doubt_all();
    }

    /// The service keys that were used on this hub.
    pub fn key_uses(&self) -> KeyUses {
        self.keys.uses.clone()
    }

    /// Authenticates a service.
    ///
    /// # Errors
    /// 401 without a valid key or token, 403 with a user's token or from an address that the key does not allow, 503
    /// when the database cannot be asked.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<ServiceCaller, RefusedRequest> {
        let bearer = bearer(headers).ok_or_else(|| {
            SIGN_INS_REFUSED.add("no_credential", 1);
            Problem::new(401, "unauthorized", "send Authorization: Bearer with a service key; recado key create NAME makes one")
        })?;
        if bearer.starts_with(keys::PREFIX) {
            let known = self.keys.caller(bearer).await?;
            let known = known.ok_or_else(|| {
                SIGN_INS_REFUSED.add("unknown_service_key", 1);
                Problem::new(401, "unauthorized", "the service key is unknown or was revoked")
            })?;
            if let Some(key) = &known.scopes {
                scopes::admit(key, headers).inspect_err(|RefusedRequest(refused)| {
                    SIGN_INS_REFUSED.add(if refused.status == 401 { "expired" } else { "foreign_address" }, 1);
                })?;
            }
            vouch(SlotClass::Service);
            self.keys.uses.note(&known.name);
            return Ok(known);
        }
        let claims = self.tokens.verify(bearer).await.map_err(|error| refused_token(&error))?;
        vouch(if claims.role.is_some() { SlotClass::Service } else { SlotClass::User });
        let role = claims.role.ok_or_else(|| wrong_role("this is a user's token; a service key or a token with a role is required"))?;
        Ok(ServiceCaller { name: claims.who.user.as_str().to_owned(), role, scopes: None })
    }

    /// Authenticates an admin for a route that administers. For a route that reads, see [`Auth::reader`].
    ///
    /// # Errors
    /// As [`Auth::caller`], and 403 for a service that is not an admin, or whose key has limits.
    pub async fn admin(&self, headers: &HeaderMap) -> Result<ServiceCaller, RefusedRequest> {
        let caller = self.with_admin_role(headers).await?;
        scopes::check_admin(&caller)?;
        Ok(caller)
    }

    /// Authenticates an admin for a route that reads.
    ///
    /// # Errors
    /// As [`Auth::caller`], and 403 for a service that is not an admin, or whose key lacks the scope `read`.
    pub async fn reader(&self, headers: &HeaderMap) -> Result<ServiceCaller, RefusedRequest> {
        let caller = self.with_admin_role(headers).await?;
        scopes::check_read(&caller)?;
        Ok(caller)
    }

    async fn with_admin_role(&self, headers: &HeaderMap) -> Result<ServiceCaller, RefusedRequest> {
        let caller = self.caller(headers).await?;
        if caller.role == Role::Admin {
            return Ok(caller);
        }
        Err(wrong_role("an admin key is required; recado key create NAME --role admin makes one").into())
    }

    /// Who sent a request that was refused, as far as a valid credential tells: the name for the audit, and the id of a
    /// user. Counts nothing, and waits for no issuer.
    pub async fn refused_caller(&self, headers: &HeaderMap) -> (String, Option<String>) {
        let named = match bearer(headers) {
            Some(key) if key.starts_with(keys::PREFIX) => {
                let known = self.keys.caller(key).await.ok().flatten();
                known.map(|caller| (format!("key:{}", caller.name), None))
            }
            Some(token) => self.tokens.check(token).ok().map(|claims| match claims.role {
                Some(_) => (format!("token:{}", claims.who.user), None),
                None => ("user".to_owned(), Some(claims.who.user.to_string())),
            }),
            None => None,
        };
        named.unwrap_or_else(|| ("unknown".to_owned(), None))
    }

    /// Authenticates a user: by the token of the header, or by the one in the query if a client cannot set a header
    /// or a proxy has set its own.
    ///
    /// # Errors
    /// 401 without a valid token, 403 with a service's token, 503 when the keys of its issuer cannot be fetched.
    pub async fn user(&self, headers: &HeaderMap, in_query: Option<&str>) -> Result<Claims, RefusedRequest> {
        let in_header = bearer(headers);
        if in_header.or(in_query).is_none() {
            let detail = "send Authorization: Bearer with a user's token, or ?token= if the client cannot set headers";
            SIGN_INS_REFUSED.add("no_credential", 1);
            return Err(Problem::new(401, "unauthorized", detail).into());
        }
        let claims = self.tokens.verify_either(in_header, in_query).await.map_err(|error| refused_token(&error))?;
        vouch(SlotClass::User);
        if claims.role.is_some() {
            return Err(wrong_role("this is a service's token; a user's token is required").into());
        }
        Ok(claims)
    }

    /// Authenticates a user for a stream. The clock-skew leeway does not apply here: a stream ends when its token
    /// expires, so accepting an expired token would make the client reconnect in a loop.
    ///
    /// # Errors
    /// As [`Auth::user`].
    pub async fn listener(&self, headers: &HeaderMap, in_query: Option<&str>) -> Result<Claims, RefusedRequest> {
        let claims = self.user(headers, in_query).await?;
        if claims.expires_at <= Utc::now() {
            return Err(refused_token(&TokenError::Expired));
        }
        Ok(claims)
    }
}

/// Whether a ticket counts: only if the header has no token, or not one of ours.
pub fn ticket_counts(tokens: &TokenRules, in_header: Option<&str>) -> bool {
    in_header.is_none_or(|sent| matches!(tokens.check(sent), Err(TokenError::Invalid(_) | TokenError::Unavailable)))
}

/// Who sent a request, for the audit.
pub fn actor(headers: &HeaderMap, caller: &ServiceCaller) -> Actor {
    let has_key = bearer(headers).is_some_and(|bearer| bearer.starts_with(keys::PREFIX));
    let who = format!("{}:{}", if has_key { "key" } else { "token" }, caller.name);
    Actor { who, via: Via::Rest, address: audited_address(headers) }
}

/// The client's address, as trusted proxies name it; of IPv6 the network. `None` in a test that calls a handler.
pub fn audited_address(headers: &HeaderMap) -> Option<String> {
    HERE.try_with(|slot| slot.client(headers).to_string()).ok()
}

/// The token after `Bearer` (RFC 6750). The scheme may be in any case.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start())
}

fn wrong_role(detail: &str) -> Problem {
    SIGN_INS_REFUSED.add("wrong_role", 1);
    Problem::new(403, "forbidden", detail)
}

/// Counts a refused token, and makes the HTTP answer to it.
pub fn refused_token(error: &TokenError) -> RefusedRequest {
    SIGN_INS_REFUSED.add(error.reason(), 1);
    refusal(error)
}

/// The HTTP answer to an invalid token or ticket.
pub fn refusal(error: &TokenError) -> RefusedRequest {
    let code = match error {
        TokenError::Expired => "token_expired",
        TokenError::Invalid(_) => "unauthorized",
        TokenError::Revoked => "token_revoked",
        TokenError::Unavailable => return Problem::new(503, "unavailable", error.to_string()).retry_after(KEYS_RETRY_S).into(),
    };
    Problem::new(401, code, error.to_string()).into()
}
