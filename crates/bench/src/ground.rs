//! Provides what a bench runs against: a database, and a hub that is given or started.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use recado::cli::error::CliFailure;
use recado::cli::token;
use recado::config::Config;
use recado::domain::{Principal, Role, Seq, UserId};
use recado::startup::{self, Startup};
use recado::store::{Database, read};
use reqwest::Url;
use tokio::time::Instant;

use super::database_counts;
use super::hub_process::HubProcess;
use super::post::SOURCE;
use super::yardstick;

/// Lifetime of the bench's tokens, longer than the longest bench.
const TOKEN_TTL: Duration = Duration::from_secs(3600);
/// Longest wait for a killed hub to disappear.
const GONE_LIMIT: Duration = Duration::from_secs(5);

/// What the user allows a bench to do.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// Allows a hub that is not on this machine.
    pub remote: bool,
    /// Allows a log in which other programs have written. The rows of a bench stay there for good.
    pub used_log: bool,
}

/// What a bench needs of its ground apart from the settings.
#[derive(Debug, Clone, Copy, Default)]
pub struct GroundNeeds {
    /// A private server that counts statements.
    pub counts: bool,
    /// The database of the given hub is out of reach. Ceilings get a private server instead.
    pub foreign_database: bool,
}

/// A database, and the hub that is given or can be started for it.
pub struct Ground {
    pub config: Config,
    startup: Startup,
    folder: Option<PathBuf>,
    given: Option<SocketAddr>,
    reads_log: bool,
    /// Process ids of the hubs that were started.
    started: Mutex<Vec<u32>>,
}

/// A hub that accepts requests. Dropping one that was started for the bench kills it.
pub struct BenchHub {
    pub address: SocketAddr,
    process: Option<HubProcess>,
}

impl Ground {
    /// With an address of a hub, opens its database from the same settings. Otherwise opens the given database, or one
    /// in a new folder that is removed afterwards. `number` tells the databases of one bench apart.
    pub async fn open(config: &Config, allowed: Allowed, needs: GroundNeeds, number: usize) -> Result<Self, CliFailure> {
        let mut config = config.clone();
        let given = if config.url_is_given { Some(address_of(&config.url, allowed.remote).await?) } else { None };
        let reads_log = given.is_none() || !needs.foreign_database;
        if !reads_log {
            // Of the hub's own settings only the secret of its tokens is used.
            config.jwt_secret = Some(startup::jwt_secret(&config)?);
            (config.database_url, config.data_dir) = (None, None);
        }
        let folder = if given.is_some() && reads_log { None } else { Some(make_folder(&config, number)?) };
        if let (Some(folder), None) = (&folder, &config.data_dir) {
            config.data_dir = Some(folder.join("data"));
        }
        let counts = needs.counts && folder.is_some() && config.database_url.is_none();
        let mut ground = match open_backing(&mut config, counts).await {
            Ok(startup) => Self { config, startup, folder, given, reads_log, started: Mutex::default() },
            Err(failure) => {
                remove_folder(folder.as_deref());
                return Err(failure);
            }
        };
        if let Err(failure) = ground.prepare(allowed).await {
            ground.close().await;
            return Err(failure);
        }
        Ok(ground)
    }

    async fn prepare(&mut self, allowed: Allowed) -> Result<(), CliFailure> {
        self.startup.prepare(&self.config).await?;
        let mut connection = self.database().connect("bench").await?;
        match yardstick::last_source(&mut connection).await? {
            Some(source) if source != SOURCE && !allowed.used_log => Err(CliFailure::other(
                "others than the bench have written into this log, and what a bench appends stays there: \
                 use another database, or --allow-used-log",
            )),
            _ => Ok(()),
        }
    }

    /// The database with the hub's own role.
    pub fn database(&self) -> &Database {
        &self.startup.database
    }

    /// The database with the role of its URL, which may create tables.
    pub fn owned_database(&self) -> Database {
        self.startup.database.clone().under_role(None)
    }

    /// The head of the log.
    pub async fn head(&self) -> Result<Seq, CliFailure> {
        let mut connection = self.database().connect("bench").await?;
        Ok(read::state(&mut connection).await?.head)
    }

    /// Returns the given hub, or starts one.
    pub async fn hub(&self) -> Result<BenchHub, CliFailure> {
        if let Some(address) = self.given {
            return Ok(BenchHub { address, process: None });
        }
        self.hub_with("hub.log", &[]).await
    }

    /// Starts a hub with further environment settings. `log` names its log file in the bench's folder.
    pub async fn hub_with(&self, log: &str, settings: &[(&str, String)]) -> Result<BenchHub, CliFailure> {
        let process = HubProcess::start(&self.config, &self.beside().join(log), settings).await?;
        self.started.lock().unwrap_or_else(PoisonError::into_inner).extend(process.pid());
        Ok(BenchHub { address: process.address, process: Some(process) })
    }

    /// Writes a file that is removed with the bench; returns its path.
    pub fn keep(&self, name: &str, text: &str) -> Result<String, CliFailure> {
        let path = self.beside().join(name);
        std::fs::write(&path, text).map_err(|error| CliFailure::other(format!("{}: {error}", path.display())))?;
        Ok(path.display().to_string())
    }

