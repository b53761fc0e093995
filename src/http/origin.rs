//! Which web pages may talk to the hub (RFC 6455 section 10.2).

use axum::http::{HeaderMap, HeaderValue, header};

/// The allow-list. A client without an `Origin` is no browser, and is not meant.
#[derive(Debug, Clone)]
pub enum Origins {
    /// Exactly these.
    Listed(Vec<String>),
    /// Pages of this very machine, any port.
    Loopback,
}

impl Origins {
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => true,
            (Some(origin), None) => self.allow_one(origin),
            (Some(_), Some(_)) => false,
        }
    }

    pub fn allow_one(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        match self {
            Self::Listed(list) => list.iter().any(|allowed| allowed == origin),
            Self::Loopback => is_loopback(origin),
        }
    }
}

fn is_loopback(origin: &str) -> bool {
    let Some(rest) = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) else { return false };
    let after_host = ["localhost", "127.0.0.1", "[::1]"].iter().find_map(|host| rest.strip_prefix(host));
    match after_host {
        Some("") => true,
        Some(port) => port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_match_exactly() {
        let listed = Origins::Listed(vec!["https://app.example.com".into()]);
        let yes = |origins: &Origins, text: &'static str| origins.allow_one(&HeaderValue::from_static(text));
        assert!(yes(&listed, "https://app.example.com"));
        for bad in [
            "https://app.example.com.evil",
            "https://APP.example.com",
            "https://app.example.com:8443",
            "http://app.example.com",
            "null",
            "",
        ] {
            assert!(!yes(&listed, bad), "{bad}");
        }
        for good in ["http://localhost", "http://localhost:3000", "https://127.0.0.1:1", "http://[::1]:8080"] {
            assert!(yes(&Origins::Loopback, good), "{good}");
        }
        for bad in ["http://localhost.evil", "http://localhost:", "http://localhost:1/x", "http://evil", "null", "file://"] {
            assert!(!yes(&Origins::Loopback, bad), "{bad}");
        }
    }
}
