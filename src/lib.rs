//! Recado: a durable, event-sourced notification hub on PostgreSQL.
//!
//! The rooms, from the door down: [`cli`] and [`app`] → [`http`] → [`delivery`] → [`store`] → [`wire`] → [`domain`].
//! Nobody looks up; `tools/walls` checks it. `docs/architecture.md` follows one notification through all of them.

#[cfg(not(feature = "fuzz"))]
pub mod app;
#[cfg(not(feature = "fuzz"))]
pub mod backing;
pub mod backoff;
#[cfg(not(feature = "fuzz"))]
pub mod cli;
pub mod config;
pub mod delivery;
pub mod domain;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod http;
pub mod metrics;
#[cfg(feature = "mutants")]
pub mod mutants;
#[cfg(feature = "points")]
pub mod points;
pub mod secrets;
pub mod spelling;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod upstream;
pub mod wire;
