//! Checks the URLs of a provider: only hosts that its file lists may be dialled.

use std::net::IpAddr;

use url::{Host, Url};

use super::template::{Credentials, Template, TemplateContext, TemplateName, TemplateValues, first_placeholder};
use crate::outgoing::{DialTarget, SchemeRule};

/// The hosts of one provider, and whether it runs on this machine without TLS, for tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    listed: Vec<ListedHost>,
    pub insecure: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ListedHost {
    host: String,
    port: Option<u16>,
}

/// The kind of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Socket,
}

impl Scheme {
    /// The scheme names with and without TLS.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Http => ("https", "http"),
            Self::Socket => ("wss", "ws"),
        }
    }
}

impl Hosts {
    /// # Errors
    /// One text for each invalid entry, with its index in the list.
    pub fn parse(entries: &[String], insecure: bool) -> Result<Self, Vec<(usize, String)>> {
        let read: Vec<_> = entries.iter().map(|entry| listed(entry, insecure)).collect();
        let errors: Vec<_> = read.iter().enumerate().filter_map(|(i, read)| Some((i, read.as_ref().err()?.clone()))).collect();
        if errors.is_empty() { Ok(Self { listed: read.into_iter().flatten().collect(), insecure }) } else { Err(errors) }
    }

    /// Checks the text of a URL that is to be dialled.
    ///
    /// # Errors
    /// When the URL breaks a rule. The message names the rule, and never the path or the query.
    pub fn check(&self, text: &str, scheme: Scheme) -> Result<DialTarget, String> {
        let (safe, open) = scheme.names();
        let refusal = "is allowed only with insecure = true, for a provider on this machine";
        let target = DialTarget::parse(text, SchemeRule { safe, open, open_refusal: (!self.insecure).then_some(refusal) })?;
        let (host, port, usual) = (target.url_host(), target.port, target.usual_port());
        if !self.listed.iter().any(|listed| listed.host == host && listed.port.unwrap_or(usual) == port) {
            return Err(format!("{} is not one of the provider's hosts", target.authority()));
        }
        Ok(target)
    }
}

fn listed(entry: &str, insecure: bool) -> Result<ListedHost, String> {
    let url = Url::parse(&format!("https://{entry}/")).ok();
    let host = url.as_ref().and_then(|url| url.host().map(|host| (url, host)));
    let wrong =
        "must be a host such as games.example.com or games.example.com:8443, in small letters; a name of another script in its xn-- form";
    let Some((url, host)) = host else { return Err(wrong.to_owned()) };
    let name = host.to_string();
    let port = url.port().or_else(|| entry.ends_with(":443").then_some(443));
    let as_written = port.map_or_else(|| name.clone(), |port| format!("{name}:{port}"));
    // A star is refused: it looks like a pattern, and patterns are not supported.
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    if as_written != entry || !entry.bytes().all(plain) || url.path() != "/" {
        return Err(wrong.to_owned());
    }
    let address = match host {
        Host::Ipv4(address) => Some(IpAddr::V4(address)),
        Host::Ipv6(address) => Some(IpAddr::V6(address)),
        Host::Domain(_) => None,
    };
    if address.is_some_and(|address| !(insecure && address.is_loopback())) {
        return Err("must be a name: an address is allowed only with insecure = true, and then only a loopback address".to_owned());
    }
    Ok(ListedHost { host: name, port })
}

/// A URL with placeholders after a fixed host, or a URL that the provider's answer gives as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlTemplate {
    text: Template,
    scheme: Scheme,
    /// The URL is `{session}` and nothing else: it is checked once the session is known.
    given: bool,
    path_names_user: bool,
    /// Scheme and host, to show to people.
    shown: String,
}

/// Why no URL can be made for this user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForbiddenUrl(pub String);

