//! Defines the state folder: its parts, their owners and their permissions.

use super::error::ServerError;
use super::locks;
use super::system_user::SystemUser;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Longest socket path, in bytes, that fits `sockaddr_un` on every system we know: macOS takes 103, Linux 107.
const SOCKET_PATH_MAX: usize = 103;

/// The name that the server appends to its socket folder.
const SOCKET_NAME: &str = "/.s.PGSQL.5432";

#[derive(Debug, Clone)]
pub(super) struct Folders {
    pub(super) state: PathBuf,
    pub(super) data: PathBuf,
    pub(super) run: PathBuf,
    pub(super) gate: PathBuf,
    pub(super) users: PathBuf,
}

impl Folders {
    /// Names the folders; nothing is touched yet.
    ///
    /// # Errors
    /// When the path has characters that `pg_ctl` would hand to a shell, or is not UTF-8 (it becomes part of a URL).
    pub(super) fn new(state: &Path) -> Result<Self, ServerError> {
        let state = std::path::absolute(state).map_err(ServerError::io("find", state))?;
        let text = state.to_str().ok_or_else(|| ServerError::unusable(&state, "its name is not UTF-8"))?;
        let special = |letter: char| "\"'$`\\,".contains(letter) || letter.is_control();
        if let Some(bad) = text.chars().find(|letter| special(*letter)) {
            let reason = format!("PostgreSQL's tools cannot take {bad:?} in a path");
            return Err(ServerError::unusable(&state, reason));
        }
        Ok(Self { data: state.join("data"), run: state.join("run"), gate: state.join("gate.lock"), users: state.join("users.lock"), state })
    }

    /// Makes the state folder and `run/` where they are missing. When we are root, the state folder stays root's and
    /// others may pass it; `run/` belongs to the server's user alone.
    ///
    /// # Errors
    /// When a folder cannot be made, or an existing one belongs to another user.
    pub(super) fn make(&self, account: &SystemUser) -> Result<(), ServerError> {
        self.make_state(account)?;
        locks::prepare(&self.gate, account)?;
        locks::prepare(&self.users, account)?;
        private_folder(&self.run, account)
    }

    /// Makes the state folder with its parents.
    pub(super) fn make_state(&self, account: &SystemUser) -> Result<(), ServerError> {
        let mut missing: Vec<&Path> = self.state.ancestors().take_while(|part| !part.exists()).collect();
        missing.reverse();
        for folder in missing {
            let mode = if account.switch { 0o755 } else { 0o700 };
            match DirBuilder::new().mode(mode).create(folder) {
                // Root's umask may be 077, which would keep the server's user out.
                Ok(()) => set_mode(folder, mode)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(ServerError::io("make", folder)(error)),
            }
        }
        if !self.state.is_dir() {
            return Err(ServerError::unusable(&self.state, "it is not a folder"));
        }
        Ok(())
    }

    /// The folder of the socket: `run/`, or for a long path a short folder under the temporary one, which is made here.
    ///
    /// The short name is made of the data folder's device and inode, so that all processes that start this server agree
    /// on it.
    pub(super) fn socket_dir(&self, account: &SystemUser, temporary: &Path) -> Result<PathBuf, ServerError> {
        if fits(&self.run) {
            return Ok(self.run.clone());
        }
        let data = fs::metadata(&self.data).map_err(ServerError::io("look at", &self.data))?;
        let name = format!("recado-pg-{}-{}", data.dev(), data.ino());
        let near = temporary.join(&name);
        let usable = fits(&near) && account.must_enter(temporary, "TMPDIR", "/tmp").is_ok();
        let folder = if usable { near } else { Path::new("/tmp").join(&name) };
        private_folder(&folder, account)?;
        Ok(folder)
    }

    /// The major version in `data/PG_VERSION`; `None` when there is no data yet.
    ///
    /// # Errors
    /// When `data/` exists and holds something else.
    pub(super) fn data_version(&self) -> Result<Option<u32>, ServerError> {
        let unreadable = ServerError::io("read", &self.data);
        let mut entries = match fs::read_dir(&self.data) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        match fs::read_to_string(self.data.join("PG_VERSION")) {
            Ok(text) => text.trim().parse().map(Some).map_err(|_| ServerError::unusable(&self.data, "its PG_VERSION is not a number")),
            Err(error) if error.kind() == io::ErrorKind::NotFound && entries.next().is_none() => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(ServerError::unusable(&self.data, "it is not empty and not PostgreSQL's"))
            }
            Err(error) => Err(unreadable(error)),
        }
    }
}

fn fits(folder: &Path) -> bool {
    folder.as_os_str().len() + SOCKET_NAME.len() <= SOCKET_PATH_MAX
}

/// Makes a folder of mode 0700 that belongs to the server's user, or checks that an existing one is such. Links are not
/// followed, because every user may be able to write in the parent.
pub(super) fn private_folder(folder: &Path, account: &SystemUser) -> Result<(), ServerError> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => return account.give(folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(ServerError::io("make", folder)(error)),
    }
    let meta = fs::symlink_metadata(folder).map_err(ServerError::io("look at", folder))?;
    if meta.is_dir() && meta.uid() == 0 && account.switch {
        // A hub died between making and giving it, or root made it by hand.
        set_mode(folder, 0o700)?;
        return account.give(folder);
    }
    if !meta.is_dir() || meta.uid() != account.uid {
        let reason = format!("it is not a folder of user {}", account.name);
        return Err(ServerError::unusable(folder, reason));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        set_mode(folder, 0o700)?;
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<(), ServerError> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(ServerError::io("set the rights of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_a_shell_would_read_are_refused() {
        for bad in ["/tmp/a\"b", "/tmp/$(x)", "/tmp/a`b", "/tmp/a\nb", "/tmp/a,b", "/tmp/it's"] {
            let refused = Folders::new(Path::new(bad));
            assert!(matches!(refused, Err(ServerError::UnusableFolder { .. })), "{bad:?}");
        }
        assert!(Folders::new(Path::new("/tmp/with space/ümlaut")).is_ok());
    }

    #[test]
    fn a_socket_path_has_its_limit() {
        let room = SOCKET_PATH_MAX - SOCKET_NAME.len();
        assert!(fits(Path::new(&"x".repeat(room))));
        assert!(!fits(Path::new(&"x".repeat(room + 1))));
    }

    #[test]
    fn data_is_absent_empty_known_or_refused() {
        let state = tempfile::tempdir().expect("tempdir");
        let folders = Folders::new(state.path()).expect("folders");
        assert_eq!(folders.data_version().expect("absent"), None);
        fs::create_dir(&folders.data).expect("mkdir");
        assert_eq!(folders.data_version().expect("empty"), None);
        fs::write(folders.data.join("letter"), "x").expect("write");
        assert!(matches!(folders.data_version(), Err(ServerError::UnusableFolder { .. })));
        fs::write(folders.data.join("PG_VERSION"), "15\n").expect("write");
        assert_eq!(folders.data_version().expect("known"), Some(15));
    }
}
