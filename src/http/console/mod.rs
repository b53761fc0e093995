//! Serves the routes of the console: each reads or acts for admins.

pub mod analysts;
pub mod instance_report;
pub mod instances;
pub mod keys;
pub mod live;
pub mod settings;
pub mod tokens;
pub mod upstream;
