//! Manages the server that hubs on one machine share when no database is configured.

use super::address::{NAME, ServerAddress};
use super::binary_selection;
use super::cluster::{Done, PrivateCluster};
use super::error::ServerError;
use super::folders::Folders;
use super::locks::{self, ExclusiveLock, GATE_WAIT, UserMark};
use super::pidfile::{self, PidFileState};
use super::presence::{self, Presence};
use super::settings::{Environment, ServerEvent, ServerSettings, default_state_dir};
use super::system_user::SystemUser;
use super::tuning::Tuning;
use crate::LOG_TARGET;
use std::path::Path;
use std::sync::Arc;

/// The way in which [`PrivateServer::start`] got a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// Made the data folder and started the server: the database is empty.
    Created,
    /// Started a server on data that was there.
    Started,
    /// Joined a running server, of another hub or left by a killed one.
    Joined,
}

/// The result of [`PrivateServer::stop`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// This was the last user of the server.
    Stopped,
    /// Another hub uses it.
    LeftRunning,
}

/// A running server, and our mark that we use it.
///
/// Dropping it without [`stop`](Self::stop) removes the mark and leaves the server running, as kill -9 does.
#[derive(Debug)]
pub struct PrivateServer {
    cluster: Arc<PrivateCluster>,
    address: ServerAddress,
    started: Started,
    mark: UserMark,
}

impl PrivateServer {
    /// Finds or fetches binaries, makes the data folder when there is none, and starts or joins the server.
    ///
    /// Blocks: some milliseconds to join, about a second for the first start, at most 60 s while another server is in
    /// the way and 130 s while another process starts or stops; a download may take minutes. `events` is called before
    /// each of these.
    ///
    /// # Errors
    /// See [`ServerError`]; each says what to do. A server that is still recovering after 60 s continues: the next
    /// start joins it.
    pub fn start(settings: &ServerSettings, environment: &Environment, events: &mut dyn FnMut(ServerEvent)) -> Result<Self, ServerError> {
        let folders = state_folders(settings, environment)?;
        let account = SystemUser::choose(settings.postgres_user.as_deref(), &folders.data)?;
        account.must_enter(&folders.state, "RECADO_DATA_DIR", "/var/lib/recado")?;
        let provider = binary_selection::BinarySelection { settings, environment, account: &account, home: &folders };
        let binaries = provider.binaries_for(&folders, events)?;
        folders.make(&account)?;
        let gate = ExclusiveLock::close(&folders.gate, GATE_WAIT)?;
        let max_connections = settings.max_connections;
        let cluster = Arc::new(PrivateCluster {
            profile: Tuning::Durable { max_connections },
            temporary: environment.temporary_folder().to_owned(),
            folders,
            account,
            binaries,
        });
        let (address, done) = cluster.ensure(events)?;
        let mark = match UserMark::set(&cluster.folders.users) {
            Ok(mark) => mark,
            Err(error) => {
                // No other process would stop the server that this one started.
                if done != Done::Joined
                    && let Err(stays) = cluster.stop()
                {
                    tracing::warn!(target: LOG_TARGET, error = %stays, "the private PostgreSQL was started and could not be stopped");
                }
                return Err(error);
            }
        };
        drop(gate);
        Ok(Self { cluster, address, started: done.into(), mark })
    }

    /// The URL for sqlx or psql: the database `recado` as its superuser. It holds no secret.
    #[must_use]
    pub fn connection_url(&self) -> String {
        self.address.url(NAME)
    }

    /// The value for `psql -h`.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.address.socket_dir
    }

    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.cluster.folders.data
    }

    /// The folder of the binaries that would start the server. A joined server may run from others of the same major
    /// version.
    #[must_use]
    pub fn binaries_dir(&self) -> &Path {
        &self.cluster.binaries.folder
    }

    /// PostgreSQL's major version, such as 15.
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

    /// The postmaster's pid in its pid file; `None` when there is no file. The process may have died since.
    #[must_use]
    pub fn postmaster_pid(&self) -> Option<u32> {
        match pidfile::read(self.data_dir()) {
            Ok(PidFileState::Names(file)) => Some(file.pid),
            _ => None,
        }
    }

    /// The last lines of the server's log, on one line.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.cluster.log_tail()
    }

    /// A handle for the task that keeps the server running.
    #[must_use]
    pub fn keeper(&self) -> ServerKeeper {
        ServerKeeper(Arc::clone(&self.cluster))
    }

    /// Removes our mark, and stops the server when it was the last one. Close the connections first; open ones are
    /// ended.
    ///
    /// # Errors
    /// When another process starts or stops for more than 130 s, or the server does not end within 60 s. Our mark is
    /// gone in either case.
    pub fn stop(self) -> Result<Stopped, ServerError> {
        let Self { cluster, mark, .. } = self;
        let gate = ExclusiveLock::close(&cluster.folders.gate, GATE_WAIT)?;
        drop(mark);
        if locks::in_use(&cluster.folders.users)? {
            return Ok(Stopped::LeftRunning);
        }
        cluster.stop()?;
        drop(gate);
        Ok(Stopped::Stopped)
    }
}

/// Restarts a server that has died. Use it only while a [`PrivateServer`] lives: without its mark another hub may have
/// stopped the server.
#[derive(Debug, Clone)]
pub struct ServerKeeper(Arc<PrivateCluster>);

impl ServerKeeper {
    /// Checks once, and starts the server when no process of it is left. Returns whether it did. Several hubs that
    /// share a server do this one after the other: the first one starts it, the others find it running. Blocks like
    /// [`PrivateServer::start`].
    ///
    /// # Errors
    /// As [`PrivateServer::start`].
    pub fn look(&self, events: &mut dyn FnMut(ServerEvent)) -> Result<bool, ServerError> {
        let is_there = |presence| matches!(presence, Presence::Ready(_) | Presence::Busy(_));
        if is_there(presence::look(&self.0.folders.data, &self.0.account)?) {
            return Ok(false);
        }
        let gate = ExclusiveLock::close(&self.0.folders.gate, GATE_WAIT)?;
        let (_, done) = self.0.ensure(events)?;
        drop(gate);
        Ok(done != Done::Joined)
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

/// The folders of this machine's own state, which also hold fetched binaries.
pub(super) fn state_folders(settings: &ServerSettings, environment: &Environment) -> Result<Folders, ServerError> {
    match &settings.state_dir {
        Some(folder) => Folders::new(folder),
        None => Folders::new(&default_state_dir(environment)?),
    }
}
