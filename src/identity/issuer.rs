//! Checks the claims of a token by the rules of its issuer.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use serde_json::value::RawValue;

use super::claim_path::ClaimPath;
use super::claims::{ACCOUNTS_MAX, Claims, TokenError, WRONG_AUDIENCE, WRONG_ISSUER};
use super::key_set::KeySet;
use super::verification_key::VerificationKey;
use crate::config::JwtRules;
use crate::domain::{AccountId, KeyTag, Principal, Role, TokenOrigin, UserId};
use crate::wire::json;

/// Allowed difference between the clocks of the hub and of an issuer, unless the issuer has its own.
pub const LEEWAY: Duration = Duration::from_secs(5);
/// The last second of the year 9999. A later time cannot be written as RFC 3339, and sums with it may overflow.
pub(super) const LAST_SECOND: i64 = 253_402_300_799;
/// The claim of a service's or an admin's token. The name is our own: issuers of users' tokens use `role` for
/// purposes of theirs, and being an admin there must not make a user an admin here.
pub const ROLE_CLAIM: &str = "recado_role";
/// The claim of a token that was made for the playground of the console. It only marks: such a token is a user's.
pub const PLAYGROUND_CLAIM: &str = "recado_playground";
/// Maximum length of a token. A longer one is not ours, and costs nothing to refuse.
pub const TOKEN_MAX_BYTES: usize = 8 << 10;

/// What the tokens of one issuer must hold, and where.
#[derive(Debug, Clone)]
pub struct IssuerRules {
    /// For the log and for errors.
    pub name: String,
    /// `None`: any.
    pub iss: Option<String>,
    /// A token must be for one of these; empty: not checked.
    pub audiences: Vec<String>,
    pub audience: ClaimPath,
    pub user: ClaimPath,
    pub account: ClaimPath,
    pub accounts: ClaimPath,
    /// Whether the account claims count (`RECADO_ACCOUNTS`).
    pub reads_accounts: bool,
    pub role: ClaimPath,
    /// Stands before each user id and account id of this issuer, so that they are not those of another issuer.
    pub prefix: String,
    /// Whether a token of this issuer may be a service's or an admin's.
    pub grants_roles: bool,
    /// Claims that must have exactly these values.
    pub required: Vec<(ClaimPath, Value)>,
    pub leeway: Duration,
    pub max_lifetime: Duration,
}

impl IssuerRules {
    /// The rules of the single settings (`RECADO_JWT_…`).
    pub fn of_settings(name: &str, rules: &JwtRules, grants_roles: bool) -> Self {
        Self {
            name: name.to_owned(),
            iss: rules.issuer.clone(),
            audiences: rules.audience.iter().cloned().collect(),
            audience: ClaimPath::of("aud"),
            user: ClaimPath::of(&rules.user_claim),
            account: ClaimPath::of(&rules.account_claim),
            accounts: ClaimPath::of(&rules.accounts_claim),
            reads_accounts: rules.reads_accounts,
            role: ClaimPath::of(ROLE_CLAIM),
            prefix: String::new(),
            grants_roles,
            required: Vec::new(),
            leeway: LEEWAY,
            max_lifetime: rules.max_lifetime,
        }
    }
}

/// An issuer: its rules, its keys that the configuration holds, and those that it publishes.
#[derive(Debug, Clone)]
pub struct Issuer {
    pub rules: IssuerRules,
    pub keys: Vec<VerificationKey>,
    pub published: Option<Arc<KeySet>>,
}

