//! Makes a data folder, whole or not at all.

use super::address::NAME;
use super::child::{self, WAIT};
use super::cluster::PrivateCluster;
use super::error::ServerError;
use super::folders::private_folder;
use super::sizing::MachineSize;
use crate::LOG_TARGET;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

impl PrivateCluster {
    /// Makes the data folder under a temporary name, and renames it when it is complete.
    ///
    /// The name differs each time: the initdb of a killed hub may still be writing into the last one.
    pub(super) fn create(&self) -> Result<(), ServerError> {
        self.remove_unfinished();
        let name = format!("data.new-{}", std::process::id());
        let new = self.folders.state.join(name);
        private_folder(&new, &self.account)?;
        let mut initdb = self.account.command(&self.binaries.program("initdb"));
        initdb.arg("-D").arg(&new).args(["-U", NAME, "-A", "trust"]);
        // -k: with checksums, a bit that flips on disk is an error, not wrong data.
        initdb.args(["-k", "-E", "UTF8", "--locale=C"]);
        if !self.profile.durable() {
            initdb.arg("--no-sync");
        }
        self.run("initdb", &mut initdb, WAIT)?;
        if self.profile.durable() {
            fit_to_machine(&new)?;
        }
        self.create_database(&new)?;
        fs::rename(&new, &self.folders.data).map_err(ServerError::io("rename", &new))?;
        self.sync_state_folder()
    }

    /// Runs `CREATE DATABASE` in a single-user backend, because not every set of binaries has a psql.
    fn create_database(&self, data_dir: &Path) -> Result<(), ServerError> {
        let script = self.folders.run.join("create.sql");
        let write = || -> io::Result<File> {
            child::fresh_file(&script)?
                .write_all(format!("CREATE DATABASE {NAME}\nREVOKE CONNECT, TEMPORARY ON DATABASE {NAME} FROM PUBLIC\n").as_bytes())?;
            File::open(&script)
        };
        let script = write().map_err(ServerError::io("write", &script))?;
        let mut single = self.account.command(&self.binaries.program("postgres"));
        // Without exit_on_error a failed statement still ends with success.
        single.args(["--single", "-D"]).arg(data_dir);
        single.args(["-c", "exit_on_error=on"]);
        if !self.profile.durable() {
            single.args(["-c", "fsync=off"]);
        }
        single.arg("postgres").stdin(script);
        self.run("postgres --single", &mut single, WAIT)
    }

    fn sync_state_folder(&self) -> Result<(), ServerError> {
        if !self.profile.durable() {
            return Ok(());
        }
        let state = &self.folders.state;
        File::open(state).and_then(|folder| folder.sync_all()).map_err(ServerError::io("sync", state))
    }

    fn remove_unfinished(&self) {
        let entries = fs::read_dir(&self.folders.state).into_iter().flatten();
        for entry in entries.flatten() {
            if !entry.file_name().to_string_lossy().starts_with("data.new-") {
                continue;
            }
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::warn!(target: LOG_TARGET, folder = %entry.path().display(), %error, "cannot remove an unfinished data folder");
            }
        }
    }
}

/// Appends what the size of the machine allows to the configuration of the new server.
fn fit_to_machine(data_dir: &Path) -> Result<(), ServerError> {
    let conf = data_dir.join("postgresql.conf");
    let append = || File::options().append(true).open(&conf)?.write_all(MachineSize::of(data_dir).lines().as_bytes());
    append().map_err(ServerError::io("write", &conf))
}