impl UrlTemplate {
    /// # Errors
    /// All errors of its placeholders, its form and its host.
    pub fn parse(
        text: &str,
        scheme: Scheme,
        hosts: &Hosts,
        allowed: &[TemplateName],
        credentials: Credentials<'_>,
    ) -> Result<Self, Vec<String>> {
        if text == "{session}" && allowed.contains(&TemplateName::Session) {
            let whole = Template::parse(text, TemplateContext::Plain, allowed, credentials)?;
            return Ok(Self { text: whole, scheme, given: true, path_names_user: false, shown: "(from the answer)".to_owned() });
        }
        let template = Template::parse(text, TemplateContext::Encoded, allowed, credentials);
        let mut errors = template.as_ref().err().cloned().unwrap_or_default();
        let mut shown = String::new();
        let path = text.find("//").and_then(|at| text[at + 2..].find(['/', '?']).map(|end| at + 2 + end));
        match (first_placeholder(text), path) {
            (Some(start), path) if path.is_none_or(|path| start < path) => {
                errors.push("the host must be fixed: {…} is allowed only after it".to_owned());
            }
            // With every placeholder replaced by a letter it must be a URL of a listed host.
            _ => match hosts.check(&sample(text), scheme) {
                Ok(target) => shown = target.url[..url::Position::BeforePath].to_owned(),
                Err(error) => errors.push(error),
            },
        }
        match template {
            Ok(template) if errors.is_empty() => {
                let query = text.find('?').unwrap_or(text.len());
                Ok(Self { text: template, scheme, given: false, path_names_user: text[..query].contains('{'), shown })
            }
            _ => Err(errors),
        }
    }

    /// The URL for these values, checked again as a whole.
    ///
    /// # Errors
    /// When the URL leads to a host that the file does not allow.
    pub fn fill(&self, hosts: &Hosts, values: &TemplateValues<'_>) -> Result<DialTarget, ForbiddenUrl> {
        // As a path segment, these two mean "this folder" and "parent folder", encoded or not.
        let dots = |text: &str| matches!(text, "." | "..");
        let named = [values.user.map(crate::domain::UserId::as_str), values.session.map(super::secret::Secret::expose)];
        if self.path_names_user && named.into_iter().flatten().any(dots) {
            return Err(ForbiddenUrl("a name that consists of dots is not allowed in a path".to_owned()));
        }
        let text = self.text.fill(values);
        hosts.check(&text, self.scheme).map_err(ForbiddenUrl)
    }

    /// Whether the URL comes from the provider's answer.
    pub fn is_given(&self) -> bool {
        self.given
    }

