//! Finds out which processes run on a data folder right now.
//!
//! A pid alone proves nothing: numbers are reused, above all after a container restarts. But the postmaster and each of
//! its backends have the data folder as their working folder, from before the pid file is written until they are gone.

use super::child;
use super::error::ServerError;
use super::pidfile::{self, PidFile, PidFileState, ServerStatus};
use super::system_user::SystemUser;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Presence {
    /// A server that takes connections.
    Ready(PidFile),
    /// A process that must end, or become ready, first. The text names it.
    Busy(String),
    /// No process works in the data folder, but its pid file would keep PostgreSQL from starting: it names a live
    /// unrelated process, or none. Returned only when every process could be inspected.
    LeftFile,
    /// Nothing is in the way. `known`: every process could be inspected.
    Nobody { known: bool },
}

/// Checks once.
///
/// # Errors
/// Only when existing files cannot be read.
pub(super) fn look(data_dir: &Path, account: &SystemUser) -> Result<Presence, ServerError> {
    // In this order, the second look sees a server that starts between the two. In the other order, its new pid file
    // would name a process that the earlier look had missed, and would count as left over.
    let file = pidfile::read(data_dir)?;
    let inside = processes_in(data_dir, account);
    Ok(judge(file, inside.as_deref(), state_of))
}

/// The decision as a pure function. `inside` is `None` where processes cannot be inspected (no /proc).
fn judge(file: PidFileState, inside: Option<&[u32]>, state_of: impl Fn(u32) -> ProcessState) -> Presence {
    let Some(inside) = inside else {
        return judge_by_pid(file, state_of);
    };
    match file {
        PidFileState::Names(file) if inside.contains(&file.pid) => judge_server(file),
        _ if !inside.is_empty() => Presence::Busy(format!(
            "found server processes that the pid file does not name, left by an ended server or started in a container (pid {})",
            list(inside)
        )),
        // PostgreSQL, too, counts a zombie as alive; so wait until its parent reaps it.
        PidFileState::Names(file) if state_of(file.pid) == ProcessState::Zombie => Presence::Busy(format!(
            "the ended server {} waits for its parent process to reap it (in a container, run under an init: docker run --init)",
            file.pid
        )),
        PidFileState::Names(file) if state_of(file.pid) == ProcessState::Alive => Presence::LeftFile,
        PidFileState::Unreadable => Presence::LeftFile,
        // The file of a dead server stays, because PostgreSQL needs it to notice left-over backends.
        PidFileState::Names(_) | PidFileState::Absent => Presence::Nobody { known: true },
    }
}

/// Decides without inspecting processes: joins a server that says it is ready, and leaves every other decision to
/// pg_ctl.
fn judge_by_pid(file: PidFileState, state_of: impl Fn(u32) -> ProcessState) -> Presence {
    match file {
        PidFileState::Names(file) if state_of(file.pid) != ProcessState::Gone => judge_server(file),
        _ => Presence::Nobody { known: false },
    }
}

fn judge_server(file: PidFile) -> Presence {
    let pid = file.pid;
    match file.status {
        ServerStatus::Ready => Presence::Ready(file),
        ServerStatus::Starting => Presence::Busy(format!("the server {pid} is starting")),
        ServerStatus::Stopping => Presence::Busy(format!("the server {pid} is stopping")),
        ServerStatus::Other => Presence::Busy(format!("the server {pid} takes no connections yet")),
    }
}

fn list(pids: &[u32]) -> String {
    let words: Vec<String> = pids.iter().map(u32::to_string).collect();
    words.join(", ")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProcessState {
    Gone,
    Zombie,
    Alive,
}

fn state_of(pid: u32) -> ProcessState {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The name in brackets may hold anything, also brackets. The state follows the last one.
        Ok(stat) => match stat.rsplit_once(')') {
            Some((_, rest)) if rest.trim_start().starts_with(['Z', 'X']) => ProcessState::Zombie,
            _ => ProcessState::Alive,
        },
        Err(_) if has_proc() => ProcessState::Gone,
        Err(_) => by_signal(pid),
    }
}

