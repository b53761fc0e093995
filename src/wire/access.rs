//! Reads requests that take access back.

use chrono::{DateTime, Datelike, Utc};
use serde::Deserialize;
use uuid::Uuid;

use super::console::sessions::FilterFields;
use super::problem::{FieldError, Problem, read_body};
use crate::domain::{AccountId, SessionFilter, SessionId, UserId};

/// Longest reason, in characters.
const REASON_MAX: usize = 500;

/// The body of `POST /api/admin/revocations`.
#[derive(Debug, PartialEq, Eq)]
pub struct RevocationBody {
    pub user: UserId,
    /// `None`: now.
    pub before: Option<DateTime<Utc>>,
    pub reason: String,
}

/// Whose sessions the body of `POST /api/admin/sessions/close` names.
#[derive(Debug, PartialEq, Eq)]
pub enum CloseBody {
    Session(SessionId),
    User(UserId),
    Account(AccountId),
    /// The sessions that match, if they are as many as expected.
    Matching {
        filter: SessionFilter,
        expect: i64,
    },
}

fn broken(errors: Vec<FieldError>) -> Problem {
    Problem::new(422, "invalid_field", "the body breaks the rules listed in errors").with_errors(errors)
}

impl RevocationBody {
    /// Reads `{"user_id":"…","before":"2026-11-29T12:00:00Z","reason":"…"}`; the last two may be absent.
    ///
    /// # Errors
    /// 400 for malformed JSON, 422 with every broken rule.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            user_id: String,
            before: Option<String>,
            reason: Option<String>,
        }
        let Fields { user_id, before, reason } =
            read_body(body, r#"the body is {"user_id":"…","before":"…","reason":"…"} and nothing else"#)?;
        let mut errors = Vec::new();
        let user = UserId::parse(&user_id).map_err(|error| errors.push(FieldError::new("/user_id", error.to_string())));
        let before = before.as_deref().map(time).transpose();
        let before = before.map_err(|detail| errors.push(FieldError::new("/before", detail)));
        let reason = reason.unwrap_or_default();
        if reason.chars().count() > REASON_MAX || reason.contains('\0') {
            errors.push(FieldError::new("/reason", format!("must have at most {REASON_MAX} characters, and no NUL")));
        }
        match (user, before) {
            (Ok(user), Ok(before)) if errors.is_empty() => Ok(Self { user, before, reason }),
            _ => Err(broken(errors)),
        }
    }
}

/// Reads a time of RFC 3339 with the precision of the database.
fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text).map(|time| time.with_timezone(&Utc)).ok();
    let time = time.ok_or_else(|| "must be a time such as 2026-11-29T12:00:00Z (RFC 3339)".to_owned())?;
    // The table of revocations takes no other years.
    if !(1..=9998).contains(&time.year()) {
        return Err("must be a time of the years 1 to 9998".to_owned());
    }
    Ok(time)
}

