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
use super::issuer::Issuer;
use super::key_set::{KeySet, UnknownKey};
use super::revocations::Revocations;
use super::verification_key::{self, VerificationKey, is_secret, name_of};
use super::{Identity, OwnSecrets};
use crate::config::JwtRules;
use crate::domain::KeyTag;
use crate::metrics;
use crate::wire::json;

/// Maximum length of a token. A longer one is not ours, and costs nothing to refuse.
pub const TOKEN_MAX_BYTES: usize = 8 << 10;
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
mod tests {
    use std::time::Duration;

    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    use super::super::issuer::LAST_SECOND;
    use super::super::mint;
    use super::*;
    use crate::domain::{AccountId, UserId};
    use crate::domain::{Principal, Role};

    const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes!";

    fn rules() -> JwtRules {
        JwtRules::default()
    }

    fn sign(header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(SECRET.as_bytes()).unwrap()).unwrap()
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
        for exp in [json!("soon"), json!(1e308), json!(now + 60 * 60 * 25), json!(253_402_300_799_i64), json!(null), json!(true)] {
            assert!(matches!(check(&json!({"sub":"1","exp":exp})), Err(TokenError::Invalid(_))), "{exp}");
        }
        for exp in [json!(0), json!(-1), json!(-1.5)] {
            assert_eq!(check(&json!({"sub":"1","exp":exp})), Err(TokenError::Expired));
        }
        let fraction = check(&json!({"sub":"1","exp":now as f64 + 60.75})).unwrap();
        assert_eq!(fraction.expires_at.timestamp(), now + 60, "the fraction is cut off");
        for nbf in [json!(null), json!(now), json!(now as f64 + 0.5)] {
            assert!(check(&json!({"sub":"1","exp":soon(),"nbf":nbf})).is_ok(), "{nbf}");
        }
        assert!(check(&json!({"sub":"1"})).is_err());
        assert!(check(&json!({"sub":"1","exp":soon(),"nbf":now + 3600})).is_err());
        assert!(check(&json!({"sub":"1","exp":soon(),"nbf":"now"})).is_err());
    }

    #[test]
    fn identities_are_checked_strictly() {
        for sub in [json!(null), json!(4.5), json!(1e30), json!(true), json!(""), json!("a\nb"), json!(["42"])] {
            assert!(check(&json!({"sub":sub,"exp":soon()})).is_err(), "{sub}");
        }
        for account in [json!(7.5), json!(false), json!(""), json!("a b"), json!(["7"])] {
            assert!(check(&json!({"sub":"1","account_id":account,"exp":soon()})).is_err(), "{account}");
        }
        assert!(check(&json!({"sub":"1","account_ids":"7","exp":soon()})).is_err());
        assert!(check(&json!({"sub":"1","account_ids":[[7]],"exp":soon()})).is_err());
        let numbered = check(&json!({"sub":42,"account_id":7,"account_ids":[8,"9"],"exp":soon()})).unwrap().who;
        assert_eq!((numbered.user.as_str(), numbered.topics().len()), ("42", 8));
        assert_eq!(numbered.accounts.iter().map(AccountId::as_str).collect::<Vec<_>>(), ["7", "8", "9"]);
        assert_eq!(
            check(&json!({"sub":"auth0|507f1f77bcf86cd799439011","exp":soon()})).unwrap().who.user.as_str(),
            "auth0|507f1f77bcf86cd799439011"
        );
    }

    #[test]
    fn headers_that_ask_for_something_else_are_refused() {
        let rules = TokenRules::new(SECRET, rules());
        let claims = json!({"sub":"1","exp":soon()});
        assert!(rules.check(&sign(&Header::new(Algorithm::HS256), &claims)).is_ok());
        assert!(rules.check(&sign(&Header::new(Algorithm::HS384), &claims)).is_err());
        let header = Header { crit: Some(vec!["x".into()]), ..Header::default() };
        assert!(rules.check(&sign(&header, &claims)).is_err());
        for typ in ["id+jwt", "application/id+jwt", "", "jwt2", "application/"] {
            let header = Header { typ: Some(typ.into()), ..Header::default() };
            assert!(rules.check(&sign(&header, &claims)).is_err(), "{typ}");
        }
        for typ in ["jwt", "at+JWT", "application/at+jwt", "application/jwt"] {
            let header = Header { typ: Some(typ.into()), ..Header::default() };
            assert!(rules.check(&sign(&header, &claims)).is_ok(), "{typ}");
        }
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
                // `iat` decides about revocations only.
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

    #[tokio::test]
    async fn a_good_token_in_the_query_counts_where_the_header_brings_none_of_ours() {
        let rules = TokenRules::new(SECRET, rules());
        let token = |user: &str, exp: i64| sign(&Header::default(), &json!({"sub":user,"exp":exp}));
        let (ann, bob, old) = (token("ann", soon()), token("bob", soon()), token("ann", 1));
        let user = async |sent, asked| rules.verify_either(sent, asked).await.map(|claims| claims.who.user.to_string());
        assert_eq!(user(Some("of-a-proxy"), Some(&bob)).await, Ok("bob".into()));
        assert_eq!(user(Some(&ann), Some(&bob)).await, Ok("ann".into()));
        assert_eq!(user(None, Some(&bob)).await, Ok("bob".into()));
        assert_eq!(user(Some(&old), Some(&bob)).await, Err(TokenError::Expired), "it is ours: a new one is needed there");
        assert!(user(Some("of-a-proxy"), None).await.is_err() && user(None, None).await.is_err());
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
