//! Delivers the log to each connected client of one instance, in order and without gaps.
//!
//! # Words
//! - *dispatched*: the sequence number up to which this instance has handed all rows to its
//!   connections. One number for all connections.
//! - *delivered* (`sent` in SQL and in `/stats`): the last number that was written to one connection, by a
//!   notification, a heartbeat or `caught_up`.
//! - *acked*: the highest number that a client has confirmed.
//!
//! # How replay and live join
//! A connection joins the [`registry`] under one lock, which also returns the dispatched number P. From then on, every
//! row above P enters the connection's [`send_queue`], and the connection reads every row up to P from the table. So
//! every row takes exactly one of the two ways. When the send queue overflows, its content is dropped, the connection
//! takes a new P under the same lock and continues from the table. A slow live client is the same case.
//! [`stream_state`] is this rule as a pure machine, and [`subscription`] performs it.
//!
//! # Invariants
//! 1. The tailer dispatches N only after every number below N.
//! 2. Notifications enter a send queue only through [`registry::Registry::dispatch`], which only the [`tailer`] calls.
//!    Next to them wait control frames ([`control_queue`]), which have no sequence number. They say what happens to the
//!    user's provider sessions and commands.
//! 3. The numbers delivered on one connection strictly increase.
//!
//! This module never touches a socket, a token or SQL. `docs/internals/delivery.md` gives the whole argument.

pub mod ack_flusher;
pub mod ack_prober;
pub mod arrived_connections;
pub mod connect;
pub mod connection_entries;
pub mod control_queue;
pub mod event;
mod inbox_counter;
pub mod live_socket;
pub mod pending_acks;
pub mod pending_facts;
pub mod pending_sessions;
pub mod positions;
pub mod recent_posts;
pub mod registry;
pub mod send_queue;
pub mod shared_handles;
pub mod stream_state;
pub mod subscription;
pub mod tailer;
mod wait_until;

pub use connect::{Admitted, ConnectError, ConnectRequest, ResumeFrom};
pub use registry::{Connection, Registry};
pub use shared_handles::Delivery;
pub use subscription::{NextStep, OutgoingFrame, Subscription};
