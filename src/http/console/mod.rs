//! Serves the routes of the console: each reads or acts for admins.

pub mod analysts;
pub mod keys;
pub mod settings;
pub mod tokens;
pub mod upstream;
