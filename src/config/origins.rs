//! Normalises an entry of `RECADO_ALLOWED_ORIGINS` to the form in which browsers send it.
//!
//! Two origins in that form can be compared as text.

use std::net::IpAddr;

use url::{Host, Url};

/// The entry in the form of an `Origin` header (RFC 6454 section 6.2): lower case, punycode, no default port. A leading
/// `*.` of the host is kept.
///
/// # Errors
/// Why no browser would ever send it.
pub fn normalised(entry: &str) -> Result<String, &'static str> {
    let Some((scheme, rest)) = entry.split_once("://") else {
        return Err(match entry {
            "*" => "* would let every page in; list origins, or https://*.example.com for the hosts of a domain",
            "null" => "null is the origin of every sandboxed page and local file; serve the page from a host of its own",
            _ => "a scheme is missing; write it as https://app.example.com",
        });
    };
    let scheme = scheme.to_ascii_lowercase();
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    if !is_scheme {
        return Err("the scheme is not valid; write it as https://app.example.com");
    }
    match scheme.as_str() {
        "ws" | "wss" => return Err("a page is http:// or https://, also when it opens a WebSocket"),
        "file" | "data" | "blob" | "about" | "javascript" => {
            return Err("pages of this scheme have the origin null; serve the page from a host");
        }
        _ => {}
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '\\']) {
        return Err("an origin has no path; write scheme, host and port only");
    }
    if rest.contains('@') {
        return Err("an origin has no user name; write scheme, host and port only");
    }
    if rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("an origin has no white space");
    }
    match rest.strip_prefix("*.") {
        Some(domain) if domain.contains('*') => Err("only one * is allowed, for the first label of the host"),
        Some(domain) => with_host(&scheme, domain, true),
        None if rest.contains('*') => Err("a * stands for one whole label before a domain, as in https://*.example.com"),
        None => with_host(&scheme, rest, false),
    }
}

/// The origin of an address of the web.
pub fn of_address(address: &str) -> Option<String> {
    let url = Url::parse(address).ok()?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && is_plain).then(|| url.origin().ascii_serialization())
}

fn with_host(scheme: &str, host_and_port: &str, is_wildcard: bool) -> Result<String, &'static str> {
    const NO_HOST: &str = "the host or the port is not valid; write it as https://app.example.com:8443";
    // The parser knows hosts and default ports of the web's own schemes only; other schemes have no default port.
    let is_web = matches!(scheme, "http" | "https");
    let parsed = Url::parse(&format!("{}://{host_and_port}/", if is_web { scheme } else { "http" })).map_err(|_| NO_HOST)?;
    let host = parsed.host().ok_or(NO_HOST)?;
    let (name, is_address) = match &host {
        Host::Domain(name) => ((*name).to_owned(), name.parse::<IpAddr>().is_ok()),
        address => (address.to_string(), true),
    };
    if is_wildcard && (is_address || !name.trim_end_matches('.').contains('.')) {
        return Err("a * stands before a domain of two labels or more, as in https://*.example.com");
    }
    let port = match parsed.port() {
        Some(port) => format!(":{port}"),
        // With another scheme, 80 is a port like any other.
        None if !is_web && host_and_port.ends_with(":80") => ":80".to_owned(),
        None => String::new(),
    };
    let label = if is_wildcard { "*." } else { "" };
    Ok(format!("{scheme}://{label}{name}{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_an_origin_without_its_path() {
        for (address, origin) in [
            ("https://Hub.example.com", "https://hub.example.com"),
            ("https://hub.example.com:443/hub/", "https://hub.example.com"),
            ("http://bücher.example:8080/", "http://xn--bcher-kva.example:8080"),
            ("http://[::0:1]", "http://[::1]"),
        ] {
            assert_eq!(of_address(address).as_deref(), Some(origin), "{address}");
        }
        for bad in ["hub.example.com", "//hub", "wss://hub", "https://a@hub", "https://hub?x", "https://hub/#x", "https://", ""] {
            assert_eq!(of_address(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_entry_is_written_as_a_browser_writes_it() {
        for (entry, origin) in [
            ("https://app.example.com", "https://app.example.com"),
            ("HTTPS://App.Example.COM/", "https://app.example.com"),
            ("https://app.example.com:443", "https://app.example.com"),
            ("http://app.example.com:80", "http://app.example.com"),
            ("http://app.example.com:443", "http://app.example.com:443"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("https://*.BÜCHER.example:8443", "https://*.xn--bcher-kva.example:8443"),
            ("http://[::0:1]:3000", "http://[::1]:3000"),
            ("http://127.1", "http://127.0.0.1"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("ionic://LOCALHOST", "ionic://localhost"),
            ("tauri://localhost:80", "tauri://localhost:80"),
            ("chrome-extension://abcdefghijklmnopabcdefghijklmnop", "chrome-extension://abcdefghijklmnopabcdefghijklmnop"),
            ("https://*.example.com", "https://*.example.com"),
        ] {
            assert_eq!(normalised(entry).as_deref(), Ok(origin), "{entry}");
            assert_eq!(normalised(origin).as_deref(), Ok(origin), "{origin}");
        }
    }

    #[test]
    fn an_entry_that_no_browser_sends_is_refused() {
        for entry in [
            "*",
            "null",
            "app.example.com",
            "",
            "://x",
            "1a://x",
            "https://",
            "https:///",
            "https://a/b",
            "https://a?b",
            "https://a#b",
            "https://u@a",
            "https://u:p@a",
            "https://a b",
            "https://a:b",
            "https://a:65536",
            "https://*",
            "https://*.com",
            "https://*.localhost",
            "https://*.1.2.3.4",
            "https://*.[::1]",
            "https://a.*.example.com",
            "https://*.*.example.com",
            "https://*a.example.com",
            "https://a*.example.com",
            "file://",
            "file:///x",
            "wss://app.example.com",
            "ws://a",
            "data://x",
            "https://a\\b",
            "https://[::1",
            "https://exa\u{0}mple.com",
        ] {
            assert!(normalised(entry).is_err(), "{entry}: {:?}", normalised(entry));
        }
    }
}
