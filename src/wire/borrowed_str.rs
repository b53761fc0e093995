//! Deserializes a JSON string and borrows it from the input where it has no escapes.
//!
//! Most names and ids are read once. An allocation for each would be a quarter of the cost of reading a notification.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A string of the input: borrowed, or owned where it had escapes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BorrowedStr<'a>(pub Cow<'a, str>);

impl std::ops::Deref for BorrowedStr<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for BorrowedStr<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = BorrowedStr<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(BorrowedStr(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(BorrowedStr(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_escape_makes_a_copy() {
        let plain: BorrowedStr = serde_json::from_str("\"user-1\"").unwrap();
        assert!(matches!(plain.0, Cow::Borrowed("user-1")));
        let escaped: BorrowedStr = serde_json::from_str("\"a\\u0062\"").unwrap();
        assert_eq!((&*escaped, matches!(escaped.0, Cow::Owned(_))), ("ab", true));
        assert!(serde_json::from_str::<BorrowedStr>("7").is_err_and(|error| error.is_data()));
    }
}
