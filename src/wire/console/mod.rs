//! Defines the bodies of the console's routes.

pub mod analysts;
pub mod instances;
pub mod keys;
pub mod settings;
pub mod tokens;
pub mod upstream;
