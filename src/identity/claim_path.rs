//! Names a claim of a token, at the top level or nested.

use serde_json::{Map, Value};

/// Where a claim stands. Kept as a JSON pointer (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath(String);

impl ClaimPath {
    /// Reads a claim's name, or a JSON pointer, which begins with `/`. A pointer with a wrong escape finds nothing;
    /// [`ClaimPath::check`] reports it.
    pub fn of(text: &str) -> Self {
        if text.starts_with('/') { Self(text.to_owned()) } else { Self(format!("/{}", text.replace('~', "~0").replace('/', "~1"))) }
    }

    /// # Errors
    /// Says what is wrong with the text of a setting.
    pub fn check(text: &str) -> Result<(), &'static str> {
        if text.is_empty() {
            return Err("must be the name of a claim, or a JSON pointer such as /realm_access/role");
        }
        let escaped = |rest: &str| rest.starts_with(['0', '1']);
        if text.starts_with('/') && !text.split('~').skip(1).all(escaped) {
            return Err("in a JSON pointer, ~ must be written as ~0, and / within a name as ~1");
        }
        Ok(())
    }

    /// The value of the claim.
    pub fn find<'a>(&self, claims: &'a Value) -> Option<&'a Value> {
        claims.pointer(&self.0)
    }

    /// Adds the claim, with the objects around it.
    pub fn put(&self, claims: &mut Map<String, Value>, value: Value) {
        let names: Vec<String> = self.0.split('/').skip(1).map(|name| name.replace("~1", "/").replace("~0", "~")).collect();
        let Some((last, around)) = names.split_last() else { return };
        let mut inner = claims;
        for name in around {
            let next = inner.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
            // Two settings that name a claim and a claim within it: the outer one is replaced, and the hub's own check
            // of the token then refuses it.
            if !next.is_object() {
                *next = Value::Object(Map::new());
            }
            let Some(object) = next.as_object_mut() else { return };
            inner = object;
        }
        inner.insert(last.clone(), value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_stands_at_the_top_and_a_pointer_may_be_nested() {
        let claims = json!({"sub": "1", "https://example.com/org": "7", "realm_access": {"account": "8", "a/b": "9"}, "a~b": "10"});
        for (text, found) in [
            ("sub", "1"),
            ("https://example.com/org", "7"),
            ("/https:~1~1example.com~1org", "7"),
            ("/realm_access/account", "8"),
            ("/realm_access/a~1b", "9"),
            ("a~b", "10"),
        ] {
            assert!(ClaimPath::check(text).is_ok(), "{text}");
            assert_eq!(ClaimPath::of(text).find(&claims), Some(&json!(found)), "{text}");
            let mut written = Map::new();
            ClaimPath::of(text).put(&mut written, json!("x"));
            assert_eq!(ClaimPath::of(text).find(&Value::Object(written)), Some(&json!("x")), "{text}");
        }
        for wrong in ["", "/a~", "/a~2b"] {
            assert!(ClaimPath::check(wrong).is_err(), "{wrong}");
        }
    }
}
