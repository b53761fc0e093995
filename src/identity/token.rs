//! Checks JSON Web Tokens (RFC 7519, RFC 8725): finds the issuer and the key, then checks signature and claims.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::claims::{Claims, NO_KEY_FITS, NO_TOKEN, NOT_OUR_SIGNATURE, TokenError, UNKNOWN_KEY, WRONG_ISSUER};
use super::issuer::{Issuer, TOKEN_MAX_BYTES};
use super::key_set::{KeySet, UnknownKey};
use super::revocations::Revocations;
use super::verification_key::{self, VerificationKey, is_secret, name_of};
use super::{Identity, OwnSecrets};
use crate::config::JwtRules;
use crate::domain::KeyTag;
use crate::metrics;
use crate::wire::json;

/// The subject of the tokens that a command line makes with the secret on its machine. They have a role.
pub const COMMAND_LINE_SUBJECT: &str = "local";
/// Most public keys that one token is tried with: keys of one issuer that share a `kid`, or have none.
const TRIES: usize = 4;

/// The issuers and keys by which tokens are checked. Cheap to clone.
#[derive(Clone)]
pub struct TokenRules {
    issuers: Arc<[Issuer]>,
    revocations: Revocations,
}

/// The names of a token's header that the hub reads. `jku`, `x5u`, `jwk` and `x5c` are not among them: a token does not
/// choose its key.
struct TokenHeader {
    algorithm: Algorithm,
    kid: Option<String>,
}

/// The result of a check that does not wait.
enum TokenCheck {
    Done(Result<Claims, TokenError>),
    /// The token names a key that this set may have by now.
    Ask(Arc<KeySet>),
}

impl TokenRules {
    /// Checks tokens by one secret alone.
    ///
    /// # Panics
    /// Never for a secret that [`crate::secrets::check`] accepts.
    pub fn new(secret: &str, rules: JwtRules) -> Self {
        let identity = Identity::new(OwnSecrets::single(secret), rules, Vec::new());
        identity.expect("the caller has checked the secret").tokens()
    }

    pub(super) fn of(issuers: Vec<Issuer>) -> Self {
        Self { issuers: issuers.into(), revocations: Revocations::default() }
    }

    /// The users whose older tokens are refused. All clones share them.
    pub const fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Checks a token by the keys that are here. See [`TokenRules::verify`].
    ///
    /// # Errors
    /// When the token is not valid now, or its issuer's keys are not here.
    pub fn check(&self, token: &str) -> Result<Claims, TokenError> {
        match self.check_at(token, Utc::now()).1 {
            TokenCheck::Done(checked) => checked,
            TokenCheck::Ask(_) => Err(TokenError::Unavailable),
        }
    }

    /// Checks a token. Waits up to two seconds if its issuer may have published the key a moment ago.
    ///
    /// # Errors
    /// When the token is not valid now, or its issuer cannot be asked for the key.
    pub async fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        #[cfg(feature = "mutants")]
        if crate::mutants::is("token-in-log") {
            tracing::debug!(token, "checking a token");
        }
        let (algorithm, first) = self.check_at(token, Utc::now());
        let checked = match first {
            TokenCheck::Done(checked) => checked,
            TokenCheck::Ask(set) => {
                // Boxed: almost no check waits, and every request has room for this one.
                Box::pin(set.ask()).await;
                self.check(token)
            }
        };
        metrics::TOKENS.one(checked.as_ref().map_or_else(|error| error.outcome(), |_| "accepted"), algorithm);
        checked
    }

    /// Returns the claims of the token in a header, or of the one in the query if the header has none of ours: a
    /// proxy may put its own `Authorization` in front of the hub.
    ///
    /// # Errors
    /// As [`TokenRules::verify`].
    pub async fn verify_either(&self, in_header: Option<&str>, in_query: Option<&str>) -> Result<Claims, TokenError> {
        match (in_header, in_query) {
            (Some(sent), in_query) => match (self.verify(sent).await, in_query) {
                (Err(TokenError::Invalid(_) | TokenError::Unavailable), Some(in_query)) => self.verify(in_query).await,
                (checked, _) => checked,
            },
            (None, Some(in_query)) => self.verify(in_query).await,
            (None, None) => Err(TokenError::Invalid(NO_TOKEN)),
        }
    }

    /// The name of the token's algorithm, for the metric, and the result.
    fn check_at(&self, token: &str, now: DateTime<Utc>) -> (&'static str, TokenCheck) {
        match header(token) {
            Ok(header) => (name_of(header.algorithm), self.check_by_issuers(&header, token, now)),
            Err(error) => ("none", TokenCheck::Done(Err(error))),
        }
    }

    /// Judges claims that a key of this issuer has proved.
    fn judge(&self, issuer: &Issuer, claims: &RawValue, key: Option<KeyTag>, now: DateTime<Utc>) -> Result<Claims, TokenError> {
        let claims = issuer.rules.claims(claims, key, now)?;
        // Else a ban of a user of that name would shut out the command line, which lifts bans.
        let is_command_line = claims.role.is_some() && claims.who.user.as_str() == COMMAND_LINE_SUBJECT;
        if is_command_line { Ok(claims) } else { self.revocations.check(claims) }
    }

    fn check_by_issuers(&self, header: &TokenHeader, token: &str, now: DateTime<Utc>) -> TokenCheck {
        // With one issuer nothing has to be chosen. With several, the token's own word chooses whose keys are tried;
        // the claims are checked once a key of that issuer has proved them.
        let claimed = if self.issuers.len() > 1 { claimed_issuer(token) } else { None };
        let mut unknown: Option<&Arc<KeySet>> = None;
        let mut found = false;
        for issuer in self.issuers.iter() {
            let is_named = issuer.rules.iss.is_none() || issuer.rules.iss.as_deref() == claimed.as_deref();
            if self.issuers.len() > 1 && !is_named {
                continue;
            }
            found = true;
            if let Some(key) = issuer.keys_for(header).find_map(|key| Some((key.verify(token)?, None))) {
                return TokenCheck::Done(self.judge(issuer, &key.0, key.1, now));
            }
            let Some(set) = issuer.published.as_ref().filter(|_| !is_secret(header.algorithm) || ignores_algorithm()) else { continue };
            let keys = set.keys();
            let candidates = candidates(keys.as_deref().unwrap_or_default(), header);
            if let Some((text, tag)) = candidates.iter().find_map(|key| Some((key.verify(token)?, key.tag))) {
                return TokenCheck::Done(self.judge(issuer, &text, Some(tag), now));
            }
            let is_known = |kid: &String| keys.iter().flat_map(|keys| keys.iter()).any(|key| key.kid.as_ref() == Some(kid));
            if keys.is_none() || header.kid.as_ref().is_some_and(|kid| !is_known(kid)) {
                unknown = Some(set);
            }
        }
        if let Some(set) = unknown {
            return match set.unknown_key() {
                UnknownKey::Ask => TokenCheck::Ask(Arc::clone(set)),
                UnknownKey::Unavailable => TokenCheck::Done(Err(TokenError::Unavailable)),
                UnknownKey::Refused => TokenCheck::Done(Err(TokenError::Invalid(UNKNOWN_KEY))),
            };
        }
        TokenCheck::Done(Err(TokenError::Invalid(match (found, self.issuers.len()) {
            (false, _) => WRONG_ISSUER,
            (true, 1) => NOT_OUR_SIGNATURE,
            (true, _) => NO_KEY_FITS,
        })))
    }
}

