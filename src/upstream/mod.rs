//! Outward: what a provider is, how it is spoken to, and one session a user with it.

pub mod addresses;
pub mod cipher;
pub mod dial;
pub mod file;
pub mod hosts;
pub mod provider;
pub mod rule;
pub mod secret;
pub mod sign_in;
pub mod template;

use std::time::Duration;

use hyper::header::HeaderValue;

pub use cipher::Cipher;
pub use dial::{DialError, Dialer, Socket};
pub use provider::{Provider, Providers};
pub use secret::Secret;
pub use sign_in::{Outcome, sign_in};

/// A provider that asks for more than this is asked again all the same.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// What a `Retry-After` asks for: seconds, or a date (RFC 9110 section 10.2.3).
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let asked = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (chrono::DateTime::parse_from_rfc2822(text).ok()?.to_utc() - chrono::Utc::now()).to_std().unwrap_or_default(),
    };
    Some(asked.min(LONGEST_RETRY_AFTER))
}

/// For `{timestamp}`: milliseconds since 1970, as JavaScript's `Date.now()`.
pub fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_may_ask_for_time_by_seconds_or_by_a_date() {
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
