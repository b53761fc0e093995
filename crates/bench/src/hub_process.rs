//! Starts and stops the bench's own processes, by their process ids.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use recado::cli::error::CliFailure;
use recado::config::Config;
use recado_testkit::process::{self, ReadyProcess};
use tokio::process::Command;

/// Longest wait for a child to be ready; the first start of a private server takes seconds.
const READY_LIMIT: Duration = Duration::from_secs(90);
/// Longest wait for a child to end. A hub gives its clients seconds to leave.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Starts one of the bench's own processes and waits until it is ready.
pub async fn spawn(command: Command) -> Result<ReadyProcess, CliFailure> {
    ReadyProcess::spawn(command, READY_LIMIT).await.map_err(|failure| CliFailure::unavailable(format!("a process of the bench: {failure}")))
}

/// Asks a process to end, and kills it when it does not.
pub async fn stop(mut process: ReadyProcess) -> Result<(), CliFailure> {
    let failed = |error: std::io::Error| CliFailure::other(format!("could not stop a process: {error}"));
    if process.pid().is_some() && process.terminate(STOP_LIMIT).await.map_err(failed)?.is_none() {
        eprintln!("a process of the bench does not stop; killing it");
        process.kill().await.map_err(failed)?;
    }
    Ok(())
}

/// A hub that was started for a bench.
pub struct HubProcess {
    pub address: SocketAddr,
    ready: ReadyProcess,
}

impl HubProcess {
    pub async fn start(config: &Config, log: &Path, further: &[(&str, String)]) -> Result<Self, CliFailure> {
        let log_file = File::create(log).map_err(|error| CliFailure::other(format!("{}: {error}", log.display())))?;
        let mut command = Command::new(hub_program()?);
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
        // No read limit for users: a bench measures the hub's speed, not its fairness.
        command.env("RECADO_USER_READ_RATE", "0");
        for (name, value) in further {
            command.env_remove(format!("{name}_FILE")).env(name, value);
        }
        match spawn(command).await {
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
        process::resident_kib(self.pid()?)
    }

    pub async fn kill(mut self) {
        let _ = self.ready.kill().await;
    }

    pub async fn stop(self) -> Result<(), CliFailure> {
        stop(self.ready).await
    }
}

/// This program, for the bench's own processes.
pub fn this_program() -> Result<Command, CliFailure> {
    Ok(Command::new(own_path()?))
}

/// The path of the hub's program: `recado` in the folder of this program, so that both come from one build.
///
/// # Errors
/// When the file is missing. The error says what to build.
pub fn hub_program() -> Result<PathBuf, CliFailure> {
    let hub = own_path()?.with_file_name("recado");
    if hub.is_file() {
        return Ok(hub);
    }
    let build = if cfg!(debug_assertions) { "cargo build" } else { "cargo build --release" };
    Err(CliFailure::other(format!("the hub's program {} does not exist; build it with: {build}", hub.display())))
}

fn own_path() -> Result<PathBuf, CliFailure> {
    std::env::current_exe().map_err(|error| CliFailure::other(format!("could not find this program's path: {error}")))
}
