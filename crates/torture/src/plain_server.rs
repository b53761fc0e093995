//! Runs one server of a pair: starts, kills, copies and promotes it.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use recado_testkit::process;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::RunError;

/// The superuser and the database of the cluster.
pub const NAME: &str = "recado";
/// The file of a server's socket.
pub const SOCKET: &str = ".s.PGSQL.5432";
/// The name under which a standby connects to its primary.
pub const STANDBY: &str = "standby";
/// Longest wait for a server that starts, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Longest time for one of PostgreSQL's programs.
const PROGRAM_LIMIT: Duration = Duration::from_secs(60);

/// The programs of PostgreSQL, and the user who may run them.
#[derive(Debug, Clone)]
pub struct Programs {
    pub folder: PathBuf,
    pub user: String,
}

impl Programs {
    /// A program as the server's user.
    fn command(&self, program: &str) -> Command {
        let words = self.words(program);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir("/").stdin(Stdio::null());
        command
    }

    fn words(&self, program: &str) -> Vec<String> {
        let mut words = Vec::new();
        if self.user != "root" && is_root() {
            words = ["setpriv".to_owned(), format!("--reuid={}", self.user), format!("--regid={}", self.user), "--clear-groups".to_owned()]
                .to_vec();
        }
        words.push(self.folder.join(program).display().to_string());
        words
    }

    /// Gives a folder to the server's user.
    pub async fn give(&self, folder: &Path) -> Result<(), RunError> {
        if is_root() {
            run(Command::new("chown").arg(format!("{0}:{0}", self.user)).arg(folder)).await?;
        }
        Ok(())
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// Runs a program to its end.
async fn run(command: &mut Command) -> Result<(), RunError> {
    let output = tokio::time::timeout(PROGRAM_LIMIT, command.kill_on_drop(true).output()).await??;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{:?}: {}: {}", command.as_std(), output.status, String::from_utf8_lossy(&output.stderr)).into()),
    }
}

pub struct PlainServer {
    programs: Programs,
    data: PathBuf,
    /// The folder of its socket.
    pub sockets: PathBuf,
    log: PathBuf,
    /// Settings on the command line.
    settings: Vec<String>,
    process: Mutex<Option<Child>>,
}

impl PlainServer {
    /// A server with these data; not yet running. Both folders belong to the server's user.
    pub fn new(programs: Programs, data: PathBuf, sockets: PathBuf, log: PathBuf, settings: Vec<String>) -> Self {
        Self { programs, data, sockets, log, settings, process: Mutex::new(None) }
    }

    pub fn url(&self) -> String {
        url(&self.sockets)
    }

    /// Starts it and waits until it answers. The processes of a server that was killed may still hold its memory: then
    /// it ends at once, and is started again.
    pub async fn start(&self) -> Result<(), RunError> {
        let end = Instant::now() + START_LIMIT;
        let mut process = self.process.lock().await;
        while Instant::now() < end {
            let is_running = process.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none()));
            if !is_running {
                *process = Some(self.spawn()?);
            } else if self.connect().await.is_ok() {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(format!("PostgreSQL in {} did not start; see {}", self.data.display(), self.log.display()).into())
    }

    fn spawn(&self) -> Result<Child, RunError> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new("sh");
        command.args(["-c", process::WATCHED, "sh"]).args(self.programs.words("postgres")).arg("-D").arg(&self.data);
        command
            .args(["-c", "listen_addresses=", "-c", "port=5432", "-c"])
            .arg(format!("unix_socket_directories={}", self.sockets.display()));
        command.args(self.settings.iter().flat_map(|setting| ["-c", setting]));
        Ok(command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn()?)
    }

    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let options: PgConnectOptions = self.url().parse()?;
        PgConnection::connect_with(&options).await
    }

    pub fn postmaster(&self) -> Option<u32> {
        fs::read_to_string(self.data.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
    }

    /// Kills the postmaster with SIGKILL and waits for its end. Its processes end by themselves.
    pub async fn kill(&self) -> Result<Option<ExitStatus>, RunError> {
        let Some(pid) = self.postmaster() else { return Ok(None) };
        process::signal("-KILL", pid).await?;
        match self.process.lock().await.take() {
            Some(mut child) => Ok(Some(child.wait().await?)),
            None => Ok(None),
        }
    }

    /// Shuts it down. Does nothing if it does not run.
    pub async fn stop(&self) -> Result<(), RunError> {
        let Some(mut child) = self.process.lock().await.take() else { return Ok(()) };
        if child.try_wait()?.is_none() {
            run(self.programs.command("pg_ctl").args(["stop", "-m", "fast", "-w", "-D"]).arg(&self.data)).await?;
        }
        child.wait().await?;
        Ok(())
    }

    /// Makes it a standby of this primary: copies the data, and starts. Data that it had are erased.
    pub async fn follow(&self, primary: &Self) -> Result<(), RunError> {
        self.stop().await?;
        fs::create_dir_all(&self.data)?;
        fs::set_permissions(&self.data, Permissions::from_mode(0o700))?;
        run(Command::new("find").arg(&self.data).args(["-mindepth", "1", "-delete"])).await?;
        self.programs.give(&self.data).await?;
        let source = format!("host={} user={NAME} application_name={STANDBY}", primary.sockets.display());
        let mut copy = self.programs.command("pg_basebackup");
        copy.args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", &source, "-D"]).arg(&self.data);
        run(&mut copy).await?;
        self.start().await
    }

    /// The process of a standby that receives what the primary commits.
    pub async fn receiver(&self) -> Result<Option<u32>, RunError> {
        let mut connection = self.connect().await?;
        let pid: Option<i32> = sqlx::query_scalar("SELECT pid FROM pg_stat_wal_receiver").fetch_optional(&mut connection).await?;
        Ok(pid.and_then(|pid| u32::try_from(pid).ok()))
    }

    /// Makes a standby the primary.
    pub async fn promote(&self) -> Result<(), RunError> {
        run(self.programs.command("pg_ctl").args(["promote", "-w", "-D"]).arg(&self.data)).await
    }
}

/// The URL of the superuser, over the socket in this folder.
pub fn url(sockets: &Path) -> String {
    format!("postgres:///{NAME}?host={}&port=5432&user={NAME}&sslmode=disable", sockets.display())
}
