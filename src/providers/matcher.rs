//! Recognises a provider's messages and finds values in its answers.

use serde_json::Value;

/// A JSON pointer (RFC 6901), checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(String);

impl Pointer {
    /// # Errors
    /// Says what a JSON pointer looks like.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.is_empty() && !text.starts_with('/') {
            return Err("must be a JSON pointer such as /data/sessionId; it begins with /");
        }
        let escaped = |rest: &str| rest.starts_with(['0', '1']);
        if !text.split('~').skip(1).all(escaped) {
            return Err("in a JSON pointer, ~ must be written as ~0, and / within a name as ~1");
        }
        Ok(Self(text.to_owned()))
    }

    pub fn find<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        value.pointer(&self.0)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A rule that selects some of a provider's messages.
#[derive(Debug, Clone, PartialEq)]
pub enum Matcher {
    /// The text contains this anywhere.
    Contains(String),
    /// The text is JSON and has this value at this pointer.
    Equals(Pointer, Value),
}

/// Whether one of the rules matches this text. The text is parsed as JSON at most once, and only if a rule needs it.
pub fn any_matches(rules: &[Matcher], text: &str) -> bool {
    let mut read: Option<Option<Value>> = None;
    rules.iter().any(|rule| match rule {
        Matcher::Contains(part) => text.contains(part.as_str()),
        Matcher::Equals(pointer, wanted) => {
            let value = read.get_or_insert_with(|| serde_json::from_str(text).ok());
            value.as_ref().and_then(|value| pointer.find(value)) == Some(wanted)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_checked_when_it_is_read() {
        for good in ["", "/", "/data/jsessionId", "/a~1b/~0", "/0"] {
            assert!(Pointer::parse(good).is_ok(), "{good}");
        }
        for bad in ["data", "data/x", "/a~", "/a~2", "#/a"] {
            assert!(Pointer::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rule_picks_by_a_part_of_the_text_or_by_a_value() {
        let rules = [Matcher::Contains("\"pong\"".into()), Matcher::Equals(Pointer::parse("/params/kind").unwrap(), "tick".into())];
        assert!(any_matches(&rules, r#"{"result":"pong"}"#));
        assert!(any_matches(&rules, r#"{"params": {"kind": "tick"}}"#));
        assert!(!any_matches(&rules, r#"{"params":{"kind":"tock"}}"#));
        assert!(!any_matches(&rules, "no JSON, no pong in quotes"));
        assert!(!any_matches(&[], r#"{"result":"pong"}"#));
    }
}