    fn beside(&self) -> &Path {
        self.folder.as_deref().unwrap_or(Path::new("/tmp"))
    }

    /// Whether the database is the hub's. Otherwise it only serves for the ceilings.
    pub fn reads_log(&self) -> bool {
        self.reads_log
    }

    pub fn hub_is_given(&self) -> bool {
        self.given.is_some()
    }

    pub fn user_token(&self, user: &UserId) -> Result<String, CliFailure> {
        self.token_of(&Principal { user: user.clone(), accounts: Vec::new() })
    }

    pub fn token_of(&self, who: &Principal) -> Result<String, CliFailure> {
        token::mint(&self.config, who, None, TOKEN_TTL.min(self.config.jwt.max_lifetime))
    }

    pub fn service_token(&self) -> Result<String, CliFailure> {
        if let (Some(key), true) = (&self.config.key, self.hub_is_given()) {
            return Ok(key.clone());
        }
        token::mint(&self.config, &token::principal(SOURCE, &[])?, Some(Role::Service), TOKEN_TTL.min(self.config.jwt.max_lifetime))
    }

    /// Stops the private server unless another process uses it, and removes the folder.
    pub async fn close(self) {
        // An interrupted bench has dropped its hub, which kills the process. Until that process is gone the private
        // server counts as used by another hub, and would be left running without its folder.
        let started = std::mem::take(&mut *self.started.lock().unwrap_or_else(PoisonError::into_inner));
        let end = Instant::now() + GONE_LIMIT;
        while started.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.startup.close().await;
        remove_folder(self.folder.as_deref());
    }
}

impl BenchHub {
    /// Process id of a hub that was started for the bench.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(HubProcess::pid)
    }

    /// Resident memory in KiB, where the system lets us read it.
    pub fn resident_kib(&self) -> Option<u64> {
        self.process.as_ref().and_then(HubProcess::resident_kib)
    }

    /// Kills the hub with SIGKILL if it was started for the bench.
    pub async fn kill(self) {
        if let Some(process) = self.process {
            process.kill().await;
        }
    }

    /// Stops the hub if it was started for the bench.
    pub async fn stop(self) -> Result<(), CliFailure> {
        match self.process {
            Some(process) => process.stop().await,
            None => Ok(()),
        }
    }
}

/// With `counts`, restarts the private server once with the library that counts statements.
async fn open_backing(config: &mut Config, counts: bool) -> Result<Startup, CliFailure> {
    // Read the secret once, not for every token.
    config.jwt_secret = Some(startup::jwt_secret(config)?);
    let startup = Startup::open(config).await?;
    if !counts {
        return Ok(startup);
    }
    let prepared = counting(&startup.database).await;
    match prepared {
        Ok(true) => {
            startup.close().await;
            Ok(Startup::open(config).await?)
        }
        Ok(false) => {
            eprintln!("this PostgreSQL does not have pg_stat_statements; statements are not counted");
            Ok(startup)
        }
        Err(failure) => {
            startup.close().await;
            Err(failure)
        }
    }
}

async fn counting(database: &Database) -> Result<bool, CliFailure> {
    let mut connection = database.connect("bench").await?;
    let loads = database_counts::load_at_start(&mut connection).await?;
    if loads {
        database_counts::make_view(&mut connection).await?;
    }
    Ok(loads)
}

/// Address of a hub. It must be on this machine, because other users of a remote hub would feel the load.
async fn address_of(url: &str, allow_remote: bool) -> Result<SocketAddr, CliFailure> {
    let wrong = |why: &str| CliFailure::settings(format!("--url {url}: {why}"));
    let parsed = Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    if parsed.scheme() != "http" {
        return Err(wrong("bench supports http:// only; use the hub's own address instead of a TLS proxy"));
    }
    let (Some(host), Some(port)) = (parsed.host_str(), parsed.port_or_known_default()) else { return Err(wrong("names no host")) };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = tokio::net::lookup_host((host, port)).await.map_err(|error| wrong(&error.to_string()))?.next();
    let address = found.ok_or_else(|| wrong("the host has no address"))?;
    if address.ip().is_loopback() || allow_remote {
        return Ok(address);
    }
    Err(wrong("is not on this machine; use --allow-remote to load it anyway"))
}

/// Creates a folder that the private server's user may enter as well.
fn make_folder(config: &Config, number: usize) -> Result<PathBuf, CliFailure> {
    let temporary = config.machine.tmpdir.clone().unwrap_or_else(|| PathBuf::from("/tmp"));
    let folder = temporary.join(format!("recado-bench-{}-{number}", std::process::id()));
    let made = std::fs::create_dir(&folder).and_then(|()| std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)));
    made.map_err(|error| CliFailure::other(format!("{}: {error}", folder.display())))?;
    Ok(folder)
}

fn remove_folder(folder: Option<&Path>) {
    if let Some(folder) = folder
        && let Err(error) = std::fs::remove_dir_all(folder)
    {
        eprintln!("could not remove {}: {error}", folder.display());
    }
}
