//! Fills placeholders in texts, such as `{"user":"{user_id}"}`.
//!
//! Values are escaped for their context, so that an unusual user id or session id cannot change the structure around
//! it.

use std::fmt;

use serde_json::Value;

use super::secret::Secret;
use crate::domain::UserId;
use crate::spelling;

/// The context of a template, which decides how values are escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateContext {
    /// A JSON text: a value within a string becomes part of it, elsewhere a JSON value.
    Json,
    /// A form or a URL: percent-encoded except letters, digits and `-._~` (RFC 3986 section 2.3).
    Encoded,
    /// Not escaped: for headers, whose own check refuses line breaks.
    Plain,
}

/// The names of placeholders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateName {
    UserId,
    Session,
    Timestamp,
    Payload,
    Id,
    Type,
}

impl TemplateName {
    const ALL: [(&'static str, Self); 6] = [
        ("user_id", Self::UserId),
        ("session", Self::Session),
        ("timestamp", Self::Timestamp),
        ("payload", Self::Payload),
        ("id", Self::Id),
        ("type", Self::Type),
    ];

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, what)| *what == self).map_or("", |(name, _)| name)
    }
}

/// The values of the placeholders; a value that the template may not name can be missing.
#[derive(Clone, Copy, Default)]
pub struct TemplateValues<'a> {
    pub user: Option<&'a UserId>,
    pub session: Option<&'a Secret>,
    pub timestamp_ms: i64,
    /// JSON text.
    pub payload: Option<&'a str>,
    pub id: Option<&'a str>,
    pub kind: Option<&'a str>,
}

#[derive(Clone, PartialEq, Eq)]
enum TemplatePart {
    Text(String),
    /// A value; `quoted` means that it is within a JSON string.
    Value {
        what: TemplateName,
        quoted: bool,
    },
}

/// A checked template. It may contain credentials, so `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<TemplatePart>,
    place: TemplateContext,
}

/// The error for a text that should be JSON and is not.
pub(super) const NOT_JSON: &str = "must be JSON once it is filled in";

/// Looks up a credential of the environment by name.
pub type Credentials<'a> = &'a dyn Fn(&str) -> Result<Option<Secret>, String>;

impl Template {
    /// # Errors
    /// Each placeholder that is unknown here, each credential that is missing, and a text that is not valid JSON.
    pub fn parse(text: &str, place: TemplateContext, allowed: &[TemplateName], credentials: Credentials<'_>) -> Result<Self, Vec<String>> {
        let mut parts = Vec::new();
        let mut errors = Vec::new();
        let mut quotes = Quotes::default();
        let mut rest = text;
        while let Some((before, name, after)) = next_placeholder(rest) {
            quotes.pass(before);
            parts.push(TemplatePart::Text(before.to_owned()));
            let quoted = place == TemplateContext::Json && quotes.open;
            match read_placeholder(name, allowed, credentials) {
                Ok(ReadName::Value(what)) => parts.push(TemplatePart::Value { what, quoted }),
                Ok(ReadName::Credential(secret)) => parts.push(TemplatePart::Text(written(secret.expose(), place, quoted))),
                Err(error) => errors.push(error),
            }
            rest = after;
        }
        parts.push(TemplatePart::Text(rest.to_owned()));
        let template = Self { parts, place };
        if errors.is_empty() && place == TemplateContext::Json && !template.is_json() {
            errors.push(NOT_JSON.to_owned());
        }
        if errors.is_empty() { Ok(template) } else { Err(errors) }
    }

    /// A text without placeholders.
    pub fn literal(text: &str) -> Self {
        Self { parts: vec![TemplatePart::Text(text.to_owned())], place: TemplateContext::Plain }
    }

    fn is_json(&self) -> bool {
        let (user, session) = (UserId::parse("u").ok(), Secret::new("s"));
        let sample = TemplateValues {
            user: user.as_ref(),
            session: Some(&session),
            payload: Some("{}"),
            id: Some("i"),
            kind: Some("t"),
            ..TemplateValues::default()
        };
        serde_json::from_str::<serde::de::IgnoredAny>(&self.fill(&sample)).is_ok()
    }

