//! Reads CloudEvents 1.0 as notifications.
//!
//! An event comes as JSON, in a list, or in headers with its data as the body. It is turned into the text of a
//! notification and parsed by [`super::notify`], so that every rule exists once. Errors name the event's attributes,
//! not the notification's fields. `data` is passed on byte for byte.

use std::collections::HashMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::notify::{self, ERRORS_MAX, NotifyBody, NotifyMembers};
use super::problem::{FieldError, Problem};

/// Attributes that the hub reads, and their fields of a notification. Others are ignored, as CloudEvents asks.
const FIELDS: [(&str, &str); 10] = [
    ("type", "type"),
    ("subject", "title"),
    ("message", "message"),
    ("userid", "user_id"),
    ("userids", "user_ids"),
    ("accountid", "account_id"),
    ("broadcast", "broadcast"),
    ("ttl", "ttl"),
    ("replay", "replay"),
    ("inbox", "inbox"),
];

/// Reads an event in JSON (`application/cloudevents+json`).
///
/// # Errors
/// 400 `malformed_json` for malformed JSON; 422 when it is not an event, or not one that makes a notification.
pub fn parse(body: &[u8]) -> Result<NotifyBody, Problem> {
    parse_text(std::str::from_utf8(body).map_err(|_| notify::malformed("not UTF-8"))?)
}

/// Reads an event in JSON from text.
///
/// # Errors
/// As [`parse`].
pub fn parse_text(text: &str) -> Result<NotifyBody, Problem> {
    let NotifyMembers(members) = notify::members(text)?;
    let mut event = CloudEvent::default();
    for (name, value) in members {
        match &*name {
            _ if value.get() == "null" => {}
            "data" => event.give_data(value),
            _ => event
                .give(name.0.into_owned(), serde_json::from_str(value.get()).map_err(|_| notify::malformed("an attribute is not JSON"))?),
        }
    }
    event.notification()
}

/// Reads an event in binary mode: its attributes are the (name, value) pairs of the `ce-` headers, its data is the
/// body. Values are percent-encoded UTF-8.
///
/// # Errors
/// As [`parse`].
pub fn parse_binary<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>, body: &'a [u8]) -> Result<NotifyBody, Problem> {
    let mut event = CloudEvent::default();
    for (name, value) in headers {
        match decode(value) {
            Some(value) => event.give(name.to_owned(), value.into()),
            None => event.refuse(name, "must be percent-encoded UTF-8"),
        }
    }
    if !body.is_empty() {
        let data: &RawValue = serde_json::from_slice(body).map_err(|_| notify::malformed("the body, an event's data, is not JSON"))?;
        event.give_data(data);
    }
    event.notification()
}

/// CloudEvents HTTP binding 1.0, section 3.1.3.2: enclosing quotes are dropped, and `%` with two hex digits is a
/// byte.
fn decode(value: &[u8]) -> Option<String> {
    let value = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[derive(Default)]
struct CloudEvent<'a> {
    attributes: HashMap<String, Value>,
    data: Option<&'a RawValue>,
    errors: Vec<FieldError>,
}

