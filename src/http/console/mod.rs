//! Serves the routes of the console: each reads or acts for admins.

pub mod analysts;
pub mod devices;
pub mod instance_report;
pub mod instances;
pub mod keys;
pub mod live;
pub mod log;
mod log_stream;
pub mod partitions;
pub mod sessions;
pub mod settings;
pub mod sign_in;
pub mod tokens;
pub mod upstream;
pub mod users;

/// Reads of the console that use a connection of the pool at once.
pub const CONSOLE_READS_AT_ONCE: usize = 4;
