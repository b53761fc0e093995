//! Texts with places in them, such as `{"user":"{user_id}"}`. What is filled in is escaped for where it stands, so that
//! a strange user id or session id cannot say more than itself.

use std::fmt;

use serde_json::Value;

use super::secret::Secret;
use crate::domain::UserId;
use crate::spelling;

/// Where a template stands, and so how its values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A JSON text: within a string as part of it, else as a value.
    Json,
    /// A form or a URL: percent-encoded but for letters, digits and `-._~` (RFC 3986 section 2.3).
    Encoded,
    /// As it is: for headers, whose own check refuses line breaks.
    Plain,
}

/// What may be filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    UserId,
    Session,
    Timestamp,
    Payload,
    Id,
    Type,
}

impl What {
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

/// The values of one filling; what a template may not name need not be there.
#[derive(Clone, Copy, Default)]
pub struct Filling<'a> {
    pub user: Option<&'a UserId>,
    pub session: Option<&'a Secret>,
    pub timestamp_ms: i64,
    /// JSON.
    pub payload: Option<&'a str>,
    pub id: Option<&'a str>,
    pub kind: Option<&'a str>,
}

#[derive(Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A value; `quoted`: it stands within a JSON string.
    Value {
        what: What,
        quoted: bool,
    },
}

/// A checked template. It may hold credentials, so `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    place: Place,
}

/// What is said of a text that should be JSON and is not.
pub(super) const NOT_JSON: &str = "must be JSON once it is filled in";

/// Looks up a credential of the environment, by name.
pub type Credentials<'a> = &'a dyn Fn(&str) -> Result<Option<Secret>, String>;

impl Template {
    /// # Errors
    /// Each place that is unknown here, each credential that is not there, and a JSON text that is none.
    pub fn parse(text: &str, place: Place, allowed: &[What], credentials: Credentials<'_>) -> Result<Self, Vec<String>> {
        let mut parts = Vec::new();
        let mut errors = Vec::new();
        let mut quotes = Quotes::default();
        let mut rest = text;
        while let Some((before, name, after)) = next_place(rest) {
            quotes.pass(before);
            parts.push(Part::Text(before.to_owned()));
            let quoted = place == Place::Json && quotes.open;
            match read_place(name, allowed, credentials) {
                Ok(Found::Value(what)) => parts.push(Part::Value { what, quoted }),
                Ok(Found::Credential(secret)) => parts.push(Part::Text(written(secret.expose(), place, quoted))),
                Err(error) => errors.push(error),
            }
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        let template = Self { parts, place };
        if errors.is_empty() && place == Place::Json && !template.is_json() {
            errors.push(NOT_JSON.to_owned());
        }
        if errors.is_empty() { Ok(template) } else { Err(errors) }
    }

    /// A text without places.
    pub fn literal(text: &str) -> Self {
        Self { parts: vec![Part::Text(text.to_owned())], place: Place::Plain }
    }

    fn is_json(&self) -> bool {
        let (user, session) = (UserId::parse("u").ok(), Secret::new("s"));
        let sample = Filling {
            user: user.as_ref(),
            session: Some(&session),
            payload: Some("{}"),
            id: Some("i"),
            kind: Some("t"),
            ..Filling::default()
        };
        serde_json::from_str::<serde::de::IgnoredAny>(&self.fill(&sample)).is_ok()
    }

    pub fn names(&self, what: What) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Value { what: named, .. } if *named == what))
    }

    /// The text with its values. It may hold a secret.
    pub fn fill(&self, values: &Filling<'_>) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Value { what, quoted } => text.push_str(&self.value(*what, *quoted, values)),
            }
        }
        text
    }

    fn value(&self, what: What, quoted: bool, values: &Filling<'_>) -> String {
        let text = match what {
            What::Timestamp => return values.timestamp_ms.to_string(),
            // JSON already: as it came where a value stands, its text where a string does.
            What::Payload if self.place == Place::Json && !quoted => return values.payload.unwrap_or("null").to_owned(),
            What::Payload => values.payload.unwrap_or("null"),
            What::UserId => values.user.map_or("", UserId::as_str),
            What::Session => values.session.map_or("", Secret::expose),
            What::Id => values.id.unwrap_or_default(),
            What::Type => values.kind.unwrap_or_default(),
        };
        written(text, self.place, quoted)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Template")
    }
}

/// Follows whether a JSON text is within a string.
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

