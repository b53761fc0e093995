//! Defines a network of IP addresses, such as 10.0.0.0/8.

use std::fmt;
use std::net::IpAddr;

/// An address and the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is not a network. Says how to write one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("must be an address or a network such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32")]
    Malformed,
    /// PostgreSQL refuses such a value in a column of type `cidr`.
    #[error("has bits to the right of its prefix; write {0}")]
    HostBits(Network),
}

impl Network {
    /// Parses an address, which is a network of one, or an address and a prefix.
    ///
    /// # Errors
    /// When the text is neither, or when bits to the right of the prefix are set.
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Malformed)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let prefix = match prefix {
            None => longest,
            Some(text) => text.parse().ok().filter(|prefix| *prefix <= longest && is_number(text)).ok_or(NetworkError::Malformed)?,
        };
        let network = Self { address: masked(address, prefix), prefix };
        if network.address == address { Ok(network) } else { Err(NetworkError::HostBits(network)) }
    }

    /// The network of an address and the length of its prefix. Bits to the right of the prefix are ignored.
    pub fn of(address: IpAddr, prefix: u8) -> Self {
        Self { address: masked(address, prefix), prefix }
    }

    /// Whether the network holds this address. An IPv4 address may be written as IPv6 (`::ffff:192.0.2.7`).
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("::/0", "2001:db8::1", "203.0.113.9"),
            ("2001:db8::/32", "2001:db8:9::1", "2001:db9::1"),
        ] {
            let parsed = Network::parse(network).unwrap();
            let holds = |address: &str| parsed.contains(address.parse().unwrap());
            assert!(holds(inside) && !holds(outside), "{network}");
        }
    }

    #[test]
    fn a_text_that_is_no_network_is_refused_with_what_to_write() {
        assert_eq!(Network::parse("10.0.0.1/8").unwrap_err().to_string(), "has bits to the right of its prefix; write 10.0.0.0/8");
        for bad in ["", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0/8", "host", "::/129", "10.0.0.0/8/8", " 10.0.0.1"] {
            assert_eq!(Network::parse(bad), Err(NetworkError::Malformed), "{bad:?}");
        }
        assert_eq!(Network::parse("192.0.2.7").unwrap().to_string(), "192.0.2.7/32");
    }
}
