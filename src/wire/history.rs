//! Parses queries of the history and acknowledgements over HTTP.

use serde::Deserialize;
use uuid::Uuid;

use super::notify::ERRORS_MAX;
use super::problem::{FieldError, Problem, read_body};
use super::type_filter::{TYPES_RULE, TypeFilter};
use super::{TYPE_RULE, is_type};
use crate::domain::{ClientId, LogId, Seq, StartTime, is_inbox_type};

/// Maximum notifications of one page.
pub const LIMIT_MAX: i64 = 1000;
const LIMIT_DEFAULT: i64 = 100;

/// The order of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PageOrder {
    /// Oldest first.
    #[default]
    Rising,
    /// Newest first.
    Falling,
}

/// A query of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The last number of the previous page, in the requested order.
    pub after: Option<Seq>,
    /// Notifications that were created before are left out.
    pub since: Option<StartTime>,
    pub limit: i64,
    pub kind: Option<String>,
    pub types: Option<TypeFilter>,
    pub order: PageOrder,
    /// Whether to continue with rows as they are committed.
    pub follow: bool,
    /// Whether the stream that follows has the inbox.
    pub inbox: bool,
    /// The log that `after` belongs to, if the client names it.
    pub log_id: Option<LogId>,
}

impl HistoryQuery {
    /// Reads the names and values of a query string. `token` is ignored: authentication reads it.
    ///
    /// # Errors
    /// 422 with every broken rule.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self, Problem> {
        let mut query = Self {
            after: None,
            since: None,
            limit: LIMIT_DEFAULT,
            kind: None,
            types: None,
            order: PageOrder::default(),
            follow: false,
            inbox: false,
            log_id: None,
        };
        let mut errors = Vec::new();
        for (at, (name, value)) in pairs.iter().enumerate() {
            let twice = pairs[..at].iter().any(|(other, _)| other == name);
            let taken = if twice { Err("duplicate parameter") } else { query.take(name, value) };
            if let Err(detail) = taken {
                errors.push(wrong(name, detail));
            }
        }
        if query.follow {
            let not_with = |(name, _): &&(String, String)| matches!(name.as_str(), "limit" | "type" | "order");
            errors.extend(pairs.iter().filter(not_with).map(|(name, _)| wrong(name, "cannot be combined with follow")));
        }
        if query.kind.is_some() && query.types.is_some() {
            errors.push(wrong("types", "cannot be combined with type"));
        }
        if query.inbox && !query.follow {
            errors.push(wrong("inbox", "needs follow=1; GET /api/inbox lists the items"));
        }
        if query.inbox && query.types.is_some() {
            errors.push(wrong("inbox", "cannot be combined with types: the counts are of all types. Mute types instead"));
        }
        refuse(errors, "the query breaks the rules listed in errors").map(|()| query)
    }

    /// Whether some types are left out.
    pub fn filters(&self) -> bool {
        self.kind.is_some() || self.types.is_some()
    }

    /// Whether the answer has notifications of this type. Changes of the inbox are no notifications.
    pub fn takes(&self, kind: &str) -> bool {
        !is_inbox_type(kind)
            && self.kind.as_ref().is_none_or(|asked| asked == kind)
            && self.types.as_ref().is_none_or(|types| types.takes(kind))
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        match name {
            "after" => self.after = Some(seq(value).ok_or("must be a sequence number, zero or more")?),
            "since" => self.since = Some(StartTime::parse(value).ok_or("must be a time such as 10m or 2026-11-21T16:39:58Z")?),
            "limit" => {
                let limit = seq(value).map(Seq::get).filter(|limit| (1..=LIMIT_MAX).contains(limit));
                self.limit = limit.ok_or("must be a whole number from 1 to 1000")?;
            }
            "type" => self.kind = Some(if is_type(value) { value.to_owned() } else { return Err(TYPE_RULE) }),
            "types" => self.types = Some(TypeFilter::parse(value).ok_or(TYPES_RULE)?),
            "order" => {
                self.order = match value {
                    "asc" => PageOrder::Rising,
                    "desc" => PageOrder::Falling,
                    _ => return Err("must be asc or desc"),
                }
            }
            "follow" => {
                self.follow = match value {
                    "1" | "true" => true,
                    "0" | "false" => false,
                    _ => return Err("must be 1 or 0"),
                }
            }
            "inbox" => {
                self.inbox = match value {
                    "1" => true,
                    "0" => false,
                    _ => return Err("must be 1 or 0"),
                }
            }
            "log_id" => self.log_id = Some(LogId(Uuid::parse_str(value).map_err(|_| "must be a UUID")?)),
            "token" => {}
            _ => return Err("is not a parameter; the parameters are after, since, limit, type, types, order, follow, inbox and log_id"),
        }
        Ok(())
    }
}

