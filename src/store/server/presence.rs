//! Who runs on a data folder right now.
//!
//! A pid alone proves nothing: numbers are used again, above all after a container restarts. But the postmaster and each of
//! its backends keep the data folder as their working folder, from before the pid file is written until they are gone.

use super::account::Account;
use super::child;
use super::error::ServerError;
use super::pidfile::{self, Found, PidFile, Status};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Presence {
    /// A server that takes connections.
    Ready(PidFile),
    /// Something that must end, or become ready, first. The text says what.
    Busy(String),
    /// No process works in the data folder, but its pid file would keep PostgreSQL from starting: it names a living
    /// stranger, or nobody. Only said when we could look at every process.
    LeftFile,
    /// Nothing is in the way. `known`: we could look at every process.
    Nobody { known: bool },
}

/// Looks once.
///
/// # Errors
/// Only when files that are there cannot be read.
pub(super) fn look(data_dir: &Path, account: &Account) -> Result<Presence, ServerError> {
    // In this order: a server that starts between the two looks is seen in the second. The other way round its new pid
    // file would name a process that the earlier look had missed, and be taken for a stranger's.
    let file = pidfile::read(data_dir)?;
    let inside = processes_in(data_dir, account);
    Ok(judge(file, inside.as_deref(), state_of))
}

/// The decision by itself. `inside` is `None` where processes cannot be looked at (no /proc).
fn judge(file: Found, inside: Option<&[u32]>, state_of: impl Fn(u32) -> State) -> Presence {
    let Some(inside) = inside else {
        return judge_by_pid(file, state_of);
    };
    match file {
        Found::Names(file) if inside.contains(&file.pid) => judge_server(file),
        _ if !inside.is_empty() => Presence::Busy(format!(
            "server processes that its pid file does not name are there, left by an ended server or started in a container (pid {})",
            list(inside)
        )),
        // PostgreSQL, too, counts a zombie as alive; so wait until its parent takes note.
        Found::Names(file) if state_of(file.pid) == State::Zombie => Presence::Busy(format!(
            "the ended server {} waits for its parent process to take note (in a container, run under an init: docker run --init)",
            file.pid
        )),
        Found::Names(file) if state_of(file.pid) == State::Alive => Presence::LeftFile,
        Found::Unreadable => Presence::LeftFile,
        // The file of a dead server stays: PostgreSQL needs it to notice left-over backends.
        Found::Names(_) | Found::Absent => Presence::Nobody { known: true },
    }
}

/// Without a look at the processes: join what says it is ready, and leave every other judgement to pg_ctl.
fn judge_by_pid(file: Found, state_of: impl Fn(u32) -> State) -> Presence {
    match file {
        Found::Names(file) if state_of(file.pid) != State::Gone => judge_server(file),
        _ => Presence::Nobody { known: false },
    }
}

fn judge_server(file: PidFile) -> Presence {
    let pid = file.pid;
    match file.status {
        Status::Ready => Presence::Ready(file),
        Status::Starting => Presence::Busy(format!("the server {pid} is starting")),
        Status::Stopping => Presence::Busy(format!("the server {pid} is stopping")),
        Status::Other => Presence::Busy(format!("the server {pid} takes no connections yet")),
    }
}

fn list(pids: &[u32]) -> String {
    let words: Vec<String> = pids.iter().map(u32::to_string).collect();
    words.join(", ")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Gone,
    Zombie,
    Alive,
}

fn state_of(pid: u32) -> State {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The name in brackets may hold anything, also brackets; the state follows the last of them.
        Ok(stat) => match stat.rsplit_once(')') {
            Some((_, rest)) if rest.trim_start().starts_with(['Z', 'X']) => State::Zombie,
            _ => State::Alive,
        },
        Err(_) if has_proc() => State::Gone,
        Err(_) => by_signal(pid),
    }
}

/// Where there is no /proc: does the number belong to any process?
fn by_signal(pid: u32) -> State {
    let mut ps = Command::new("ps");
    ps.args(["-o", "stat=", "-p", &pid.to_string()]);
    match child::ask(&mut ps) {
        Some(state) if state.starts_with('Z') => State::Zombie,
        Some(state) if !state.is_empty() => State::Alive,
        _ => State::Gone,
    }
}

fn has_proc() -> bool {
    Path::new("/proc/self/stat").exists()
}

