//! Checks JSON text that the hub keeps and passes on byte for byte.
//!
//! PostgreSQL, JavaScript and the views for analysts all read the data that a service posted. The check refuses text
//! that one of them would reject or read differently: deep nesting, NUL in a string, an object with a duplicate key
//! (RFC 8259 section 4: behaviour "unpredictable"), a number that is not a finite double (section 6).

use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::borrowed_str::BorrowedStr;

/// Maximum nesting of arrays and objects. The limits of PostgreSQL and JavaScript are far above.
pub const MAX_DEPTH: usize = 32;

/// Why a JSON text is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonError {
    /// Malformed JSON.
    Malformed(String),
    /// Well-formed JSON that some reader would reject or read differently.
    Unfaithful(String),
}

/// Marks this file's errors among those of serde, which carry only text.
const MARK: &str = "\u{1}";

/// Checks that a text is one JSON value that every reader reads alike.
///
/// # Errors
/// When it is not.
pub fn check(text: &str) -> Result<(), JsonError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let walked = Faithful { depth: 0 }.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    walked.map_err(|error| explain(&error))
}

fn explain(error: &serde_json::Error) -> JsonError {
    let text = error.to_string();
    match text.split_once(MARK) {
        Some((_, ours)) => JsonError::Unfaithful(ours.split(" at line ").next().unwrap_or(ours).to_owned()),
        None if text.starts_with("number out of range") => JsonError::Unfaithful("a number is out of the range of a double".to_owned()),
        None => JsonError::Malformed(format!("not JSON: line {}, column {}", error.line(), error.column())),
    }
}

/// Up to this number of keys, the keys of an object are compared with each other. Further keys are hashed.
const FEW_KEYS: usize = 16;

/// The keys of one object.
#[derive(Default)]
struct Keys<'a> {
    few: Vec<BorrowedStr<'a>>,
    more: HashSet<BorrowedStr<'a>>,
}

impl<'a> Keys<'a> {
    /// Whether the key is new.
    fn insert(&mut self, key: BorrowedStr<'a>) -> bool {
        if self.few.contains(&key) {
            return false;
        }
        if self.few.len() == FEW_KEYS {
            return self.more.insert(key);
        }
        self.few.push(key);
        true
    }
}

/// Walks a value without building it.
struct Faithful {
    depth: usize,
}

impl Faithful {
    fn inner<E: de::Error>(&self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("{MARK}nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Faithful {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Faithful {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<(), E> {
        if number.is_finite() { Ok(()) } else { Err(E::custom(format_args!("{MARK}a number is out of the range of a double"))) }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        if text.contains('\0') {
            return Err(E::custom(format_args!("{MARK}a string holds \\u0000")));
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self.inner()?)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let inside = self.inner::<A::Error>()?;
        let mut keys = Keys::default();
        while let Some(key) = entries.next_key::<BorrowedStr>()? {
            if key.contains('\0') {
                return Err(de::Error::custom(format_args!("{MARK}a key holds \\u0000")));
            }
            entries.next_value_seed(Self { depth: inside.depth })?;
            if !keys.insert(key) {
                return Err(de::Error::custom(format_args!("{MARK}an object has the same key twice")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_reader_takes_passes() {
        for good in [
            "null",
            "[]",
            "{}",
            "\"\"",
            "1e308",
            "-0",
            "123456789012345678901234567890",
            "{\"a\":{\"a\":1}}",
            "\"\\u0001\"",
            "\"<script>\"",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(check(&deep(MAX_DEPTH)), Ok(()));
        assert!(matches!(check(&deep(MAX_DEPTH + 1)), Err(JsonError::Unfaithful(_))));
        assert!(matches!(check(&deep(200_000)), Err(JsonError::Unfaithful(_))));
    }

    #[test]
    fn what_a_reader_would_refuse_or_change_is_refused() {
        for bad in ["\"\\u0000\"", "{\"\\u0000\":1}", "{\"a\":1,\"a\":2}", "[{\"a\":1,\"b\":2,\"a\":3}]", "1e999", "-1e400"] {
            assert!(matches!(check(bad), Err(JsonError::Unfaithful(_))), "{bad}: {:?}", check(bad));
        }
        let many = |last: usize| format!("{{{}\"k{last}\":0}}", (0..40).map(|n| format!("\"k{n}\":0,")).collect::<String>());
        assert_eq!(check(&many(40)), Ok(()));
        for again in [0, 15, 16, 39] {
            assert!(matches!(check(&many(again)), Err(JsonError::Unfaithful(_))), "k{again} stands twice");
        }
        for bad in ["", "{", "[1,]", "nul", "1 2", "\"\\ud800\"", "'a'", "NaN", "\u{feff}1"] {
            assert!(matches!(check(bad), Err(JsonError::Malformed(_))), "{bad}: {:?}", check(bad));
        }
    }
}
