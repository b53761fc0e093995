//! Defines webhooks: addresses to which the hub posts rows of the log.

use std::fmt;
use std::time::Duration;

use super::{ConsumerFilter, ConsumerName};

/// The waits after the first, second, … failed attempt. A post that fails once more is a dead letter, a day after its
/// first attempt.
pub const RETRY_WAITS: [Duration; 10] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(2 * 60),
    Duration::from_secs(10 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(3600),
    Duration::from_secs(3 * 3600),
    Duration::from_secs(6 * 3600),
    Duration::from_secs(6 * 3600),
    Duration::from_secs(7 * 3600),
];

/// The wait after the attempt with this number, counted from 1. `None`: it was the last one.
///
/// `dice` is between 0 and 1. It makes the wait up to a fifth longer, so that posts that failed together are spread.
/// `asked` is what the answer asked for; the wait is not shorter.
pub fn retry_wait(attempt: i32, asked: Option<Duration>, dice: f64) -> Option<Duration> {
    let at = usize::try_from(attempt.max(1) - 1).unwrap_or_default();
    let wait = RETRY_WAITS.get(at)?.mul_f64(1.0 + dice.clamp(0.0, 1.0) / 5.0);
    Some(wait.max(asked.unwrap_or_default()))
}

/// The name of a webhook, by the rule of a consumer's name. The database checks the same rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WebhookName(ConsumerName);

impl WebhookName {
    /// # Errors
    /// For a text that breaks the rule.
    pub fn parse(text: &str) -> Result<Self, super::ConsumerNameError> {
        ConsumerName::parse(text).map(Self)
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for WebhookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whom a row is addressed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookAudience {
    /// It names a user, or a list of users.
    Users,
    /// It is for all users of an account.
    Account,
    Everyone,
}

impl WebhookAudience {
    pub const ALL: [Self; 3] = [Self::Users, Self::Account, Self::Everyone];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Account => "account",
            Self::Everyone => "everyone",
        }
    }
}

/// Which rows a webhook posts. They meet all conditions that are given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebhookFilter {
    pub rows: ConsumerFilter,
    pub audience: Option<WebhookAudience>,
    /// A row is posted only if a user whom it names has not acknowledged it after this time. Then the audience is
    /// [`WebhookAudience::Users`].
    pub unacked_after: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_go_on_for_a_day_and_then_end() {
        let total: Duration = RETRY_WAITS.iter().sum();
        assert!((23 * 3600..25 * 3600).contains(&total.as_secs()), "{total:?}");
        assert!(RETRY_WAITS.is_sorted());
        let last = i32::try_from(RETRY_WAITS.len()).unwrap();
        assert_eq!(retry_wait(last, None, 0.0), Some(RETRY_WAITS[9]));
        assert_eq!(retry_wait(last + 1, Some(Duration::from_secs(9)), 0.0), None);
    }

    #[test]
    fn a_wait_is_spread_and_never_shorter_than_was_asked_for() {
        let secs = |attempt, asked: Option<u64>, dice| retry_wait(attempt, asked.map(Duration::from_secs), dice).unwrap().as_secs_f64();
        assert_eq!((secs(1, None, 0.0), secs(1, None, 0.5), secs(1, None, 1.0)), (5.0, 5.5, 6.0));
        assert_eq!((secs(2, None, 0.0), secs(4, None, 0.0)), (30.0, 600.0));
        assert_eq!((secs(1, Some(60), 0.5), secs(3, Some(60), 0.0)), (60.0, 120.0));
    }
}
