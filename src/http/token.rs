//! Tokens of users (and of services that prefer one to a key): JSON Web Tokens, HS256 (RFC 7519, RFC 8725).

use std::time::Duration;

use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::config::JwtRules;
use crate::domain::{AccountId, Principal, Role, UserId};
use crate::wire::json;

/// How far two clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(5);
/// Longest token. More is no token of ours, and costs nothing to refuse.
const TOKEN_MAX_BYTES: usize = 8 << 10;
/// Most accounts of one user.
const ACCOUNTS_MAX: usize = 100;

/// The claim of a service's or an admin's token. A name of our own: `role` is one that the issuers of users' tokens use
/// for purposes of theirs, and nobody must become an admin here by being one there.
const ROLE_CLAIM: &str = "recado_role";

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub who: Principal,
    pub expires_at: DateTime<Utc>,
    /// Present in a service's or an admin's token; such a token opens no stream.
    pub role: Option<Role>,
}

/// Why a token is refused. The words are for whoever made the token; they hold nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token has expired")]
    Expired,
    #[error("the token is refused: {0}")]
    Invalid(&'static str),
}

/// How tokens are checked.
#[derive(Clone)]
pub struct TokenRules {
    key: DecodingKey,
    /// What the library checks: the signature, and that the algorithm is ours.
    signature: Validation,
    rules: JwtRules,
}

impl TokenRules {
    pub fn new(secret: &str, rules: JwtRules) -> Self {
        // The algorithm is ours to choose, never the token's. Times and the rest are checked below, strictly.
        let mut signature = Validation::new(Algorithm::HS256);
        signature.validate_exp = false;
        signature.validate_nbf = false;
        signature.validate_aud = false;
        signature.required_spec_claims.clear();
        Self { key: DecodingKey::from_secret(secret.as_bytes()), signature, rules }
    }

    /// # Errors
    /// When the token is not valid now, under this secret and these rules.
    pub fn check(&self, token: &str) -> Result<Claims, TokenError> {
        #[cfg(feature = "mutants")]
        if crate::mutants::is("token-in-log") {
            tracing::debug!(token, "a token is checked");
        }
        self.check_at(token, Utc::now())
    }

    fn check_at(&self, token: &str, now: DateTime<Utc>) -> Result<Claims, TokenError> {
        let claims = self.verified(token)?;
        let expires_at = self.check_times(&claims, now)?;
        self.check_issuer_and_audience(&claims)?;
        let user = claims.get(&self.rules.user_claim).and_then(Value::as_str).and_then(|s| UserId::parse(s).ok());
        let user = user.ok_or(TokenError::Invalid("the user claim (sub) is missing or is no user id"))?;
        let accounts = self.accounts(&claims)?;
        let role = match claims.get(ROLE_CLAIM) {
            None => None,
            Some(Value::String(role)) => Role::parse(role),
            Some(_) => return Err(TokenError::Invalid("recado_role is not a string")),
        };
        Ok(Claims { who: Principal { user, accounts }, expires_at, role })
    }