    /// Scheme and host, never the path and the query.
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

fn sample(text: &str) -> String {
    let mut out = text.to_owned();
    while let Some(at) = first_placeholder(&out) {
        let end = at + out[at..].find('}').unwrap_or(0);
        out.replace_range(at..=end, "x");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(entries: &[&str], insecure: bool) -> Hosts {
        Hosts::parse(&entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>(), insecure).unwrap()
    }

    #[test]
    fn only_a_listed_host_written_plainly_passes() {
        let listed = hosts(&["games.example.com", "games.example.com:8443", "xn--gmes-0qa.example.com"], false);
        for good in [
            "wss://games.example.com/ws?id=1",
            "wss://games.example.com",
            "wss://games.example.com:443/",
            "wss://games.example.com:8443/",
            "wss://GAMES.example.com/",
            "wss://xn--gmes-0qa.example.com/",
        ] {
            assert!(listed.check(good, Scheme::Socket).is_ok(), "{good}: {:?}", listed.check(good, Scheme::Socket));
        }
        for bad in [
            "ws://games.example.com/",
            "http://games.example.com/",
            "https://games.example.com/",
            "file:///etc/passwd",
            "wss://other.example.com/",
            "wss://games.example.com.evil.example/",
            "wss://evil.example/games.example.com",
            "wss://sub.games.example.com/",
            "wss://games.example.com./",
            "wss://good@games.example.com/",
            "wss://games.example.com@evil.example/",
            "wss://games.example.com:x@evil.example/",
            "wss://games.example.com:22/",
            "wss://games.example.com:80/",
            "wss://g\u{430}mes.example.com/",
            "wss://\u{ff47}ames.example.com/",
            "wss://games.ex%61mple.com/",
            "wss://games.example.com\\@evil.example/",
            "wss:\\\\games.example.com/",
            "wss:games.example.com/",
            "wss:///games.example.com/",
            "wss://games.example.com/\n",
            " wss://games.example.com/",
            "wss://games.exam\tple.com/",
            "wss://games.example.com/#a",
            "wss://127.0.0.1/",
            "wss://0x7f.1/",
            "wss://[::1]/",
            "//games.example.com/",
            "",
        ] {
            assert!(listed.check(bad, Scheme::Socket).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn without_tls_only_where_the_file_says_so() {
        let own = hosts(&["127.0.0.1:9000", "localhost:9000", "[::1]:9000"], true);
        for good in ["ws://127.0.0.1:9000/", "wss://localhost:9000/", "ws://[::1]:9000/"] {
            assert!(own.check(good, Scheme::Socket).is_ok(), "{good}: {:?}", own.check(good, Scheme::Socket));
        }
        assert_eq!(own.check("http://[::1]:9000/a?b", Scheme::Http).unwrap().authority(), "[::1]:9000");
        assert_eq!(own.check("http://[::1]:9000/a?b", Scheme::Http).unwrap().path(), "/a?b");
        for bad in ["ws://127.0.0.1/", "ws://127.0.0.1:9001/", "ws://127.1:9000/", "ws://2130706433:9000/", "ws://10.0.0.1:9000/"] {
            assert!(own.check(bad, Scheme::Socket).is_err(), "{bad}");
        }
        for entry in ["10.0.0.1:9000", "0.0.0.0", "169.254.169.254", "[::]:1"] {
            assert!(Hosts::parse(&[entry.to_owned()], true).is_err(), "{entry}");
        }
    }

    #[test]
    fn an_entry_is_a_host_and_nothing_more() {
        for bad in [
            "",
            "*",
            "*.example.com",
            "https://a.example",
            "a.example/",
            "a.example/b",
            "A.example",
            "a b",
            "a@b",
            "a.example:0x50",
            "b\u{fc}.example",
        ] {
            assert!(Hosts::parse(&[bad.to_owned()], false).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_of_dots_does_not_climb_in_a_path() {
        let listed = hosts(&["a.example"], false);
        let none = |_: &str| Ok(None);
        let url =
            UrlTemplate::parse("https://a.example/users/{user_id}/in", Scheme::Http, &listed, &[TemplateName::UserId], &none).unwrap();
        let fill = |user: &str| {
            let user = crate::domain::UserId::parse(user).unwrap();
            url.fill(&listed, &TemplateValues { user: Some(&user), ..TemplateValues::default() }).map(|target| target.path().to_owned())
        };
        assert_eq!(fill("4:2").unwrap(), "/users/4%3A2/in");
        assert!(fill("..").is_err() && fill(".").is_err());
    }

    #[test]
    fn a_url_that_the_provider_gives_is_checked_when_it_is_there() {
        let listed = hosts(&["a.example"], false);
        let url = UrlTemplate::parse("{session}", Scheme::Socket, &listed, &[TemplateName::Session], &|_| Ok(None)).unwrap();
        let fill = |session: &str| {
            url.fill(&listed, &TemplateValues { session: Some(&super::super::Secret::new(session)), ..TemplateValues::default() })
        };
        assert_eq!(fill("wss://a.example/s?t=1").unwrap().path(), "/s?t=1");
        assert!(fill("wss://b.example/s?t=1").is_err());
        assert!(!format!("{:?}", fill("wss://a.example/s?t=1")).contains("t=1"));
    }
}
