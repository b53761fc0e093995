//! Runs the long tasks on the log: what appends to it, keeps it within its limits, and marks this instance as alive.
//!
//! - [`appender`] turns all waiting requests into one commit; [`commit_turns`] alternates the commits of two busy hubs.
//! - [`outbox_relay`] moves committed rows of the SQL outbox into the log; [`relay_sleep`] decides when it sleeps.
//! - [`inbox_writer`] makes the changes of inboxes that users ask for.
//! - [`retention`] deletes old data.
//! - [`maintenance`] writes the heartbeat, ends the sessions of dead instances, and makes partitions ahead.
//! - [`write_health`] tells whether appends and moves still succeed.
//!
//! The queries are in [`crate::store`]. Readers of the log are in [`crate::delivery`].

pub mod appender;
pub mod commit_turns;
pub mod inbox_writer;
pub mod maintenance;
pub mod outbox_relay;
mod relay_sleep;
pub mod retention;
pub mod write_health;
