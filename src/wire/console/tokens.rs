//! Reads the body of `POST /api/admin/tokens`, and defines its answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{AccountId, Principal, UserId};
use crate::wire::problem::{FieldError, Problem, read_body};

/// Longest lifetime of a token of the playground, in seconds.
pub const TTL_MAX_SECONDS: u64 = 900;
/// Most accounts of a token.
const ACCOUNTS_MAX: usize = 100;

/// For whom a token is made, and for how long.
#[derive(Debug, PartialEq, Eq)]
pub struct TokenBody {
    pub who: Principal,
    pub ttl: Duration,
}

#[derive(Debug, Serialize)]
pub struct MintedBody {
    pub token: String,
    pub expires_at: String,
}

impl TokenBody {
    /// Reads `{"user_id":"42","account_ids":["7"],"ttl_seconds":900}`; the last two may be absent.
    ///
    /// # Errors
    /// 400 for malformed JSON, 422 with every broken rule.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            user_id: String,
            #[serde(default)]
            account_ids: Vec<String>,
            ttl_seconds: Option<u64>,
        }
        let Fields { user_id, account_ids, ttl_seconds } =
            read_body(body, r#"the body is {"user_id":"…","account_ids":["…"],"ttl_seconds":900} and nothing else"#)?;
        let mut errors = Vec::new();
        let user = UserId::parse(&user_id).map_err(|error| errors.push(FieldError::new("/user_id", error.to_string()))).ok();
        if account_ids.len() > ACCOUNTS_MAX {
            errors.push(FieldError::new("/account_ids", format!("must have at most {ACCOUNTS_MAX} accounts")));
        }
        let mut accounts = Vec::new();
        for (at, id) in account_ids.iter().enumerate().take(ACCOUNTS_MAX) {
            match AccountId::parse(id) {
                Ok(account) => accounts.push(account),
                Err(error) => errors.push(FieldError::new(format!("/account_ids/{at}"), error.to_string())),
            }
        }
        let ttl = ttl_seconds.unwrap_or(TTL_MAX_SECONDS);
        if !(1..=TTL_MAX_SECONDS).contains(&ttl) {
            errors.push(FieldError::new("/ttl_seconds", format!("must be a number from 1 to {TTL_MAX_SECONDS}")));
        }
        match user {
            Some(user) if errors.is_empty() => Ok(Self { who: Principal { user, accounts }, ttl: Duration::from_secs(ttl) }),
            _ => Err(Problem::new(422, "invalid_field", "the body breaks the rules listed in errors").with_errors(errors)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_a_user_and_short() {
        let read = |text: &str| TokenBody::parse(text.as_bytes());
        let whole = read(r#"{"user_id":"ann","account_ids":["7","8"],"ttl_seconds":60}"#).unwrap();
        assert_eq!((whole.who.user.as_str(), whole.who.accounts.len(), whole.ttl.as_secs()), ("ann", 2, 60));
        assert_eq!(read(r#"{"user_id":"ann"}"#).unwrap().ttl.as_secs(), TTL_MAX_SECONDS);
        for (text, status) in [("", 400), ("{}", 422), (r#"{"user_id":"ann","role":"admin"}"#, 422), (r#"{"user_id":7}"#, 422)] {
            assert_eq!(read(text).unwrap_err().status, status, "{text}");
        }
        let all = read(r#"{"user_id":"a b","account_ids":["7",""],"ttl_seconds":901}"#).unwrap_err();
        assert_eq!(all.errors.iter().map(|e| e.pointer.as_str()).collect::<Vec<_>>(), ["/user_id", "/account_ids/1", "/ttl_seconds"]);
        let many = format!(r#"{{"user_id":"ann","account_ids":[{}"7"],"ttl_seconds":0}}"#, "\"7\",".repeat(ACCOUNTS_MAX));
        assert_eq!(read(&many).unwrap_err().errors.len(), 2);
    }
}
