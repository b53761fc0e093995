//! Opens connections to addresses that a file or an administrator named, and to no others.
//!
//! A host name is resolved once, each of its addresses is checked, and exactly the checked address is dialled. A name
//! whose address changes in between (DNS rebinding) has no effect. Nothing is sent after the lease of the caller has
//! ended. Provider sessions and webhooks share these rules.

pub mod addresses;
pub mod connector;
pub mod lease_checked_io;
pub mod lease_clock;
pub mod target;

use std::time::Duration;

use hyper::header::HeaderValue;

pub use connector::{ConnectError, Connector, OutgoingStream, Resolver, SystemResolver};
pub use lease_checked_io::LeaseCheckedIo;
pub use lease_clock::{ClockReading, LeaseRule, LeaseTrust};
pub use target::{DialTarget, SchemeRule};

/// The longest wait that a server can request.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Parses a `Retry-After` header: seconds, or a date (RFC 9110 section 10.2.3).
pub fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let asked = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (chrono::DateTime::parse_from_rfc2822(text).ok()?.to_utc() - chrono::Utc::now()).to_std().unwrap_or_default(),
    };
    Some(asked.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_ask_for_time_by_seconds_or_by_a_date() {
        let asked = |text: &str| retry_after(&HeaderValue::from_str(text).unwrap());
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("999999999"), Some(LONGEST_RETRY_AFTER));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let soon = (chrono::Utc::now() + Duration::from_secs(100)).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        assert!(asked(&soon).is_some_and(|after| (90..=100).contains(&after.as_secs())), "{soon}");
        assert_eq!(asked("soon"), None);
        assert_eq!(asked("-1"), None);
    }
}
