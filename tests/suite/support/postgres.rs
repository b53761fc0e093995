//! Runs a durable PostgreSQL server that a test may kill.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use private_postgres::{Environment, PrivateServer, ServerSettings};

/// PostgreSQL with all its safety settings on, in a folder of its own.
pub struct DurableServer {
    server: Option<PrivateServer>,
    folder: tempfile::TempDir,
}

impl DurableServer {
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("recado-durable").tempdir_in("/tmp").unwrap();
        // The server's user must be able to enter; tempfile's own folders are 0700.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut server = Self { server: None, folder };
        server.start_again().await;
        server
    }

    /// Starts it again as an administrator or a supervisor would.
    pub async fn start_again(&mut self) {
        let settings = ServerSettings { state_dir: Some(self.state()), max_connections: 100, ..ServerSettings::default() };
        let environment =
            Environment { path: std::env::var_os("PATH"), home: std::env::var_os("HOME").map(Into::into), ..Environment::default() };
        let start = move || PrivateServer::start(&settings, &environment, &mut |_| {});
        self.server = Some(tokio::task::spawn_blocking(start).await.unwrap().expect("a durable server"));
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn url(&self) -> String {
        self.server.as_ref().unwrap().connection_url()
    }

    /// Kills the postmaster with SIGKILL; its children end when they notice.
    pub fn kill_9(&self) {
        self.signal("-9");
    }

    /// Sends a signal to the postmaster: `-INT` ends it as `pg_ctl stop -m fast` does, `-QUIT` as `-m immediate`.
    pub fn signal(&self, signal: &str) {
        assert!(kill(signal, &[self.postmaster()]), "kill {signal}");
    }

    /// Sends a signal to every process of the server: the postmaster first, so that no child is missed.
    pub fn signal_all(&self, signal: &str) {
        let postmaster = self.postmaster();
        assert!(kill(signal, &[postmaster]), "kill {signal}");
        // A child that has just ended is no error.
        kill(signal, &children(postmaster));
    }

    fn postmaster(&self) -> u32 {
        self.server.as_ref().unwrap().postmaster_pid().expect("the server runs")
    }
}

fn kill(signal: &str, pids: &[u32]) -> bool {
    Command::new("kill").arg(signal).args(pids.iter().map(u32::to_string)).stderr(Stdio::null()).status().unwrap().success()
}

fn children(parent: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

impl Drop for DurableServer {
    fn drop(&mut self) {
        let Some(server) = self.server.take() else { return };
        // Blocking; not on a thread of the runtime.
        let _ = std::thread::spawn(move || server.stop()).join();
    }
}