fn written(text: &str, place: Place, quoted: bool) -> String {
    match place {
        Place::Plain => text.to_owned(),
        Place::Encoded => percent_encoded(text),
        Place::Json => {
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

/// The next `{name}`: what is before it, its name, what is after it. A brace that encloses no name is text.
fn next_place(text: &str) -> Option<(&str, &str, &str)> {
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

/// Whether a text has a place at all.
pub(super) fn has_place(text: &str) -> Option<usize> {
    next_place(text).map(|(before, _, _)| before.len())
}

enum Found {
    Value(What),
    Credential(Secret),
}

fn read_place(name: &str, allowed: &[What], credentials: Credentials<'_>) -> Result<Found, String> {
    if let Some(variable) = name.strip_prefix("env:") {
        return match credentials(variable)? {
            Some(secret) => Ok(Found::Credential(secret)),
            None => Err(format!("{{{name}}}: neither {variable} nor {variable}_FILE is set in the environment")),
        };
    }
    let known = |what: &What| what.name() == name;
    if let Some(what) = allowed.iter().find(|what| known(what)) {
        return Ok(Found::Value(*what));
    }
    let names: Vec<&str> = allowed.iter().map(|what| what.name()).collect();
    let advice = match spelling::nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean {{{near}}}?"),
        None if names.is_empty() => "only {env:NAME} may stand here".to_owned(),
        None => format!("here may stand {{{}}} and {{env:NAME}}", names.join("}, {")),
    };
    Err(format!("{{{name}}} is unknown here; {advice}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [What; 6] = [What::UserId, What::Session, What::Timestamp, What::Payload, What::Id, What::Type];

    fn parse(text: &str, place: Place) -> Result<Template, Vec<String>> {
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
        let filled = parse(ping, Place::Json).unwrap().fill(&Filling { timestamp_ms: 17, ..Filling::default() });
        assert_eq!(filled, r#"{"id":"1","params":{"time":"17","seq":"17"},"empty":{}}"#);
        let frame = parse(r#"{"do":{type},"with":{payload},"text":"{payload}"}"#, Place::Json).unwrap();
        let filled = frame.fill(&Filling { kind: Some("b\"et"), payload: Some(r#"{"n":1}"#), ..Filling::default() });
        assert_eq!(filled, r#"{"do":"b\"et","with":{"n":1},"text":"{\"n\":1}"}"#);
    }

    #[test]
    fn a_credential_is_written_for_its_place_and_never_shown() {
        let body = parse(r#"{"key":"{env:KEY}"}"#, Place::Json).unwrap();
        assert_eq!(body.fill(&Filling::default()), r#"{"key":"k\"1\\"}"#);
        assert!(!format!("{body:?}").contains("k\\"));
        assert_eq!(parse("k={env:KEY}", Place::Encoded).unwrap().fill(&Filling::default()), "k=k%221%5C");
    }

    #[test]
    fn what_is_wrong_is_said_for_each_place() {
        let errors = parse(r#"{"a":"{user}","b":"{env:NONE}","c":"{colour}"}"#, Place::Json).unwrap_err();
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert!(errors[1].contains("NONE_FILE"), "{errors:?}");
        assert!(errors[2].contains("here may stand {user_id}"), "{errors:?}");
        let near = parse("{sesion}", Place::Plain).unwrap_err();
        assert!(near[0].contains("did you mean {session}?"), "{near:?}");
        assert_eq!(parse("hello {user_id}", Place::Json).unwrap_err(), ["must be JSON once it is filled in"]);
    }

    proptest! {
        /// Whatever a session id holds, the JSON around it keeps its shape and the id arrives as it is.
        #[test]
        fn a_strange_value_cannot_leave_its_json_string(id in any::<String>(), other in any::<String>()) {
            let template = parse(r#"{"a":"x{session}y","b":{id},"c":"\\\"{id}"}"#, Place::Json).unwrap();
            let secret = session(&id);
            let text = template.fill(&Filling { session: Some(&secret), id: Some(&other), ..Filling::default() });
            let value: Value = serde_json::from_str(&text).unwrap();
            let wanted = serde_json::json!({ "a": format!("x{id}y"), "b": other, "c": format!("\\\"{other}") });
            prop_assert_eq!(value, wanted);
        }

        /// Whatever it holds, a form or a query keeps its fields, and a URL its path.
        #[test]
        fn a_strange_value_cannot_leave_its_field(id in any::<String>()) {
            let secret = session(&id);
            let filling = Filling { session: Some(&secret), ..Filling::default() };
            let text = parse("https://h.example/a?one={session}&two=2", Place::Encoded).unwrap().fill(&filling);
            let url = url::Url::parse(&text).unwrap();
            let fields: Vec<(String, String)> = url.query_pairs().into_owned().collect();
            prop_assert_eq!(url.path(), "/a");
            prop_assert_eq!(url.fragment(), None);
            prop_assert_eq!(fields, vec![("one".to_owned(), id), ("two".to_owned(), "2".to_owned())]);
        }
    }
}
