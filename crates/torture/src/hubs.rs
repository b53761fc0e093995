//! Runs the hubs of a run as real processes, each behind proxies of its own.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex as PlainMutex, PoisonError};
use std::time::Duration;

use recado_testkit::process::{self, ReadyProcess, StartFailure, clean_command};
use recado_testkit::proxy::{Proxy, ProxyTarget};
use recado_torture_check::RESUME_WINDOW;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::postgres::Postgres;
use crate::provider;
use crate::receiver;
use crate::{RunError, secrets};

/// A hub may have to wait for a database that recovers, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The exit code of a hub whose database does not answer.
const NO_DATABASE: i32 = 69;
/// Lease of a provider session. The shortest that may be configured, three seconds, expires by itself on a busy
/// machine.
pub const LEASE: Duration = Duration::from_secs(5);
/// Most clients of a hub. More than the run has, and few enough for an anonymous client to take all of them.
const MOST_CLIENTS: usize = 300;
/// Longest wait for a hub's start line in its log file.
const LINE_LIMIT: Duration = Duration::from_secs(5);

/// The instances of all hubs' processes, by the number of the process: a hub that starts again is another instance.
#[derive(Default)]
pub struct Roll(PlainMutex<Vec<Option<String>>>);

impl Roll {
    fn begin(&self) -> usize {
        let mut roll = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        roll.push(None);
        roll.len() - 1
    }

    fn enter(&self, process: usize, instance: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[process] = Some(instance);
    }

    /// The process of this instance; a number that no process has for an unknown instance.
    pub fn process_of(&self, instance: &str) -> usize {
        let roll = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        roll.iter().position(|known| known.as_deref() == Some(instance)).unwrap_or(usize::MAX)
    }
}

/// State that all hubs of a run share.
pub struct Site {
    pub user: String,
    pub path: String,
    pub mutant: Option<String>,
    pub provider: SocketAddr,
    /// The identity file of all hubs.
    pub identity_file: PathBuf,
    pub roll: Roll,
}

/// The parts of a hub that outlive its process.
pub struct TortureHub {
    pub number: usize,
    site: Arc<Site>,
    /// Proxy between the hub and the database, except for LISTEN.
    pub database: Proxy,
    pub listen: Proxy,
    /// Proxy between the hub and the standby, from which it reads pages of the past.
    _standby: Proxy,
    /// Proxy between the hub and all of its clients.
    pub front: Proxy,
    /// Proxy between the hub and the outside provider.
    pub provider: Proxy,
    provider_file: PathBuf,
    instance: PlainMutex<Option<String>>,
    address: PlainMutex<Option<SocketAddr>>,
    process: Mutex<Option<ReadyProcess>>,
    vars: Vec<(String, String)>,
    pub log: PathBuf,
    /// Number of open files when the hub was new and had no clients.
    pub base_files: PlainMutex<Option<u64>>,
}

impl TortureHub {
    pub async fn place(number: usize, postgres: &Postgres, site: Arc<Site>) -> Result<Self, RunError> {
        let Site { user, path, mutant, .. } = &*site;
        let database = Proxy::before(Some(ProxyTarget::Unix(postgres.socket.clone()))).await?;
        let listen = Proxy::before(Some(ProxyTarget::Unix(postgres.socket.clone()))).await?;
        let standby = Proxy::before(Some(ProxyTarget::Unix(postgres.standby_socket.clone()))).await?;
        // There is no hub behind it before it starts.
        let front = Proxy::before(None).await?;
        let provider = Proxy::before(Some(ProxyTarget::Tcp(site.provider))).await?;
        let provider_file = postgres.folder.join(format!("provider-{number}.toml"));
        let url = |port: u16| format!("postgres://{user}:{}@127.0.0.1:{port}/recado?sslmode=disable", secrets::DATABASE_PASSWORD);
        let vars = [
            ("PATH", path.to_owned()),
            ("DATABASE_URL", url(database.port)),
            ("RECADO_LISTEN_DATABASE_URL", url(listen.port)),
            ("RECADO_READ_DATABASE_URL", url(standby.port)),
            ("PORT", "0".to_owned()),
            ("RECADO_JWT_SECRET", secrets::JWT.to_owned()),
            ("RECADO_IDENTITY_FILE", site.identity_file.display().to_string()),
            ("RECADO_FETCH_POSTGRES", "off".to_owned()),
            // Trace level for the hub's own modules, because a secret would be logged there.
            ("RECADO_LOG", "info,recado=trace".to_owned()),
            ("WS_HEARTBEAT_INTERVAL", "2s".to_owned()),
            ("RECADO_SEND_DEADLINE", "5s".to_owned()),
            ("RECADO_PONG_DEADLINE", "8s".to_owned()),
            ("RECADO_POLL_INTERVAL", "1s".to_owned()),
            ("RECADO_DRAIN_WINDOW", "1s".to_owned()),
            ("RECADO_MAX_CONNECTIONS_PER_USER", "100".to_owned()),
            // The greedy user is to meet the turns of pages, and not the rate in front of them.
            ("RECADO_USER_RATE", "0".to_owned()),
            ("RECADO_RESUME_WINDOW", format!("{}s", RESUME_WINDOW.as_secs())),
            ("WS_MAX_CONNECTIONS", MOST_CLIENTS.to_string()),
            ("RECADO_UPSTREAM_FILE", provider_file.display().to_string()),
            ("RECADO_UPSTREAM_KEY", secrets::UPSTREAM_KEY.to_owned()),
            ("RECADO_UPSTREAM_LEASE", format!("{}s", LEASE.as_secs())),
            ("RECADO_UPSTREAM_STARTS", "200".to_owned()),
            ("RECADO_WEBHOOK_NETWORKS", receiver::NETWORKS.to_owned()),
            (provider::CREDENTIAL_VARIABLE, secrets::PROVIDER_CREDENTIAL.to_owned()),
        ];
        let mut vars: Vec<_> = vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        vars.extend(mutant.iter().map(|mutant| ("TORTURE_MUTANT".to_owned(), mutant.clone())));
        let log = postgres.folder.join(format!("hub-{number}.log"));
        let process = Mutex::new(None);
        let (instance, address, base_files) = (PlainMutex::default(), PlainMutex::default(), PlainMutex::default());
        Ok(Self {
            number,
            site,
            database,
            listen,
            _standby: standby,
            front,
            provider,
            provider_file,
            instance,
            address,
            process,
            vars,
            log,
            base_files,
        })
    }

