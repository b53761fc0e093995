//! Reads requests about inboxes, and encodes their answers.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::history::{refuse, seq, wrong};
use super::problem::{FieldError, Problem, read_body};
use crate::domain::{CHANGE_SEQS_MAX, InboxChange, InboxCounts, ItemOp, LogId, MUTED_MAX, MutePattern, Recount, Seq, UpToOp};

/// Default number of items on a page.
const LIMIT_DEFAULT: i64 = 50;

/// The rule of [`MutePattern`], as an error says it.
pub const MUTE_RULE: &str = "must be a type, such as stock_alert, or the beginning of types and one *, such as product_*";

/// Reads the data of a row of the type `recado_recount`.
pub fn parse_recount(at: Seq, data: &str) -> Option<Recount> {
    #[derive(Deserialize)]
    struct RecountData {
        floor: i64,
        erased: bool,
        inboxes: bool,
    }
    let RecountData { floor, erased, inboxes } = serde_json::from_str(data).ok()?;
    Some(Recount { seq: at, floor: Seq::new(floor)?, erased, inboxes })
}

/// The query of a page of items.
#[derive(Debug, PartialEq, Eq)]
pub struct InboxQuery<F> {
    pub filter: F,
    pub before: Option<Seq>,
    pub limit: i64,
}

impl<F> InboxQuery<F> {
    /// Reads the query. `filter` reads its parameter of that name, and `most` is the largest page.
    ///
    /// # Errors
    /// 422 with every rule that the query breaks.
    pub fn parse(pairs: &[(String, String)], filter: impl Fn(&str) -> Option<F>, default: F, most: i64) -> Result<Self, Problem> {
        let mut query = Self { filter: default, before: None, limit: LIMIT_DEFAULT };
        let mut errors = Vec::new();
        for (at, (name, value)) in pairs.iter().enumerate() {
            if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                errors.push(wrong(name, "duplicate parameter"));
                continue;
            }
            match name.as_str() {
                "filter" => match filter(value) {
                    Some(filter) => query.filter = filter,
                    None => errors.push(wrong(name, "must be unread, all or archived")),
                },
                "before" => match seq(value) {
                    Some(before) => query.before = Some(before),
                    None => errors.push(wrong(name, "must be a sequence number, zero or more")),
                },
                "limit" => match seq(value).map(Seq::get).filter(|limit| (1..=most).contains(limit)) {
                    Some(limit) => query.limit = limit,
                    None => errors.push(wrong(name, &format!("must be a whole number from 1 to {most}"))),
                },
                "token" => {}
                _ => errors.push(wrong(name, "is not a parameter; the parameters are filter, before and limit")),
            }
        }
        refuse(errors, "the query breaks the rules listed in errors").map(|()| query)
    }
}

/// The body of a change.
#[derive(Debug, PartialEq, Eq)]
pub struct ChangeBody {
    pub change: InboxChange,
    /// The log that the numbers belong to, if the client sent it.
    pub log_id: Option<LogId>,
}

impl ChangeBody {
    /// Reads `{"op":"read","seqs":[97]}` or `{"op":"read","up_to":120}`.
    ///
    /// # Errors
    /// 400 for malformed JSON, 422 with every broken rule for JSON that is not a change.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct ChangeFields {
            op: String,
            seqs: Option<Vec<i64>>,
            up_to: Option<i64>,
            log_id: Option<String>,
        }
        let form =
            "a change is {\"op\":\"read\",\"seqs\":[N,…]} or {\"op\":\"read\",\"up_to\":N}, with whole numbers, and log_id if you like";
        let ChangeFields { op, seqs, up_to, log_id } = read_body(body, form)?;
        let mut errors = Vec::new();
        let log_id = log_id.and_then(|text| {
            let parsed = Uuid::parse_str(&text).map(LogId);
            parsed.map_err(|_| errors.push(wrong("log_id", "must be a UUID"))).ok()
        });
        let change = match (seqs, up_to) {
            (Some(seqs), None) => items(&op, &seqs, &mut errors),
            (None, Some(up_to)) => upto(&op, up_to, &mut errors),
            _ => {
                errors.push(FieldError::new("", "give either seqs or up_to"));
                None
            }
        };
        refuse(errors, "the change breaks the rules listed in errors; nothing was changed")?;
        let change = change.ok_or_else(|| Problem::new(422, "invalid_field", form))?;
        Ok(Self { change, log_id })
    }
}

fn items(op: &str, seqs: &[i64], errors: &mut Vec<FieldError>) -> Option<InboxChange> {
    let op = ItemOp::parse(op);
    if op.is_none() {
        errors.push(wrong("op", "must be read, unread, archive or unarchive with seqs"));
    }
    if seqs.is_empty() || seqs.len() > CHANGE_SEQS_MAX {
        errors.push(wrong("seqs", &format!("must hold 1 to {CHANGE_SEQS_MAX} numbers")));
        return None;
    }
    let mut parsed = Vec::with_capacity(seqs.len());
    for (at, seq) in seqs.iter().enumerate() {
        match Seq::new(*seq).filter(|seq| seq.get() > 0) {
            Some(seq) => parsed.push(seq),
            None => errors.push(FieldError::new(format!("/seqs/{at}"), "must be a sequence number, one or more")),
        }
    }
    Some(InboxChange::Items { op: op?, seqs: parsed })
}

