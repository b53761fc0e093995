//! The hubs of a run: real processes, each behind proxies of its own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex as PlainMutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::postgres::Postgres;
use crate::proxy::{Proxy, Target};
use crate::{Trouble, secrets};

/// A hub may have to wait for a database that recovers, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The place of a hub: what stays when the process goes.
pub struct Hub {
    pub number: usize,
    /// Between it and the database; LISTEN apart.
    pub database: Proxy,
    pub listen: Proxy,
    /// Between it and everyone who connects to it.
    pub front: Proxy,
    address: Arc<PlainMutex<Option<SocketAddr>>>,
    process: Mutex<Option<Process>>,
    vars: Vec<(String, String)>,
    pub log: PathBuf,
    /// Files that it had open when it was new, and nobody was connected.
    pub base_files: PlainMutex<Option<u64>>,
}

struct Process {
    child: Child,
    _stdout: BufReader<ChildStdout>,
}

impl Hub {
    pub async fn place(number: usize, postgres: &Postgres, user: &str, mutant: Option<&str>, path: &str) -> Result<Self, Trouble> {
        let database = Proxy::before(Target::Unix(postgres.socket.clone())).await?;
        let listen = Proxy::before(Target::Unix(postgres.socket.clone())).await?;
        let address = Arc::new(PlainMutex::new(None));
        let front = Proxy::before(Target::Tcp(Arc::clone(&address))).await?;
        let url = |port: u16| format!("postgres://{user}:{}@127.0.0.1:{port}/recado?sslmode=disable", secrets::DATABASE_PASSWORD);
        let vars = [
            ("PATH", path.to_owned()),
            ("DATABASE_URL", url(database.port)),
            ("RECADO_LISTEN_DATABASE_URL", url(listen.port)),
            ("PORT", "0".to_owned()),
            ("RECADO_JWT_SECRET", secrets::JWT.to_owned()),
            ("RECADO_FETCH_POSTGRES", "off".to_owned()),
            // Trace of our own rooms: that is where a secret would stand.
            ("RECADO_LOG", "info,recado=trace".to_owned()),
            ("WS_HEARTBEAT_INTERVAL", "2s".to_owned()),
            ("RECADO_SEND_DEADLINE", "5s".to_owned()),
            ("RECADO_PONG_DEADLINE", "8s".to_owned()),
            ("RECADO_POLL_INTERVAL", "1s".to_owned()),
            ("RECADO_DRAIN_WINDOW", "1s".to_owned()),
            ("RECADO_MAX_CONNECTIONS_PER_USER", "100".to_owned()),
        ];
        let mut vars: Vec<_> = vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        vars.extend(mutant.map(|mutant| ("TORTURE_MUTANT".to_owned(), mutant.to_owned())));
        let log = postgres.folder.join(format!("hub-{number}.log"));
        let process = Mutex::new(None);
        Ok(Self { number, database, listen, front, address, process, vars, log, base_files: PlainMutex::new(None) })
    }

    /// For clients: through the proxy.
    pub fn url(&self) -> String {
        format!("127.0.0.1:{}", self.front.port)
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&self, program: &Path) -> Result<(), Trouble> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(program);
        command.arg("serve").env_clear().envs(self.vars.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or("a hub without a stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let ready = timeout(START_LIMIT, lines.next_line()).await.map_err(|_| "a hub was not ready in time")??;
        let ready = ready.ok_or_else(|| format!("hub {} ended before it was ready; see {}", self.number, self.log.display()))?;
        let address = ready.strip_prefix("ready http://").and_then(|text| text.parse().ok());
        let address: SocketAddr = address.ok_or_else(|| format!("not a ready line: {ready}"))?;
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
        *self.process.lock().await = Some(Process { child, _stdout: lines.into_inner() });
        Ok(())
    }

    pub async fn pid(&self) -> Option<u32> {
        self.process.lock().await.as_ref()?.child.id()
    }

    /// Its number is gone at once: who connects from now on is refused.
    pub async fn kill(&self) -> Result<Option<ExitStatus>, Trouble> {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let Some(mut process) = self.process.lock().await.take() else { return Ok(None) };
        process.child.start_kill()?;
        Ok(Some(process.child.wait().await?))
    }

    /// Asks it to end, and waits.
    pub async fn terminate(&self, limit: Duration) -> Result<Option<ExitStatus>, Trouble> {
        let Some(mut process) = self.process.lock().await.take() else { return Ok(None) };
        if let Some(pid) = process.child.id() {
            signal("-TERM", pid).await?;
        }
        let ended = timeout(limit, process.child.wait()).await;
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(ended.ok().transpose()?)
    }

    /// Open files and memory, as the kernel counts them.
    pub async fn files_and_memory(&self) -> Option<(u64, u64)> {
        let pid = self.pid().await?;
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some((files, line.split_whitespace().next()?.parse().ok()?))
    }
}

pub async fn signal(signal: &str, pid: u32) -> Result<(), Trouble> {
    let sent = Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status().await?;
    if sent.success() { Ok(()) } else { Err(format!("kill {signal} {pid} failed").into()) }
}

/// The state of a process as one letter; `None` when it is gone.
pub fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}
