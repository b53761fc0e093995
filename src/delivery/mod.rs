//! Live delivery on one instance: from the log to each connected client, in order, with nothing missed.
//!
//! # Words
//! - *published*: the number up to which this instance has handed everything on. One number for all connections.
//! - *given*: the last number that one connection was told, by a notification, a heartbeat or `caught_up`.
//! - *sent* and *acked*: the highest number given to a client, and the highest that it has confirmed.
//!
//! # The joint of replay and live
//! A connection joins the [`registry`] under one gate, which also tells it the published number P. From then on
//! everything above P comes to its [`outbox`], and everything up to P it reads from the table. There is no moment in
//! which a notification is neither, nor one in which it is both. When the outbox overflows, its content is dropped,
//! the connection takes a new P under the same gate and reads on from the table. A slow client that is live is the same
//! case. [`connection`] is that rule as a pure machine, [`subscription`] performs it.
//!
//! # Invariants
//! 1. The tailer publishes N only after every number below N.
//! 2. No notification enters an outbox but from [`registry::Registry::publish`], which only the [`tailer`] calls. Beside
//!    them wait [`notices`] of upstream sessions, which have no number and only the [`herald`] and the [`desk`] write.
//! 3. On one connection the numbers given rise strictly.
//!
//! This room never sees a socket, a token or SQL. `docs/delivery.md` gives the whole argument.

pub mod acks;
pub mod clerk;
pub mod connect;
pub mod connection;
pub mod desk;
mod due;
pub mod event;
pub mod herald;
pub mod live;
pub mod notices;
pub mod outbox;
pub mod pacer;
pub mod progress;
pub mod reached;
pub mod registry;
pub mod sessions;
pub mod subscription;
pub mod tailer;

pub use connect::{ConnectError, Opening, Since};
pub use live::Delivery;
pub use registry::{Member, Registry};
pub use subscription::{Ready, Sending, Subscription};