/// PostgreSQL processes whose working folder is `data_dir`; `None` when it cannot be known.
///
/// Only processes named like PostgreSQL's count: an administrator's shell may stand in that folder for days.
fn processes_in(data_dir: &Path, account: &Account) -> Option<Vec<u32>> {
    let data = fs::metadata(data_dir).ok()?;
    if !has_proc() {
        return None;
    }
    let mut inside = Vec::new();
    let mut hidden = Vec::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if !is_postgres(pid) {
            continue;
        }
        match fs::metadata(format!("/proc/{pid}/cwd")) {
            Ok(cwd) if (cwd.dev(), cwd.ino()) == (data.dev(), data.ino()) => inside.push(pid),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => hidden.push(pid),
            // Elsewhere, or ended while we looked; a zombie has no working folder.
            _ => {}
        }
    }
    if !hidden.is_empty() {
        inside.extend(look_as(account, data_dir, &hidden)?);
    }
    Some(inside)
}

fn is_postgres(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("postgres") || name.starts_with("postmaster"))
}

/// Root without the capability SYS_PTRACE (the default in containers) may not see where another user's process works.
/// That user may. What even it may not see belongs to a third user, who cannot run on data of mode 0700.
fn look_as(account: &Account, data_dir: &Path, pids: &[u32]) -> Option<Vec<u32>> {
    if !account.switch {
        return Some(Vec::new());
    }
    let mut probe = account.command(Path::new("/bin/sh"));
    probe
        .args(["-c", r#"d=$1; shift; for p; do [ "/proc/$p/cwd" -ef "$d" ] && echo "$p"; done; echo end"#])
        .arg("probe")
        .arg(data_dir)
        .args(pids.iter().map(u32::to_string))
        .stdin(Stdio::null());
    let answer = child::ask(&mut probe)?;
    // Without the last line it did not come to the end, and what it did not say means nothing.
    let seen = answer.strip_suffix("end")?;
    seen.split_whitespace().map(|pid| pid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(pid: u32, status: Status) -> Found {
        Found::Names(PidFile { pid, port: None, socket_dir: None, status })
    }

    fn alive(_: u32) -> State {
        State::Alive
    }

    #[test]
    fn a_ready_server_in_the_folder_is_joined() {
        let presence = judge(file(7, Status::Ready), Some(&[7, 8]), alive);
        assert!(matches!(presence, Presence::Ready(file) if file.pid == 7));
    }

    #[test]
    fn a_file_that_names_a_living_stranger_or_nobody_is_a_left_one() {
        let presence = judge(file(7, Status::Ready), Some(&[]), alive);
        assert_eq!(presence, Presence::LeftFile);
        assert_eq!(judge(Found::Unreadable, Some(&[]), alive), Presence::LeftFile);
    }

    #[test]
    fn the_file_of_a_dead_server_is_left_to_postgresql() {
        let dead = judge(file(7, Status::Ready), Some(&[]), |_| State::Gone);
        assert_eq!(dead, Presence::Nobody { known: true });
        let absent = judge(Found::Absent, Some(&[]), alive);
        assert_eq!(absent, Presence::Nobody { known: true });
    }

    #[test]
    fn whatever_works_in_the_folder_without_a_ready_postmaster_is_waited_for() {
        for (found, inside) in [
            (file(7, Status::Starting), vec![7]),
            (file(7, Status::Stopping), vec![7]),
            (file(7, Status::Other), vec![7]),
            (file(7, Status::Ready), vec![8]),
            (Found::Absent, vec![8]),
            (Found::Unreadable, vec![8]),
        ] {
            let presence = judge(found.clone(), Some(&inside), alive);
            assert!(matches!(presence, Presence::Busy(_)), "{found:?} {inside:?}");
        }
    }

    #[test]
    fn a_zombie_is_waited_for() {
        let presence = judge(file(7, Status::Ready), Some(&[]), |_| State::Zombie);
        assert!(matches!(presence, Presence::Busy(_)));
    }

    #[test]
    fn without_a_look_at_processes_nothing_is_known() {
        let gone = judge(file(7, Status::Ready), None, |_| State::Gone);
        assert_eq!(gone, Presence::Nobody { known: false });
        let ready = judge(file(7, Status::Ready), None, alive);
        assert!(matches!(ready, Presence::Ready(_)));
        let stale = judge(file(7, Status::Starting), None, alive);
        assert!(matches!(stale, Presence::Busy(_)));
    }
}
