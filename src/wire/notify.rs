//! Parses a posted notification: the body of `POST /api/internal/notify`.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::borrowed_str::BorrowedStr;
use super::json::{self, JsonError};
use super::problem::{FieldError, Problem};
use super::{RESERVED_TYPES, TYPE_RULE, is_type, why_own};
use crate::domain::{AccountId, Audience, UserId};

/// Maximum length of an idempotency key, in bytes.
pub const KEY_MAX_BYTES: usize = 255;
/// Maximum entries of `user_ids`.
pub const USER_IDS_MAX: usize = 10_000;

/// Maximum number of broken rules that one answer lists. More would not help the caller, and an answer must not be
/// many times as long as its request.
pub(super) const ERRORS_MAX: usize = 100;

const FIELDS: [&str; 12] =
    ["type", "title", "message", "data", "user_id", "user_ids", "account_id", "broadcast", "ttl", "replay", "inbox", "idempotency_key"];

/// A body that keeps every rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyBody {
    pub kind: String,
    pub title: String,
    pub message: String,
    /// The JSON text as posted, byte for byte. `None` for an absent field and for `null`.
    pub data: Option<String>,
    pub audience: Audience,
    pub ttl_seconds: Option<i32>,
    pub replay: bool,
    pub inbox: bool,
    pub idempotency_key: Option<String>,
}

impl NotifyBody {
    /// The number of users in `user_ids`.
    pub fn listed_users(&self) -> usize {
        if let Audience::Users { users, .. } = &self.audience { users.len() } else { 0 }
    }
}

/// Parses a body.
///
/// # Errors
/// 400 `malformed_json` for malformed JSON; 422 with every broken rule listed when it is not a notification.
pub fn parse(body: &[u8]) -> Result<NotifyBody, Problem> {
    let text = std::str::from_utf8(body).map_err(|_| malformed("not UTF-8"))?;
    parse_text(text)
}

/// Parses one notification from text.
///
/// # Errors
/// As [`parse`].
pub fn parse_text(text: &str) -> Result<NotifyBody, Problem> {
    NotifyFields::read(text)?.notification()
}

/// Checks an idempotency key.
///
/// # Errors
/// When the key is empty, longer than 255 bytes, or not printable ASCII.
pub fn check_key(key: &str) -> Result<(), String> {
    if key.is_empty() || key.len() > KEY_MAX_BYTES || !key.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return Err(format!("must be 1 to {KEY_MAX_BYTES} printable ASCII characters"));
    }
    Ok(())
}

pub(super) fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(400, "malformed_json", detail)
}

/// The top-level members, not parsed yet, in the order of [`FIELDS`].
struct NotifyFields<'a> {
    members: [Option<&'a RawValue>; FIELDS.len()],
    errors: Vec<FieldError>,
}

/// The top-level members as they come, duplicates included. A map would hide duplicates.
pub(super) struct NotifyMembers<'a>(pub Vec<(BorrowedStr<'a>, &'a RawValue)>);

/// Reads the members of an object.
pub(super) fn members(text: &str) -> Result<NotifyMembers<'_>, Problem> {
    serde_json::from_str(text).map_err(|error| {
        if error.is_data() {
            Problem::new(422, "invalid_body", "the body must be a JSON object")
        } else {
            malformed(format!("the body is not JSON: line {}, column {}", error.line(), error.column()))
        }
    })
}

/// Escapes a name for a JSON pointer (RFC 6901 section 3).
pub(super) fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

