//! Connects to providers and runs one session per user and provider.
//!
//! # Words
//! - *session*: the provider session of one user. *Owner*: the instance that acts for it. *Term*: the number of the
//!   claim; each write names it. *Lease*: until when the owner may act, by the database's clock. *Trust*: until when
//!   the owner acts, by its own clock; always earlier than the lease.
//! - *try*: a sign-in, a dial, or a sign-in followed by a dial.
//!
//! # States of a held session
//! ```text
//!            no session id           signed in          connected
//!  claimed ───────────────► signing in ──────► connecting ──────► live ──► ended: idle, released
//!     │  has a session id                       ▲   ▲  │           │
//!     └─────────────────────────────────────────┘   │  │ failed    │ lost, silent, flooded
//!                  the wait is over (or signing in) │  ▼           │
//!                                                  backing off ◄───┘
//!                                                      │ tries used up, or refused three times
//!                                                      ▼
//!                              ended: waiting for five minutes, refused       lease lost, stop: from every state
//! ```
//!
//! # Invariants
//! 1. A session does one thing at a time towards the provider: a sign-in, a dial or a socket. Nothing is sent before
//!    the socket is open.
//! 2. A session has at most [`session_machine::TRIES_A_MINUTE`] tries in any minute. All sessions of an instance share
//!    one [`dial_rate`].
//! 3. Futures towards the provider are polled only while the trust lasts, and each write checks it again
//!    ([`crate::outgoing::lease_checked_io`]). So an owner that was frozen sends nothing when it wakes.
//! 4. The bytes of a command are sent only once, after it is `sending` under this term. Each command is settled once.
//! 5. A message that was read from a socket is queued for the log before more is read than the limit. It is appended
//!    under its term or not at all, and before the lease is given back.
//!
//! # Failures
//! - *One connection follows another*, of any owner: a notification in the log tells the user that messages in between
//!   may be missing.
//! - *The owner dies*: its lease expires, and another instance claims the next term with the session id. Commands that
//!   it had taken and not settled become unknown. *The owner is frozen*: the same, and when it wakes it closes its
//!   sockets silently.
//! - *The database is unreachable*: the trust ends before the lease does. The socket is closed, and the lease is given
//!   back once that is possible. *The outcome of an append is unknown*: it is repeated under the same keys. *The answer
//!   to taking commands was lost*: no session got these commands, so they are found by their term and fail. *The log
//!   was truncated or restored*: it gets a new log id.
//! - *The provider is silent*: no answer to a keep-alive leads to a back-off. The session id is used again if it has
//!   ever worked. *The provider floods*: its messages are read at a steady rate and its own TCP window fills
//!   ([`inbound_rate`]); half a minute later the socket is closed. *The provider rejects the session id*: one new
//!   sign-in at once, then a back-off as for any failure.
//! - *The hub stops*: sockets are closed, messages appended, rows given back; another hub claims them at once.
//!
//! [`session_machine`] decides and [`session`] performs. [`supervisor`] holds the leases, [`session_writer`] writes
//! rows and takes commands, and [`message_appender`] appends. Two modules know the users' connections:
//! [`command_intake`] stores what users send to providers, and [`provider_status`] tells users what happens to their
//! sessions and commands.

pub mod cipher;
pub mod command_intake;
pub mod dial;
pub mod dial_rate;
pub mod file;
pub mod hosts;
pub mod inbound_rate;
pub mod mailbox;
pub mod matcher;
pub mod message_appender;
pub mod pending_writes;
pub mod provider;
pub mod provider_status;
pub mod secret;
pub mod session;
pub mod session_machine;
pub mod session_store;
pub mod session_writer;
pub mod sign_in;
pub mod socket_reader;
pub mod socket_writer;
pub mod startup;
pub mod supervisor;
pub mod template;

pub use cipher::Cipher;
pub use dial::{DialError, Dialer, ProviderSocket};
pub use provider::{Provider, Providers};
pub use secret::Secret;
pub use sign_in::{SignInOutcome, sign_in};
pub use startup::{StartError, UpstreamSetup, start};

pub use crate::outgoing::retry_after;

/// The value of `{timestamp}`: milliseconds since 1970, like JavaScript's `Date.now()`.
pub fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
