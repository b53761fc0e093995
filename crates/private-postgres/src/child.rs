//! Runs helper programs with a time limit, without pipes that a server could keep open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// The limit of every wait for PostgreSQL: pg_ctl's own default. Crash recovery of a large log may take longer; then
/// the error says so and the server continues to start.
pub(super) const WAIT: Duration = Duration::from_secs(60);

/// The limit of small queries (`postgres -V`, `pg_config --bindir`, `id`), which take milliseconds.
const QUESTION_WAIT: Duration = Duration::from_secs(10);

/// How a program ended.
pub(super) struct ChildOutcome {
    pub(super) success: bool,
    /// The end of its output, on one line.
    pub(super) output: String,
}

/// Runs a program to its end with its output in a new file `output`, and kills it after `limit`.
///
/// # Errors
/// When the file cannot be made or the program cannot be started.
pub(super) fn run(command: &mut Command, output: &Path, limit: Duration) -> io::Result<ChildOutcome> {
    let file = fresh_file(output)?;
    let mut child = command.stdout(file.try_clone()?).stderr(file).spawn()?;
    let status = wait(&mut child, limit)?;
    let success = status.is_some_and(|status| status.success());
    let mut text = tail(output);
    match status {
        Some(_) if success => {}
        Some(status) => text.push_str(&format!(" ({status})")),
        None => text.push_str(&format!(" (killed after {} s)", limit.as_secs())),
    }
    Ok(ChildOutcome { success, output: text })
}

/// Returns the standard output of a small program that succeeded, `None` for anything else.
///
/// A separate thread reads the pipe: if a grandchild keeps it open, only that thread stays behind.
pub(super) fn ask(command: &mut Command) -> Option<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let mut stdout = child.stdout.take()?;
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut text = String::new();
        // Output that is not UTF-8 counts as no answer.
        if stdout.read_to_string(&mut text).is_ok() {
            // The receiver is gone only after the wait was given up.
            let _ = sender.send(text);
        }
    });
    let status = wait(&mut child, QUESTION_WAIT).ok()??;
    let text = receiver.recv_timeout(QUESTION_WAIT).ok()?;
    status.success().then(|| text.trim().to_owned())
}

/// Waits for a child; after `limit` kills it and returns `None`.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Makes a new file. An existing one is removed first and no link is followed: as root we write in a folder of the
/// server's user, who could have put a link there.
pub(super) fn fresh_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Returns the last lines of a text file on one line, for an error; `(empty)` when there is nothing.
pub(super) fn tail(path: &Path) -> String {
    const BYTES: u64 = 2_000;
    const LINES: usize = 6;
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    if last.is_empty() {
        return "(empty)".to_owned();
    }
    last.join(" | ")
}

/// Finds the first executable file of this name on a `PATH`.
pub(super) fn on_path(name: &str, path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    std::env::split_paths(path?).filter(|folder| folder.is_absolute()).map(|folder| folder.join(name)).find(|program| is_program(program))
}

/// Whether this is a file that some user may execute. Links are followed.
pub(super) fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