    /// Address for clients, through the proxy.
    pub fn url(&self) -> String {
        format!("127.0.0.1:{}", self.front.port)
    }

    /// Starts the hub and waits until it is ready. A hub that ends because the database is away or slow is started
    /// again, as a supervisor does.
    pub async fn start(&self, program: &Path) -> Result<(), RunError> {
        let end = Instant::now() + START_LIMIT;
        while !self.try_start(program).await? {
            if Instant::now() > end {
                return Err(format!("hub {} did not find the database in time; see {}", self.number, self.log.display()).into());
            }
        }
        Ok(())
    }

    async fn try_start(&self, program: &Path) -> Result<bool, RunError> {
        let process = self.site.roll.begin();
        std::fs::write(&self.provider_file, provider::file::text(self.provider.port, process))?;
        let log = File::options().create(true).append(true).open(&self.log)?;
        let before = log.metadata()?.len();
        let mut command = clean_command(program);
        command.arg("serve").envs(self.vars.iter().cloned()).stderr(log);
        let ready = match ReadyProcess::spawn(command, START_LIMIT).await {
            Ok(ready) => ready,
            Err(StartFailure::Ended(status)) => {
                println!("hub {} ended before it was ready: {status}", self.number);
                return match status.code() {
                    Some(NO_DATABASE) => Ok(false),
                    _ => Err(format!("hub {} ended before it was ready; see {}", self.number, self.log.display()).into()),
                };
            }
            Err(failure) => return Err(format!("hub {}: {failure}; see {}", self.number, self.log.display()).into()),
        };
        self.set_address(Some(ready.address));
        *self.process.lock().await = Some(ready);
        let instance = self.instance_since(before).await?;
        self.site.roll.enter(process, instance.clone());
        *self.instance.lock().unwrap_or_else(PoisonError::into_inner) = Some(instance);
        Ok(true)
    }

    /// The instance id in the line that the hub logs when it starts to serve.
    async fn instance_since(&self, place: u64) -> Result<String, RunError> {
        let end = Instant::now() + LINE_LIMIT;
        loop {
            let mut file = File::open(&self.log)?;
            file.seek(SeekFrom::Start(place))?;
            let mut said = Vec::new();
            file.read_to_end(&mut said)?;
            if let Some(instance) = String::from_utf8_lossy(&said).lines().find_map(instance_of) {
                return Ok(instance);
            }
            if Instant::now() > end {
                return Err(format!("hub {} did not log its instance id", self.number).into());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn instance(&self) -> Option<String> {
        self.instance.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The hub's own address, which bypasses the proxy; `None` while it does not run.
    pub fn address(&self) -> Option<SocketAddr> {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// New connections of clients go to this address; without one they are refused.
    fn set_address(&self, address: Option<SocketAddr>) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
        self.front.point_at(address.map(ProxyTarget::Tcp));
    }

    pub async fn pid(&self) -> Option<u32> {
        self.process.lock().await.as_ref()?.pid()
    }

    /// Its address is removed at once: later connections are refused.
    pub async fn kill(&self) -> Result<Option<ExitStatus>, RunError> {
        self.set_address(None);
        let Some(mut process) = self.process.lock().await.take() else { return Ok(None) };
        Ok(Some(process.kill().await?))
    }

    /// Sends SIGTERM, and waits for the end.
    pub async fn terminate(&self, limit: Duration) -> Result<Option<ExitStatus>, RunError> {
        let Some(mut process) = self.process.lock().await.take() else { return Ok(None) };
        let ended = process.terminate(limit).await;
        self.set_address(None);
        Ok(ended?)
    }

    /// Open files and memory, as the kernel counts them.
    pub async fn files_and_memory(&self) -> Option<(u64, u64)> {
        let pid = self.pid().await?;
        Some((process::open_files(pid)? as u64, process::resident_kib(pid)?))
    }
}

fn instance_of(line: &str) -> Option<String> {
    let (_, said) = line.split_once("serving")?;
    let (_, named) = said.split_once("instance=")?;
    Some(named.split_whitespace().next()?.to_owned())
}
