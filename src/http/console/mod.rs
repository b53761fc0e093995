//! Serves what the console shows and does: sessions, one user, the log and its partitions. For admins.

pub mod log;
mod log_stream;
pub mod partitions;
pub mod sessions;
pub mod users;