fn upto(op: &str, up_to: i64, errors: &mut Vec<FieldError>) -> Option<InboxChange> {
    let op = UpToOp::parse(op);
    if op.is_none() {
        errors.push(wrong("op", "must be read, archive or seen with up_to"));
    }
    let up_to = Seq::new(up_to);
    if up_to.is_none() {
        errors.push(wrong("up_to", "must be a sequence number, zero or more"));
    }
    Some(InboxChange::UpTo { op: op?, up_to: up_to? })
}

/// Reads `{"muted":["stock_alert","product_*"]}`. Types that `required` covers cannot be muted.
///
/// # Errors
/// 400 for malformed JSON, 422 with every broken rule for JSON that is no list of muted types.
pub fn parse_preferences(body: &[u8], required: &[MutePattern]) -> Result<Vec<MutePattern>, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Preferences {
        muted: Vec<String>,
    }
    let Preferences { muted } = read_body(body, "preferences are {\"muted\":[\"TYPE\",…]} and nothing else")?;
    let mut errors = Vec::new();
    if muted.len() > MUTED_MAX {
        errors.push(wrong("muted", &format!("must hold at most {MUTED_MAX} types")));
    }
    let mut patterns = Vec::with_capacity(muted.len().min(MUTED_MAX));
    for (at, text) in muted.iter().take(MUTED_MAX).enumerate() {
        match MutePattern::parse(text) {
            None => errors.push(FieldError::new(format!("/muted/{at}"), MUTE_RULE)),
            Some(pattern) => match required.iter().find(|required| required.meets(&pattern)) {
                Some(required) => {
                    let detail =
                        format!("covers types that cannot be muted: {} is required here (RECADO_REQUIRED_TYPES)", required.as_str());
                    errors.push(FieldError::new(format!("/muted/{at}"), detail));
                }
                None => patterns.push(pattern),
            },
        }
    }
    refuse(errors, "the preferences break the rules listed in errors; nothing was changed")?;
    patterns.sort_unstable();
    patterns.dedup();
    Ok(patterns)
}

/// The answer to a change.
#[derive(Debug, Serialize)]
pub struct ChangeAnswer {
    /// The number of the change in the log; `None` when nothing changed.
    pub seq: Option<Seq>,
    #[serde(flatten)]
    pub counts: InboxCounts,
}

/// The answer with preferences.
#[derive(Debug, Serialize)]
pub struct PreferencesAnswer<'a> {
    pub muted: Vec<&'a str>,
    /// Types that cannot be muted.
    pub required: Vec<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(body: &str) -> Vec<String> {
        ChangeBody::parse(body.as_bytes()).expect_err(body).errors.into_iter().map(|error| error.pointer).collect()
    }

    #[test]
    fn a_change_names_items_or_a_number() {
        let seq = Seq::from_db;
        let body = ChangeBody::parse(br#"{"op":"read","seqs":[97,98]}"#).unwrap();
        assert_eq!(body.change, InboxChange::Items { op: ItemOp::Read, seqs: vec![seq(97), seq(98)] });
        let body = ChangeBody::parse(br#"{"op":"seen","up_to":120}"#).unwrap();
        assert_eq!(body.change, InboxChange::UpTo { op: UpToOp::Seen, up_to: seq(120) });
    }

    #[test]
    fn every_broken_rule_of_a_change_is_named() {
        assert_eq!(pointers(r#"{"op":"seen","seqs":[0,1,-2],"log_id":"x"}"#), ["/log_id", "/op", "/seqs/0", "/seqs/2"]);
        assert_eq!(pointers(r#"{"op":"unread","up_to":-1}"#), ["/op", "/up_to"]);
        assert_eq!(pointers(r#"{"op":"read"}"#), [""]);
        assert_eq!(pointers(r#"{"op":"read","seqs":[1],"up_to":1}"#), [""]);
        assert_eq!(pointers(r#"{"op":"read","seqs":[]}"#), ["/seqs"]);
    }

    #[test]
    fn a_required_type_cannot_be_muted() {
        let required = [MutePattern::parse("security_*").unwrap()];
        let problem = parse_preferences(br#"{"muted":["a","sec*","A"]}"#, &required).unwrap_err();
        assert_eq!(problem.errors.iter().map(|e| e.pointer.as_str()).collect::<Vec<_>>(), ["/muted/1", "/muted/2"]);
        let muted = parse_preferences(br#"{"muted":["b","a","b"]}"#, &required).unwrap();
        assert_eq!(muted.iter().map(MutePattern::as_str).collect::<Vec<_>>(), ["a", "b"]);
    }
}
