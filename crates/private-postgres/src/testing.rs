//! Runs one throw-away cluster for each test run, shared by all processes of the run.
//!
//! No test has to stop it. All test binaries of one `cargo test` have cargo as parent, and all test processes of one
//! nextest run have nextest: the parent's pid names the cluster. The first process starts it, and the others join it. A
//! shell that watches the parent ends it and removes its folder, also when the run was killed.

use super::address::ServerAddress;
use super::binary_selection::BinarySelection;
use super::child;
use super::cluster::PrivateCluster;
use super::error::ServerError;
use super::folders::Folders;
use super::locks::{ExclusiveLock, GATE_WAIT};
use super::pidfile::{self, PidFileState};
use super::presence::{self, Presence};
use super::private::{Started, state_folders};
use super::settings::{Environment, ServerEvent, ServerSettings};
use super::system_user::{self, SystemUser};
use super::tuning::Tuning;
use super::watcher;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Linux's file system in memory.
const MEMORY: &str = "/dev/shm";
/// Least free space there. A run of the suite takes less than a quarter.
const MEMORY_BYTES: u64 = 4 << 30;

/// The folder in memory, if it has room for the clusters of tests. To make and drop a database creates and removes some
/// three hundred files. On ext4 that was more than half of the suite's processor time.
#[must_use]
pub fn memory_folder() -> Option<PathBuf> {
    let usage = rustix::fs::statvfs(MEMORY).ok()?;
    (usage.f_frsize.saturating_mul(usage.f_bavail) >= MEMORY_BYTES).then(|| PathBuf::from(MEMORY))
}

/// A server for tests. Dropping it does nothing; see the module.
#[derive(Debug)]
pub struct TestServer {
    folders: Folders,
    address: ServerAddress,
    started: Started,
}

impl TestServer {
    /// Starts or joins the cluster of the run whose test processes have the parent `parent_pid`
    /// (`std::os::unix::process::parent_id()`), in `$TMPDIR/recado-test-<parent_pid>`.
    ///
    /// `settings.state_dir` only says where fetched binaries are; `max_connections` is 300 whatever is set.
    ///
    /// # Errors
    /// As [`PrivateServer::start`](super::PrivateServer::start).
    pub fn start_for_tests(
        parent_pid: u32,
        settings: &ServerSettings,
        environment: &Environment,
        events: &mut dyn FnMut(ServerEvent),
    ) -> Result<Self, ServerError> {
        let temporary = environment.temporary_folder();
        let folders = Folders::new(&temporary.join(format!("recado-test-{parent_pid}")))?;
        let account = SystemUser::choose(settings.postgres_user.as_deref(), &folders.data)?;
        let parent = identity(parent_pid);
        if let Some(joined) = Self::join(&folders, &account, &parent)? {
            return Ok(joined);
        }
        account.must_enter(&folders.state, "TMPDIR", "/tmp")?;
        let provider = BinarySelection { settings, environment, account: &account, home: &state_folders(settings, environment)? };
        let binaries = provider.binaries_for(&folders, events)?;
        folders.make_state(&account)?;
        must_be_ours(&folders.state)?;
        let _gate = ExclusiveLock::close(&folders.gate, GATE_WAIT)?;
        folders.make(&account)?;
        let cluster = PrivateCluster { temporary: temporary.to_owned(), profile: Tuning::ForTests, folders, account, binaries };
        claim(&cluster, &parent)?;
        // Before the server starts: if this process is killed meanwhile, the server is ended all the same.
        watcher::watch(parent_pid, &cluster.folders)?;
        let (address, done) = cluster.ensure(events)?;
        Ok(Self { folders: cluster.folders, address, started: done.into() })
    }

    /// The quick way for all but the first process: no search, no gate. It is sound because a ready server stays ready
    /// until the run ends.
    fn join(folders: &Folders, account: &SystemUser, parent: &str) -> Result<Option<Self>, ServerError> {
        if !folders.data.is_dir() || !is_claimed_by(folders, parent) {
            return Ok(None);
        }
        must_be_ours(&folders.state)?;
        let Presence::Ready(file) = presence::look(&folders.data, account)? else {
            return Ok(None);
        };
        Ok(Some(Self { folders: folders.clone(), address: ServerAddress::of(file, folders), started: Started::Joined }))
    }

