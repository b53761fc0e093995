//! Checks the `Host` header of requests to a hub that listens on loopback only.
//!
//! A page can point a DNS name of its own at 127.0.0.1 (DNS rebinding) and then read the hub's responses that need no
//! token: to the browser the hub is the page's own host, so a GET carries no `Origin`. The `Host` header still holds
//! the page's name.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use axum::http::header;

use super::connection_slots::ConnectionSlot;
use super::limited_log::LimitedLog;
use super::origin::{fits_label, host_and_port, split_host};
use crate::wire::problem::Problem;

/// Least time between two log lines about refused hosts.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The rule for the `Host` header.
#[derive(Debug, Clone)]
pub struct Hosts {
    /// Names in lower case, `*.` for one label; `None` allows every name.
    names: Option<Arc<[String]>>,
    refused: Arc<Mutex<LimitedLog>>,
}

impl Hosts {
    /// The rule for a listener that other machines can reach: every name is allowed.
    pub fn any() -> Self {
        Self { names: None, refused: Arc::default() }
    }

    /// The rule for a listener on loopback: names of this machine, addresses, `names`, and the hosts of these origins.
    pub fn on_loopback(names: &[String], origins: &[String]) -> Self {
        if names.iter().any(|name| name == "*") {
            return Self::any();
        }
        let of_origins = origins.iter().filter_map(|origin| Some(split_host(origin.split_once("://")?.1)?.0.to_owned()));
        Self { names: Some(names.iter().cloned().chain(of_origins).collect()), refused: Arc::default() }
    }

    /// Checks one request. Requests from a trusted proxy pass: the proxy is responsible for its names. Requests without
    /// `Host` pass: every browser sends the header.
    ///
    /// # Errors
    /// 421 for a request to a name that is not one of this hub's.
    pub fn check(&self, request: &Request) -> Result<(), Problem> {
        let Some(host) = request.headers().get(header::HOST) else { return Ok(()) };
        let host = host.to_str().unwrap_or_default();
        let is_proxied = || request.extensions().get::<Arc<ConnectionSlot>>().is_some_and(|place| place.is_of_proxy());
        if self.allow(host) || is_proxied() {
            return Ok(());
        }
        self.log_refused(host);
        Err(Problem::new(
            421,
            "unknown_host",
            "this hub listens on loopback and does not answer under the name in the Host header; RECADO_ALLOWED_HOSTS lists further names",
        ))
    }

    fn allow(&self, host: &str) -> bool {
        let Some(names) = &self.names else { return true };
        let Some((host, _)) = host_and_port(host) else { return false };
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        // An address is safe: DNS rebinding needs a name.
        let is_address = host.parse::<Ipv4Addr>().is_ok()
            || host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).is_some_and(|host| host.parse::<Ipv6Addr>().is_ok());
        is_address
            || host == "localhost"
            || host.ends_with(".localhost")
            || names.iter().any(|name| name.strip_prefix('*').map_or(name == host, |domain| fits_label(domain, host)))
    }

    /// Logs a refused host, at most once a minute over all hosts.
    fn log_refused(&self, host: &str) {
        let due = self.refused.lock().unwrap_or_else(PoisonError::into_inner).count(LOG_EVERY);
        if due.is_some() {
            let host: String = host.chars().take(128).collect();
            tracing::warn!(?host, "refused a request to a name that is neither of this machine nor in RECADO_ALLOWED_HOSTS");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_loopback_only_names_of_this_machine_and_listed_ones_are_answered() {
        let names = |text: &[&str]| text.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let hosts = Hosts::on_loopback(
            &names(&["hub.example.com", "*.example.org"]),
            &names(&["https://app.example.net:8443", "https://*.a.test"]),
        );
        for good in [
            "localhost",
            "LOCALHOST:8080",
            "hub.localhost",
            "127.0.0.1:1",
            "127.0.0.2",
            "[::1]:8080",
            "10.0.0.5:8080",
            "hub.example.com:8080",
            "Hub.Example.com.",
            "a.example.org",
            "app.example.net",
            "app.example.net:1",
            "b.a.test",
        ] {
            assert!(hosts.allow(good), "{good}");
        }
        for bad in [
            "evil.test",
            "evil.test:8080",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "127.0.0.1@evil.test",
            "hub.example.com.evil.test",
            "example.org",
            "a.b.example.org",
            "[evil]",
            "",
            ":8080",
            "evil.test:8080:1",
        ] {
            assert!(!hosts.allow(bad), "{bad}");
        }
        assert!(Hosts::any().allow("evil.test") && Hosts::on_loopback(&names(&["*"]), &[]).allow("evil.test"));
    }
}
