//! Joins, starts and stops the server of one cluster, by pg_ctl.
//!
//! Every function here is called with the gate closed; `lib.rs` says why.

use super::access;
use super::address::{PORT, ServerAddress};
use super::binaries::Binaries;
use super::child::{self, WAIT};
use super::error::ServerError;
use super::folders::Folders;
use super::foreign_processes;
use super::pidfile;
use super::presence::{self, Presence};
use super::settings::ServerEvent;
use super::system_user::SystemUser;
use super::tuning::Tuning;
use crate::LOG_TARGET;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a server that is not ready is checked again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// pg_ctl itself waits [`WAIT`] and then says why it gave up. This limit is for a pg_ctl that hangs.
const PG_CTL_WAIT: Duration = Duration::from_secs(WAIT.as_secs() + 15);

/// A larger log is renamed at the next start, so that at most twice this stays on disk.
const LOG_MAX: u64 = 10 << 20;

#[derive(Debug)]
pub(super) struct PrivateCluster {
    pub(super) folders: Folders,
    pub(super) account: SystemUser,
    pub(super) binaries: Binaries,
    pub(super) profile: Tuning,
    /// Holds the socket when the path of `run/` is too long.
    pub(super) temporary: PathBuf,
}

/// The way in which a server was made available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Created,
    Started,
    Joined,
}

