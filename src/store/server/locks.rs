//! File locks: one process at a time, or the count of those who live.
//!
//! Each is unlocked by name when it ends, not by closing its file alone: a lock belongs to the open file (flock(2)), and a
//! process that another thread has just forked keeps that open until it has become another program.

use super::error::ServerError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long to wait for the gate. Its holder may itself wait 60 s for a server to end and 60 s for one to start;
/// below that a second hub would give up on a first that is doing well.
pub(super) const GATE_WAIT: Duration = Duration::from_secs(130);

/// How often a lock that is taken is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// An exclusive lock, held until dropped.
#[derive(Debug)]
pub(super) struct Gate {
    _lock: Held,
}

/// A locked file, unlocked when dropped.
#[derive(Debug)]
struct Held(File);

impl Drop for Held {
    fn drop(&mut self) {
        // It fails only for a file that cannot be locked; the kernel unlocks what is left when the last copy is closed.
        let _ = self.0.unlock();
    }
}

impl Gate {
    /// Waits for the lock, at most `limit`.
    ///
    /// # Errors
    /// [`ServerError::Busy`] when another process holds it for so long.
    pub(super) fn close(path: &Path, limit: Duration) -> Result<Self, ServerError> {
        let file = open(path)?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _lock: Held(file) }),
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

/// A shared lock on `users.lock`: this process uses the server. Held until dropped.
#[derive(Debug)]
pub(super) struct UserMark {
    _lock: Held,
}

impl UserMark {
    /// Only call with the gate closed: then nobody holds the file alone, and this does not wait.
    pub(super) fn set(path: &Path) -> Result<Self, ServerError> {
        let file = open(path)?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Self { _lock: Held(file) }),
            Err(TryLockError::Error(error)) => Err(ServerError::io("lock", path)(error)),
            Err(TryLockError::WouldBlock) => Err(ServerError::unusable(path, "a program other than ours has locked it")),
        }
    }
}

/// Whether anybody holds a [`UserMark`]. Only call with the gate closed, else the answer is old when it arrives.
pub(super) fn in_use(path: &Path) -> Result<bool, ServerError> {
    let file = open(path)?;
    match file.try_lock() {
        Ok(()) => {
            drop(Held(file));
            Ok(false)
        }
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(ServerError::io("lock", path)(error)),
    }
}

/// Opens a lock file, making it when absent. Reading is enough for the kernel's `flock`, so a file that another user made
/// does as long as we may read it.
fn open(path: &Path) -> Result<File, ServerError> {
    let made = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let opened = match made {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(path),
        other => other,
    };
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => ServerError::unusable(path, "it belongs to another user; run as that user or as root"),
        _ => ServerError::io("open", path)(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a fork leaves open for a moment: a second name of the same open file.
    #[test]
    fn a_copy_of_the_file_keeps_nothing_locked() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("lock");
        let mark = UserMark::set(&path).expect("mark");
        let _copy = mark._lock.0.try_clone().expect("copy");
        assert!(in_use(&path).expect("look"));
        drop(mark);
        assert!(!in_use(&path).expect("look"));
        let gate = Gate::close(&path, Duration::ZERO).expect("gate");
        let _copy = gate._lock.0.try_clone().expect("copy");
        drop(gate);
        Gate::close(&path, Duration::ZERO).expect("gate again");
    }
}
