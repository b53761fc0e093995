//! Detects processes of other containers that use the data folder.
//!
//! Two containers can share a state folder and not see each other's processes. Then `presence` finds no process, and
//! perhaps a pid file that names an unrelated one: starting would put two postmasters on one data folder. Two things
//! are visible from both containers:
//! - the socket: a process that listens on it is alive, in whichever container;
//! - file locks: a hub that holds the users' lock is alive. Its server may have been killed in this container, where it
//!   may be started again, or in the other one, where its backends may still write. The note in `run/place` tells these
//!   apart.
//!
//! Not covered: machines that share a folder by network. PostgreSQL's data does not belong there.

use super::address::PORT;
use super::child;
use super::error::ServerError;
use super::folders::Folders;
use super::locks;
use super::system_user::SystemUser;
use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A listener answers at once. Only one with a full queue takes longer, and that one is alive, too.
const CONNECT_WAIT: Duration = Duration::from_secs(2);

/// Refuses a data folder that another container uses. Call it with the gate closed, when no visible process was found
/// on the data folder.
///
/// # Errors
/// [`ServerError::UsedElsewhere`].
pub(super) fn refuse(folders: &Folders, socket_dir: &Path) -> Result<(), ServerError> {
    let hub_elsewhere = locks::in_use(&folders.users)? && noted_elsewhere(&folders.run);
    if hub_elsewhere || has_listener(socket_dir) {
        return Err(ServerError::UsedElsewhere { data_dir: folders.data.clone() });
    }
    Ok(())
}

/// Records our process namespace, before a server is started.
pub(super) fn note(run: &Path, account: &SystemUser) -> Result<(), ServerError> {
    let Some(namespace) = our_namespace() else {
        return Ok(());
    };
    let path = run.join("place");
    child::fresh_file(&path).and_then(|mut file| file.write_all(namespace.as_bytes())).map_err(ServerError::io("write", &path))?;
    account.give(&path)
}

/// The name of our process namespace (`pid:[4026531836]`); `None` on a system without namespaces.
fn our_namespace() -> Option<String> {
    let link = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// Whether the last server was started in another process namespace. False without a record.
fn noted_elsewhere(run: &Path) -> bool {
    let noted = fs::read_to_string(run.join("place")).ok();
    noted.is_some_and(|noted| Some(noted) != our_namespace())
}

/// Whether a process listens on the socket. Connecting cannot be given a time limit, so a thread does it; if it hangs,
/// it is left behind.
fn has_listener(socket_dir: &Path) -> bool {
    let socket = socket_dir.join(format!(".s.PGSQL.{PORT}"));
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let dead = match UnixStream::connect(socket) {
            Ok(_) => false,
            Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused),
        };
        // The receiver is gone only after the wait was given up.
        let _ = sender.send(!dead);
    });
    receiver.recv_timeout(CONNECT_WAIT).unwrap_or(true)
}
