//! Defines the errors of the private server, by what can be done about them.

use std::io;
use std::path::{Path, PathBuf};

/// Each message is one line and ends with what to do. Log text in it is cut to its last lines, joined by ` | `.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// This machine has no binaries, and none could be fetched. Use another database, install, or point to them.
    #[error(
        "no PostgreSQL server found: set DATABASE_URL to use a running one, or install the server binaries (Debian/Ubuntu: \
         apt-get install postgresql; Fedora: dnf install postgresql-server; macOS: brew install postgresql), or set \
         RECADO_POSTGRES_BIN to the folder that holds `postgres` and `initdb`. {fetch}. Looked in: {looked_in}"
    )]
    NotFound { looked_in: String, fetch: String },

    /// `RECADO_POSTGRES_BIN` names the wrong folder.
    #[error(
        "RECADO_POSTGRES_BIN is {}, but there is no `{missing}` that runs: set it to the folder that holds `postgres`, `initdb` \
         and `pg_ctl`, or unset it",
        folder.display()
    )]
    PostgresBin { folder: PathBuf, missing: &'static str },

    /// The data was made by a major version that is not installed. Recado never upgrades it.
    #[error(
        "the data folder {} was made by PostgreSQL {made_by}, and only {found} is installed: install PostgreSQL {made_by}, or \
         set RECADO_POSTGRES_BIN to its binaries, or set RECADO_DATA_DIR to a new folder",
        data_dir.display()
    )]
    OtherVersion { data_dir: PathBuf, made_by: u32, found: String },

    /// The user who should run the server cannot do so.
    #[error("cannot run PostgreSQL as user {user}: {reason}; set RECADO_POSTGRES_USER to an ordinary user")]
    User { user: String, reason: String },

    /// A parent folder keeps the server's user out.
    #[error(
        "user {user} cannot enter {}, so it cannot run PostgreSQL for you: set {setting} to another folder, such as {instead}",
        folder.display()
    )]
    CannotEnter { user: String, folder: PathBuf, setting: &'static str, instead: &'static str },

    /// The state folder, or something in it, cannot be used.
    #[error("cannot use {}: {reason}; set RECADO_DATA_DIR to another folder", path.display())]
    UnusableFolder { path: PathBuf, reason: String },

    /// The user is not root and has no home, so there is no folder for the state.
    #[error("no folder for data: neither HOME nor XDG_STATE_HOME is set; set RECADO_DATA_DIR")]
    NoStateDir,

    /// Another server or program was in the way for too long. A later attempt may succeed.
    #[error("gave up after {seconds} s: {reason}; try again, or end that process. Server log: {log}")]
    Busy { seconds: u64, reason: String, log: String },

    /// Processes that this process cannot see use the same data folder.
    #[error(
        "the data folder {} is in use from another container: set DATABASE_URL to its server, or RECADO_DATA_DIR to a folder \
         of our own",
        data_dir.display()
    )]
    UsedElsewhere { data_dir: PathBuf },

    /// A program of PostgreSQL failed; its output says why.
    #[error("{program} failed: {output}. Server log: {log}")]
    Failed { program: &'static str, output: String, log: String },

    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl ServerError {
    /// For `map_err`: names the operation and the file. Missing permission is a separate case: use another folder.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::PermissionDenied => {
                Self::UnusableFolder { path, reason: format!("no permission to {doing} it ({source}); it may belong to another user") }
            }
            _ => Self::Io { doing, path, source },
        }
    }

    pub(super) fn unusable(path: &Path, reason: impl Into<String>) -> Self {
        Self::UnusableFolder { path: path.to_owned(), reason: reason.into() }
    }
}