impl<'de: 'a, 'a> Deserialize<'de> for NotifyMembers<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = NotifyMembers<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(FIELDS.len());
                while let Some(member) = map.next_entry::<BorrowedStr<'de>, &'de RawValue>()? {
                    members.push(member);
                }
                Ok(NotifyMembers(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

impl<'a> NotifyFields<'a> {
    fn read(text: &'a str) -> Result<Self, Problem> {
        let members = members(text)?;
        let mut fields = Self { members: [None; FIELDS.len()], errors: Vec::new() };
        let mut unknown = HashSet::new();
        for (name, value) in members.0 {
            match FIELDS.iter().position(|field| *field == &*name) {
                Some(at) if fields.members[at].is_none() => fields.members[at] = Some(value),
                None if unknown.insert(name.clone()) => {
                    fields.refuse(&name, format!("is not a field; the fields are {}", FIELDS.join(", ")));
                }
                _ => fields.refuse(&name, "duplicate field"),
            }
        }
        Ok(fields)
    }

    fn refuse(&mut self, name: &str, detail: impl Into<String>) {
        // The answer repeats at most 64 characters of the name that was posted.
        let name: String = name.chars().take(64).collect();
        self.errors.push(FieldError::new(format!("/{}", escape(&name)), detail));
    }

    fn raw(&self, name: &str) -> Option<&'a RawValue> {
        let at = FIELDS.iter().position(|f| *f == name)?;
        self.members[at].filter(|value| value.get() != "null")
    }

    /// Reads a field of a type; `null` counts as absent. A value of another type is listed as an error.
    fn get<T: Deserialize<'a>>(&mut self, name: &str, expected: &str) -> Result<Option<T>, Problem> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        match serde_json::from_str(raw.get()) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_data() => {
                self.refuse(name, format!("must be {expected}"));
                Ok(None)
            }
            // For example a lone surrogate: the outer parser skips strings without reading them.
            Err(_) => Err(malformed(format!("/{name} is not JSON"))),
        }
    }

    fn text(&mut self, name: &str) -> Result<String, Problem> {
        let before = self.errors.len();
        let text: Option<String> = self.get(name, "a string")?;
        match &text {
            None if self.errors.len() == before => self.refuse(name, "is required: a string"),
            Some(text) if text.contains('\0') => self.refuse(name, "must not hold \\u0000"),
            _ => {}
        }
        Ok(text.unwrap_or_default())
    }

    fn notification(mut self) -> Result<NotifyBody, Problem> {
        let kind = self.text("type")?;
        let reserved = self.check_type(&kind);
        let title = self.text("title")?;
        let message = self.text("message")?;
        let data = self.data()?;
        let audience = self.audience()?;
        let ttl_seconds = self.ttl()?;
        let replay = self.get("replay", "true or false")?.unwrap_or(true);
        let inbox = self.get("inbox", "true or false")?.unwrap_or(true);
        let idempotency_key: Option<String> = self.get("idempotency_key", "a string")?;
        if let Some(Err(detail)) = idempotency_key.as_deref().map(check_key) {
            self.refuse("idempotency_key", detail);
        }
        self.errors.truncate(ERRORS_MAX);
        if !self.errors.is_empty() {
            // A single broken rule has its own code. Several make one invalid body.
            let code = match self.errors.as_slice() {
                [one] if reserved => ("reserved_type", one.detail.clone()),
                [one] if one.pointer.is_empty() && audience.is_none() => ("no_audience", one.detail.clone()),
                _ => ("invalid_field", "the notification breaks the rules listed in errors; nothing was appended".to_owned()),
            };
            return Err(Problem::new(422, code.0, code.1).with_errors(self.errors));
        }
        let audience = audience.ok_or_else(|| Problem::new(422, "no_audience", NO_AUDIENCE))?;
        Ok(NotifyBody { kind, title, message, data, audience, ttl_seconds, replay, inbox, idempotency_key })
    }

    /// Checks the type. The result tells whether it is reserved: the name of a frame, or a type of the hub's own.
    fn check_type(&mut self, kind: &str) -> bool {
        let well_formed = is_type(kind);
        // An absent type, or one of another JSON type, is listed already.
        if !well_formed && !self.errors.iter().any(|e| e.pointer == "/type") {
            self.refuse("type", TYPE_RULE);
        }
        let why = if RESERVED_TYPES.contains(&kind) { Some("is the name of a frame of the protocol") } else { why_own(kind) };
        if let Some(why) = why {
            self.refuse("type", format!("{why}; choose another"));
        }
        why.is_some()
    }

    fn data(&mut self) -> Result<Option<String>, Problem> {
        let Some(raw) = self.raw("data") else { return Ok(None) };
        match json::check(raw.get()) {
            Ok(()) => {}
            Err(JsonError::Unfaithful(detail)) => self.refuse("data", detail),
            Err(JsonError::Malformed(_)) => return Err(malformed("/data is not JSON")),
        }
        Ok(Some(raw.get().to_owned()))
    }

    fn ttl(&mut self) -> Result<Option<i32>, Problem> {
        let expected = "a whole number of seconds from 1 to 2147483647";
        let ttl: Option<i32> = self.get("ttl", expected)?;
        if ttl.is_some_and(|seconds| seconds < 1) {
            self.refuse("ttl", format!("must be {expected}"));
        }
        Ok(ttl)
    }

    fn audience(&mut self) -> Result<Option<Audience>, Problem> {
        let before = self.errors.len();
        let user = self.id("user_id", UserId::parse)?;
        let account = self.id("account_id", AccountId::parse)?;
        let users = self.users()?;
        let broadcast = self.get("broadcast", "true or false")?.unwrap_or(false);
        if self.errors.len() > before {
            return Ok(None);
        }
        let audience = match (broadcast, user, users, account) {
            (true, None, None, None) => Some(Audience::Everyone),
            (true, ..) => {
                self.refuse("broadcast", "addresses everyone; remove user_id, user_ids and account_id, or remove broadcast");
                None
            }
            (false, Some(user), None, account) => Some(Audience::User { user, account }),
            (false, user, Some(mut users), account) => {
                users.extend(user);
                users.sort_unstable();
                users.dedup();
                Some(Audience::Users { users, account })
            }
            (false, None, None, Some(account)) => Some(Audience::Account(account)),
            (false, None, None, None) => {
                self.errors.push(FieldError::new("", NO_AUDIENCE));
                None
            }
        };
        Ok(audience)
    }

    fn id<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, crate::domain::IdError>) -> Result<Option<T>, Problem> {
        let Some(text) = self.get::<BorrowedStr>(name, "a string")? else { return Ok(None) };
        Ok(parse(&text).map_err(|error| self.refuse(name, error.to_string())).ok())
    }

    fn users(&mut self) -> Result<Option<Vec<UserId>>, Problem> {
        let Some(texts) = self.get::<Vec<BorrowedStr>>("user_ids", "a list of strings")? else { return Ok(None) };
        if texts.is_empty() || texts.len() > USER_IDS_MAX {
            self.refuse("user_ids", format!("must hold 1 to {USER_IDS_MAX} users"));
            return Ok(None);
        }
        let mut users = Vec::with_capacity(texts.len());
        for (at, text) in texts.iter().enumerate() {
            match UserId::parse(text) {
                Ok(user) => users.push(user),
                Err(error) => self.errors.push(FieldError::new(format!("/user_ids/{at}"), error.to_string())),
            }
        }
        Ok(Some(users))
    }
}

