//! Parses the `types` of a client, and decides which notifications it receives.

use std::fmt;

use super::{OWN_PREFIX, TYPE_MAX, is_type};

/// Maximum patterns of a filter. Each is compared with each notification to the client, under the registry's lock.
const PATTERNS_MAX: usize = 32;
/// The rule, as an error says it.
pub const TYPES_RULE: &str = "must be 1 to 32 types or beginnings of types such as order_*, separated by commas";

/// The types that a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeFilter {
    patterns: Box<[TypePattern]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TypePattern {
    Exact(String),
    Prefix(String),
}

impl TypeFilter {
    /// Reads `a,b_*`. `None` for text that breaks [`TYPES_RULE`].
    pub fn parse(text: &str) -> Option<Self> {
        let mut patterns = Vec::new();
        for pattern in text.split(',') {
            if patterns.len() == PATTERNS_MAX {
                return None;
            }
            patterns.push(TypePattern::parse(pattern)?);
        }
        Some(Self { patterns: patterns.into() })
    }

    /// Whether the client receives notifications of this type. The hub's own notifications pass every filter: a filter
    /// must not hide that messages may be missing.
    pub fn takes(&self, kind: &str) -> bool {
        let fits = |pattern: &TypePattern| match pattern {
            TypePattern::Exact(exact) => kind == exact,
            TypePattern::Prefix(prefix) => kind.starts_with(prefix.as_str()),
        };
        self.patterns.iter().any(fits) || kind.starts_with(OWN_PREFIX)
    }
}

/// As [`TypeFilter::parse`] reads it.
impl fmt::Display for TypeFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, pattern) in self.patterns.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match pattern {
                TypePattern::Exact(exact) => write!(f, "{comma}{exact}")?,
                TypePattern::Prefix(prefix) => write!(f, "{comma}{prefix}*")?,
            }
        }
        Ok(())
    }
}

impl TypePattern {
    fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('*') {
            None => is_type(text).then(|| Self::Exact(text.to_owned())),
            Some(prefix) => ((prefix.is_empty() || is_type(prefix)) && text.len() <= TYPE_MAX).then(|| Self::Prefix(prefix.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_type_or_the_beginning_of_one() {
        let filter = TypeFilter::parse("order_created,stock.*").unwrap();
        for kind in ["order_created", "stock.", "stock.low", "upstream_gap"] {
            assert!(filter.takes(kind), "{kind}");
        }
        for kind in ["order_created2", "order_", "stock", "inbox", ""] {
            assert!(!filter.takes(kind), "{kind}");
        }
        assert!(TypeFilter::parse("*").unwrap().takes("anything"));
        assert_eq!(filter.to_string(), "order_created,stock.*");
    }

    #[test]
    fn a_filter_that_breaks_the_rule_is_refused() {
        for bad in ["", ",", "a,", ",a", "a,,b", "Order", "order created", "*a", "a*b", "a**", "**", "_*", "a/b", "ü*", "a, b", "a;b"] {
            assert_eq!(TypeFilter::parse(bad), None, "{bad:?}");
        }
        let long = "a".repeat(64);
        assert!(TypeFilter::parse(&long).is_some() && TypeFilter::parse(&format!("{}*", &long[1..])).is_some());
        assert!(TypeFilter::parse(&format!("{long}a")).is_none() && TypeFilter::parse(&format!("{long}*")).is_none());
        let many = |count| vec!["a"; count].join(",");
        assert!(TypeFilter::parse(&many(32)).is_some() && TypeFilter::parse(&many(33)).is_none());
    }
}