/// Reads a number: digits only, and no more than fit a sequence number.
pub fn seq(text: &str) -> Option<Seq> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().and_then(Seq::new)
}

pub(super) fn wrong(name: &str, detail: &str) -> FieldError {
    // The answer repeats at most 64 characters of the name that was sent.
    let name: String = name.chars().take(64).collect();
    FieldError::new(format!("/{}", name.replace('~', "~0").replace('/', "~1")), detail)
}

pub(super) fn refuse(mut errors: Vec<FieldError>, detail: &str) -> Result<(), Problem> {
    errors.truncate(ERRORS_MAX);
    if errors.is_empty() { Ok(()) } else { Err(Problem::new(422, "invalid_field", detail).with_errors(errors)) }
}

/// The body of an acknowledgement.
#[derive(Debug)]
pub struct AckBody {
    pub client: ClientId,
    pub seq: Seq,
}

impl AckBody {
    /// Reads `{"client_id":"…","seq":N}`.
    ///
    /// # Errors
    /// 400 for malformed JSON, 422 for JSON that is not an acknowledgement.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct AckFields {
            client_id: Option<String>,
            seq: i64,
        }
        let form = "an acknowledgement is {\"client_id\":\"…\",\"seq\":N} and nothing else, with N a whole number";
        let body: AckFields = read_body(body, form)?;
        let client = body.client_id.as_deref().map_or_else(|| Ok(ClientId::default_device()), ClientId::parse);
        match (client, Seq::new(body.seq)) {
            (Ok(client), Some(seq)) => Ok(Self { client, seq }),
            (client, seq) => {
                let client = client.err().map(|error| wrong("client_id", &error.to_string()));
                let seq = seq.is_none().then(|| wrong("seq", "must be zero or more"));
                Err(Problem::new(422, "invalid_field", "the body breaks the rules listed in errors")
                    .with_errors(client.into_iter().chain(seq).collect()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &[(&str, &str)]) -> Result<HistoryQuery, Vec<String>> {
        let pairs: Vec<(String, String)> = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        HistoryQuery::parse(&pairs).map_err(|problem| problem.errors.into_iter().map(|e| e.pointer).collect())
    }

    #[test]
    fn a_question_is_read_whole() {
        let query = parse(&[("after", "7"), ("limit", "1000"), ("type", "order_created"), ("order", "desc")]).unwrap();
        assert_eq!((query.after, query.limit, query.order), (Some(Seq::from_db(7)), 1000, PageOrder::Falling));
        assert_eq!(parse(&[]).unwrap().limit, 100);
    }

    #[test]
    fn every_broken_rule_is_named() {
        assert_eq!(parse(&[("after", "-1"), ("limit", "1e3"), ("sort", "seq;drop")]).unwrap_err(), ["/after", "/limit", "/sort"]);
        assert_eq!(parse(&[("follow", "1"), ("limit", "5")]).unwrap_err(), ["/limit"]);
        assert_eq!(parse(&[("after", "1"), ("after", "2")]).unwrap_err(), ["/after"]);
        assert_eq!(parse(&[("type", "a"), ("types", "b")]).unwrap_err(), ["/types"]);
        assert_eq!(parse(&[("type", "A"), ("types", "a,")]).unwrap_err(), ["/type", "/types"]);
        assert!(parse(&[("follow", "1"), ("types", "a*")]).unwrap().takes("ab"));
    }
}