impl CloseBody {
    /// Reads `{"session_id":"…"}`, `{"user_id":"…"}`, `{"account_id":"…"}` or `{"filter":{…},"expect":N}`.
    ///
    /// # Errors
    /// 400 for malformed JSON, 422 for any other body.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            session_id: Option<String>,
            user_id: Option<String>,
            account_id: Option<String>,
            filter: Option<FilterFields>,
            expect: Option<i64>,
        }
        let form = r#"the body is {"session_id":"…"}, {"user_id":"…"}, {"account_id":"…"} or {"filter":{…},"expect":N} and nothing else"#;
        let fields: Fields = read_body(body, form)?;
        let wrong = |name: &str, detail: &str| broken(vec![FieldError::new(format!("/{name}"), detail.to_owned())]);
        match fields {
            Fields { session_id: Some(id), user_id: None, account_id: None, filter: None, expect: None } => {
                Uuid::parse_str(&id).map(|id| Self::Session(SessionId(id))).map_err(|_| wrong("session_id", "must be a UUID"))
            }
            Fields { session_id: None, user_id: Some(id), account_id: None, filter: None, expect: None } => {
                UserId::parse(&id).map(Self::User).map_err(|error| wrong("user_id", &error.to_string()))
            }
            Fields { session_id: None, user_id: None, account_id: Some(id), filter: None, expect: None } => {
                AccountId::parse(&id).map(Self::Account).map_err(|error| wrong("account_id", &error.to_string()))
            }
            Fields { session_id: None, user_id: None, account_id: None, filter: Some(filter), expect } => {
                let filter = filter.read().map_err(broken)?;
                let expect = expect.filter(|expect| *expect >= 0);
                let expect = expect.ok_or_else(|| wrong("expect", "must be the number of sessions that you expect to match"))?;
                Ok(Self::Matching { filter, expect })
            }
            _ => Err(Problem::new(422, "invalid_field", "the body must have exactly one of session_id, user_id, account_id and filter")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_names_a_user_and_perhaps_a_time_and_a_reason() {
        let read = |text: &str| RevocationBody::parse(text.as_bytes());
        let whole = read(r#"{"user_id":"ann","before":"2026-11-29T13:00:00+01:00","reason":"left"}"#).unwrap();
        assert_eq!((whole.user.as_str(), whole.reason.as_str()), ("ann", "left"));
        assert_eq!(whole.before.unwrap().to_rfc3339(), "2026-11-29T12:00:00+00:00");
        let short = read(r#"{"user_id":"ann"}"#).unwrap();
        assert_eq!((short.before, short.reason.as_str()), (None, ""));
        for (text, status) in [("", 400), ("[]", 422), ("{}", 422), (r#"{"user_id":7}"#, 422), (r#"{"user_id":"ann","x":1}"#, 422)] {
            assert_eq!(read(text).unwrap_err().status, status, "{text}");
        }
        let late = read(r#"{"user_id":"ann","before":"9999-12-31T23:59:59Z"}"#).unwrap_err();
        assert_eq!(late.errors[0].pointer, "/before");
        let all = read(&format!(r#"{{"user_id":"a b","before":"soon","reason":"{}"}}"#, "x".repeat(501))).unwrap_err();
        assert_eq!(all.errors.iter().map(|e| e.pointer.as_str()).collect::<Vec<_>>(), ["/user_id", "/before", "/reason"]);
    }

    #[test]
    fn sessions_are_closed_by_one_id() {
        let read = |text: &str| CloseBody::parse(text.as_bytes());
        assert_eq!(read(r#"{"user_id":"ann"}"#), Ok(CloseBody::User(UserId::parse("ann").unwrap())));
        assert_eq!(read(r#"{"account_id":"7"}"#), Ok(CloseBody::Account(AccountId::parse("7").unwrap())));
        assert!(matches!(read(r#"{"session_id":"01a22930-4bdb-7001-9423-bfcc54f7d963"}"#), Ok(CloseBody::Session(_))));
        let matching = read(r#"{"filter":{"account":"7","min_lag":100},"expect":3}"#);
        let filter = SessionFilter { account: AccountId::parse("7").ok(), min_lag: Some(100), ..SessionFilter::default() };
        assert_eq!(matching, Ok(CloseBody::Matching { filter, expect: 3 }));
        for (bad, pointers) in [
            (r#"{"filter":{},"expect":3}"#, vec!["/filter"]),
            (r#"{"filter":{"user":null},"expect":3}"#, vec!["/filter"]),
            (r#"{"filter":{"min_lag":0,"transport":"x"},"expect":3}"#, vec!["/filter/transport", "/filter/min_lag"]),
            (r#"{"filter":{"user":"ann"}}"#, vec!["/expect"]),
            (r#"{"filter":{"user":"ann"},"expect":-1}"#, vec!["/expect"]),
            (r#"{"filter":{"usr":"ann"},"expect":1}"#, vec![]),
            (r#"{"user_id":"ann","expect":1}"#, vec![]),
        ] {
            let refused = read(bad).unwrap_err();
            let found: Vec<&str> = refused.errors.iter().map(|error| error.pointer.as_str()).collect();
            assert_eq!((refused.status, found), (422, pointers), "{bad}");
        }
        for bad in
            [r#"{}"#, r#"{"user_id":"ann","account_id":"7"}"#, r#"{"session_id":"1"}"#, r#"{"user_id":"a b"}"#, r#"{"account_id":""}"#]
        {
            assert_eq!(read(bad).unwrap_err().status, 422, "{bad}");
        }
    }
}
