//! Reads the bodies about consumers, and encodes the answers.

use serde::{Deserialize, Serialize};

use super::console::log::LogLine;
use super::problem::{FieldError, Problem, read_body};
use super::type_filter::TypeFilter;
use crate::domain::{AccountId, CONSUMER_START_RULE, CONSUMER_TYPES_MAX, ConsumerFilter, ConsumerName, ConsumerStart, LogId, Seq, UserId};

/// Most rows of one batch.
pub const BATCH_MAX: i32 = 1000;
const BATCH_DEFAULT: i32 = 100;
/// Longest wait of a fetch, in seconds. Below the idle limits of usual proxies.
pub const WAIT_MAX: u32 = 30;
/// Longest lease, in seconds.
pub const LEASE_MAX: i32 = 3600;
const LEASE_DEFAULT: i32 = 30;
/// Longest name of an owner, in characters.
const OWNER_MAX: usize = 128;
const OWNER_RULE: &str = "must be 1 to 128 printable ASCII characters that name this process, such as a UUID";
/// The rule of a filter of types, as an error says it.
pub const CONSUMER_TYPES_RULE: &str = "must be 1 to 32 types, or beginnings of types such as order_*";

fn broken(errors: Vec<FieldError>) -> Problem {
    Problem::new(422, "invalid_field", "the body breaks the rules listed in errors").with_errors(errors)
}

/// Reads the name of a path.
///
/// # Errors
/// 422 for a text that breaks the rule.
pub fn name(segment: &str) -> Result<ConsumerName, Problem> {
    ConsumerName::parse(segment).map_err(|error| broken(vec![FieldError::new("/name", error.to_string())]))
}

/// Reads a list of types, each with an optional `*` at its end. `None` for a list that breaks the rule.
pub fn types(list: &[String]) -> Option<Vec<String>> {
    let fits = (1..=CONSUMER_TYPES_MAX).contains(&list.len());
    let is_pattern = |text: &String| !text.contains(',') && TypeFilter::parse(text).is_some();
    (fits && list.iter().all(is_pattern)).then(|| list.to_vec())
}

/// The body of `PUT /api/internal/consumers/{name}`.
#[derive(Debug, PartialEq, Eq)]
pub struct ConsumerBody {
    pub filter: ConsumerFilter,
    pub start: ConsumerStart,
}

impl ConsumerBody {
    /// Reads `{"types":["order_*"],"user_id":"…","account_id":"…","start":"earliest"}`, each of which may be absent.
    ///
    /// # Errors
    /// 400 for malformed JSON, 422 with every broken rule.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            types: Option<Vec<String>>,
            user_id: Option<String>,
            account_id: Option<String>,
            start: Option<String>,
        }
        let form = r#"the body is {"types":["…"],"user_id":"…","account_id":"…","start":"earliest"} and nothing else; each may be absent"#;
        let fields: Fields = read_body(body, form)?;
        let mut errors = Vec::new();
        let mut wrong = |name: &str, detail: String| errors.push(FieldError::new(format!("/{name}"), detail));
        let listed = fields.types.as_deref().map(|list| types(list).ok_or(()));
        let listed = listed.transpose().map_err(|()| wrong("types", CONSUMER_TYPES_RULE.to_owned()));
        let user = fields.user_id.as_deref().map(UserId::parse).transpose().map_err(|error| wrong("user_id", error.to_string()));
        let account =
            fields.account_id.as_deref().map(AccountId::parse).transpose().map_err(|error| wrong("account_id", error.to_string()));
        let start = fields.start.as_deref().map_or(Some(ConsumerStart::Earliest), ConsumerStart::parse);
        let start = start.ok_or_else(|| wrong("start", CONSUMER_START_RULE.to_owned()));
        match (listed, user, account, start) {
            (Ok(types), Ok(user), Ok(account), Ok(start)) => Ok(Self { filter: ConsumerFilter { types, user, account }, start }),
            _ => Err(broken(errors)),
        }
    }
}