    pub fn names(&self, what: TemplateName) -> bool {
        self.parts.iter().any(|part| matches!(part, TemplatePart::Value { what: named, .. } if *named == what))
    }

    /// The text with its values. It may contain a secret.
    pub fn fill(&self, values: &TemplateValues<'_>) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                TemplatePart::Text(literal) => text.push_str(literal),
                TemplatePart::Value { what, quoted } => text.push_str(&self.value(*what, *quoted, values)),
            }
        }
        text
    }

    fn value(&self, what: TemplateName, quoted: bool, values: &TemplateValues<'_>) -> String {
        let text = match what {
            TemplateName::Timestamp => return values.timestamp_ms.to_string(),
            // The payload is JSON already: unchanged as a value, and as escaped text within a string.
            TemplateName::Payload if self.place == TemplateContext::Json && !quoted => return values.payload.unwrap_or("null").to_owned(),
            TemplateName::Payload => values.payload.unwrap_or("null"),
            TemplateName::UserId => values.user.map_or("", UserId::as_str),
            TemplateName::Session => values.session.map_or("", Secret::expose),
            TemplateName::Id => values.id.unwrap_or_default(),
            TemplateName::Type => values.kind.unwrap_or_default(),
        };
        written(text, self.place, quoted)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Template")
    }
}

/// Tracks whether a JSON text is within a string.
#[derive(Default)]
struct Quotes {
    open: bool,
    escaped: bool,
}

impl Quotes {
    fn pass(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' if self.open => self.escaped = true,
                '"' => self.open = !self.open,
                _ => {}
            }
        }
    }
}

fn written(text: &str, place: TemplateContext, quoted: bool) -> String {
    match place {
        TemplateContext::Plain => text.to_owned(),
        TemplateContext::Encoded => percent_encoded(text),
        TemplateContext::Json => {
            let json = Value::from(text).to_string();
            if quoted { json[1..json.len() - 1].to_owned() } else { json }
        }
    }
}

pub(super) fn percent_encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    text.bytes().fold(String::with_capacity(text.len()), |mut out, b| {
        if plain(b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
        out
    })
}

/// Finds the next `{name}`: returns the text before it, its name, and the text after it. Braces without a valid name
/// are plain text.
fn next_placeholder(text: &str) -> Option<(&str, &str, &str)> {
    for (at, _) in text.match_indices('{') {
        let inside = &text[at + 1..];
        let end = inside.find('}')?;
        let name = &inside[..end];
        let letters = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if letters(name.strip_prefix("env:").unwrap_or(name)) {
            return Some((&text[..at], name, &inside[end + 1..]));
        }
    }
    None
}

/// The offset of the first placeholder, if there is one.
pub(super) fn first_placeholder(text: &str) -> Option<usize> {
    next_placeholder(text).map(|(before, _, _)| before.len())
}

enum ReadName {
    Value(TemplateName),
    Credential(Secret),
}