impl PrivateCluster {
    /// Joins the running server, or waits for what is in the way, makes the data folder, and starts a server.
    ///
    /// # Errors
    /// [`ServerError::Busy`] after 60 s; the output of initdb, postgres or pg_ctl; [`ServerError::OtherVersion`].
    pub(super) fn ensure(&self, events: &mut dyn FnMut(ServerEvent)) -> Result<(ServerAddress, Done), ServerError> {
        let deadline = Instant::now() + WAIT;
        let mut done = Done::Joined;
        let mut failed_once = false;
        let mut told = String::new();
        loop {
            match presence::look(&self.folders.data, &self.account)? {
                Presence::Ready(file) => {
                    return Ok((ServerAddress::of(file, &self.folders), done));
                }
                Presence::Busy(reason) => {
                    self.wait_a_little(&reason, deadline)?;
                    if told != reason {
                        told.clone_from(&reason);
                        events(ServerEvent::Waiting { reason });
                    }
                }
                free => {
                    done = self.create_when_new(done, events)?;
                    match self.start(&free, events) {
                        Ok(()) if done == Done::Joined => done = Done::Started,
                        Ok(()) => {}
                        // A pg_ctl that a killed hub left may have started a server just now; then this start had to
                        // fail.
                        Err(error @ ServerError::Failed { .. }) if !failed_once => {
                            tracing::debug!(target: LOG_TARGET, %error, "looking again after a failed start");
                            failed_once = true;
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    fn wait_a_little(&self, reason: &str, deadline: Instant) -> Result<(), ServerError> {
        if Instant::now() >= deadline {
            return Err(ServerError::Busy { seconds: WAIT.as_secs(), reason: reason.to_owned(), log: self.log_tail() });
        }
        sleep(LOOK_AGAIN);
        Ok(())
    }

    fn create_when_new(&self, done: Done, events: &mut dyn FnMut(ServerEvent)) -> Result<Done, ServerError> {
        let data_dir = self.folders.data.clone();
        match self.folders.data_version()? {
            Some(major) if major == self.binaries.major => Ok(done),
            // A process with other binaries made it after this one had chosen its own.
            Some(made_by) => Err(ServerError::OtherVersion { data_dir, made_by, found: self.binaries.major.to_string() }),
            None => {
                events(ServerEvent::Creating { data_dir });
                self.create()?;
                Ok(Done::Created)
            }
        }
    }

    /// Starts the server and waits until it takes connections.
    fn start(&self, free: &Presence, events: &mut dyn FnMut(ServerEvent)) -> Result<(), ServerError> {
        let socket_dir = self.folders.socket_dir(&self.account, &self.temporary)?;
        foreign_processes::refuse(&self.folders, &socket_dir)?;
        self.remove_left_files(free, &socket_dir)?;
        self.set_log_aside();
        foreign_processes::note(&self.folders.run, &self.account)?;
        if self.profile.durable() {
            access::write(&self.folders.run, &self.account)?;
        }
        events(ServerEvent::Starting { data_dir: self.folders.data.clone() });
        let mut pg_ctl = self.pg_ctl();
        pg_ctl.arg("-l").arg(self.log()).arg("-o");
        pg_ctl.arg(self.options(&socket_dir)).arg("start");
        self.run("pg_ctl start", &mut pg_ctl, PG_CTL_WAIT)
    }

    /// Stops the server, if one runs. Sessions are ended and everything is written, so the next start needs no
    /// recovery.
    ///
    /// # Errors
    /// The output of pg_ctl, when the server is still there after 60 s.
    pub(super) fn stop(&self) -> Result<(), ServerError> {
        let gone = |presence| matches!(presence, Presence::Nobody { .. } | Presence::LeftFile);
        if gone(presence::look(&self.folders.data, &self.account)?) {
            return Ok(());
        }
        let mut pg_ctl = self.pg_ctl();
        pg_ctl.args(["-m", "fast", "stop"]);
        let stopped = self.run("pg_ctl stop", &mut pg_ctl, PG_CTL_WAIT);
        match stopped {
            // The server ended by itself before pg_ctl looked.
            Err(_) if gone(presence::look(&self.folders.data, &self.account)?) => Ok(()),
            other => other,
        }
    }

    fn pg_ctl(&self) -> Command {
        let mut pg_ctl = self.account.command(&self.binaries.program("pg_ctl"));
        pg_ctl.arg("-D").arg(&self.folders.data);
        pg_ctl.args(["-w", "-t", &WAIT.as_secs().to_string()]);
        pg_ctl
    }

    /// pg_ctl hands these options to a shell. `Folders::new` refuses special characters.
    fn options(&self, socket_dir: &Path) -> String {
        let mut options = format!(
            "-c listen_addresses= -c port={PORT} -c unix_socket_permissions=0700 -c unix_socket_directories='\"{}\"'",
            socket_dir.display()
        );
        if self.profile.durable() {
            options.push_str(&access::options(&self.folders.run));
        }
        for (name, value) in self.profile.settings() {
            options.push_str(&format!(" -c {name}={value}"));
        }
        options
    }

    /// Removes files that keep PostgreSQL from starting although no process is behind them: a pid file that names an
    /// unrelated process, and the socket's lock file, which names the same pid. Only when every process could be
    /// inspected.
    fn remove_left_files(&self, free: &Presence, socket_dir: &Path) -> Result<(), ServerError> {
        let mut left = Vec::new();
        match free {
            Presence::Nobody { known: false } => return Ok(()),
            Presence::LeftFile => left.push(pidfile::path(&self.folders.data)),
            _ => {}
        }
        left.push(socket_dir.join(format!(".s.PGSQL.{PORT}.lock")));
        for path in left {
            match fs::remove_file(&path) {
                Ok(()) => {
                    tracing::info!(target: LOG_TARGET, file = %path.display(), "removed a file of a server that is gone")
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(ServerError::io("remove", &path)(error)),
            }
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folders.data.join("postgres.log")
    }

    pub(super) fn log_tail(&self) -> String {
        child::tail(&self.log())
    }

    fn set_log_aside(&self) {
        let log = self.log();
        if fs::metadata(&log).is_ok_and(|meta| meta.len() > LOG_MAX)
            && let Err(error) = fs::rename(&log, log.with_extension("log.old"))
        {
            tracing::warn!(target: LOG_TARGET, log = %log.display(), %error, "cannot rename the server's log");
        }
    }

    /// Runs one of PostgreSQL's programs, with its output in `run/`.
    pub(super) fn run(&self, program: &'static str, command: &mut Command, limit: Duration) -> Result<(), ServerError> {
        let output = self.folders.run.join(format!("{}.out", program.replace(' ', "-")));
        let outcome = child::run(command, &output, limit)
            // Not `ServerError::io`: access to the program is refused, not to the state folder.
            .map_err(|source| ServerError::Io { doing: "run", path: command.get_program().into(), source })?;
        match outcome.success {
            true => Ok(()),
            false => Err(ServerError::Failed { program, output: outcome.output, log: self.log_tail() }),
        }
    }
}
