//! Contains all SQL of the hub: what is stored in PostgreSQL, and how it is queried.
//!
//! One function of the database (`recado.append`, see `migrations/V10__append.sql`) writes the log. One task of each
//! instance calls it: the [`crate::log::appender`], which turns all waiting requests into one commit. Everything else
//! reads the log, or stores facts about its readers. This module does not know who is connected or what a frame is.
//!
//! Connections, and why they are separate:
//! - *appender*, *tailer*, *outbox relay*, *ack flusher* (acks, sessions, delivery facts), *entries* (connects),
//!   *maintenance* (heartbeat, partitions), *audit* (refused attempts), *access* (revocations): a
//!   [`dedicated_connection::DedicatedConnection`] each, so that no number of resuming clients can keep the hub from
//!   appending or from noticing new rows;
//! - *listener*: LISTEN needs its own connection;
//! - *keys*: one connection, so that a service is recognised while clients wait to resume;
//! - *tickets*: two connections, so that anonymous connections take none from the readers;
//! - *readers*: a small pool for resume, history and statistics. Pages pass the [`page_scheduler`] first, so that no
//!   user keeps the others from the pool;
//! - *consumers*: four connections, so that services that follow the log take none from the readers;
//! - *webhooks*: one connection that holds the leases, and a pool of two that is used only while webhooks exist;
//! - *standbys* (with `RECADO_READ_DATABASE_URL`): a pool for each, for pages of the past, and a connection that
//!   watches it ([`standby`]).
//!
//! While the hub serves, every wait on the database has a limit. A connection that missed one is closed, never reused:
//! the answer to the old query may still be on its way. An idle connection is pinged before it is used ([`liveness`]).

pub mod access;
pub mod access_sign;
pub mod acked_positions;
pub mod address;
mod address_list;
pub mod analysts;
pub mod append;
pub mod audit;
mod cleartext;
pub mod console;
pub mod consumers;
pub mod database;
mod database_route;
pub mod dedicated_connection;
pub mod delivery_facts;
pub mod device_expiry;
pub mod durability;
pub mod erase;
pub mod error;
pub mod export;
pub mod fingerprints;
pub mod inbox;
pub mod installation;
pub mod instances;
pub mod key_uses;
pub mod keys;
pub mod lease;
pub mod listener;
mod liveness;
pub mod log_identity;
pub mod log_watermark;
pub mod members;
pub mod migrate;
pub mod outbox;
pub mod outbox_calls;
pub mod page_scheduler;
mod past_read;
pub mod preflight;
pub mod producers;
pub mod providers;
pub mod read;
mod read_pool;
mod repeated_read;
pub mod resume;
pub mod retention;
pub mod roles;
mod scram;
pub mod sealed_rows;
pub mod sessions;
mod settings;
pub mod sign_in_links;
pub mod standby;
pub mod tickets;
pub mod time_limit;
pub mod turn_pool;
pub mod webhooks;
pub mod why;

pub use database::{Database, Reader};
pub use error::StoreError;
