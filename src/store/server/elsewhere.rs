//! Whether processes that we cannot see use the data folder.
//!
//! Two containers can share a state folder and do not see each other's processes. Then `presence` finds nobody, and a pid
//! file that names a stranger: starting would put two postmasters on one data folder. Two things reach across:
//! - the socket: who listens on it is alive, wherever;
//! - file locks: a hub that holds the users' lock is alive. Its server may have been killed here, where we may start it
//!   again, or in the other container, where its backends may still write. The note in `run/place` tells these apart.
//!
//! Not covered: machines that share a folder by network. PostgreSQL's data does not belong there.

use super::address::PORT;
use super::child;
use super::error::ServerError;
use super::folders::Folders;
use super::locks;
use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A listener answers at once; only one with a full queue takes longer, and that one is alive, too.
const CONNECT_WAIT: Duration = Duration::from_secs(2);

/// To be called with the gate closed, when no process of ours was found on the data folder.
///
/// # Errors
/// [`ServerError::UsedElsewhere`].
pub(super) fn refuse(folders: &Folders, socket_dir: &Path) -> Result<(), ServerError> {
    let hub_elsewhere = locks::in_use(&folders.users)? && noted_elsewhere(&folders.run);
    if hub_elsewhere || somebody_listens(socket_dir) {
        return Err(ServerError::UsedElsewhere { data_dir: folders.data.clone() });
    }
    Ok(())
}

/// Notes our place, before a server is started.
pub(super) fn note(run: &Path) -> Result<(), ServerError> {
    let Some(place) = our_place() else {
        return Ok(());
    };
    let path = run.join("place");
    child::fresh_file(&path).and_then(|mut file| file.write_all(place.as_bytes())).map_err(ServerError::io("write", &path))
}

/// The name of our process namespace (`pid:[4026531836]`); `None` where there is no such thing.
fn our_place() -> Option<String> {
    let link = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// Whether the last server was started from another place than ours. Without a note it was not.
fn noted_elsewhere(run: &Path) -> bool {
    let noted = fs::read_to_string(run.join("place")).ok();
    noted.is_some_and(|noted| Some(noted) != our_place())
}

/// Connecting cannot be given a time limit, so a thread does it; should it hang, it is left behind.
fn somebody_listens(socket_dir: &Path) -> bool {
    let socket = socket_dir.join(format!(".s.PGSQL.{PORT}"));
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let dead = match UnixStream::connect(socket) {
            Ok(_) => false,
            Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused),
        };
        // The receiver is gone only when we gave up waiting.
        let _ = sender.send(!dead);
    });
    receiver.recv_timeout(CONNECT_WAIT).unwrap_or(true)
}
