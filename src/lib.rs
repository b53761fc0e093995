//! Recado.
#![forbid(unsafe_code)]
pub mod backoff;
pub mod delivery;
pub mod domain;
pub mod store;
pub mod tasks;
pub mod wire;
