//! Runs a server as a child process that says when it is ready.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// A shell script that runs a PostgreSQL server and ends it at once when the script's input is closed: when the process
/// that started it is gone, for whatever reason.
pub const WATCHED: &str = r#"exec 3<&0
"$@" 3<&- & server=$!
(cat; kill -QUIT $server) <&3 >/dev/null 2>&1 & watcher=$!
wait $server
kill $watcher"#;

/// Why a process did not become ready.
#[derive(Debug, thiserror::Error)]
pub enum StartFailure {
    #[error("could not start the process: {0}")]
    Io(#[from] std::io::Error),
    #[error("the process ended before it was ready: {0}")]
    Ended(ExitStatus),
    #[error("the process was not ready within {0:?}")]
    TimedOut(Duration),
    #[error("not a ready line: {0}")]
    OtherLine(String),
}

/// A command that gets only PATH of the caller's environment: a hub refuses settings that it does not know.
pub fn clean_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", path());
    command
}

#[expect(clippy::disallowed_methods, reason = "the variable is not a setting of a hub")]
fn path() -> std::ffi::OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// A child that printed `ready ADDRESS` or `ready http://ADDRESS`, and serves until it is stopped.
///
/// Dropping it kills it.
pub struct ReadyProcess {
    pub address: SocketAddr,
    child: Child,
    // Kept open, because the child may write to it.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl ReadyProcess {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready within `limit`. It is killed then.
    pub async fn spawn(mut command: Command, limit: Duration) -> Result<Self, StartFailure> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| std::io::Error::other("a process without its output"))?;
        let mut lines = BufReader::new(stdout).lines();
        match timeout(limit, lines.next_line()).await {
            Err(_) => Err(StartFailure::TimedOut(limit)),
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(None)) => Err(StartFailure::Ended(child.wait().await?)),
            Ok(Ok(Some(line))) => {
                let address = line.strip_prefix("ready ").map(|rest| rest.trim_start_matches("http://"));
                match address.and_then(|address| address.parse().ok()) {
                    Some(address) => Ok(Self { address, child, _stdout: lines }),
                    None => Err(StartFailure::OtherLine(line)),
                }
            }
        }
    }

    /// `None` when it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills it with SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self) -> std::io::Result<ExitStatus> {
        self.child.start_kill()?;
        self.child.wait().await
    }

    /// Waits until it has ended; `None` when it still runs after `limit`.
    pub async fn ended(&mut self, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
        timeout(limit, self.child.wait()).await.ok().transpose()
    }

    /// Sends SIGTERM, and waits for the end as [`Self::ended`] does.
    pub async fn terminate(&mut self, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
        if let Some(pid) = self.pid() {
            signal("-TERM", pid).await?;
        }
        self.ended(limit).await
    }
}

/// Sends a signal, such as `-STOP`. The standard library can only kill; the program `kill` sends any.
pub async fn signal(signal: &str, pid: u32) -> std::io::Result<()> {
    let sent = Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status().await?;
    if sent.success() { Ok(()) } else { Err(std::io::Error::other(format!("kill {signal} {pid} failed"))) }
}

/// The state of a process as one letter; `None` when it is gone.
pub fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// The memory that a process has in use, as the kernel counts it.
pub fn resident_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// How many files a process has open.
pub fn open_files(pid: u32) -> Option<usize> {
    Some(std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    async fn shell(script: &str, limit: Duration) -> Result<ReadyProcess, StartFailure> {
        let mut command = clean_command("sh");
        command.args(["-c", script]);
        ReadyProcess::spawn(command, limit).await
    }

    #[tokio::test]
    async fn a_process_is_ready_once_it_says_its_address() {
        for line in ["ready 127.0.0.1:7", "ready http://127.0.0.1:7"] {
            let mut process = shell(&format!("echo {line}; exec sleep 30"), LIMIT).await.unwrap_or_else(|failure| panic!("{failure}"));
            assert_eq!(process.address, "127.0.0.1:7".parse().unwrap());
            let pid = process.pid().unwrap();
            assert!(resident_kib(pid).unwrap() > 0 && open_files(pid).unwrap() >= 3);
            signal("-STOP", pid).await.unwrap();
            while state(pid) != Some('T') {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            signal("-CONT", pid).await.unwrap();
            assert!(process.ended(Duration::from_millis(20)).await.unwrap().is_none());
            assert!(!process.terminate(LIMIT).await.unwrap().expect("it ends").success());
            assert_eq!((process.pid(), state(pid)), (None, None));
        }
    }

    #[tokio::test]
    async fn a_process_that_does_not_become_ready_is_explained() {
        for (script, limit, said) in [
            ("exit 69", LIMIT, "the process ended before it was ready: exit status: 69"),
            ("echo hello; exec sleep 30", LIMIT, "not a ready line: hello"),
            ("exec sleep 30", Duration::from_millis(50), "the process was not ready within 50ms"),
        ] {
            let failure = shell(script, limit).await.err().expect("it is not ready");
            assert_eq!(failure.to_string(), said);
        }
        let missing = ReadyProcess::spawn(clean_command("/no/such/program"), LIMIT).await.err().expect("no process");
        assert!(missing.to_string().starts_with("could not start the process: No such file"), "{missing}");
    }
}