/// The body of a fetch.
#[derive(Debug, PartialEq, Eq)]
pub struct FetchBody {
    pub owner: String,
    pub limit: i32,
    pub wait_seconds: u32,
    pub lease_seconds: i32,
}

impl FetchBody {
    /// Reads `{"owner":"…","limit":100,"wait":30,"lease":30}`; all but the owner may be absent.
    ///
    /// # Errors
    /// 400 for malformed JSON, 422 with every broken rule.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            owner: String,
            limit: Option<i64>,
            wait: Option<i64>,
            lease: Option<i64>,
        }
        let form = r#"the body is {"owner":"…","limit":100,"wait":30,"lease":30} and nothing else, with whole numbers"#;
        let Fields { owner, limit, wait, lease } = read_body(body, form)?;
        let mut errors = Vec::new();
        errors.extend((!is_owner(&owner)).then(|| FieldError::new("/owner", OWNER_RULE)));
        let mut within = |name: &str, value: Option<i64>, default: i32, least: i64, most: i64| {
            let value = value.unwrap_or(i64::from(default));
            if !(least..=most).contains(&value) {
                errors.push(FieldError::new(format!("/{name}"), format!("must be a whole number from {least} to {most}")));
            }
            i32::try_from(value).unwrap_or(default)
        };
        let limit = within("limit", limit, BATCH_DEFAULT, 1, i64::from(BATCH_MAX));
        let wait = within("wait", wait, 0, 0, i64::from(WAIT_MAX));
        let lease_seconds = within("lease", lease, LEASE_DEFAULT, 1, i64::from(LEASE_MAX));
        let wait_seconds = u32::try_from(wait).unwrap_or(0);
        if errors.is_empty() { Ok(Self { owner, limit, wait_seconds, lease_seconds }) } else { Err(broken(errors)) }
    }
}

fn is_owner(text: &str) -> bool {
    (1..=OWNER_MAX).contains(&text.len()) && text.bytes().all(|b| (b' '..=b'~').contains(&b))
}

/// The body of an acknowledgement.
#[derive(Debug, PartialEq, Eq)]
pub struct ConsumerAckBody {
    pub term: i64,
    pub seq: Seq,
}

impl ConsumerAckBody {
    /// Reads `{"term":N,"seq":N}`.
    ///
    /// # Errors
    /// 400 for malformed JSON, 422 for any other body.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            term: i64,
            seq: i64,
        }
        let Fields { term, seq } = read_body(body, r#"the body is {"term":N,"seq":N} and nothing else, with whole numbers"#)?;
        let seq = Seq::new(seq).ok_or_else(|| broken(vec![FieldError::new("/seq", "must be zero or more")]))?;
        Ok(Self { term, seq })
    }
}

/// Reads `{"term":N}`.
///
/// # Errors
/// 400 for malformed JSON, 422 for any other body.
pub fn term(body: &[u8]) -> Result<i64, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fields {
        term: i64,
    }
    read_body(body, r#"the body is {"term":N} and nothing else, with N a whole number"#).map(|Fields { term }| term)
}

/// Reads `{"owner":"…"}`.
///
/// # Errors
/// 400 for malformed JSON, 422 for any other body.
pub fn owner(body: &[u8]) -> Result<String, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fields {
        owner: String,
    }
    let Fields { owner } = read_body(body, r#"the body is {"owner":"…"} and nothing else"#)?;
    if is_owner(&owner) { Ok(owner) } else { Err(broken(vec![FieldError::new("/owner", OWNER_RULE)])) }
}

/// Reads `{"start":"earliest"}`.
///
/// # Errors
/// 400 for malformed JSON, 422 for any other body.
pub fn new_start(body: &[u8]) -> Result<ConsumerStart, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fields {
        start: String,
    }
    let fields: Fields = read_body(body, r#"the body is {"start":"earliest"} and nothing else"#)?;
    ConsumerStart::parse(&fields.start).ok_or_else(|| broken(vec![FieldError::new("/start", CONSUMER_START_RULE)]))
}

