//! Reads what the console shows: open sessions, one user, the log with its partitions.

pub mod device_list;
pub mod devices;
pub mod log;
pub mod sessions;
pub mod users;
