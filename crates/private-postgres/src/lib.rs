//! Runs a private PostgreSQL server for `recado serve` when no database is configured.
//!
//! # Words
//! - **State folder**: everything that this machine keeps for Recado (`/var/lib/recado`, …). In it: `data/`
//!   (PostgreSQL's data folder), `run/` (the socket and the last output of each helper program), `gate.lock`,
//!   `users.lock`, and `postgres-bin/` when binaries were fetched.
//! - **Server's user**: PostgreSQL refuses to run as root, so root starts every child as another user (see
//!   `system_user`). Otherwise it is the user who runs the program.
//! - **Gate**: the exclusive lock on `gate.lock`, held while one process checks, starts or stops. No other process
//!   decides anything meanwhile.
//! - **Users**: each live [`PrivateServer`] holds a shared lock on `users.lock`. Locks are the kernel's: they end with
//!   the process, also after kill -9, and no child inherits them.
//!
//! # Starting
//! ```text
//! find binaries ─► close the gate ─► what runs on data/?
//!                                     ready ─────────────► join
//!                                     starting, stopping, ─► check again every 20 ms, at most 60 s
//!                                     left-overs, a zombie
//!                                     nothing, unrelated pid ─► (initdb) ─► pg_ctl start ─► check again
//! ```
//! Stopping: close the gate, release `users.lock`, and try to lock it exclusively. If that succeeds, this was the last
//! user: stop the server. Otherwise another process still uses it: leave it.
//!
//! # Invariants
//! - Never two postmasters on one data folder. PostgreSQL's own protection is `postmaster.pid`. We remove that file in
//!   one case only: when we could inspect every process of the server's user and none of them works in the data folder.
//! - `data/` is a whole cluster or absent: initdb works in `data.new-…`, which is renamed when the database exists too.
//! - fsync, synchronous_commit and full_page_writes are on, whatever postgresql.conf says (see `tuning`).
//! - The server listens on a Unix socket in a folder of mode 0700, and on no TCP port. Its superuser is for the
//!   server's user and for root (peer authentication); every other login has a password (see `access`).
//!
//! # Failures
//! - The server dies, the hub lives: [`ServerKeeper`] finds no process of it and starts it again, with the gate closed
//!   as for every start.
//! - The hub dies by kill -9: the server stays, an orphan; the next start joins it, and its last user stops it.
//! - Server and hub die: the next start waits for left-over processes, then PostgreSQL recovers.
//! - The hub dies within initdb: a `data.new-…` stays; the next start removes it.
//! - A container restarts and the old pid belongs to an unrelated process: plain `pg_ctl` would refuse for ever, Recado
//!   starts the server.
//! - The same folder is in use from another container (whose processes are not visible): an error, see
//!   `foreign_processes`.
//!
//! All of it is blocking std code. Call it from `spawn_blocking`. It runs on Linux and macOS, not on Windows.
#![expect(clippy::disallowed_methods, reason = "blocking code for its own thread; sleeping there blocks no task")]
#![deny(clippy::print_stdout, clippy::print_stderr, reason = "only the hub writes to its terminal")]

mod access;
mod address;
mod archives;
mod binaries;
mod binary_selection;
mod child;
mod cluster;
mod creation;
mod download;
mod error;
mod fetch;
mod folders;
mod foreign_processes;
mod hand_over;
mod locks;
mod pidfile;
mod presence;
mod private;
mod settings;
mod sizing;
mod system_user;
#[cfg(feature = "testing")]
mod testing;
mod tuning;
#[cfg(feature = "testing")]
mod watcher;

pub use error::ServerError;
pub use hand_over::{HandedOver, TargetUser, find_user, hand_over};
pub use private::{PrivateServer, ServerKeeper, Started, Stopped};
pub use settings::{Environment, ServerEvent, ServerSettings, default_state_dir};
#[cfg(feature = "testing")]
pub use testing::{TestServer, memory_folder};

/// The target of this crate's log lines. The hub's own filters, such as `RECADO_LOG=recado=debug`, select them too.
const LOG_TARGET: &str = "recado::private_postgres";