/// Whether the deliberate fault is on under which the header decides the algorithm.
fn ignores_algorithm() -> bool {
    #[cfg(feature = "mutants")]
    return crate::mutants::is("alg-from-header");
    #[cfg(not(feature = "mutants"))]
    false
}

impl Issuer {
    /// The keys of the configuration that may have signed a token with this header. A named key checks tokens with its
    /// name and tokens without any; a key without a name checks tokens with any name.
    fn keys_for<'a>(&'a self, header: &'a TokenHeader) -> impl Iterator<Item = &'a VerificationKey> {
        let is_tried =
            |key: &&VerificationKey| key.checks(header.algorithm) && (key.kid.is_none() || header.kid.is_none() || key.kid == header.kid);
        self.keys.iter().filter(is_tried)
    }
}

/// The published keys that a token is tried with: those with its `kid`, else those without one. A token without a `kid`
/// must leave no choice.
fn candidates<'a>(keys: &'a [VerificationKey], header: &TokenHeader) -> Vec<&'a VerificationKey> {
    let fits = |key: &&VerificationKey| key.checks(header.algorithm);
    let Some(kid) = &header.kid else {
        let all: Vec<_> = keys.iter().filter(fits).take(2).collect();
        return if all.len() == 1 { all } else { Vec::new() };
    };
    let named: Vec<_> = keys.iter().filter(fits).filter(|key| key.kid.as_ref() == Some(kid)).take(TRIES).collect();
    if named.is_empty() { keys.iter().filter(fits).filter(|key| key.kid.is_none()).take(TRIES).collect() } else { named }
}

/// Reads the header of a token strictly.
fn header(token: &str) -> Result<TokenHeader, TokenError> {
    if token.len() > TOKEN_MAX_BYTES {
        return Err(TokenError::Invalid("it exceeds 8 KiB"));
    }
    let malformed = TokenError::Invalid("malformed JWT: expected three base64url parts with a JSON header");
    let mut parts = token.split('.');
    let (Some(first), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else { return Err(malformed) };
    let text = URL_SAFE_NO_PAD.decode(first).map_err(|_| malformed)?;
    let text = std::str::from_utf8(&text).map_err(|_| malformed)?;
    json::check(text).map_err(|_| TokenError::Invalid("the header is ambiguous or malformed JSON"))?;
    let header: Map<String, Value> = serde_json::from_str(text).map_err(|_| malformed)?;
    // A null `crit` counts: RFC 7515 section 4.1.11 requires a list.
    if header.contains_key("crit") {
        return Err(TokenError::Invalid("the header has crit, but no extension is supported"));
    }
    let typ = match header.get("typ") {
        None => "jwt".to_owned(),
        Some(typ) => typ.as_str().unwrap_or_default().to_ascii_lowercase(),
    };
    // RFC 7515 section 4.1.9: the prefix application/ may be left out. RFC 9068 defines at+jwt.
    if !matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt") {
        return Err(TokenError::Invalid("the header's typ must be JWT or at+jwt"));
    }
    let algorithm = header.get("alg").and_then(Value::as_str).and_then(verification_key::algorithm);
    let algorithm = algorithm.ok_or(TokenError::Invalid("the header's alg is missing or not supported"))?;
    let kid = match header.get("kid") {
        None => None,
        Some(kid) => Some(kid.as_str().ok_or(TokenError::Invalid("the header's kid must be a string"))?.to_owned()),
    };
    Ok(TokenHeader { algorithm, kid })
}

/// The issuer that a token names, before anything is proved. Two `iss` are none.
fn claimed_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claimed<'a> {
        #[serde(borrow)]
        iss: Option<Cow<'a, str>>,
    }
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<Claimed<'_>>(&claims).ok()?.iss.map(Cow::into_owned)
}

#[cfg(test)]
mod tests;
