//! Decides which URLs and addresses a webhook may have.

use std::net::IpAddr;

use crate::domain::Network;
use crate::outgoing::addresses::may_be_dialled;
use crate::outgoing::{DialTarget, SchemeRule};

/// The networks that webhooks may reach besides the public Internet.
#[derive(Debug, Clone, Default)]
pub struct TargetRules {
    networks: Vec<Network>,
}

impl TargetRules {
    pub fn new(networks: Vec<Network>) -> Self {
        Self { networks }
    }

    /// Checks the text of a URL. Without TLS it is allowed only if networks are, and then only to their addresses.
    ///
    /// # Errors
    /// When the URL breaks a rule. The message names the rule, and never the path or the query.
    pub fn parse(&self, url: &str) -> Result<DialTarget, String> {
        let refusal = "is allowed only to addresses of RECADO_WEBHOOK_NETWORKS; use https://";
        DialTarget::parse(url, SchemeRule { safe: "https", open: "http", open_refusal: self.networks.is_empty().then_some(refusal) })
    }

    /// Whether a resolved address of the target may be dialled.
    pub fn may_be_dialled(&self, target: &DialTarget, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address)) || target.secure && may_be_dialled(address, false)
    }
}

/// Scheme, host and port of a target, to show to people.
pub fn origin(target: &DialTarget) -> String {
    format!("{}://{}", if target.secure { "https" } else { "http" }, target.authority())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(networks: &[&str]) -> TargetRules {
        TargetRules::new(networks.iter().map(|network| Network::parse(network).unwrap()).collect())
    }

    #[test]
    fn a_url_has_tls_and_no_credentials_and_is_written_plainly() {
        let public = rules(&[]);
        for good in ["https://hooks.example.com/a?b=c", "https://hooks.example.com:8443", "https://[2606:4700::1111]/"] {
            assert!(public.parse(good).is_ok(), "{good}: {:?}", public.parse(good));
        }
        for bad in [
            "http://hooks.example.com/",
            "ftp://hooks.example.com/",
            "file:///etc/passwd",
            "https://user@hooks.example.com/",
            "https://user:pa55@hooks.example.com/",
            "https://hooks.example.com@evil.example/",
            "https://hooks.example.com/#a",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://127.1/",
            "https://hooks.example.com\\@evil.example/",
            "https:hooks.example.com",
            "https://hooks.example.com/ a",
            "",
        ] {
            let error = public.parse(bad).unwrap_err();
            assert!(!error.contains("pa55"), "{bad}: {error}");
        }
        assert!(rules(&["127.0.0.1"]).parse("http://127.0.0.1:9000/a").is_ok());
    }

    #[test]
    fn only_the_public_internet_and_listed_networks_are_reached_and_without_tls_only_the_latter() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (public, listed) = (rules(&[]), rules(&["127.0.0.0/8", "10.1.0.0/16"]));
        let secure = public.parse("https://hooks.example.com/").unwrap();
        let open = listed.parse("http://hooks.example.com/").unwrap();
        for inner in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
        ] {
            assert!(!public.may_be_dialled(&secure, address(inner)), "{inner}");
        }
        assert!(public.may_be_dialled(&secure, address("8.8.8.8")));
        assert!(listed.may_be_dialled(&secure, address("8.8.8.8")));
        assert!(listed.may_be_dialled(&open, address("127.0.0.1")) && listed.may_be_dialled(&open, address("10.1.2.3")));
        assert!(!listed.may_be_dialled(&open, address("8.8.8.8")), "not in clear text over the Internet");
        assert!(!listed.may_be_dialled(&open, address("10.2.0.1")) && !listed.may_be_dialled(&secure, address("10.2.0.1")));
        assert_eq!((origin(&secure).as_str(), origin(&open).as_str()), ("https://hooks.example.com", "http://hooks.example.com"));
    }
}