impl<'a> CloudEvent<'a> {
    fn refuse(&mut self, name: &str, detail: impl Into<String>) {
        let name: String = name.chars().take(64).collect();
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(FieldError::new(format!("/{}", notify::escape(&name)), detail));
        }
    }

    fn give(&mut self, name: String, value: Value) {
        if self.get(&name).is_some() {
            self.refuse(&name, "duplicate attribute");
        } else {
            self.attributes.insert(name, value);
        }
    }

    fn give_data(&mut self, data: &'a RawValue) {
        if self.data.replace(data).is_some() {
            self.refuse("data", "duplicate attribute");
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.attributes.get(name)
    }

    /// Reads a required attribute and records an error if it is missing.
    fn required(&mut self, name: &str) -> String {
        match self.get(name) {
            Some(Value::String(text)) if !text.is_empty() && !text.contains(char::is_control) => text.clone(),
            _ => {
                self.refuse(name, "is required: a non-empty string without control characters");
                String::new()
            }
        }
    }

    fn notification(mut self) -> Result<NotifyBody, Problem> {
        let (source, id) = (self.required("source"), self.required("id"));
        let kind = self.required("type");
        self.check_envelope();
        let mut fields = vec![("title", Value::from(kind)), ("message", Value::from(""))];
        for (attribute, field) in FIELDS {
            if let Some(value) = self.get(attribute) {
                fields.retain(|(name, _)| *name != field);
                fields.push((field, plain(field, value)));
            }
        }
        let mut members: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        members.extend(self.data.map(|data| format!("\"data\":{}", data.get())));
        match notify::parse_text(&format!("{{{}}}", members.join(","))) {
            Ok(mut body) if self.errors.is_empty() => {
                // A key that a service posts has no control characters, so it cannot collide with this one.
                body.idempotency_key = Some(format!("{source}\0{id}"));
                Ok(body)
            }
            Ok(_) => Err(self.refused()),
            Err(problem) => {
                let alone = self.errors.is_empty();
                let problem = in_the_events_words(problem);
                for error in &problem.errors {
                    // A missing attribute is listed already.
                    if !self.errors.iter().any(|known| known.pointer == error.pointer) {
                        self.errors.push(error.clone());
                    }
                }
                Err(if alone || problem.status == 400 { problem } else { self.refused() })
            }
        }
    }

    fn check_envelope(&mut self) {
        if self.get("specversion").and_then(Value::as_str) != Some("1.0") {
            self.refuse("specversion", "must be \"1.0\"");
        }
        let time_fits = |time: &Value| time.as_str().is_some_and(|text| chrono::DateTime::parse_from_rfc3339(text).is_ok());
        if !self.get("time").is_none_or(time_fits) {
            self.refuse("time", "must be an RFC 3339 timestamp");
        }
        if self.get("data_base64").is_some() {
            self.refuse("data_base64", "is not supported; send the data as JSON in data");
        }
    }

    fn refused(mut self) -> Problem {
        self.errors.truncate(ERRORS_MAX);
        let detail = "the event breaks the rules listed in errors; nothing was appended";
        Problem::new(422, "invalid_field", detail).with_errors(self.errors)
    }
}

/// Converts an attribute to its field's type. In headers all attributes are strings, and so are those of forwarded
/// events.
fn plain(field: &str, value: &Value) -> Value {
    match (field, value) {
        ("user_ids", Value::String(list)) => list.split(',').map(str::trim).collect(),
        ("broadcast" | "replay" | "inbox", Value::String(text)) => text.parse::<bool>().map_or_else(|_| value.clone(), Value::from),
        ("ttl", Value::String(text)) => text.parse::<i32>().map_or_else(|_| value.clone(), Value::from),
        _ => value.clone(),
    }
}