fn read_placeholder(name: &str, allowed: &[TemplateName], credentials: Credentials<'_>) -> Result<ReadName, String> {
    if let Some(variable) = name.strip_prefix("env:") {
        return match credentials(variable)? {
            Some(secret) => Ok(ReadName::Credential(secret)),
            None => Err(format!("{{{name}}}: neither {variable} nor {variable}_FILE is set in the environment")),
        };
    }
    let known = |what: &TemplateName| what.name() == name;
    if let Some(what) = allowed.iter().find(|what| known(what)) {
        return Ok(ReadName::Value(*what));
    }
    let names: Vec<&str> = allowed.iter().map(|what| what.name()).collect();
    let advice = match spelling::nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean {{{near}}}?"),
        None if names.is_empty() => "only {env:NAME} is allowed here".to_owned(),
        None => format!("allowed here: {{{}}} and {{env:NAME}}", names.join("}, {")),
    };
    Err(format!("{{{name}}} is unknown here; {advice}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [TemplateName; 6] =
        [TemplateName::UserId, TemplateName::Session, TemplateName::Timestamp, TemplateName::Payload, TemplateName::Id, TemplateName::Type];

    fn parse(text: &str, place: TemplateContext) -> Result<Template, Vec<String>> {
        let credentials = |name: &str| match name {
            "KEY" => Ok(Some(Secret::new("k\"1\\"))),
            _ => Ok(None),
        };
        Template::parse(text, place, &ALL, &credentials)
    }

    fn session(text: &str) -> Secret {
        Secret::new(text)
    }

    #[test]
    fn braces_of_json_are_text_and_names_in_braces_are_places() {
        let ping = r#"{"id":"1","params":{"time":"{timestamp}","seq":"{timestamp}"},"empty":{}}"#;
        let filled = parse(ping, TemplateContext::Json).unwrap().fill(&TemplateValues { timestamp_ms: 17, ..TemplateValues::default() });
        assert_eq!(filled, r#"{"id":"1","params":{"time":"17","seq":"17"},"empty":{}}"#);
        let frame = parse(r#"{"do":{type},"with":{payload},"text":"{payload}"}"#, TemplateContext::Json).unwrap();
        let filled = frame.fill(&TemplateValues { kind: Some("b\"et"), payload: Some(r#"{"n":1}"#), ..TemplateValues::default() });
        assert_eq!(filled, r#"{"do":"b\"et","with":{"n":1},"text":"{\"n\":1}"}"#);
    }

    #[test]
    fn a_credential_is_written_for_its_place_and_never_shown() {
        let body = parse(r#"{"key":"{env:KEY}"}"#, TemplateContext::Json).unwrap();
        assert_eq!(body.fill(&TemplateValues::default()), r#"{"key":"k\"1\\"}"#);
        assert!(!format!("{body:?}").contains("k\\"));
        assert_eq!(parse("k={env:KEY}", TemplateContext::Encoded).unwrap().fill(&TemplateValues::default()), "k=k%221%5C");
    }

    #[test]
    fn what_is_wrong_is_said_for_each_place() {
        let errors = parse(r#"{"a":"{user}","b":"{env:NONE}","c":"{colour}"}"#, TemplateContext::Json).unwrap_err();
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert!(errors[1].contains("NONE_FILE"), "{errors:?}");
        assert!(errors[2].contains("allowed here: {user_id}"), "{errors:?}");
        let near = parse("{sesion}", TemplateContext::Plain).unwrap_err();
        assert!(near[0].contains("did you mean {session}?"), "{near:?}");
        assert_eq!(parse("hello {user_id}", TemplateContext::Json).unwrap_err(), ["must be JSON once it is filled in"]);
    }

    proptest! {
        /// For any session id, the JSON around it keeps its structure and the id arrives unchanged.
        #[test]
        fn a_strange_value_cannot_leave_its_json_string(id in any::<String>(), other in any::<String>()) {
            let template = parse(r#"{"a":"x{session}y","b":{id},"c":"\\\"{id}"}"#, TemplateContext::Json).unwrap();
            let secret = session(&id);
            let text = template.fill(&TemplateValues { session: Some(&secret), id: Some(&other), ..TemplateValues::default() });
            let value: Value = serde_json::from_str(&text).unwrap();
            let wanted = serde_json::json!({ "a": format!("x{id}y"), "b": other, "c": format!("\\\"{other}") });
            prop_assert_eq!(value, wanted);
        }

        /// For any session id, a form or a query keeps its fields, and a URL its path.
        #[test]
        fn a_strange_value_cannot_leave_its_field(id in any::<String>()) {
            let secret = session(&id);
            let filling = TemplateValues { session: Some(&secret), ..TemplateValues::default() };
            let text = parse("https://h.example/a?one={session}&two=2", TemplateContext::Encoded).unwrap().fill(&filling);
            let url = url::Url::parse(&text).unwrap();
            let fields: Vec<(String, String)> = url.query_pairs().into_owned().collect();
            prop_assert_eq!(url.path(), "/a");
            prop_assert_eq!(url.fragment(), None);
            prop_assert_eq!(fields, vec![("one".to_owned(), id), ("two".to_owned(), "2".to_owned())]);
        }
    }
}
