//! A hub of the bench's own: a process beside it, stopped by its own number.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::cli::error::Failure;
use crate::config::Config;

/// Longest wait for a process of ours to be ready; the first start of a private server takes seconds.
const READY_LIMIT: Duration = Duration::from_secs(90);
/// Longest wait for one to end. A hub gives its clients seconds to leave.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A child of this program that says `ready ADDRESS` and serves until it is told to stop. Dropping it kills it.
pub struct Ready {
    pub address: SocketAddr,
    child: Child,
    // Kept open: the child may write to it.
    _stdout: BufReader<ChildStdout>,
}

impl Ready {
    pub async fn spawn(mut command: Command) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::other(format!("a process could not be started: {error}"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().map_err(failed)?;
        let stdout = child.stdout.take().ok_or_else(|| Failure::other("a process was started without its output"))?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        let said = timeout(READY_LIMIT, stdout.read_line(&mut line)).await;
        let address = line.trim().strip_prefix("ready ").map(|rest| rest.trim_start_matches("http://")).and_then(|a| a.parse().ok());
        match (said, address) {
            (Ok(Ok(_)), Some(address)) => Ok(Self { address, child, _stdout: stdout }),
            _ => Err(Failure::unavailable("a process of the bench did not get ready")),
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub async fn kill(mut self) {
        let _ = self.child.kill().await;
    }

    /// Asks it to end; kills it when it does not.
    pub async fn stop(mut self) -> Result<(), Failure> {
        let Some(pid) = self.pid() else { return Ok(()) };
        // The standard library can only kill; the shell's own kill can ask.
        let asked = Command::new("sh").arg("-c").arg(format!("kill -TERM {pid}")).status().await;
        asked.map_err(|error| Failure::other(format!("a process could not be told to stop: {error}")))?;
        if timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            eprintln!("a process of the bench does not stop; killing it");
            let _ = self.child.kill().await;
        }
        Ok(())
    }
}

/// A hub that was started for a bench.
pub struct HubProcess {
    pub address: SocketAddr,
    ready: Ready,
}

impl HubProcess {
    pub async fn start(config: &Config, log: &Path, further: &[(&str, String)]) -> Result<Self, Failure> {
        let log_file = File::create(log).map_err(|error| Failure::other(format!("{}: {error}", log.display())))?;
        let mut command = this_program()?;
        command.args(["serve", "--bind", "127.0.0.1", "--port", "0"]).env("RECADO_LOG", "warn").stderr(log_file);
        let settings = [
            ("DATABASE_URL", config.database_url.clone()),
            ("RECADO_DATA_DIR", config.data_dir.as_ref().map(|dir| dir.display().to_string())),
            ("RECADO_JWT_SECRET", config.jwt_secret.clone()),
        ];
        for (name, value) in settings {
            command.env_remove(format!("{name}_FILE"));
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        for (name, value) in further {
            command.env_remove(format!("{name}_FILE")).env(name, value);
        }
        match Ready::spawn(command).await {
            Ok(ready) => Ok(Self { address: ready.address, ready }),
            Err(mut failure) => {
                failure.message.push_str(&format!(":\n{}", std::fs::read_to_string(log).unwrap_or_default()));
                Err(failure)
            }
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.ready.pid()
    }

    pub fn resident_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    pub async fn kill(self) {
        self.ready.kill().await;
    }

    pub async fn stop(self) -> Result<(), Failure> {
        self.ready.stop().await
    }
}

pub fn this_program() -> Result<Command, Failure> {
    std::env::current_exe().map(Command::new).map_err(|error| Failure::other(format!("the path of this program is not known: {error}")))
}