fn in_the_events_words(mut problem: Problem) -> Problem {
    for error in &mut problem.errors {
        let field = error.pointer.trim_start_matches('/').split('/').next().unwrap_or_default();
        if let Some((attribute, _)) = FIELDS.iter().find(|(_, known)| *known == field) {
            error.pointer = format!("/{attribute}");
        }
    }
    if problem.code == "no_audience" {
        problem.detail = "no audience: give the extension userid, userids, accountid, or broadcast".to_owned();
        problem.errors = vec![FieldError::new("", problem.detail.clone())];
    }
    problem
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Audience;

    const EVENT: &str = r#""specversion":"1.0","id":"A234-1234-1234","source":"/mycontext","type":"com.example.someevent","userid":"42""#;

    fn refused(text: &str) -> (u16, &'static str, Vec<String>) {
        let problem = parse_text(text).expect_err(text);
        (problem.status, problem.code, problem.errors.into_iter().map(|e| e.pointer).collect())
    }

    #[test]
    fn an_event_becomes_a_notification() {
        let body = parse_text(&format!(
            r#"{{{EVENT},"subject":"Cake","message":"baked","time":"2018-04-05T17:31:00Z","ttl":60,"replay":false,"inbox":false,
                "accountid":"7","datacontenttype":"application/json","data":{{"n": 1.0}},"comexampleextension1":"value","unset":null}}"#
        ))
        .unwrap();
        assert_eq!((body.kind.as_str(), body.title.as_str(), body.message.as_str()), ("com.example.someevent", "Cake", "baked"));
        assert_eq!((body.data.as_deref(), body.ttl_seconds), (Some(r#"{"n": 1.0}"#), Some(60)));
        assert_eq!((body.replay, body.inbox), (false, false));
        assert_eq!((body.audience.topic(), body.idempotency_key.as_deref()), ("u/42/7".into(), Some("/mycontext\0A234-1234-1234")));
        let bare = parse_text(&format!("{{{EVENT}}}")).unwrap();
        assert_eq!((bare.title.as_str(), bare.message.as_str(), bare.data), ("com.example.someevent", "", None));
        assert_eq!((bare.replay, bare.inbox), (true, true));
    }

    #[test]
    fn what_strings_say_is_taken_as_it_is_meant() {
        let event = EVENT.replace(r#","userid":"42""#, "");
        let everyone = parse_text(&format!(r#"{{{event},"broadcast":"true","ttl":"60","replay":"false","inbox":"false"}}"#)).unwrap();
        assert_eq!((everyone.audience, everyone.ttl_seconds), (Audience::Everyone, Some(60)));
        assert_eq!((everyone.replay, everyone.inbox), (false, false));
        let listed = parse_text(&format!(r#"{{{event},"userids":"1, 2,3"}}"#)).unwrap();
        assert_eq!(listed.listed_users(), 3);
    }

    #[test]
    fn each_broken_rule_is_said_in_the_events_words() {
        let without = |name: &str| EVENT.split(',').filter(|member| !member.starts_with(name)).collect::<Vec<_>>().join(",");
        for name in ["specversion", "id", "source", "type"] {
            let text = format!("{{{}}}", without(&format!("\"{name}\"")));
            assert_eq!(refused(&text), (422, "invalid_field", vec![format!("/{name}")]), "{text}");
        }
        for (member, pointer) in [
            (r#""time":"yesterday""#, "/time"),
            (r#""time":5"#, "/time"),
            (r#""data_base64":"AA==""#, "/data_base64"),
            (r#""subject":7"#, "/subject"),
            (r#""userids":"a,b c""#, "/userids"),
            (r#""ttl":"soon""#, "/ttl"),
            (r#""broadcast":true"#, "/broadcast"),
            (r#""inbox":"no""#, "/inbox"),
            (r#""accountid":"a b""#, "/accountid"),
            (r#""data":{"a":1,"a":2}"#, "/data"),
            (r#""id":"again""#, "/id"),
        ] {
            assert_eq!(refused(&format!("{{{EVENT},{member}}}")), (422, "invalid_field", vec![pointer.into()]), "{member}");
        }
        assert_eq!(refused(&format!("{{{}}}", EVENT.replace("\"1.0\"", "\"0.3\""))).2, ["/specversion"]);
        assert_eq!(refused(&format!("{{{}}}", EVENT.replace("com.example.someevent", "Microsoft.Storage"))).2, ["/type"]);
        for reserved in ["ack", "upstream_gap", "inbox"] {
            assert_eq!(refused(&format!("{{{}}}", EVENT.replace("com.example.someevent", reserved))).1, "reserved_type");
        }
        assert_eq!(refused(&format!("{{{}}}", EVENT.replace(r#","userid":"42""#, ""))).1, "no_audience");
        assert_eq!(refused("{}").2, ["/source", "/id", "/type", "/specversion", ""]);
        assert_eq!((refused("[]").1, refused("{").1), ("invalid_body", "malformed_json"));
    }

    #[test]
    fn headers_are_percent_encoded() {
        assert_eq!(decode(b"Euro%20%E2%82%AC%20%F0%9F%98%80").as_deref(), Some("Euro \u{20ac} \u{1f600}"));
        assert_eq!(decode(b"\"quoted\"").as_deref(), Some("quoted"));
        for bad in [&b"%"[..], b"%4", b"%zz", b"%ff", b"%+1"] {
            assert_eq!(decode(bad), None);
        }
    }
}
