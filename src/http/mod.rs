//! The front door: who may come in, what they post, and the sockets through which they are told.
//!
//! This room holds no way to hand a notification to a connection: what is posted goes to the log, and what is sent
//! comes from a [`crate::delivery::Subscription`].

mod ask;
mod auth;
mod batch;
mod body;
mod deadline;
mod device;
#[cfg(any(test, feature = "fuzz"))]
pub mod door;
#[cfg(feature = "conformance")]
mod echo;
mod flow;
mod frames;
mod health;
mod history;
mod hub;
mod limits;
mod metrics;
mod ndjson;
mod notify;
mod openapi;
mod origin;
mod probes;
mod problems;
mod request;
mod router;
mod server;
#[cfg(test)]
mod sizes;
mod socket;
mod sse;
mod stall;
mod stats;
mod stream;
mod ticket;
mod token;
mod upgrade;
mod why;

pub use auth::Auth;
#[cfg(feature = "conformance")]
pub use echo::{Echo, EchoRules};
pub use health::Health;
pub use hub::{Hub, SocketRules};
pub use limits::{BATCHES_AT_ONCE, Rates, UserRates};
pub use origin::Origins;
pub use router::router;
pub use server::Server;
pub use token::{Claims, TokenRules, mint};
