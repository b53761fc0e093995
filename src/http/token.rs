//! Checks and makes JSON Web Tokens of users: HS256 (RFC 7519, RFC 8725).
//!
//! Services may use a token with a role instead of a key.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::config::JwtRules;
use crate::domain::{AccountId, Principal, Role, UserId};
use crate::wire::json;

/// Allowed difference between two clocks.
const LEEWAY: Duration = Duration::from_secs(5);
/// Maximum length of a token. A longer one is not ours, and costs nothing to refuse.
pub const TOKEN_MAX_BYTES: usize = 8 << 10;
/// Maximum number of accounts of one user.
pub const ACCOUNTS_MAX: usize = 100;

/// The last second of the year 9999. A later time cannot be written as RFC 3339, and sums with it may overflow.
const LAST_SECOND: i64 = 253_402_300_799;

/// The claim of a service's or an admin's token. The name is our own: issuers of users' tokens use `role` for
/// purposes of theirs, and being an admin there must not make a user an admin here.
const ROLE_CLAIM: &str = "recado_role";

/// The content of a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub who: Principal,
    pub expires_at: DateTime<Utc>,
    /// Set in a service's or an admin's token. Such a token opens no stream.
    pub role: Option<Role>,
}

/// Why a token is refused. The texts are for the token's issuer and contain nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token has expired")]
    Expired,
    #[error("the token is refused: {0}")]
    Invalid(&'static str),
}

/// The rules by which tokens are checked.
#[derive(Clone)]
pub struct TokenRules {
    key: DecodingKey,
    /// The library's checks: the signature, and that the algorithm is ours.
    signature: Validation,
    rules: JwtRules,
}

impl TokenRules {
    pub fn new(secret: &str, rules: JwtRules) -> Self {
        // The hub chooses the algorithm, never the token. Times and the other claims are checked below, strictly.
        let mut signature = Validation::new(Algorithm::HS256);
        signature.validate_exp = false;
        signature.validate_nbf = false;
        signature.validate_aud = false;
        signature.required_spec_claims.clear();
        Self { key: DecodingKey::from_secret(secret.as_bytes()), signature, rules }
    }

    /// Checks a token.
    ///
    /// # Errors
    /// When the token is not valid now, under this secret and these rules.
    pub fn check(&self, token: &str) -> Result<Claims, TokenError> {
        #[cfg(feature = "mutants")]
        if crate::mutants::is("token-in-log") {
            tracing::debug!(token, "checking a token");
        }
        self.check_at(token, Utc::now())
    }

    /// Returns the claims of the token in a header, or of the one in the query if the header has none of ours: a
    /// proxy may put its own `Authorization` in front of the hub.
    ///
    /// # Errors
    /// As [`TokenRules::check`].
    pub fn check_either(&self, in_header: Option<&str>, in_query: Option<&str>) -> Result<Claims, TokenError> {
        match (in_header, in_query) {
            (Some(sent), in_query) => match (self.check(sent), in_query) {
                (Err(TokenError::Invalid(_)), Some(in_query)) => self.check(in_query),
                (checked, _) => checked,
            },
            (None, Some(in_query)) => self.check(in_query),
            (None, None) => Err(TokenError::Invalid("there is none")),
        }
    }

    fn check_at(&self, token: &str, now: DateTime<Utc>) -> Result<Claims, TokenError> {
        let claims = self.verified(token)?;
        let expires_at = self.check_times(&claims, now)?;
        self.check_issuer_and_audience(&claims)?;
        let user = claims.get(&self.rules.user_claim).and_then(Value::as_str).and_then(|s| UserId::parse(s).ok());
        let user = user.ok_or(TokenError::Invalid("the user claim (sub) is missing or not a valid user id"))?;
        let accounts = self.accounts(&claims)?;
        let role = match claims.get(ROLE_CLAIM) {
            None => None,
            // Never accepted as a user's token: its issuer meant to give a role.
            Some(role) => {
                let role = role.as_str().and_then(Role::parse);
                Some(role.ok_or(TokenError::Invalid("recado_role must be \"service\" or \"admin\""))?)
            }
        };
        Ok(Claims { who: Principal { user, accounts }, expires_at, role })
    }

