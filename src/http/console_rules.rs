//! Holds the rules of the console: whether it is served to a request, and what its routes show.

use std::path::PathBuf;

use axum::http::{HeaderMap, HeaderName};

use crate::identity::TokenMinter;
use crate::identity::sign_in_link::SignInLinks;
use crate::wire::console::settings::ShownSetting;
use crate::wire::problem::Problem;

/// Headers that proxies add, next to all that begin with [`FORWARDED`]. A browser that opens the console itself sends
/// none of them.
const PROXY_HEADERS: [&str; 15] = [
    "cdn-loop",
    "cf-connecting-ip",
    "cf-ray",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "tailscale-user-login",
    "true-client-ip",
    "via",
    "x-amzn-trace-id",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-original-host",
    "x-real-ip",
];
/// The beginning of a header such as `X-Forwarded-For`.
const FORWARDED: &str = "x-forwarded-";

/// Whether something is served, and whether a setting says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    Off,
    /// No setting says so: the listener is on loopback. A proxy on this machine that no setting names would let others
    /// in, so it is not served to requests that came through one.
    WithoutProxy,
    On,
}

/// Whether something is served to this request.
fn is_to(served: Served, headers: &HeaderMap) -> bool {
    match served {
        Served::Off => false,
        Served::WithoutProxy => proxy_header(headers).is_none(),
        Served::On => true,
    }
}

/// The rules of the console of this hub.
pub struct ConsoleRules {
    /// The page, and signing in to it by a link.
    pub page: Served,
    /// Tokens of users. Off where the page is off.
    pub playground: Served,
    /// Whether a browser that opens `/` is sent to the page, where that is served.
    pub leads_from_root: bool,
    /// Makes tokens for the playground and for admins who sign in.
    pub minter: TokenMinter,
    /// Reads links that sign in.
    pub links: SignInLinks,
    /// The folder that the page's files are read from. `None`: the files in this program.
    pub folder: Option<PathBuf>,
    /// Every setting with its value, without secrets.
    pub settings: Vec<ShownSetting>,
}

impl ConsoleRules {
    /// Whether the page is served to this request.
    pub fn is_served(&self, headers: &HeaderMap) -> bool {
        is_to(self.page, headers)
    }

    /// Checks whether the page is served to this request.
    ///
    /// # Errors
    /// 404, with the setting that serves it.
    pub fn check_served(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if self.is_served(headers) {
            return Ok(());
        }
        let detail = match proxy_header(headers) {
            Some(name) if self.page == Served::WithoutProxy => format!(
                "this request came through a proxy (it has the header {name}), and RECADO_ADMIN=auto serves the console only without one; \
                 RECADO_ADMIN=on serves it through the proxy as well"
            ),
            _ => "this hub does not serve the console here; RECADO_ADMIN=on turns it on, and with RECADO_INTERNAL_BIND only that listener \
                  serves it"
                .to_owned(),
        };
        Err(Problem::new(404, "not_found", detail))
    }

    /// Whether this request may get tokens of users.
    pub fn plays(&self, headers: &HeaderMap) -> bool {
        self.is_served(headers) && is_to(self.playground, headers)
    }

    /// Checks whether this request may get tokens of users.
    ///
    /// # Errors
    /// 403, with the setting that allows it.
    pub fn check_plays(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if self.plays(headers) {
            return Ok(());
        }
        let detail = match proxy_header(headers) {
            Some(name) if self.playground != Served::Off => {
                let setting = if self.is_served(headers) { "RECADO_PLAYGROUND=on" } else { "RECADO_ADMIN=on with RECADO_PLAYGROUND=on" };
                format!(
                    "the playground is off for this request, because it came through a proxy (it has the header {name}); {setting} turns it \
                     on there, and recado token makes a token on the hub's machine"
                )
            }
            _ => "the playground is off here; RECADO_PLAYGROUND=on turns it on, and recado token makes a token on the hub's machine"
                .to_owned(),
        };
        Err(Problem::new(403, "playground_off", detail))
    }
}

/// The header by which a request shows that it came through a proxy.
fn proxy_header(headers: &HeaderMap) -> Option<&str> {
    headers.keys().map(HeaderName::as_str).find(|name| name.starts_with(FORWARDED) || PROXY_HEADERS.contains(name))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_what_no_setting_turned_on_is_off_behind_a_proxy() {
        let direct = HeaderMap::from_iter([(HeaderName::from_static("host"), HeaderValue::from_static("127.0.0.1:8080"))]);
        for name in PROXY_HEADERS.into_iter().chain(["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]) {
            let mut proxied = direct.clone();
            proxied.insert(name, HeaderValue::from_static(""));
            let both = |served: Served| (is_to(served, &direct), is_to(served, &proxied));
            assert_eq!([Served::Off, Served::WithoutProxy, Served::On].map(both), [(false, false), (true, false), (true, true)], "{name}");
        }
    }
}