/// The answer to a fetch.
#[derive(Debug, Serialize)]
pub struct BatchBody<'a> {
    /// `None`: another owner has the lease.
    pub term: Option<i64>,
    pub records: Vec<LogLine<'a>>,
    /// What to acknowledge when the records are handled. `None` without a term.
    pub through: Option<Seq>,
    pub head: Seq,
    pub log_id: LogId,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(problem: &Problem) -> Vec<&str> {
        problem.errors.iter().map(|error| error.pointer.as_str()).collect()
    }

    #[test]
    fn a_consumer_is_created_with_conditions_and_a_start() {
        let read = |text: &str| ConsumerBody::parse(text.as_bytes());
        let whole = read(r#"{"types":["order_*","stock.low"],"user_id":"42","account_id":"7","start":"17"}"#).unwrap();
        assert_eq!(whole.start, ConsumerStart::After(Seq::from_db(17)));
        assert_eq!(whole.filter.types.unwrap(), ["order_*", "stock.low"]);
        assert_eq!(read("{}").unwrap(), ConsumerBody { filter: ConsumerFilter::default(), start: ConsumerStart::Earliest });
        assert_eq!(read(r#"{"start":"now"}"#).unwrap().start, ConsumerStart::Now);
        let all = read(r#"{"types":["a,b"],"user_id":"-","account_id":"a b","start":"-1"}"#).unwrap_err();
        assert_eq!(pointers(&all), ["/types", "/user_id", "/account_id", "/start"]);
        for (text, status) in [("", 400), ("[]", 422), (r#"{"type":"x"}"#, 422), (r#"{"types":[]}"#, 422), (r#"{"start":1}"#, 422)] {
            assert_eq!(read(text).unwrap_err().status, status, "{text}");
        }
        assert_eq!(pointers(&name("a/b").unwrap_err()), ["/name"]);
    }

    #[test]
    fn a_fetch_names_its_owner_and_has_bounds() {
        let read = |text: &str| FetchBody::parse(text.as_bytes());
        let short = FetchBody { owner: "a".into(), limit: 100, wait_seconds: 0, lease_seconds: 30 };
        assert_eq!(read(r#"{"owner":"a"}"#), Ok(short));
        let all = read(r#"{"owner":"","limit":1001,"wait":31,"lease":0}"#).unwrap_err();
        assert_eq!(pointers(&all), ["/owner", "/limit", "/wait", "/lease"]);
        for (text, status) in [("{", 400), ("{}", 422), (r#"{"owner":"a","limit":1.5}"#, 422), (r#"{"owner":"a","x":1}"#, 422)] {
            assert_eq!(read(text).unwrap_err().status, status, "{text}");
        }
    }

    #[test]
    fn what_follows_a_fetch_names_a_term_or_an_owner() {
        assert_eq!(ConsumerAckBody::parse(br#"{"term":3,"seq":9}"#), Ok(ConsumerAckBody { term: 3, seq: Seq::from_db(9) }));
        assert_eq!(pointers(&ConsumerAckBody::parse(br#"{"term":3,"seq":-9}"#).unwrap_err()), ["/seq"]);
        assert_eq!(term(br#"{"term":3}"#), Ok(3));
        assert_eq!(term(b"{}").unwrap_err().status, 422);
        assert_eq!(owner(br#"{"owner":"a"}"#).as_deref(), Ok("a"));
        assert_eq!(pointers(&owner("{\"owner\":\"ü\"}".as_bytes()).unwrap_err()), ["/owner"]);
        assert_eq!(new_start(br#"{"start":"now"}"#), Ok(ConsumerStart::Now));
        assert_eq!(pointers(&new_start(br#"{"start":"soon"}"#).unwrap_err()), ["/start"]);
    }
}
