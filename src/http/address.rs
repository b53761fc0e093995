//! Decides which client address a connection or a request is counted under.
//!
//! The address is the peer's. A peer in `RECADO_TRUSTED_PROXIES` speaks for its clients: by the PROXY protocol
//! (version 2) for a whole connection, by `X-Forwarded-For` or `Forwarded` (RFC 7239) for one request. Other peers
//! are not believed, because any client can send these headers.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::HeaderMap;

/// One IPv4 address, or the /64 of an IPv6 address, which is the usual assignment to one customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientAddress(IpAddr);

impl ClientAddress {
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => Self(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)))),
            v4 => Self(v4),
        }
    }
}

impl std::fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => v4.fmt(f),
            IpAddr::V6(v6) => write!(f, "{v6}/64"),
        }
    }
}

/// The networks whose proxies may name a client's address.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<(IpAddr, u8)>);

impl TrustedProxies {
    /// Each network as an address and the length of its prefix.
    pub fn new(networks: Vec<(IpAddr, u8)>) -> Self {
        Self(networks)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|(network, prefix)| match (network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(*prefix);
                (network.to_bits() ^ address.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(*prefix);
                (network.to_bits() ^ address.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        })
    }

    /// The client of a request that arrived from `peer`.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.contains(peer) {
            warn_untrusted(peer, headers);
            return peer;
        }
        match (by_x_forwarded_for(headers), by_forwarded(headers)) {
            (None, None) => peer,
            (Some(hops), None) | (None, Some(hops)) => self.nearest_stranger(&hops).unwrap_or(peer),
            // A proxy writes one of the two and passes on what a client sent as the other. The hub does not know
            // which one is the proxy's, so a client that sends one to hide is counted under the proxy.
            (Some(one), Some(other)) => match (self.nearest_stranger(&one), self.nearest_stranger(&other)) {
                (Some(one), Some(other)) if one == other => one,
                _ => peer,
            },
        }
    }

    /// The last hop that is not a trusted proxy. The client itself may have written the hops before it.
    fn nearest_stranger(&self, hops: &[Option<IpAddr>]) -> Option<IpAddr> {
        hops.iter().rev().find(|hop| hop.is_none_or(|address| !self.contains(address))).copied().flatten()
    }
}

/// Warns once about a proxy that is not configured: all its clients are counted as one.
fn warn_untrusted(peer: IpAddr, headers: &HeaderMap) {
    static SAID: AtomicBool = AtomicBool::new(false);
    let forwarded = headers.contains_key("x-forwarded-for") || headers.contains_key("forwarded");
    if forwarded && !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            %peer,
            "a request names another client address, but its peer is not in RECADO_TRUSTED_PROXIES: all clients of this peer \
             share one budget of connections and requests. If the peer is your proxy, add its address"
        );
    }
}

fn by_x_forwarded_for(headers: &HeaderMap) -> Option<Vec<Option<IpAddr>>> {
    let lines: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    let hops = |line: &axum::http::HeaderValue| line.to_str().unwrap_or("?").split(',').map(hop).collect::<Vec<_>>();
    (!lines.is_empty()).then(|| lines.into_iter().flat_map(hops).collect())
}

fn by_forwarded(headers: &HeaderMap) -> Option<Vec<Option<IpAddr>>> {
    let lines: Vec<_> = headers.get_all("forwarded").iter().collect();
    let hops = |line: &axum::http::HeaderValue| line.to_str().unwrap_or("?").split(',').map(forwarded_hop).collect::<Vec<_>>();
    (!lines.is_empty()).then(|| lines.into_iter().flat_map(hops).collect())
}

/// The address in `for=` of one element. A proxy that hides it (`unknown`, `_name`) names no address.
fn forwarded_hop(element: &str) -> Option<IpAddr> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    hop(value.trim().trim_matches('"'))
}

/// Parses an address, with or without a port, IPv6 with or without brackets.
fn hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => text,
    };
    let address = bare.parse().ok().or_else(|| bare.rsplit_once(':')?.0.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4));
    address.map(|address: IpAddr| address.to_canonical())
}

/// The first bytes of every PROXY protocol header, version 2. No HTTP request begins like this.
pub const PROXY_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Length of the signature, the version, the family and the length field.
pub const PROXY_HEAD_BYTES: usize = 16;
/// Maximum length of the rest of a header. The addresses take 36 bytes; extensions are skipped.
const PROXY_MOST_BYTES: usize = 2048;

/// The number of bytes that follow the first sixteen.
///
/// # Errors
/// A message, for a header that is not of version 2.
pub fn proxy_rest(head: &[u8; PROXY_HEAD_BYTES]) -> Result<usize, &'static str> {
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if !head.starts_with(PROXY_SIGNATURE) || head[12] >> 4 != 2 {
        return Err("the PROXY protocol header is not of version 2");
    }
    if length > PROXY_MOST_BYTES { Err("the PROXY protocol header is too long") } else { Ok(length) }
}

