//! A text that opens something: never shown, wiped when it is dropped.

use std::fmt;

use zeroize::Zeroizing;

/// A provider's session id, or a credential. `Debug` says only that it is there, and there is no `Display`: it gets into
/// a message by [`Secret::expose`] alone, which is easy to find.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself, for the wire. Never for a log, an error or a page.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?}", Some(Secret::new("A1B2")));
        assert!(!shown.contains("A1B2"), "{shown}");
    }
}
