//! Posts rows of the log to the addresses of webhooks, signed, until they are accepted.
//!
//! # Words
//! - *webhook*: an address with conditions, a secret and a position. *Owner*: the instance that posts for it. *Term*:
//!   the number of its claim; each write names it. *Lease* and *trust*: as for provider sessions
//!   ([`crate::outgoing::lease_clock`]).
//! - *post*: a row of the log for one webhook. *Attempt*: one request. *Dead letter*: a post that was given up.
//!
//! # The way of a post
//! ```text
//!   row in the log ── next ──► waits in recado.webhook_post ── due ──► attempt ── 2xx ──► deleted
//!                                        ▲                               │
//!                                        └──────── back-off ◄── failed ──┤
//!                                                                        └── last one ──► dead letter
//! ```
//!
//! # Invariants
//! 1. The position passes a row in the transaction that queues its post, under the present term. So a row is posted at
//!    least once, or is counted as missed if retention drops it before.
//! 2. A post leaves the table only when its result is stored under the present term. A hub that dies between the answer
//!    and that leaves a post that the next owner repeats, under the same `webhook-id`.
//! 3. Not a byte is sent after the trust of the owner has ended ([`crate::outgoing::lease_checked_io`]).
//! 4. A connection goes to exactly the address that was checked ([`poster`]).
//!
//! # Failures
//! - *The owner dies*: its lease expires, and another hub takes the next term. *The owner is frozen*: the same; when it
//!   wakes, its connections send nothing and its results are refused.
//! - *The address is slow or dead*: its posts take at most [`worker::ATTEMPTS_AT_ONCE`] of the instance's attempts,
//!   and one after a failure. At 1,000 waiting posts the position stays, and the log is the queue.
//! - *The address answers 410*: the webhook is disabled. *429 or 503 with `Retry-After`*: all its posts wait.
//! - *The database is unreachable*: results are repeated until the trust ends. *The log was restored*: its webhooks
//!   have no owner until an administrator resumes them.
//! - *The secret cannot be opened*: this hub has another key. It leaves the webhook to other hubs and says so.
//!
//! [`supervisor`] holds the leases, a [`worker`] posts for one webhook, a [`poster`] makes one request, and
//! [`signature`] signs it. [`secret`] makes, seals and opens secrets.

pub mod message;
pub mod poster;
pub mod secret;
pub mod signature;
pub mod startup;
pub mod supervisor;
pub mod target;
pub mod worker;

pub use poster::{PostOutcome, Poster};
pub use secret::{SecretKeys, WebhookSecret};
pub use startup::{CONNECTIONS, WebhookSetup, start};
pub use target::TargetRules;