    /// The URL for sqlx or psql, as the superuser. `recado` exists; the caller makes other databases.
    #[must_use]
    pub fn connection_url(&self, database: &str) -> String {
        self.address.url(database)
    }

    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.address.socket_dir
    }

    /// The cluster's own folder, which is removed at the end of the run.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.folders.state
    }

    #[must_use]
    pub fn started_how(&self) -> Started {
        self.started
    }

    #[must_use]
    pub fn postmaster_pid(&self) -> Option<u32> {
        match pidfile::read(&self.folders.data) {
            Ok(PidFileState::Names(file)) => Some(file.pid),
            _ => None,
        }
    }

    /// Does `work` once for each cluster, however many processes ask at once; the others wait for it, at most 130 s.
    /// Returns whether this call did it. When it fails, the next caller does it again.
    ///
    /// `marker` names the work: letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// Those of `work`, and when the marker file cannot be made.
    pub fn run_once<E: From<ServerError>>(&self, marker: &str, work: impl FnOnce() -> Result<(), E>) -> Result<bool, E> {
        let path = self.marker(marker)?;
        // First without the lock: a marker never disappears while its cluster lives.
        if path.exists() {
            return Ok(false);
        }
        let _gate = ExclusiveLock::close(&self.folders.gate, GATE_WAIT)?;
        if path.exists() {
            return Ok(false);
        }
        work()?;
        File::create_new(&path).map_err(ServerError::io("make", &path))?;
        Ok(true)
    }

    fn marker(&self, name: &str) -> Result<PathBuf, ServerError> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
        if name.is_empty() || !name.chars().all(plain) {
            return Err(ServerError::unusable(Path::new(name), "not a marker's name"));
        }
        Ok(self.folders.state.join(format!("done-{name}")))
    }
}

/// Refuses another user's folder: its name can be guessed, and every user can write in its parent.
fn must_be_ours(folder: &Path) -> Result<(), ServerError> {
    let meta = fs::symlink_metadata(folder).map_err(ServerError::io("look at", folder))?;
    if meta.is_dir() && Some(meta.uid()) == system_user::effective_uid() {
        return Ok(());
    }
    Err(ServerError::unusable(folder, "it was made by another user (set TMPDIR to a folder of your own)"))
}

/// Makes the folder this parent's. What an earlier process of the same number left there is stopped and removed.
fn claim(cluster: &PrivateCluster, parent: &str) -> Result<(), ServerError> {
    let folders = &cluster.folders;
    if is_claimed_by(folders, parent) {
        return Ok(());
    }
    cluster.stop()?;
    let entries = fs::read_dir(&folders.state).map_err(ServerError::io("read", &folders.state))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path == folders.gate || path == folders.run {
            continue;
        }
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.map_err(ServerError::io("remove", &path))?;
    }
    let path = claim_file(folders);
    let write = || -> io::Result<()> { child::fresh_file(&path)?.write_all(parent.as_bytes()) };
    write().map_err(ServerError::io("write", &path))
}

fn claim_file(folders: &Folders) -> PathBuf {
    folders.state.join("parent")
}

fn is_claimed_by(folders: &Folders, parent: &str) -> bool {
    fs::read_to_string(claim_file(folders)).is_ok_and(|claimed| claimed == parent)
}

/// Identifies a process by its number and its start time, because numbers are reused.
fn identity(pid: u32) -> String {
    let started = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        // Field 22, counted after the name in brackets, which is field 2.
        Ok(stat) => stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19).map(str::to_owned)),
        Err(_) => child::ask(Command::new("ps").args(["-o", "lstart=", "-p", &pid.to_string()])),
    };
    format!("{pid} {}", started.unwrap_or_default())
}