    /// The claims of a token that is signed by our secret, each once.
    fn verified(&self, token: &str) -> Result<Map<String, Value>, TokenError> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(TokenError::Invalid("it is longer than 8 KiB"));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid("it is no JSON Web Token"))?;
        if header.crit.is_some() {
            return Err(TokenError::Invalid("its header has crit, and no extension is known here"));
        }
        if !header.typ.as_deref().is_none_or(|typ| typ.eq_ignore_ascii_case("jwt") || typ.eq_ignore_ascii_case("at+jwt")) {
            return Err(TokenError::Invalid("its header's typ is not JWT"));
        }
        let decoded = jsonwebtoken::decode::<Box<RawValue>>(token, &self.key, &self.signature)
            .map_err(|_| TokenError::Invalid("its signature or algorithm is not the expected one"))?;
        let text = decoded.claims.get();
        // Two readers may take different ones of two claims with one name.
        json::check(text).map_err(|_| TokenError::Invalid("its claims are not unambiguous JSON"))?;
        serde_json::from_str(text).map_err(|_| TokenError::Invalid("its claims are no JSON object"))
    }

    fn check_times(&self, claims: &Map<String, Value>, now: DateTime<Utc>) -> Result<DateTime<Utc>, TokenError> {
        let exp = claims.get("exp").ok_or(TokenError::Invalid("exp is missing"))?;
        let expires_at =
            exp.as_i64().and_then(|s| DateTime::from_timestamp(s, 0)).ok_or(TokenError::Invalid("exp is no time in seconds"))?;
        if now >= expires_at + LEEWAY {
            return Err(TokenError::Expired);
        }
        if (expires_at - now).to_std().is_ok_and(|left| left > self.rules.max_lifetime.saturating_add(LEEWAY)) {
            return Err(TokenError::Invalid("it is valid for longer than RECADO_JWT_MAX_LIFETIME allows"));
        }
        if let Some(nbf) = claims.get("nbf") {
            let from = nbf.as_i64().and_then(|s| DateTime::from_timestamp(s, 0)).ok_or(TokenError::Invalid("nbf is no time in seconds"))?;
            if from > now + LEEWAY {
                return Err(TokenError::Invalid("it is not valid yet (nbf)"));
            }
        }
        Ok(expires_at)
    }

    fn check_issuer_and_audience(&self, claims: &Map<String, Value>) -> Result<(), TokenError> {
        if let Some(issuer) = &self.rules.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(TokenError::Invalid("iss is not the configured issuer"));
        }
        let Some(audience) = &self.rules.audience else { return Ok(()) };
        let ours = match claims.get("aud") {
            Some(Value::String(aud)) => aud == audience,
            Some(Value::Array(list)) => list.iter().any(|aud| aud.as_str() == Some(audience)),
            _ => false,
        };
        if ours { Ok(()) } else { Err(TokenError::Invalid("aud does not hold the configured audience")) }
    }

    fn accounts(&self, claims: &Map<String, Value>) -> Result<Vec<AccountId>, TokenError> {
        let wrong = TokenError::Invalid("an account claim holds what is no account id");
        let mut texts: Vec<&str> = Vec::new();
        match claims.get(&self.rules.account_claim) {
            None | Some(Value::Null) => {}
            Some(Value::String(account)) => texts.push(account),
            Some(_) => return Err(wrong),
        }
        match claims.get(&self.rules.accounts_claim) {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) if list.len() <= ACCOUNTS_MAX => {
                for account in list {
                    texts.push(account.as_str().ok_or(wrong)?);
                }
            }
            Some(_) => return Err(wrong),
        }
        let mut accounts = Vec::with_capacity(texts.len());
        for text in texts {
            accounts.push(AccountId::parse(text).map_err(|_| wrong)?);
        }
        accounts.sort_unstable();
        accounts.dedup();
        Ok(accounts)
    }
}