impl IssuerRules {
    /// Reads claims whose signature is valid.
    ///
    /// # Errors
    /// When the token is not valid now, or breaks one of the rules.
    pub fn claims(&self, text: &RawValue, key: Option<KeyTag>, now: DateTime<Utc>) -> Result<Claims, TokenError> {
        let text = text.get();
        // Two readers may use different ones of two claims with the same name.
        json::check(text).map_err(|_| TokenError::Invalid("the claims are ambiguous or malformed JSON"))?;
        let claims: Value = serde_json::from_str(text).map_err(|_| TokenError::Invalid("the claims are not JSON"))?;
        if !claims.is_object() {
            return Err(TokenError::Invalid("the claims are not a JSON object"));
        }
        let expires_at = self.check_times(&claims, now)?;
        self.check_issuer_and_audience(&claims)?;
        if self.required.iter().any(|(path, value)| path.find(&claims) != Some(value)) {
            return Err(TokenError::Invalid("a claim that the issuer's settings require is missing or has another value"));
        }
        let user = self.user.find(&claims).and_then(|id| self.id_text(id)).and_then(|text| UserId::parse(&text).ok());
        let user = user.ok_or(TokenError::Invalid("the user claim (sub) is missing or not a valid user id"))?;
        let accounts = self.accounts(&claims)?;
        let role = self.role(&claims)?;
        // Only revocations ask for it. Whatever is no time counts as none, and is refused once the user is revoked.
        let issued_at = claims.get("iat").and_then(time);
        let is_playground = claims.get(PLAYGROUND_CLAIM) == Some(&Value::Bool(true));
        Ok(Claims { who: Principal { user, accounts }, expires_at, role, origin: TokenOrigin { key, issued_at, is_playground } })
    }

    /// The text of an id. Databases number users and accounts, so a whole number counts as its decimal text. A number
    /// with a fraction or an exponent does not: two writers may write it differently.
    fn id_text<'a>(&self, value: &'a Value) -> Option<Cow<'a, str>> {
        let text = match value {
            Value::String(text) => Cow::Borrowed(text.as_str()),
            Value::Number(number) if number.is_u64() || number.is_i64() => Cow::Owned(number.to_string()),
            _ => return None,
        };
        // With a prefix, an empty id would be a valid one.
        match self.prefix.as_str() {
            "" => Some(text),
            prefix => (!text.is_empty()).then(|| Cow::Owned(format!("{prefix}{text}"))),
        }
    }

    fn role(&self, claims: &Value) -> Result<Option<Role>, TokenError> {
        if !self.grants_roles {
            // Never accepted as a user's token: its issuer meant to give a role.
            let claimed = claims.get(ROLE_CLAIM).or_else(|| self.role.find(claims));
            return match claimed {
                None => Ok(None),
                Some(_) => Err(TokenError::Invalid("it claims a role, and its issuer is not trusted for roles")),
            };
        }
        match self.role.find(claims) {
            None => Ok(None),
            Some(role) => {
                let role = role.as_str().and_then(Role::parse);
                role.map(Some).ok_or(TokenError::Invalid("recado_role must be \"service\" or \"admin\""))
            }
        }
    }

    fn check_times(&self, claims: &Value, now: DateTime<Utc>) -> Result<DateTime<Utc>, TokenError> {
        let exp = claims.get("exp").ok_or(TokenError::Invalid("exp is missing"))?;
        let expires_at = time(exp).ok_or(TokenError::Invalid("exp must be a NumericDate: seconds since 1970, before the year 10000"))?;
        if now >= expires_at + self.leeway {
            return Err(TokenError::Expired);
        }
        if (expires_at - now).to_std().is_ok_and(|left| left > self.max_lifetime.saturating_add(self.leeway)) {
            return Err(TokenError::Invalid("it is valid for longer than RECADO_JWT_MAX_LIFETIME, or max_lifetime of its issuer, allows"));
        }
        // RFC 7519 does not say what null means; some libraries write it for a claim that is not set.
        if let Some(nbf) = claims.get("nbf").filter(|nbf| !nbf.is_null()) {
            let wrong = TokenError::Invalid("nbf must be a NumericDate: seconds since 1970, before the year 10000");
            let from = time(nbf).ok_or(wrong)?;
            if from > now + self.leeway {
                return Err(TokenError::Invalid("it is not valid yet (nbf)"));
            }
        }
        Ok(expires_at)
    }

    fn check_issuer_and_audience(&self, claims: &Value) -> Result<(), TokenError> {
        if let Some(issuer) = &self.iss
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(TokenError::Invalid(WRONG_ISSUER));
        }
        if self.audiences.is_empty() {
            return Ok(());
        }
        let is_ours = |aud: &Value| aud.as_str().is_some_and(|aud| self.audiences.iter().any(|ours| ours == aud));
        let ours = match self.audience.find(claims) {
            Some(Value::Array(list)) => list.iter().any(is_ours),
            Some(one) => is_ours(one),
            None => false,
        };
        if ours { Ok(()) } else { Err(TokenError::Invalid(WRONG_AUDIENCE)) }
    }

    fn accounts(&self, claims: &Value) -> Result<Vec<AccountId>, TokenError> {
        if !self.reads_accounts {
            return Ok(Vec::new());
        }
        let wrong = TokenError::Invalid("an account claim contains an invalid account id");
        let mut texts: Vec<Cow<'_, str>> = Vec::new();
        match self.account.find(claims) {
            None | Some(Value::Null) => {}
            Some(account) => texts.push(self.id_text(account).ok_or(wrong)?),
        }
        match self.accounts.find(claims) {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) if list.len() > ACCOUNTS_MAX => {
                return Err(TokenError::Invalid("it names more than 100 accounts"));
            }
            Some(Value::Array(list)) => {
                for account in list {
                    texts.push(self.id_text(account).ok_or(wrong)?);
                }
            }
            Some(_) => return Err(wrong),
        }
        let mut accounts = Vec::with_capacity(texts.len());
        for text in texts {
            accounts.push(AccountId::parse(&text).map_err(|_| wrong)?);
        }
        accounts.sort_unstable();
        accounts.dedup();
        Ok(accounts)
    }
}