/// Asks `ps`, where there is no /proc, whether the number belongs to any process.
fn by_signal(pid: u32) -> ProcessState {
    let mut ps = Command::new("ps");
    ps.args(["-o", "stat=", "-p", &pid.to_string()]);
    match child::ask(&mut ps) {
        Some(state) if state.starts_with('Z') => ProcessState::Zombie,
        Some(state) if !state.is_empty() => ProcessState::Alive,
        _ => ProcessState::Gone,
    }
}

fn has_proc() -> bool {
    Path::new("/proc/self/stat").exists()
}

/// Lists PostgreSQL processes whose working folder is `data_dir`; `None` when that cannot be known.
///
/// Only processes with PostgreSQL's names count, because an administrator's shell may be in that folder for days.
fn processes_in(data_dir: &Path, account: &SystemUser) -> Option<Vec<u32>> {
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
            // Another folder, or the process ended meanwhile; a zombie has no working folder.
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

/// Looks as the server's user. Root without the capability SYS_PTRACE (the default in containers) may not see the
/// working folder of another user's process; that user may. A process that is still hidden belongs to a third user, who
/// cannot run on data of mode 0700.
fn look_as(account: &SystemUser, data_dir: &Path, pids: &[u32]) -> Option<Vec<u32>> {
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
    // Without the last line the probe did not finish, and its answer is incomplete.
    let seen = answer.strip_suffix("end")?;
    seen.split_whitespace().map(|pid| pid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(pid: u32, status: ServerStatus) -> PidFileState {
        PidFileState::Names(PidFile { pid, port: None, socket_dir: None, status })
    }

    fn alive(_: u32) -> ProcessState {
        ProcessState::Alive
    }

    #[test]
    fn a_ready_server_in_the_folder_is_joined() {
        let presence = judge(file(7, ServerStatus::Ready), Some(&[7, 8]), alive);
        assert!(matches!(presence, Presence::Ready(file) if file.pid == 7));
    }

    #[test]
    fn a_file_that_names_a_living_stranger_or_nobody_is_a_left_one() {
        let presence = judge(file(7, ServerStatus::Ready), Some(&[]), alive);
        assert_eq!(presence, Presence::LeftFile);
        assert_eq!(judge(PidFileState::Unreadable, Some(&[]), alive), Presence::LeftFile);
    }

    #[test]
    fn the_file_of_a_dead_server_is_left_to_postgresql() {
        let dead = judge(file(7, ServerStatus::Ready), Some(&[]), |_| ProcessState::Gone);
        assert_eq!(dead, Presence::Nobody { known: true });
        let absent = judge(PidFileState::Absent, Some(&[]), alive);
        assert_eq!(absent, Presence::Nobody { known: true });
    }

    #[test]
    fn whatever_works_in_the_folder_without_a_ready_postmaster_is_waited_for() {
        for (found, inside) in [
            (file(7, ServerStatus::Starting), vec![7]),
            (file(7, ServerStatus::Stopping), vec![7]),
            (file(7, ServerStatus::Other), vec![7]),
            (file(7, ServerStatus::Ready), vec![8]),
            (PidFileState::Absent, vec![8]),
            (PidFileState::Unreadable, vec![8]),
        ] {
            let presence = judge(found.clone(), Some(&inside), alive);
            assert!(matches!(presence, Presence::Busy(_)), "{found:?} {inside:?}");
        }
    }

    #[test]
    fn a_zombie_is_waited_for() {
        let presence = judge(file(7, ServerStatus::Ready), Some(&[]), |_| ProcessState::Zombie);
        assert!(matches!(presence, Presence::Busy(_)));
    }

    #[test]
    fn without_a_look_at_processes_nothing_is_known() {
        let gone = judge(file(7, ServerStatus::Ready), None, |_| ProcessState::Gone);
        assert_eq!(gone, Presence::Nobody { known: false });
        let ready = judge(file(7, ServerStatus::Ready), None, alive);
        assert!(matches!(ready, Presence::Ready(_)));
        let stale = judge(file(7, ServerStatus::Starting), None, alive);
        assert!(matches!(stale, Presence::Busy(_)));
    }
}
