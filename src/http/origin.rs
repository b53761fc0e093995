//! Decides which web pages may connect to the hub (RFC 6455 section 10.2).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};

use super::limited_log::LimitedLog;

/// How often the log names a refused origin: often enough for an operator to see it, too rare for a flood to fill the
/// disk.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Maximum characters of an origin that the log shows.
const LOGGED_CHARS: usize = 128;

/// The rule for pages.
///
/// A client without an `Origin` is not a browser, and the rule does not apply. A page on the host of the request's
/// `Host` header is allowed: it was served under the hub's name, and programs other than browsers send the same. If
/// the hub listens on loopback only, the name must be one of this machine or the page must be `https`: an attacker
/// can let any name resolve to 127.0.0.1 (DNS rebinding), but cannot put a proxy with a certificate in front of the
/// hub.
#[derive(Debug, Clone)]
pub struct Origins {
    listed: AllowedOrigins,
    /// The origin of the address under which browsers reach the hub. A proxy may hide it from the `Host` header.
    public: Option<String>,
    on_loopback: bool,
    refused: Arc<Mutex<LimitedLog>>,
}

#[derive(Debug, Clone)]
enum AllowedOrigins {
    /// These origins, as a browser writes them. `*.` stands for one label of a host.
    These(Vec<String>),
    /// Pages of this machine, any port.
    Loopback,
}

impl Origins {
    /// `these` are normalised, as the settings have them.
    pub fn listed(these: Vec<String>) -> Self {
        Self { listed: AllowedOrigins::These(these), public: None, on_loopback: false, refused: Arc::default() }
    }

    pub fn loopback() -> Self {
        Self { listed: AllowedOrigins::Loopback, public: None, on_loopback: false, refused: Arc::default() }
    }

    /// Whether the hub listens on loopback only.
    #[must_use]
    pub fn on_loopback(mut self, on_loopback: bool) -> Self {
        self.on_loopback = on_loopback;
        self
    }

    /// Sets the origin of the hub's own address.
    #[must_use]
    pub fn reached_at(mut self, public: Option<String>) -> Self {
        self.public = public;
        self
    }

    pub fn allow(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => true,
            (Some(origin), None) => self.allow_one(origin, headers),
            (Some(_), Some(_)) => false,
        }
    }

    /// `headers` are those of the origin's request.
    pub fn allow_one(&self, origin: &HeaderValue, headers: &HeaderMap) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        if is_same_host(origin, headers) && (!self.on_loopback || origin.starts_with("https://") || is_loopback(origin)) {
            return true;
        }
        if self.public.as_deref() == Some(origin) {
            return true;
        }
        match &self.listed {
            AllowedOrigins::These(list) => list.iter().any(|allowed| fits(allowed, origin)),
            AllowedOrigins::Loopback => is_loopback(origin),
        }
    }

    /// Logs a refused origin, once a minute for all of them.
    pub fn log_refused(&self, headers: &HeaderMap) {
        let due = self.refused.lock().unwrap_or_else(PoisonError::into_inner).count(LOG_EVERY);
        let Some(count) = due else { return };
        let origin = headers.get(header::ORIGIN).map(HeaderValue::as_bytes).unwrap_or_default();
        let origin: String = String::from_utf8_lossy(origin).chars().take(LOGGED_CHARS).collect();
        tracing::warn!(?origin, refused_since_last = count - 1, "refused a page of an origin that RECADO_ALLOWED_ORIGINS does not list");
    }
}

/// Whether an origin is an entry of the list, or has one label where the entry has `*`.
fn fits(allowed: &str, origin: &str) -> bool {
    let Some((scheme, domain)) = allowed.split_once("://*") else { return allowed == origin };
    origin.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")).is_some_and(|host| fits_label(domain, host))
}