/// Reads a NumericDate (RFC 7519 section 2), which may have a fraction; the fraction is cut off. The lower limit is as
/// far from 1970 as the upper.
fn time(value: &Value) -> Option<DateTime<Utc>> {
    let seconds =
        value.as_i64().or_else(|| value.as_f64().map(f64::floor).filter(|seconds| seconds.abs() <= LAST_SECOND as f64).map(|s| s as i64));
    DateTime::from_timestamp(seconds.filter(|seconds| (-LAST_SECOND..=LAST_SECOND).contains(seconds))?, 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(rules: &IssuerRules, claims: &Value) -> Result<Claims, TokenError> {
        rules.claims(&RawValue::from_string(claims.to_string()).unwrap(), None, Utc::now())
    }

    #[test]
    fn a_prefix_keeps_the_ids_of_two_issuers_apart() {
        let exp = Utc::now().timestamp() + 60;
        let mut rules = IssuerRules::of_settings("shop", &JwtRules::default(), false);
        rules.prefix = "shop:".to_owned();
        let who = claims(&rules, &json!({"sub": 42, "account_id": "7", "account_ids": [8], "exp": exp})).unwrap().who;
        assert_eq!(who.user.as_str(), "shop:42");
        assert_eq!(who.accounts.iter().map(AccountId::as_str).collect::<Vec<_>>(), ["shop:7", "shop:8"]);
        for sub in [json!(""), json!(null), json!("a/b"), json!("x".repeat(124))] {
            assert!(claims(&rules, &json!({"sub": sub, "exp": exp})).is_err(), "{sub}");
        }
    }

    #[test]
    fn required_claims_and_nested_claims_are_found_where_the_rules_say() {
        let exp = Utc::now().timestamp() + 60;
        let mut rules = IssuerRules::of_settings("nested", &JwtRules::default(), true);
        rules.user = ClaimPath::of("/user/id");
        rules.role = ClaimPath::of("/app/role");
        rules.required = vec![(ClaimPath::of("token_use"), json!("access")), (ClaimPath::of("/user/active"), json!(true))];
        let good = json!({"user": {"id": "ann", "active": true}, "token_use": "access", "exp": exp});
        assert_eq!(claims(&rules, &good).unwrap().role, None);
        for (name, value) in [("token_use", json!("id")), ("token_use", json!(null)), ("user", json!({"id": "ann", "active": "true"}))] {
            let mut wrong = good.clone();
            wrong[name] = value;
            assert!(claims(&rules, &wrong).is_err(), "{wrong}");
        }
        let mut service = good.clone();
        service["app"] = json!({"role": "service"});
        assert_eq!(claims(&rules, &service).unwrap().role, Some(Role::Service));
        rules.grants_roles = false;
        assert!(claims(&rules, &service).is_err(), "an issuer that is not trusted for roles");
        service["app"] = json!({"role": null});
        assert!(claims(&rules, &service).is_err());
    }
}
