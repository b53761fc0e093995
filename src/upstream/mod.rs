//! Outward: what a provider is, how it is spoken to, and one session a user with it.
//!
//! # Words
//! - *session*: one of a provider and a user. *Owner*: the instance that acts for it. *Term*: counts the claims; each
//!   write names it. *Lease*: until when the owner may act, by the clock of the database. *Trust*: until when it dares to,
//!   by its own clock, which is earlier.
//! - *try*: a sign-in, a dialling, or one after the other.
//!
//! # The states of a session that is held
//! ```text
//!            no session id           signed in          connected
//!  claimed ───────────────► signing in ──────► connecting ──────► live ──► ended: idle, released
//!     │  a session id is there                  ▲   ▲  │           │
//!     └─────────────────────────────────────────┘   │  │ failed    │ lost, silent, flooded
//!                  the wait is over (or signing in) │  ▼           │
//!                                                  backing off ◄───┘
//!                                                      │ tries used up, or refused three times
//!                                                      ▼
//!                              ended: waiting for five minutes, refused       lease lost, stop: from everywhere
//! ```
//!
//! # Invariants
//! 1. One thing at a time towards the provider: a sign-in, a dialling or a socket. Nothing is sent before it is open.
//! 2. At most [`machine::TRIES_A_MINUTE`] tries of a session in any minute; all sessions of an instance pass one [`gate`].
//! 3. Whatever is polled towards the provider is polled only while the trust lasts, and each write looks again ([`fenced`]);
//!    so a frozen owner that wakes is silent.
//! 4. A command's bytes leave only after it is `sending` under this term, once; and each is settled once.
//! 5. What is read from a socket is on its way into the log before more is read than its bound; it is appended under the
//!    term or not at all, and before the lease is given back.
//!
//! # Failures
//! - *A connection follows another*, of whichever owner: the user is told in the log that messages may be missing between.
//! - *The owner dies*: its lease runs out, another claims the next term with the session id; commands that it had taken and
//!   not settled are unknown. *It is frozen*: the same, and when it wakes it hangs up without a word.
//! - *The database is away*: trust ends before the lease does; the socket is closed, and the lease given back when it can be.
//!   *An append's outcome is unknown*: it is repeated under the same keys. *Commands were taken and the answer was lost*: they
//!   went to no session, so they are found by their term and have failed. *The log went back*: its history gets a new name.
//! - *The provider is silent*: no answer to a keep-alive; back-off; the session id is used again if it has ever worked.
//!   *It floods*: its messages are read at a steady pace and its own window fills ([`pace`]); half a minute later it is left.
//!   *It takes no session id any more*: one new sign-in at once, then as any failure.
//! - *The hub stops*: sockets are closed, messages appended, rows given back; another hub claims them at once.
//!
//! [`machine`] decides, [`session`] performs; [`supervisor`] holds, [`scribe`] writes rows and takes commands, [`recorder`]
//! appends. This room does not know browsers.

pub mod addresses;
pub mod backoff;
pub mod cipher;
pub mod clock;
pub mod dial;
pub mod fenced;
pub mod file;
pub mod gate;
pub mod holdings;
pub mod hosts;
pub mod ledger;
pub mod machine;
pub mod mailbox;
pub mod pace;
pub mod provider;
pub mod read;
pub mod recorder;
pub mod rule;
pub mod scribe;
pub mod secret;
pub mod session;
pub mod sign_in;
pub mod start;
pub mod supervisor;
pub mod template;
pub mod write;

use std::time::Duration;

use hyper::header::HeaderValue;

pub use cipher::Cipher;
pub use dial::{DialError, Dialer, Socket};
pub use provider::{Provider, Providers};
pub use secret::Secret;
pub use sign_in::{Outcome, sign_in};
pub use start::{SUPERVISOR_TASK, Setup, StartError, start};

/// A provider that asks for more than this is asked again all the same.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// What a `Retry-After` asks for: seconds, or a date (RFC 9110 section 10.2.3).
pub fn retry_after(value: &HeaderValue) -> Option<Duration> {
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
