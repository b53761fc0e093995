//! Holds a secret text: never shown, and wiped when it is dropped.

use std::fmt;

use zeroize::Zeroizing;

/// A provider's session id, or a credential. `Debug` shows only that it exists, and there is no `Display`: the text is
/// accessible only through [`Secret::expose`], which is easy to search for.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself, to be sent. Never for a log, an error or a page.
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
