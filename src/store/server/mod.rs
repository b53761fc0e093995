//! A private PostgreSQL server: what `recado serve` uses when nobody gave it a database.
//!
//! # Words
//! - **State folder**: everything this machine keeps for us (`/var/lib/recado`, …). In it: `data/` (PostgreSQL's data
//!   folder), `run/` (the socket and the last output of each helper program), `gate.lock`, `users.lock`, and
//!   `postgres-bin/` when binaries were fetched.
//! - **Server's user**: PostgreSQL refuses to run as root, so as root every child is started as another user
//!   (see `account`). For everyone else it is the user who runs the program.
//! - **Gate**: the exclusive lock on `gate.lock`, held while one process looks, starts or stops. Nobody else decides
//!   anything meanwhile.
//! - **Users**: each living [`PrivateServer`] holds a shared lock on `users.lock`. Locks are the kernel's: they end with
//!   the process, also after kill -9, and no child inherits them.
//!
//! # Starting
//! ```text
//! find binaries ─► close the gate ─► who runs on data/?
//!                                     ready ─────────────► join
//!                                     starting, stopping, ─► look again every 20 ms, at most 60 s
//!                                     left-overs, a zombie
//!                                     nobody, a stranger's pid ─► (initdb) ─► pg_ctl start ─► look again
//! ```
//! Stopping: close the gate, let go of `users.lock`, and try to take it alone. Got it: we were the last, stop the
//! server. Not: somebody still uses it, leave it.
//!
//! # What must stay true
//! - Never two postmasters on one data folder. PostgreSQL's own guard is `postmaster.pid`; we remove that file in one
//!   case only: when we could look at every process of the server's user and none of them works in the data folder.
//! - `data/` is a whole cluster or absent: initdb works in `data.new-…`, which is renamed when the database exists too.
//! - fsync, synchronous_commit and full_page_writes are on, whatever postgresql.conf says (see `profile`).
//! - The server listens on a Unix socket in a folder of mode 0700, and on no TCP port: hence `trust` is safe.
//!
//! # Failures
//! - We die by kill -9: the server stays, an orphan; the next start joins it, and its last user stops it.
//! - Server and we die: the next start waits for what is left of it, then PostgreSQL recovers.
//! - We die within initdb: a `data.new-…` stays; the next start removes it.
//! - A container restarts and the old pid belongs to somebody else: plain `pg_ctl` would refuse for ever, we start.
//! - The same folder is in use from another container (whose processes we cannot see): an error, see `elsewhere`.
//!
//! All of it is blocking std code. Call it from `spawn_blocking`. Linux and macOS; not Windows.
#![expect(clippy::disallowed_methods, reason = "blocking code for a thread of its own; sleeping there stops nobody")]

mod account;
mod address;
mod archives;
mod binaries;
mod child;
mod cluster;
mod creation;
mod download;
mod elsewhere;
mod error;
mod fetch;
mod folders;
mod locks;
mod pidfile;
mod presence;
mod private;
mod profile;
mod provide;
mod settings;
mod testing;
mod watcher;

pub use error::ServerError;
pub use private::{PrivateServer, Started, Stopped};
pub use settings::{Environment, Event, ServerSettings, default_state_dir};
pub use testing::TestServer;
