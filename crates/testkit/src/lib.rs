//! Gives the test suite, the torture run and the bench their common tools.
//!
//! Four things are alike in all of them, and are here once:
//!
//! - [`process`]: a hub, or another server, as a child process that says when it is ready;
//! - [`proxy`]: a TCP proxy that can hold, slow down or cut connections;
//! - [`provider`]: a provider on loopback, which follows rules that its user gives it;
//! - [`ws`]: the opening of a WebSocket stream of a hub.
//!
//! What differs for a reason stays with its user:
//!
//! - how a device reads its stream. The suite's client reads all the time and checks each frame against the hub's own
//!   document. A torture device reads slowly and records facts, which are judged after the run. The bench's client only
//!   looks for a mark, because its own work must not show in what it measures;
//! - what a provider answers and records: a script and a record in the suite, random failures and facts in the torture
//!   run. The bench's provider is a process of its own that measures how late keep-alives are, so it has its own loop
//!   and shares only [`http`];
//! - the settings of a hub. The suite and the torture run start it with an empty environment
//!   ([`process::clean_command`]); the bench passes on what its caller has set.
//!
//! This crate depends on no part of the hub, so that it can judge the hub from outside.

pub mod http;
pub mod process;
pub mod provider;
pub mod proxy;
pub mod ws;
