//! The only room with SQL: what is kept in PostgreSQL, and how it is asked for.
//!
//! The log is written by one function of the database (`recado.append`, see `migrations/V10__append.sql`), called by one
//! task an instance, the [`appender`], which turns whatever is waiting into one commit. Everything else reads it, or
//! keeps facts about readers. This room does not know who is connected or what a frame is.
//!
//! Connections, and why they are apart:
//! - *appender*, *tailer*, *mover*, *clerk* (acks, sessions, delivery facts), *caretaker* (sign of life, partitions): a [`lane::Lane`] each,
//!   so that no amount of resuming clients can keep the hub from appending or from noticing;
//! - *listener*: LISTEN needs a connection of its own;
//! - *keys*: two, so that a service is known while clients wait in line to resume;
//! - *readers*: a small pool for resume, history, tickets and statistics.
//!
//! Every wait on the database has a limit, and a connection that missed one is thrown away, never reused: the answer
//! of the old question may still be on its way.

pub mod analysts;
pub mod append;
pub mod appender;
pub mod business;
pub mod caretaker;
pub mod cursors;
pub mod database;
pub mod error;
pub mod export;
pub mod guard;
pub mod idle;
pub mod instances;
pub mod keys;
pub mod lane;
pub mod listener;
pub mod migrate;
pub mod mover;
pub mod outbox;
pub mod progress;
pub mod read;
pub mod retention;
mod scram;
pub mod seen;
pub mod server;
pub mod sessions;
pub mod tickets;
pub mod turn;
pub mod upstream;
pub mod why;
pub mod yardstick;

pub use database::{Database, Reader};
pub use error::StoreError;
