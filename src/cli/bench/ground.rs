//! What a bench stands on: a database, and a hub that was given or is started for it.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use tokio::time::Instant;

use super::hub_process::HubProcess;
use super::post::SOURCE;
use crate::backing::{self, Backing};
use crate::cli::error::Failure;
use crate::cli::token;
use crate::config::Config;
use crate::domain::{Principal, Role, Seq, UserId};
use crate::store::{Database, read, yardstick};

/// A token outlives the longest bench.
const TOKEN_TTL: Duration = Duration::from_secs(3600);
/// How long a killed hub may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(5);

/// What the user allows a bench to do.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// A hub that is not on this machine.
    pub remote: bool,
    /// A log in which others than the bench have written. What a bench appends stays there for good.
    pub used_log: bool,
}

/// A database, and where the hub is or can be had.
pub struct Ground {
    pub config: Config,
    backing: Backing,
    folder: Option<PathBuf>,
    given: Option<SocketAddr>,
    /// The hubs that were started, by process number.
    started: Mutex<Vec<u32>>,
}

/// A hub that can be talked to. Dropping one that was started for the bench kills it.
pub struct Hub {
    pub address: SocketAddr,
    process: Option<HubProcess>,
}

impl Ground {
    /// With an address of a hub: its database, by the same settings. Else the database that is given, or one in a new
    /// folder that goes away afterwards. `number`: among those that this bench stands on.
    pub async fn open(config: &Config, allowed: Allowed, number: usize) -> Result<Self, Failure> {
        let mut config = config.clone();
        let given = if config.url_is_given { Some(address_of(&config.url, allowed.remote).await?) } else { None };
        let folder = if given.is_some() { None } else { Some(make_folder(&config, number)?) };
        if let (Some(folder), None) = (&folder, &config.data_dir) {
            config.data_dir = Some(folder.join("data"));
        }
        let mut ground = match open_backing(&mut config).await {
            Ok(backing) => Self { config, backing, folder, given, started: Mutex::default() },
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

    async fn prepare(&mut self, allowed: Allowed) -> Result<(), Failure> {
        self.backing.prepare(&self.config).await?;
        let mut connection = self.database().connect("bench").await?;
        match yardstick::last_source(&mut connection).await? {
            Some(source) if source != SOURCE && !allowed.used_log => Err(Failure::other(
                "others than the bench have written into this log, and what a bench appends stays there: \
                 use another database, or --allow-used-log",
            )),
            _ => Ok(()),
        }
    }

    /// As the hub uses it.
    pub fn database(&self) -> &Database {
        &self.backing.database
    }

    /// With the rights of the user of its URL, who may make tables.
    pub fn owned_database(&self) -> Database {
        self.backing.database.clone().under_role(None)
    }

    /// The highest number of the log.
    pub async fn head(&self) -> Result<Seq, Failure> {
        let mut connection = self.database().connect("bench").await?;
        Ok(read::state(&mut connection).await?.head)
    }

    /// The given hub, or a new one.
    pub async fn hub(&self) -> Result<Hub, Failure> {
        if let Some(address) = self.given {
            return Ok(Hub { address, process: None });
        }
        self.hub_with("hub.log", &[]).await
    }

    /// A new hub, with further settings of the environment. `log`: the file that it writes beside its data.
    pub async fn hub_with(&self, log: &str, settings: &[(&str, String)]) -> Result<Hub, Failure> {
        let process = HubProcess::start(&self.config, &self.beside().join(log), settings).await?;
        self.started.lock().unwrap_or_else(PoisonError::into_inner).extend(process.pid());
        Ok(Hub { address: process.address, process: Some(process) })
    }

    /// Writes a file that goes away with the bench; returns its path.
    pub fn keep(&self, name: &str, text: &str) -> Result<String, Failure> {
        let path = self.beside().join(name);
        std::fs::write(&path, text).map_err(|error| Failure::other(format!("{}: {error}", path.display())))?;
        Ok(path.display().to_string())
    }

    fn beside(&self) -> &Path {
        self.folder.as_deref().unwrap_or(Path::new("/tmp"))
    }

    pub fn hub_is_given(&self) -> bool {
        self.given.is_some()
    }

    pub fn user_token(&self, user: &UserId) -> Result<String, Failure> {
        self.token_of(&Principal { user: user.clone(), accounts: Vec::new() })
    }

    pub fn token_of(&self, who: &Principal) -> Result<String, Failure> {
        token::mint(&self.config, who, None, TOKEN_TTL.min(self.config.jwt.max_lifetime))
    }

    pub fn service_token(&self) -> Result<String, Failure> {
        if let (Some(key), true) = (&self.config.key, self.hub_is_given()) {
            return Ok(key.clone());
        }
        token::mint(&self.config, &token::principal(SOURCE, &[])?, Some(Role::Service), TOKEN_TTL.min(self.config.jwt.max_lifetime))
    }

    /// Stops the private server when nobody else uses it, and removes the folder.
    pub async fn close(self) {
        // A bench that was interrupted has dropped its hub, which is killed then. Until it is gone the private server
        // counts as used by another hub, and would be left running without its folder.
        let started = std::mem::take(&mut *self.started.lock().unwrap_or_else(PoisonError::into_inner));
        let end = Instant::now() + GONE_LIMIT;
        while started.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.backing.close().await;
        remove_folder(self.folder.as_deref());
    }
}

impl Hub {
    /// Resident memory in KiB, where we may look.
    pub fn resident_kib(&self) -> Option<u64> {
        self.process.as_ref().and_then(HubProcess::resident_kib)
    }

    /// kill -9, if it was started for the bench.
    pub async fn kill(self) {
        if let Some(process) = self.process {
            process.kill().await;
        }
    }

    /// Stops the hub if it was started for the bench.
    pub async fn stop(self) -> Result<(), Failure> {
        match self.process {
            Some(process) => process.stop().await,
            None => Ok(()),
        }
    }
}

async fn open_backing(config: &mut Config) -> Result<Backing, Failure> {
    // Read once, not once a token.
    config.jwt_secret = Some(backing::jwt_secret(config)?);
    Ok(Backing::open(config).await?)
}

/// The address of a hub, which must be on this machine: a bench is a load that others would feel.
async fn address_of(url: &str, allow_remote: bool) -> Result<SocketAddr, Failure> {
    let wrong = |why: &str| Failure::settings(format!("--url {url}: {why}"));
    let parsed = Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    if parsed.scheme() != "http" {
        return Err(wrong("bench speaks http:// only; go past the TLS proxy, to the hub itself"));
    }
    let (Some(host), Some(port)) = (parsed.host_str(), parsed.port_or_known_default()) else { return Err(wrong("names no host")) };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = tokio::net::lookup_host((host, port)).await.map_err(|error| wrong(&error.to_string()))?.next();
    let address = found.ok_or_else(|| wrong("the host has no address"))?;
    if address.ip().is_loopback() || allow_remote {
        return Ok(address);
    }
    Err(wrong("is not on this machine; --allow-remote puts the load on it all the same"))
}

/// A folder that the private server's user may enter as well.
fn make_folder(config: &Config, number: usize) -> Result<PathBuf, Failure> {
    let temporary = config.machine.tmpdir.clone().unwrap_or_else(|| PathBuf::from("/tmp"));
    let folder = temporary.join(format!("recado-bench-{}-{number}", std::process::id()));
    let made = std::fs::create_dir(&folder).and_then(|()| std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)));
    made.map_err(|error| Failure::other(format!("{}: {error}", folder.display())))?;
    Ok(folder)
}

fn remove_folder(folder: Option<&Path>) {
    if let Some(folder) = folder
        && let Err(error) = std::fs::remove_dir_all(folder)
    {
        eprintln!("{} could not be removed: {error}", folder.display());
    }
}
