//! The server that hubs on one machine share when they were given no database.

use super::account::Account;
use super::address::{Address, NAME};
use super::cluster::{Cluster, Done};
use super::error::ServerError;
use super::folders::Folders;
use super::locks::{self, GATE_WAIT, Gate, UserMark};
use super::pidfile::{self, Found};
use super::profile::Profile;
use super::provide;
use super::settings::{Environment, Event, ServerSettings, default_state_dir};
use std::path::Path;

/// What [`PrivateServer::start`] had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// Made the data folder and started the server: the database is empty.
    Created,
    /// Started a server on data that was there.
    Started,
    /// Somebody's server, or one that a killed hub left, was running.
    Joined,
}

/// What [`PrivateServer::stop`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// We were the last.
    Stopped,
    /// Another hub uses it.
    LeftRunning,
}

/// A server that runs, and our mark that we use it.
///
/// Dropping it without [`stop`](Self::stop) takes the mark away and leaves the server running, like kill -9 does.
#[derive(Debug)]
pub struct PrivateServer {
    cluster: Cluster,
    address: Address,
    started: Started,
    mark: UserMark,
}

impl PrivateServer {
    /// Finds or fetches binaries, makes the data folder when there is none, and starts or joins the server.
    ///
    /// Blocks: some milliseconds to join, about a second for the first start, at most 60 s while another server is in the
    /// way and 130 s while another process starts or stops; a download may take minutes. `events` is told before each of
    /// these.
    ///
    /// # Errors
    /// See [`ServerError`]; each says what to do. A server that is still recovering after 60 s goes on: the next start
    /// joins it.
    pub fn start(settings: &ServerSettings, environment: &Environment, events: &mut dyn FnMut(Event)) -> Result<Self, ServerError> {
        let folders = state_folders(settings, environment)?;
        let account = Account::choose(settings.postgres_user.as_deref(), &folders.data)?;
        account.must_enter(&folders.state, "RECADO_DATA_DIR", "/var/lib/recado")?;
        let provider = provide::Provider { settings, environment, account: &account, home: &folders };
        let binaries = provider.binaries_for(&folders, events)?;
        folders.make(&account)?;
        let gate = Gate::close(&folders.gate, GATE_WAIT)?;
        let max_connections = settings.max_connections;
        let cluster = Cluster {
            profile: Profile::Durable { max_connections },
            temporary: environment.temporary_folder().to_owned(),
            folders,
            account,
            binaries,
        };
        let (address, done) = cluster.ensure(events)?;
        let mark = UserMark::set(&cluster.folders.users)?;
        drop(gate);
        Ok(Self { cluster, address, started: done.into(), mark })
    }

    /// For sqlx or psql: the database `recado` as its superuser. It holds no secret.
    #[must_use]
    pub fn connection_url(&self) -> String {
        self.address.url(NAME)
    }

    /// What `psql -h` wants.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.address.socket_dir
    }

    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.cluster.folders.data
    }

    /// The folder of the binaries that we would start the server with. One that was joined may run from others of the
    /// same major version.
    #[must_use]
    pub fn binaries_dir(&self) -> &Path {
        &self.cluster.binaries.folder
    }

    /// PostgreSQL's, such as 15.
    #[must_use]
    pub fn major_version(&self) -> u32 {
        self.cluster.binaries.major
    }

    /// The user who runs the server.
    #[must_use]
    pub fn server_user(&self) -> &str {
        &self.cluster.account.name
    }

    #[must_use]
    pub fn started_how(&self) -> Started {
        self.started
    }

    /// The postmaster's pid as its pid file says it now; `None` when there is no file. It may have died since.
    #[must_use]
    pub fn postmaster_pid(&self) -> Option<u32> {
        match pidfile::read(self.data_dir()) {
            Ok(Found::Names(file)) => Some(file.pid),
            _ => None,
        }
    }

    /// The last lines of the server's log, on one line.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.cluster.log_tail()
    }

    /// Takes our mark away, and stops the server when it was the last one. Close the connections first; those that are
    /// left are ended.
    ///
    /// # Errors
    /// When another process starts or stops for more than 130 s, or the server does not end within 60 s. Our mark is
    /// gone in either case.
    pub fn stop(self) -> Result<Stopped, ServerError> {
        let Self { cluster, mark, .. } = self;
        let gate = Gate::close(&cluster.folders.gate, GATE_WAIT)?;
        drop(mark);
        if locks::in_use(&cluster.folders.users)? {
            return Ok(Stopped::LeftRunning);
        }
        cluster.stop()?;
        drop(gate);
        Ok(Stopped::Stopped)
    }
}

impl From<Done> for Started {
    fn from(done: Done) -> Self {
        match done {
            Done::Created => Self::Created,
            Done::Started => Self::Started,
            Done::Joined => Self::Joined,
        }
    }
}

/// The folders of this machine's own state, also the place of fetched binaries.
pub(super) fn state_folders(settings: &ServerSettings, environment: &Environment) -> Result<Folders, ServerError> {
    match &settings.state_dir {
        Some(folder) => Folders::new(folder),
        None => Folders::new(&default_state_dir(environment)?),
    }
}
