//! Defines the name of a provider.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Longest name, in bytes.
const MAX_BYTES: usize = 32;

/// Why a text is not a valid provider name. Names the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {MAX_BYTES} characters of a-z 0-9 _ -, the first a letter or digit")]
pub struct ProviderNameError;

/// A provider's name, as in the provider file and in the rows of its sessions.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProviderName(Arc<str>);

impl ProviderName {
    /// # Errors
    /// When the text is not `[a-z0-9][a-z0-9_-]{0,31}`.
    pub fn parse(text: &str) -> Result<Self, ProviderNameError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let allowed = text.bytes().enumerate().all(|(i, b)| plain(b) || (i > 0 && matches!(b, b'_' | b'-')));
        if text.is_empty() || text.len() > MAX_BYTES || !allowed {
            return Err(ProviderNameError);
        }
        Ok(Self(Arc::from(text)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

impl Serialize for ProviderName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_holds_only_its_alphabet() {
        for good in ["a", "7up", "pragmatic-play", "a_b", &"x".repeat(32)] {
            assert!(ProviderName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", "A", "a.b", "a b", "é", "a/b", "a\n", &"x".repeat(33)] {
            assert!(ProviderName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