/// Makes a token from the hub's own secret.
///
/// # Errors
/// When the crypto library refuses, which it does not for HS256.
pub fn mint(
    secret: &str,
    rules: &JwtRules,
    who: &Principal,
    role: Option<Role>,
    ttl: Duration,
) -> Result<String, jsonwebtoken::errors::Error> {
    let now = Utc::now().timestamp();
    let mut claims = Map::new();
    claims.insert(rules.user_claim.clone(), who.user.as_str().into());
    claims.insert("iat".into(), now.into());
    claims.insert("exp".into(), (now.saturating_add(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX))).into());
    let mut named = |name: &str, value: Option<Value>| value.map(|value| claims.insert(name.to_owned(), value));
    named("iss", rules.issuer.clone().map(Value::from));
    named("aud", rules.audience.clone().map(Value::from));
    named(ROLE_CLAIM, role.map(|role| role.as_str().into()));
    match who.accounts.as_slice() {
        [] => None,
        [one] => named(&rules.account_claim, Some(one.as_str().into())),
        many => named(&rules.accounts_claim, Some(many.iter().map(|a| Value::from(a.as_str())).collect())),
    };
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes!";

    fn rules() -> JwtRules {
        JwtRules {
            issuer: None,
            audience: None,
            user_claim: "sub".into(),
            account_claim: "account_id".into(),
            accounts_claim: "account_ids".into(),
            max_lifetime: Duration::from_secs(86_400),
        }
    }

    fn sign(header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
    }

    fn check(claims: &Value) -> Result<Claims, TokenError> {
        TokenRules::new(SECRET, rules()).check(&sign(&Header::default(), claims))
    }

    fn soon() -> i64 {
        Utc::now().timestamp() + 60
    }

    #[test]
    fn a_minted_token_says_what_it_was_minted_for() {
        let who = Principal {
            user: UserId::parse("42").unwrap(),
            accounts: vec![AccountId::parse("7").unwrap(), AccountId::parse("8").unwrap()],
        };
        let token = mint(SECRET, &rules(), &who, None, Duration::from_secs(60)).unwrap();
        let claims = TokenRules::new(SECRET, rules()).check(&token).unwrap();
        assert_eq!((claims.who, claims.role), (who, None));
        assert!(TokenRules::new("another-secret-of-thirty-two-bytes!!!", rules()).check(&token).is_err());
    }

    #[test]
    fn times_are_checked_strictly() {
        let now = Utc::now().timestamp();
        assert!(check(&json!({"sub":"1","exp":now + 60})).is_ok());
        assert_eq!(check(&json!({"sub":"1","exp":now - 6})), Err(TokenError::Expired));
        for exp in
            [json!("soon"), json!(-1.5), json!(1e308), json!(now + 60 * 60 * 25), json!(253_402_300_799_i64), json!(null), json!(true)]
        {
            assert!(matches!(check(&json!({"sub":"1","exp":exp})), Err(TokenError::Invalid(_))), "{exp}");
        }
        for exp in [0, -1] {
            assert_eq!(check(&json!({"sub":"1","exp":exp})), Err(TokenError::Expired));
        }
        assert!(check(&json!({"sub":"1"})).is_err());
        assert!(check(&json!({"sub":"1","exp":soon(),"nbf":now + 3600})).is_err());
        assert!(check(&json!({"sub":"1","exp":soon(),"nbf":"now"})).is_err());
    }

    #[test]
    fn identities_are_checked_strictly() {
        for sub in [json!(null), json!(42), json!(""), json!("a\nb"), json!(["42"])] {
            assert!(check(&json!({"sub":sub,"exp":soon()})).is_err(), "{sub}");
        }
        for account in [json!(7), json!(""), json!("a b"), json!(["7"])] {
            assert!(check(&json!({"sub":"1","account_id":account,"exp":soon()})).is_err(), "{account}");
        }
        assert!(check(&json!({"sub":"1","account_ids":"7","exp":soon()})).is_err());
        assert!(check(&json!({"sub":"1","account_ids":[7],"exp":soon()})).is_err());
    }

    #[test]
    fn headers_that_ask_for_something_else_are_refused() {
        let rules = TokenRules::new(SECRET, rules());
        let claims = json!({"sub":"1","exp":soon()});
        assert!(rules.check(&sign(&Header::new(Algorithm::HS256), &claims)).is_ok());
        assert!(rules.check(&sign(&Header::new(Algorithm::HS384), &claims)).is_err());
        let header = Header { crit: Some(vec!["x".into()]), ..Header::default() };
        assert!(rules.check(&sign(&header, &claims)).is_err());
        let header = Header { typ: Some("id+jwt".into()), ..Header::default() };
        assert!(rules.check(&sign(&header, &claims)).is_err());
        // {"alg":"none"} . {"sub":"1","exp":4102444800} .
        assert!(rules.check("eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIiwiZXhwIjo0MTAyNDQ0ODAwfQ.").is_err());
        for garbage in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", " ", &"x".repeat(100_000)] {
            assert!(rules.check(garbage).is_err());
        }
    }

    #[test]
    fn issuer_and_audience_are_demanded_when_configured() {
        let strict = JwtRules { issuer: Some("us".into()), audience: Some("hub".into()), ..rules() };
        let rules = TokenRules::new(SECRET, strict);
        let check =
            |iss: Value, aud: Value| rules.check(&sign(&Header::default(), &json!({"sub":"1","exp":soon(),"iss":iss,"aud":aud}))).is_ok();
        assert!(check(json!("us"), json!("hub")));
        assert!(check(json!("us"), json!(["other", "hub"])));
        assert!(!check(json!(["us"]), json!("hub")));
        assert!(!check(json!("them"), json!("hub")));
        assert!(!check(json!("us"), json!("other")));
        assert!(!check(json!("us"), json!(null)));
    }
}
