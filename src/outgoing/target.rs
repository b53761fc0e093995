//! Checks the text of a URL that is to be dialled.

use std::fmt;

use url::Url;

/// Which scheme a URL must have.
#[derive(Debug, Clone, Copy)]
pub struct SchemeRule<'a> {
    /// The scheme with TLS, such as `https`.
    pub safe: &'a str,
    /// The same without TLS, such as `http`.
    pub open: &'a str,
    /// Why the scheme without TLS is refused. `None`: it is allowed.
    pub open_refusal: Option<&'a str>,
}

/// A URL that passed the check of its text. Its resolved address is checked before it is dialled.
#[derive(Clone, PartialEq, Eq)]
pub struct DialTarget {
    pub secure: bool,
    pub host: String,
    pub port: u16,
    pub url: Url,
}

impl DialTarget {
    /// Checks the text of a URL.
    ///
    /// # Errors
    /// When the URL breaks a rule. The message names the rule, and never the path or the query.
    pub fn parse(text: &str, rule: SchemeRule<'_>) -> Result<Self, String> {
        let SchemeRule { safe, open, open_refusal } = rule;
        // Characters that a lenient parser would repair are refused, so that every parser sees the same host.
        if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
            return Err("the URL contains a backslash or a character that is not printable ASCII".to_owned());
        }
        let url = Url::parse(text).map_err(|error| format!("not a valid URL: {error}"))?;
        let secure = match (url.scheme(), open_refusal) {
            (name, _) if name == safe => true,
            (name, None) if name == open => false,
            (name, Some(refusal)) if name == open => return Err(format!("{open}:// {refusal}")),
            (name, _) => return Err(format!("the URL must begin with {safe}://, not {name}:")),
        };
        if !url.username().is_empty() || url.password().is_some() || text.contains('@') && authority(text).contains('@') {
            return Err("the URL contains a user name or a password; remove it".to_owned());
        }
        if url.fragment().is_some() {
            return Err("the URL contains a fragment (#); remove it".to_owned());
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        let port = url.port_or_known_default().unwrap_or_default();
        let written = authority(text).to_ascii_lowercase();
        if written != host && written != format!("{host}:{port}") {
            return Err(format!("the host is written in an unusual way; write {host}"));
        }
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Self { secure, host, port, url })
    }

    /// The value of the `Host` header.
    pub fn authority(&self) -> String {
        let host = self.url_host();
        if self.port == self.usual_port() { host.to_owned() } else { format!("{host}:{}", self.port) }
    }

    /// The host as a URL has it: an IPv6 address in brackets.
    pub fn url_host(&self) -> &str {
        &self.url[url::Position::BeforeHost..url::Position::AfterHost]
    }

    /// The port of a URL of this scheme that names none.
    pub fn usual_port(&self) -> u16 {
        if self.secure { 443 } else { 80 }
    }

    /// Path and query, which may contain a secret.
    pub fn path(&self) -> &str {
        &self.url[url::Position::BeforePath..url::Position::AfterQuery]
    }
}

/// Shows host and port, never the path and the query.
impl fmt::Debug for DialTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The part between `//` and the path, as written.
fn authority(text: &str) -> &str {
    let rest = text.split_once("//").map_or(text, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}