/// The client that a header names. `None`: the proxy speaks for itself, for example for a health check.
///
/// # Errors
/// A message, for a header that is incomplete or unknown.
pub fn proxied(head: &[u8; PROXY_HEAD_BYTES], rest: &[u8]) -> Result<Option<IpAddr>, &'static str> {
    let short = "the PROXY protocol header has no address";
    match (head[12] & 0x0f, head[13] >> 4) {
        (0, _) | (1, 0 | 3) => Ok(None),
        (1, 1) => rest.first_chunk::<4>().map(|v4| Some(IpAddr::from(*v4))).ok_or(short),
        (1, 2) => rest.first_chunk::<16>().map(|v6| Some(IpAddr::from(*v6).to_canonical())).ok_or(short),
        _ => Err("the PROXY protocol header has an unknown command or family"),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn addresses_of_one_customer_are_one() {
        assert_eq!(ClientAddress::of(ip("2001:db8:1:2::1")), ClientAddress::of(ip("2001:db8:1:2:ffff::9")));
        assert_ne!(ClientAddress::of(ip("2001:db8:1:2::1")), ClientAddress::of(ip("2001:db8:1:3::1")));
        assert_ne!(ClientAddress::of(ip("192.0.2.1")), ClientAddress::of(ip("192.0.2.2")));
        assert_eq!(ClientAddress::of(ip("::ffff:192.0.2.1")), ClientAddress::of(ip("192.0.2.1")));
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        let trusted = TrustedProxies::new(vec![(ip("10.0.0.0"), 8), (ip("2001:db8::"), 32), (ip("192.0.2.7"), 32)]);
        for inside in ["10.255.0.1", "::ffff:10.1.2.3", "2001:db8:9::1", "192.0.2.7"] {
            assert!(trusted.contains(ip(inside)), "{inside}");
        }
        for outside in ["11.0.0.1", "192.0.2.8", "2001:db9::1", "::1"] {
            assert!(!trusted.contains(ip(outside)), "{outside}");
        }
        assert!(TrustedProxies::new(vec![(ip("0.0.0.0"), 0)]).contains(ip("203.0.113.9")));
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_about_the_hop_before_it() {
        let trusted = TrustedProxies::new(vec![(ip("10.0.0.0"), 8)]);
        let of = |peer: &str, lines: &[(&'static str, &str)]| trusted.client(ip(peer), &headers(lines)).to_string();
        assert_eq!(of("203.0.113.5", &[("x-forwarded-for", "198.51.100.1")]), "203.0.113.5");
        assert_eq!(of("10.0.0.1", &[("x-forwarded-for", "1.2.3.4, 198.51.100.1, 10.9.9.9")]), "198.51.100.1");
        assert_eq!(of("10.0.0.1", &[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "198.51.100.2:4711")]), "198.51.100.2");
        assert_eq!(of("10.0.0.1", &[("forwarded", "for=1.2.3.4, for=\"[2001:db8::7]:80\";proto=https")]), "2001:db8::7");
        assert_eq!(of("10.0.0.1", &[("forwarded", "for=unknown")]), "10.0.0.1");
        assert_eq!(of("10.0.0.1", &[("x-forwarded-for", "198.51.100.1, nonsense")]), "10.0.0.1");
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1");
        let both = |forwarded: &str| of("10.0.0.1", &[("x-forwarded-for", "198.51.100.1"), ("forwarded", forwarded)]);
        assert_eq!((both("for=198.51.100.1"), both("for=198.51.100.9")), ("198.51.100.1".into(), "10.0.0.1".into()));
    }

    #[test]
    fn a_header_of_the_proxy_protocol_names_its_client() {
        let head = |command: u8, family: u8, length: u16| {
            let mut head = [0; PROXY_HEAD_BYTES];
            head[..12].copy_from_slice(PROXY_SIGNATURE);
            (head[12], head[13]) = (0x20 | command, family);
            head[14..].copy_from_slice(&length.to_be_bytes());
            head
        };
        let v4 = head(1, 0x11, 12);
        assert_eq!((proxy_rest(&v4), proxied(&v4, &[192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 3, 4])), (Ok(12), Ok(Some(ip("192.0.2.1")))));
        assert_eq!(proxied(&head(1, 0x21, 36), &[1; 36]), Ok(Some(ip("101:101:101:101:101:101:101:101"))));
        assert_eq!(proxied(&head(0, 0, 0), &[]), Ok(None));
        assert!(proxied(&v4, &[192, 0]).is_err());
        assert!(proxied(&head(7, 0x11, 12), &[0; 12]).is_err());
        assert!(proxy_rest(&head(1, 0x11, 60_000)).is_err());
        assert!(proxy_rest(b"GET / HTTP/1.1\r\n").is_err());
    }
}