    /// Returns the claims of a token that is signed with our secret, each claim once.
    fn verified(&self, token: &str) -> Result<Map<String, Value>, TokenError> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(TokenError::Invalid("it exceeds 8 KiB"));
        }
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| TokenError::Invalid("malformed JWT: expected three base64url parts with a JSON header"))?;
        check_header_names(token)?;
        if !header.typ.as_deref().is_none_or(|typ| typ.eq_ignore_ascii_case("jwt") || typ.eq_ignore_ascii_case("at+jwt")) {
            return Err(TokenError::Invalid("the header's typ must be JWT"));
        }
        let decoded = jsonwebtoken::decode::<Box<RawValue>>(token, &self.key, &self.signature)
            .map_err(|_| TokenError::Invalid("the signature or algorithm does not match (expected HS256 with this hub's secret)"))?;
        let text = decoded.claims.get();
        // Two readers may use different ones of two claims with the same name.
        json::check(text).map_err(|_| TokenError::Invalid("the claims are ambiguous or malformed JSON"))?;
        serde_json::from_str(text).map_err(|_| TokenError::Invalid("the claims are not a JSON object"))
    }

    fn check_times(&self, claims: &Map<String, Value>, now: DateTime<Utc>) -> Result<DateTime<Utc>, TokenError> {
        let exp = claims.get("exp").ok_or(TokenError::Invalid("exp is missing"))?;
        let expires_at =
            time(exp).ok_or(TokenError::Invalid("exp must be a NumericDate: whole seconds since 1970, before the year 10000"))?;
        if now >= expires_at + LEEWAY {
            return Err(TokenError::Expired);
        }
        if (expires_at - now).to_std().is_ok_and(|left| left > self.rules.max_lifetime.saturating_add(LEEWAY)) {
            return Err(TokenError::Invalid("it is valid for longer than RECADO_JWT_MAX_LIFETIME allows"));
        }
        if let Some(nbf) = claims.get("nbf") {
            let wrong = TokenError::Invalid("nbf must be a NumericDate: whole seconds since 1970, before the year 10000");
            let from = time(nbf).ok_or(wrong)?;
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
        if ours { Ok(()) } else { Err(TokenError::Invalid("aud does not contain the configured audience")) }
    }

    fn accounts(&self, claims: &Map<String, Value>) -> Result<Vec<AccountId>, TokenError> {
        if !self.rules.reads_accounts {
            return Ok(Vec::new());
        }
        let wrong = TokenError::Invalid("an account claim contains an invalid account id");
        let mut texts: Vec<&str> = Vec::new();
        match claims.get(&self.rules.account_claim) {
            None | Some(Value::Null) => {}
            Some(Value::String(account)) => texts.push(account),
            Some(_) => return Err(wrong),
        }
        match claims.get(&self.rules.accounts_claim) {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) if list.len() > ACCOUNTS_MAX => {
                return Err(TokenError::Invalid("it names more than 100 accounts"));
            }
            Some(Value::Array(list)) => {
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

/// Reads a NumericDate (RFC 7519 section 2) that is a whole number. The lower limit is as far from 1970 as the upper.
fn time(value: &Value) -> Option<DateTime<Utc>> {
    let seconds = value.as_i64().filter(|seconds| (-LAST_SECOND..=LAST_SECOND).contains(seconds))?;
    DateTime::from_timestamp(seconds, 0)
}

/// Rejects `crit`. The library does not distinguish a null `crit` from an absent one; RFC 7515 section 4.1.11
/// requires a list.
fn check_header_names(token: &str) -> Result<(), TokenError> {
    let wrong = TokenError::Invalid("the header is ambiguous or malformed JSON");
    let header = token.split('.').next().unwrap_or_default();
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| wrong)?;
    let header = std::str::from_utf8(&header).map_err(|_| wrong)?;
    json::check(header).map_err(|_| wrong)?;
    let header: Map<String, Value> = serde_json::from_str(header).map_err(|_| wrong)?;
    if header.contains_key("crit") {
        return Err(TokenError::Invalid("the header has crit, but no extension is supported"));
    }
    Ok(())
}

/// Makes a token with the hub's own secret.
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
        JwtRules::default()
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

    /// Signs a header and claims as they are written.
    fn sign_text(header: &str, claims: &str) -> String {
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, text.as_bytes())))
    }

    /// The largest time that the library can hold, and one second before and after it: adding to one of them
    /// panicked.
    #[test]
    fn no_number_of_a_token_overflows() {
        let forever = JwtRules { max_lifetime: Duration::MAX, ..rules() };
        let rules = TokenRules::new(SECRET, forever);
        let edges = [8_210_266_876_798, 8_210_266_876_799, 8_210_266_876_800, i64::MAX, i64::MAX - 5, i64::MIN, -8_334_601_228_800];
        for seconds in edges {
            for name in ["exp", "nbf", "iat"] {
                let mut claims = json!({"sub":"1","exp":soon()});
                claims[name] = seconds.into();
                let checked = rules.check(&sign(&Header::default(), &claims));
                // `iat` is not read.
                assert_eq!(matches!(checked, Err(TokenError::Invalid(_))), name != "iat", "{name} {seconds}: {checked:?}");
            }
        }
        for number in ["18446744073709551615", "1e400", "-0", "1e-400", "99999999999999999999999999"] {
            for name in ["exp", "nbf"] {
                let rest = if name == "exp" { String::new() } else { format!(",\"exp\":{}", soon()) };
                let _ = rules.check(&sign_text(r#"{"alg":"HS256"}"#, &format!("{{\"sub\":\"1\",\"{name}\":{number}{rest}}}")));
            }
        }
        let last = rules.check(&sign(&Header::default(), &json!({"sub":"1","exp":LAST_SECOND}))).unwrap();
        assert_eq!(last.expires_at.to_rfc3339(), "9999-12-31T23:59:59+00:00");
    }

    #[test]
    fn a_header_with_any_crit_and_a_role_that_is_none_are_refused() {
        let rules = TokenRules::new(SECRET, rules());
        let claims = json!({"sub":"1","exp":soon()}).to_string();
        assert!(rules.check(&sign_text(r#"{"alg":"HS256","kid":"a","x":1}"#, &claims)).is_ok());
        for header in [
            r#"{"alg":"HS256","crit":null}"#,
            r#"{"alg":"HS256","crit":[]}"#,
            r#"{"alg":"HS256","crit":"x"}"#,
            r#"{"alg":"HS256","crit":{}}"#,
            r#"{"alg":"HS256","\u0063rit":null}"#,
            r#"{"alg":"HS256","x":1,"x":2}"#,
        ] {
            assert!(matches!(rules.check(&sign_text(header, &claims)), Err(TokenError::Invalid(_))), "{header}");
        }
        for role in [json!("superuser"), json!("Admin"), json!(""), json!(null), json!(1), json!(["admin"]), json!("user")] {
            let checked = check(&json!({"sub":"1","exp":soon(),"recado_role":role}));
            assert!(matches!(checked, Err(TokenError::Invalid(_))), "{role}: {checked:?}");
        }
        assert_eq!(check(&json!({"sub":"1","exp":soon(),"recado_role":"admin"})).unwrap().role, Some(Role::Admin));
    }

    #[test]
    fn too_many_accounts_are_called_so() {
        let accounts: Vec<String> = (0..101).map(|n| n.to_string()).collect();
        let error = check(&json!({"sub":"1","exp":soon(),"account_ids":accounts})).unwrap_err();
        assert!(error.to_string().contains("more than 100 accounts"), "{error}");
        assert_eq!(check(&json!({"sub":"1","exp":soon(),"account_ids":accounts[1..]})).unwrap().who.accounts.len(), 100);
    }

    #[test]
    fn a_good_token_in_the_query_counts_where_the_header_brings_none_of_ours() {
        let rules = TokenRules::new(SECRET, rules());
        let token = |user: &str, exp: i64| sign(&Header::default(), &json!({"sub":user,"exp":exp}));
        let (ann, bob, old) = (token("ann", soon()), token("bob", soon()), token("ann", 1));
        let user = |sent, asked| rules.check_either(sent, asked).map(|claims| claims.who.user.to_string());
        assert_eq!(user(Some("of-a-proxy"), Some(&bob)), Ok("bob".into()));
        assert_eq!(user(Some(&ann), Some(&bob)), Ok("ann".into()));
        assert_eq!(user(None, Some(&bob)), Ok("bob".into()));
        assert_eq!(user(Some(&old), Some(&bob)), Err(TokenError::Expired), "it is ours: a new one is needed there");
        assert!(user(Some("of-a-proxy"), None).is_err() && user(None, None).is_err());
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