const NO_AUDIENCE: &str = "no audience: give user_id, user_ids, account_id, or \"broadcast\":true";

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> (u16, &'static str) {
        let problem = parse(body.as_bytes()).expect_err(body);
        (problem.status, problem.code)
    }

    #[test]
    fn the_contracts_example_is_read_whole() {
        let body = parse(
            br#"{"type":"order_created","title":"New order","message":"Order #1001","data":{"order_id": "1001"},
                "user_id":"42","account_id":"7","ttl":3600,"replay":false,"inbox":false,"idempotency_key":"k"}"#,
        )
        .unwrap();
        assert_eq!(body.data.as_deref(), Some(r#"{"order_id": "1001"}"#));
        assert_eq!((body.ttl_seconds, body.replay, body.inbox), (Some(3600), false, false));
        assert_eq!(body.idempotency_key.as_deref(), Some("k"));
        assert_eq!(body.audience.topic(), "u/42/7");
    }

    #[test]
    fn a_user_beside_a_list_joins_the_list() {
        let body = parse(br#"{"type":"a","title":"","message":"","user_id":"42","user_ids":["43","42"],"data":null}"#).unwrap();
        let Audience::Users { users, account: None } = body.audience else { panic!("{:?}", body.audience) };
        assert_eq!(users.iter().map(UserId::as_str).collect::<Vec<_>>(), ["42", "43"]);
        assert_eq!(body.data, None);
    }

    #[test]
    fn each_broken_rule_has_its_answer() {
        for (body, answer) in [
            ("", (400, "malformed_json")),
            ("{", (400, "malformed_json")),
            ("\u{feff}{}", (400, "malformed_json")),
            ("[]", (422, "invalid_body")),
            ("7", (422, "invalid_body")),
            (r#"{"type":"a","title":"t","message":"m"}"#, (422, "no_audience")),
            (r#"{"type":"ack","title":"t","message":"m","user_id":"1"}"#, (422, "reserved_type")),
            (r#"{"type":"upstream_gap","title":"t","message":"m","user_id":"1"}"#, (422, "reserved_type")),
            (r#"{"type":"upstream_","title":"t","message":"m","user_id":"1"}"#, (422, "reserved_type")),
            (r#"{"type":"inbox_counts","title":"t","message":"m","user_id":"1"}"#, (422, "reserved_type")),
            (r#"{"type":"inbox","title":"t","message":"m","user_id":"1"}"#, (422, "reserved_type")),
            (r#"{"type":"preferences","title":"t","message":"m","user_id":"1"}"#, (422, "reserved_type")),
            (r#"{"type":"A","title":"t","message":"m","user_id":"1"}"#, (422, "invalid_field")),
            (r#"{"type":"a","title":7,"message":"m","user_id":"1"}"#, (422, "invalid_field")),
            (r#"{"type":"a","title":"t","message":"m","user_id":"1","user_id":"2"}"#, (422, "invalid_field")),
            (r#"{"type":"a","title":"t","message":"m","user_id":"1","usr":"2"}"#, (422, "invalid_field")),
            (r#"{"type":"a","title":"t","message":"m","broadcast":true,"user_id":"1"}"#, (422, "invalid_field")),
            (r#"{"type":"a","title":"t","message":"m","user_ids":[]}"#, (422, "invalid_field")),
            (r#"{"type":"a","title":"t","message":"m","user_id":"1","ttl":0}"#, (422, "invalid_field")),
            (r#"{"type":"a","title":"t","message":"m","user_id":"1","ttl":1e3}"#, (422, "invalid_field")),
            (r#"{"type":"a","title":"t\u0000","message":"m","user_id":"1"}"#, (422, "invalid_field")),
            (r#"{"type":"a","title":"\ud800","message":"m","user_id":"1"}"#, (400, "malformed_json")),
            (r#"{"type":"a","title":"t","message":"m","user_id":"1","data":"\ud800"}"#, (400, "malformed_json")),
            (r#"{"type":"a","title":"t","message":"m","user_id":"1","data":{"a":1,"a":2}}"#, (422, "invalid_field")),
            (r#"{"type":"a","title":"t","message":"m","user_id":"1","idempotency_key":""}"#, (422, "invalid_field")),
        ] {
            assert_eq!(code(body), answer, "{body}");
        }
    }

    #[test]
    fn an_answer_lists_no_more_than_a_hundred_broken_rules() {
        // An answer to 64 KiB of unknown fields had more than a megabyte.
        let unknown: Vec<String> = (0..6000).map(|at| format!("\"{at}\":0")).collect();
        let users = vec!["\"a b\""; 6000].join(",");
        for body in [format!("{{{}}}", unknown.join(",")), format!(r#"{{"type":"a","title":"","message":"","user_ids":[{users}]}}"#)] {
            let problem = parse(body.as_bytes()).unwrap_err();
            assert_eq!((problem.code, problem.errors.len()), ("invalid_field", 100));
        }
    }

    #[test]
    fn every_broken_rule_is_listed_at_once() {
        let problem = parse(br#"{"type":"Bad Type","message":1,"user_ids":["a","b c"],"ttl":"x","extra":1}"#).unwrap_err();
        let pointers: Vec<_> = problem.errors.iter().map(|e| e.pointer.as_str()).collect();
        assert_eq!(pointers, ["/extra", "/type", "/title", "/message", "/user_ids/1", "/ttl"]);
    }
}
