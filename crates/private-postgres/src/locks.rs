//! Locks files: exclusively for one process, or shared by all live ones.
//!
//! Each lock is released explicitly, not only by closing its file: a lock belongs to the open file (flock(2)), and a
//! process that another thread has just forked keeps that file open until it has become another program.

use super::error::ServerError;
use super::system_user::SystemUser;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longest wait for the gate. Its holder may itself wait 60 s for a server to end and 60 s for one to start; with a
/// shorter limit a second hub would give up on a first one that is doing well.
pub(super) const GATE_WAIT: Duration = Duration::from_secs(130);

/// How often a taken lock is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// An exclusive lock, held until dropped.
#[derive(Debug)]
pub(super) struct ExclusiveLock {
    _lock: LockedFile,
}

/// A locked file, unlocked when dropped.
#[derive(Debug)]
struct LockedFile(File);

impl Drop for LockedFile {
    fn drop(&mut self) {
        // It fails only for a file that cannot be locked. The kernel unlocks the rest when the last copy is closed.
        let _ = self.0.unlock();
    }
}

impl ExclusiveLock {
    /// Waits for the lock, at most `limit`.
    ///
    /// # Errors
    /// [`ServerError::Busy`] when another process holds it for that long.
    pub(super) fn close(path: &Path, limit: Duration) -> Result<Self, ServerError> {
        let file = open(path)?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _lock: LockedFile(file) }),
                Err(TryLockError::Error(error)) => {
                    return Err(ServerError::io("lock", path)(error));
                }
                Err(TryLockError::WouldBlock) if started.elapsed() >= limit => {
                    return Err(ServerError::Busy {
                        seconds: limit.as_secs(),
                        reason: format!("another process holds the lock {}", path.display()),
                        log: "not looked at".to_owned(),
                    });
                }
                Err(TryLockError::WouldBlock) => sleep(RETRY),
            }
        }
    }
}

/// A shared lock on `users.lock`, which says that this process uses the server. Held until dropped.
#[derive(Debug)]
pub(super) struct UserMark {
    _lock: LockedFile,
}

impl UserMark {
    /// Call it only with the gate closed: then no process holds the file exclusively, and this does not wait.
    pub(super) fn set(path: &Path) -> Result<Self, ServerError> {
        let file = open(path)?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Self { _lock: LockedFile(file) }),
            Err(TryLockError::Error(error)) => Err(ServerError::io("lock", path)(error)),
            Err(TryLockError::WouldBlock) => Err(ServerError::unusable(path, "a program other than Recado has locked it")),
        }
    }
}

/// Whether any process holds a [`UserMark`]. Call it only with the gate closed; otherwise the answer may be outdated.
pub(super) fn in_use(path: &Path) -> Result<bool, ServerError> {
    let file = open(path)?;
    match file.try_lock() {
        Ok(()) => {
            drop(LockedFile(file));
            Ok(false)
        }
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(ServerError::io("lock", path)(error)),
    }
}

/// Opens a lock file, or makes it, for its owner alone: a process that can open it can lock it and make us wait.
fn open(path: &Path) -> Result<File, ServerError> {
    let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
    let mut opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(nofollow).open(path);
    if opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
        // Root made this one in an older version. Reading is enough for the kernel's `flock`.
        opened = OpenOptions::new().read(true).custom_flags(nofollow).open(path);
    }
    let file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => ServerError::unusable(path, "it belongs to another user; run as that user or as root"),
        _ => ServerError::io("open", path)(error),
    })?;
    let about = file.metadata().map_err(ServerError::io("look at", path))?;
    if !about.is_file() {
        return Err(ServerError::unusable(path, "it is not a regular file; remove it"));
    }
    if about.mode() & 0o077 != 0 {
        // An older hub made it. If we may not change it, its owner does.
        let _ = file.set_permissions(Permissions::from_mode(0o600));
    }
    Ok(file)
}

/// Makes a lock file, or checks that an existing one belongs to root or to the server's user: another user who made it
/// could hold it for ever.
pub(super) fn prepare(path: &Path, account: &SystemUser) -> Result<(), ServerError> {
    let owner = open(path)?.metadata().map_err(ServerError::io("look at", path))?.uid();
    if owner == account.uid {
        return Ok(());
    }
    if owner != 0 {
        return Err(ServerError::unusable(path, format!("user number {owner} made it; remove it")));
    }
    // Root's own, which the server's user could not open: hubs of that user lock the same file.
    account.give(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fork leaves this for a moment: a second descriptor of the same open file.
    #[test]
    fn a_copy_of_the_file_keeps_nothing_locked() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("lock");
        let mark = UserMark::set(&path).expect("mark");
        let _copy = mark._lock.0.try_clone().expect("copy");
        assert!(in_use(&path).expect("look"));
        drop(mark);
        assert!(!in_use(&path).expect("look"));
        let gate = ExclusiveLock::close(&path, Duration::ZERO).expect("gate");
        let _copy = gate._lock.0.try_clone().expect("copy");
        drop(gate);
        ExclusiveLock::close(&path, Duration::ZERO).expect("gate again");
    }
}
