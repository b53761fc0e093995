//! Reads `postmaster.pid`, in which a running server describes itself.
//!
//! Its lines: 1 pid (negative: a single-user backend), 2 data folder, 3 start time, 4 port, 5 first socket folder, 6
//! TCP address, 7 shared memory, 8 status. A server that starts writes them bit by bit, so all but the first may be
//! missing.

use super::error::ServerError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The status in line 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerStatus {
    Starting,
    Ready,
    Stopping,
    /// Absent, or a status that we do not act on (`standby`).
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PidFile {
    pub(super) pid: u32,
    pub(super) port: Option<u16>,
    pub(super) socket_dir: Option<PathBuf>,
    pub(super) status: ServerStatus,
}

/// The result of reading the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PidFileState {
    Absent,
    /// Empty or without a number: read while it was being written, or left by a crash at that moment.
    Unreadable,
    Names(PidFile),
}

pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("postmaster.pid")
}

/// Reads the pid file.
///
/// # Errors
/// When the file exists and cannot be read; it is never taken for absent.
pub(super) fn read(data_dir: &Path) -> Result<PidFileState, ServerError> {
    let path = path(data_dir);
    match fs::read(&path) {
        Ok(bytes) => Ok(parse(&String::from_utf8_lossy(&bytes)).map_or(PidFileState::Unreadable, PidFileState::Names)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(PidFileState::Absent),
        Err(error) => Err(ServerError::io("read", &path)(error)),
    }
}

fn parse(text: &str) -> Option<PidFile> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let number: i64 = lines.first()?.parse().ok()?;
    let pid = u32::try_from(number.unsigned_abs()).ok().filter(|pid| *pid > 0)?;
    let line = |index: usize| lines.get(index).copied().filter(|line| !line.is_empty());
    Some(PidFile {
        pid,
        port: line(3).and_then(|port| port.parse().ok()),
        socket_dir: line(4).map(PathBuf::from),
        status: match line(7) {
            // A single-user backend takes no connections, whatever the line says.
            _ if number < 0 => ServerStatus::Other,
            Some("starting") => ServerStatus::Starting,
            Some("ready") => ServerStatus::Ready,
            Some("stopping") => ServerStatus::Stopping,
            _ => ServerStatus::Other,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str = "1234\n/var/lib/recado/data\n1700000000\n5432\n/var/lib/recado/run\n\n  0 32769\nready   \n";

    #[test]
    fn a_complete_file_names_all() {
        let file = parse(READY).expect("complete");
        assert_eq!(file.pid, 1234);
        assert_eq!(file.port, Some(5432));
        assert_eq!(file.socket_dir, Some(PathBuf::from("/var/lib/recado/run")));
        assert_eq!(file.status, ServerStatus::Ready);
    }

    #[test]
    fn the_status_words_are_known() {
        for (word, status) in
            [("starting", ServerStatus::Starting), ("stopping", ServerStatus::Stopping), ("standby ", ServerStatus::Other)]
        {
            let text = READY.replace("ready   ", word);
            assert_eq!(parse(&text).expect("complete").status, status, "{word}");
        }
    }

    #[test]
    fn a_file_being_written_is_not_ready() {
        assert_eq!(parse(""), None);
        assert_eq!(parse("\n"), None);
        assert_eq!(parse("12x4\n"), None);
        assert_eq!(parse("0\n"), None);
        let short = parse("1234\n/data\n").expect("a pid");
        assert_eq!((short.status, short.socket_dir), (ServerStatus::Other, None));
    }

    #[test]
    fn a_single_user_backend_has_a_negative_pid_and_is_never_ready() {
        let file = parse(&READY.replace("1234", "-77")).expect("complete");
        assert_eq!((file.pid, file.status), (77, ServerStatus::Other));
    }

    #[test]
    fn an_absent_file_is_absent_and_an_empty_one_unreadable() {
        let folder = tempfile::tempdir().expect("tempdir");
        assert_eq!(read(folder.path()).expect("read"), PidFileState::Absent);
        fs::write(path(folder.path()), "").expect("write");
        assert_eq!(read(folder.path()).expect("read"), PidFileState::Unreadable);
    }
}
