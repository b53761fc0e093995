//! Recado: a durable, event-sourced notification hub on PostgreSQL.
//!
//! The modules, from the outside in: [`cli`] and [`app`] → [`http`] → [`delivery`] → [`log`] → [`store`] → [`wire`] →
//! [`domain`]. No module uses one to its left; `tools/walls` checks it. `docs/internals/architecture.md` follows one
//! notification through all of them.

pub mod app;
pub mod backoff;
pub mod cli;
pub mod config;
pub mod delivery;
pub mod domain;
#[cfg(feature = "failpoints")]
pub mod failpoints;
pub mod http;
pub mod identity;
pub mod log;
pub mod metrics;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod outgoing;
pub mod privileges;
pub mod providers;
pub mod sealing;
pub mod secrets;
pub mod spelling;
pub mod startup;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod toml_table;
pub mod webhooks;
pub mod wire;
