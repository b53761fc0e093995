//! Defines consumers: services that follow the log under a name.

use std::fmt;

use serde::Serialize;

use super::{AccountId, Seq, UserId};

/// Longest name, in characters.
const NAME_MAX: usize = 64;
/// Most patterns of types. Each is compared with each row that the consumer passes.
pub const CONSUMER_TYPES_MAX: usize = 32;

/// The name of a consumer. The database checks the same rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct ConsumerName(String);

/// The rule that a name breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {NAME_MAX} characters of A-Z a-z 0-9 . _ - and begin with a letter or digit")]
pub struct ConsumerNameError;

impl ConsumerName {
    /// # Errors
    /// For a text that breaks the rule.
    pub fn parse(text: &str) -> Result<Self, ConsumerNameError> {
        // The first character keeps `.` and `..` out, which HTTP libraries remove from paths.
        let begins = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let allowed = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if begins && allowed && text.len() <= NAME_MAX { Ok(Self(text.to_owned())) } else { Err(ConsumerNameError) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which rows a consumer receives. They meet all conditions that are given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsumerFilter {
    /// Types, and beginnings of types that end with `*`.
    pub types: Option<Vec<String>>,
    /// The row names this user, alone or in a list.
    pub user: Option<UserId>,
    /// The row is addressed to this account, or to users in this account.
    pub account: Option<AccountId>,
}

/// Where a consumer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerStart {
    /// With the first row that is kept.
    Earliest,
    /// With the next row that is appended.
    Now,
    /// With the row after this number.
    After(Seq),
}

/// The rule of a start, as an error says it.
pub const CONSUMER_START_RULE: &str = "must be earliest, now, or the sequence number after which to begin";

impl ConsumerStart {
    /// `None` for a text that breaks [`CONSUMER_START_RULE`].
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "earliest" => Some(Self::Earliest),
            "now" => Some(Self::Now),
            // As many digits as the database reads.
            _ if (1..=18).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().ok().and_then(Seq::new).map(Self::After)
            }
            _ => None,
        }
    }
}

/// As [`ConsumerStart::parse`] reads it.
impl fmt::Display for ConsumerStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Now => f.write_str("now"),
            Self::After(seq) => seq.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_plain_and_safe_in_a_path() {
        for name in ["billing", "Billing-2", "a.b_c", "7", &"x".repeat(64)] {
            assert_eq!(ConsumerName::parse(name).unwrap().as_str(), name);
        }
        for name in ["", ".", "..", "-a", "a b", "a/b", "ü", &"x".repeat(65)] {
            assert!(ConsumerName::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_start_is_a_word_or_a_number() {
        for text in ["earliest", "now", "0", "17", "999999999999999999"] {
            assert_eq!(ConsumerStart::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "-1", "1.0", "live", "1000000000000000000"] {
            assert_eq!(ConsumerStart::parse(text), None, "{text}");
        }
    }
}