/// Whether a host is one label before this domain, which begins with its dot.
pub(super) fn fits_label(domain: &str, host: &str) -> bool {
    let label = host.strip_suffix(domain);
    label.is_some_and(|label| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')))
}

/// Whether the page's host and port are those of the request's `Host`. The scheme is not compared: behind a proxy
/// that terminates TLS the page is `https` and the request is not.
fn is_same_host(origin: &str, headers: &HeaderMap) -> bool {
    let (default_port, authority) = match (origin.strip_prefix("https://"), origin.strip_prefix("http://")) {
        (Some(authority), _) => ("443", authority),
        (None, Some(authority)) => ("80", authority),
        (None, None) => return false,
    };
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Some(host) = host.to_str().ok().and_then(host_and_port) else { return false };
    let Some(page) = host_and_port(authority) else { return false };
    page.0.eq_ignore_ascii_case(host.0) && page.1.unwrap_or(default_port) == host.1.unwrap_or(default_port)
}

/// Splits an authority after its host, which may be an address in brackets.
pub(super) fn split_host(authority: &str) -> Option<(&str, &str)> {
    let end = if authority.starts_with('[') { authority.find(']')? + 1 } else { authority.find(':').unwrap_or(authority.len()) };
    Some(authority.split_at(end))
}

/// The parts of `host`, `host:port`, `[address]` or `[address]:port`.
pub(super) fn host_and_port(authority: &str) -> Option<(&str, Option<&str>)> {
    let (host, rest) = split_host(authority)?;
    let port = match rest {
        "" => None,
        rest => Some(rest.strip_prefix(':').filter(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'))?),
    };
    let is_host = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b));
    is_host.then_some((host, port))
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

    fn of(origin: &str, host: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        headers
    }

    #[test]
    fn origins_match_exactly_or_by_one_label() {
        let listed = Origins::listed(vec![
            "https://app.example.com".into(),
            "https://*.example.org".into(),
            "https://*.example.net:8443".into(),
            "capacitor://localhost".into(),
        ]);
        let yes = |origins: &Origins, text: &str| origins.allow(&of(text, "hub.internal:8080"));
        for good in [
            "https://app.example.com",
            "https://a.example.org",
            "https://a-1_b.example.org",
            "https://a.example.net:8443",
            "capacitor://localhost",
        ] {
            assert!(yes(&listed, good), "{good}");
        }
        for bad in [
            "https://app.example.com.evil",
            "https://APP.example.com",
            "https://app.example.com:8443",
            "http://app.example.com",
            "https://example.org",
            "https://.example.org",
            "https://a.b.example.org",
            "http://a.example.org",
            "https://a.example.org:444",
            "https://evil.com?.example.org",
            "https://evil.com/x.example.org",
            "https://u@a.example.org",
            "https://evilexample.org",
            "https://a.example.net",
            "https://*.example.org",
            "capacitor://evil",
            "null",
            "",
        ] {
            assert!(!yes(&listed, bad), "{bad}");
        }
        let loopback = Origins::loopback();
        for good in ["http://localhost", "http://localhost:3000", "https://127.0.0.1:1", "http://[::1]:8080"] {
            assert!(yes(&loopback, good), "{good}");
        }
        for bad in ["http://localhost.evil", "http://localhost:", "http://localhost:1/x", "http://evil", "null", "file://"] {
            assert!(!yes(&loopback, bad), "{bad}");
        }
    }

    #[test]
    fn a_page_of_the_hubs_own_host_is_let_in() {
        let origins = Origins::listed(Vec::new());
        for (origin, host) in [
            ("http://hub.example.com", "hub.example.com"),
            ("https://hub.example.com", "hub.example.com"),
            ("https://hub.example.com", "hub.example.com:443"),
            ("https://hub.example.com:443", "HUB.example.com"),
            ("http://hub.example.com:8080", "hub.example.com:8080"),
            ("https://hub.example.com:8080", "hub.example.com:8080"),
            ("http://[::1]:8080", "[::1]:8080"),
        ] {
            assert!(origins.allow(&of(origin, host)), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://hub.example.com", "hub.example.com:8080"),
            ("http://hub.example.com:8080", "hub.example.com"),
            ("https://hub.example.com", "hub.example.com:80"),
            ("https://evil.com", "hub.example.com"),
            ("https://hub.example.com.evil.com", "hub.example.com"),
            ("https://hub.example.com@evil.com", "hub.example.com@evil.com"),
            ("https://a/b", "a/b"),
            ("https://", ""),
            ("null", "null"),
            ("capacitor://hub", "hub"),
        ] {
            assert!(!origins.allow(&of(origin, host)), "{origin} {host}");
        }
        let on_loopback = origins.clone().on_loopback(true);
        for (origin, host) in [("http://evil.com:8080", "evil.com:8080"), ("http://localhost.evil.com", "localhost.evil.com")] {
            assert!(origins.allow(&of(origin, host)) && !on_loopback.allow(&of(origin, host)), "{origin} {host}");
        }
        for (origin, host) in [("http://127.0.0.1:8080", "127.0.0.1:8080"), ("https://hub.example.com", "hub.example.com")] {
            assert!(on_loopback.allow(&of(origin, host)), "{origin} {host}");
        }
        let mut two = of("https://evil.com", "hub");
        two.append(header::HOST, HeaderValue::from_static("evil.com"));
        assert!(!origins.allow(&two), "with two hosts there is none");
        let mut twice = of("http://hub", "hub");
        twice.append(header::ORIGIN, HeaderValue::from_static("https://evil.com"));
        assert!(!origins.allow(&twice));
    }
}
