//! Runs the database of a run: a durable server in its own folder, which may be killed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use private_postgres::{Environment, PrivateServer, ServerSettings};
use tokio::sync::Mutex;

use crate::RunError;

pub struct Postgres {
    server: Mutex<Option<PrivateServer>>,
    environment: Environment,
    settings: ServerSettings,
    pub folder: PathBuf,
    /// URL of the superuser over the socket, which bypasses every proxy.
    pub url: String,
    pub socket: PathBuf,
    pub log: PathBuf,
}

impl Postgres {
    pub async fn start(folder: &Path, environment: Environment) -> Result<Self, RunError> {
        fs::create_dir_all(folder)?;
        // The server's user must be able to enter.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        let settings =
            ServerSettings { state_dir: Some(folder.join("state")), max_connections: 120, fetch: false, ..ServerSettings::default() };
        let server = start(settings.clone(), environment.clone()).await?;
        let (url, socket) = (server.connection_url(), server.socket_dir().join(".s.PGSQL.5432"));
        let log = server.data_dir().join("postgres.log");
        Ok(Self { server: Mutex::new(Some(server)), environment, settings, folder: folder.to_owned(), url, socket, log })
    }

    pub async fn start_again(&self) -> Result<(), RunError> {
        // The old value only marks our use of the folder.
        *self.server.lock().await = None;
        *self.server.lock().await = Some(start(self.settings.clone(), self.environment.clone()).await?);
        Ok(())
    }

    pub async fn postmaster(&self) -> Option<u32> {
        self.server.lock().await.as_ref()?.postmaster_pid()
    }

    pub async fn stop(&self) {
        if let Some(server) = self.server.lock().await.take() {
            let _ = tokio::task::spawn_blocking(move || server.stop()).await;
        }
    }
}

async fn start(settings: ServerSettings, environment: Environment) -> Result<PrivateServer, RunError> {
    let start = move || PrivateServer::start(&settings, &environment, &mut |_| {});
    Ok(tokio::task::spawn_blocking(start).await??)
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let Some(server) = self.server.get_mut().take() else { return };
        // Blocking; not on a thread of the runtime.
        let _ = std::thread::spawn(move || server.stop()).join();
    }
}
