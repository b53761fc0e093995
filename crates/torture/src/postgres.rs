//! Runs the database of a run: a durable primary and a synchronous standby, which may be killed.
//!
//! Two links in the run's folder lead to the sockets of the primary and of the standby. After a failover they lead to
//! the other server, so hubs and witnesses keep their addresses.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use private_postgres::{Environment, PrivateServer, ServerSettings};
use recado_testkit::process;
use sqlx::PgConnection;
use tokio::time::{Instant, sleep};

use crate::RunError;
use crate::plain_server::{self, NAME, PlainServer, Programs, SOCKET, STANDBY};

const MAX_CONNECTIONS: u32 = 120;
/// Longest wait until a standby has all that the primary has.
const FOLLOW_LIMIT: Duration = Duration::from_secs(20);

pub struct Postgres {
    servers: [PlainServer; 2],
    /// The index of the primary.
    primary: AtomicUsize,
    /// Whether commits wait for the standby. A mutant does not.
    is_synchronous: bool,
    pub folder: PathBuf,
    /// URL of the superuser at the primary, which bypasses every proxy.
    pub url: String,
    pub socket: PathBuf,
    pub standby_socket: PathBuf,
    /// The log of both servers.
    pub log: PathBuf,
}

impl Postgres {
    pub async fn start(folder: &Path, environment: Environment, is_synchronous: bool) -> Result<Self, RunError> {
        fs::create_dir_all(folder)?;
        // The server's user must be able to enter.
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
        let settings = ServerSettings {
            state_dir: Some(folder.join("state")),
            max_connections: MAX_CONNECTIONS,
            fetch: false,
            ..ServerSettings::default()
        };
        let (data, programs) = tokio::task::spawn_blocking(move || create(&settings, &environment)).await??;
        let log = folder.join("postgres.log");
        let servers = [place(folder, 0, &programs, data, &log).await?, place(folder, 1, &programs, folder.join("data-1"), &log).await?];
        let [primary, standby] = ["primary", "standby"].map(|name| folder.join(name));
        let (url, socket, standby_socket) = (plain_server::url(&primary), primary.join(SOCKET), standby.join(SOCKET));
        let pair =
            Self { servers, primary: AtomicUsize::new(0), is_synchronous, folder: folder.to_owned(), url, socket, standby_socket, log };
        pair.link()?;
        pair.primary().start().await?;
        pair.begin_standby().await?;
        Ok(pair)
    }

    fn primary(&self) -> &PlainServer {
        &self.servers[self.primary.load(Ordering::SeqCst)]
    }

    fn standby(&self) -> &PlainServer {
        &self.servers[1 - self.primary.load(Ordering::SeqCst)]
    }

    /// Points the links to the present primary and standby, each in one step.
    fn link(&self) -> Result<(), RunError> {
        for (name, server) in [("primary", self.primary()), ("standby", self.standby())] {
            let new = self.folder.join(format!("new-{name}"));
            symlink(&server.sockets, &new)?;
            fs::rename(&new, self.folder.join(name))?;
        }
        Ok(())
    }

    pub async fn kill_and_start(&self) -> Result<Option<String>, RunError> {
        let primary = self.primary();
        let Some(pid) = primary.postmaster() else { return Ok(None) };
        primary.kill().await?;
        primary.start().await?;
        let now = primary.postmaster().filter(|now| *now != pid);
        Ok(now.map(|now| format!("the postmaster {pid} was killed, now it is {now}")))
    }

    /// Kills the primary for good, and makes the standby the primary.
    ///
    /// For the time of `pause` the standby receives nothing, so commits of that time are lost. Then the hubs reach a
    /// server that takes no writes, for the same time. Returns the proof. There is no standby until
    /// [`Postgres::begin_standby`] makes one.
    pub async fn fail_over(&self, pause: Duration) -> Result<Option<String>, RunError> {
        if !self.is_followed().await? {
            return Ok(None);
        }
        let (Some(pid), Some(receiver)) = (self.primary().postmaster(), self.standby().receiver().await?) else { return Ok(None) };
        process::signal("-STOP", receiver).await?;
        sleep(pause).await;
        self.primary().kill().await?;
        process::signal("-CONT", receiver).await?;
        self.primary.fetch_xor(1, Ordering::SeqCst);
        self.link()?;
        sleep(pause).await;
        self.primary().promote().await?;
        let mut connection = self.primary().connect().await?;
        // Refused by a server that still recovers. The first eight digits of the name are the timeline.
        let timeline = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)";
        let timeline: String = sqlx::query_scalar(timeline).fetch_one(&mut connection).await?;
        Ok(Some(format!("the postmaster {pid} was killed, and the standby was promoted on timeline {timeline}")))
    }

    /// Erases the data of the other server and makes it a standby. From then on each commit waits for it.
    pub async fn begin_standby(&self) -> Result<(), RunError> {
        // The copy must not have the setting: a standby that is promoted has no standby itself.
        self.standby().follow(self.primary()).await?;
        let mut connection = self.primary().connect().await?;
        if self.is_synchronous {
            for sql in ["ALTER SYSTEM SET synchronous_standby_names = 'standby'", "SELECT pg_reload_conf()"] {
                sqlx::query(sql).execute(&mut connection).await?;
            }
        }
        if self.is_followed().await? { Ok(()) } else { Err("the standby does not follow the primary".into()) }
    }

    /// Waits until the standby is synchronous, and has all that is visible at the primary now. What a crash has
    /// recovered is visible before the standby has it (PostgreSQL's chapter 27.2.8).
    async fn is_followed(&self) -> Result<bool, RunError> {
        let end = Instant::now() + FOLLOW_LIMIT;
        let mut visible: Option<String> = None;
        while Instant::now() < end {
            if let Ok(mut connection) = self.primary().connect().await {
                if visible.is_none() {
                    visible = sqlx::query_scalar("SELECT pg_current_wal_flush_lsn()::text").fetch_one(&mut connection).await.ok();
                }
                if let Some(visible) = &visible
                    && has_all(&mut connection, visible, self.is_synchronous).await.unwrap_or(false)
                {
                    return Ok(true);
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(false)
    }

    pub fn postmasters(&self) -> impl Iterator<Item = u32> {
        self.servers.iter().filter_map(PlainServer::postmaster)
    }

    /// Shuts the primary down first: its last commits may wait for the standby.
    pub async fn stop(&self) {
        for server in [self.primary(), self.standby()] {
            if let Err(error) = server.stop().await {
                println!("PostgreSQL did not stop: {error}");
            }
        }
    }
}

/// Creates the cluster, and leaves it stopped. Returns its data folder.
fn create(settings: &ServerSettings, environment: &Environment) -> Result<(PathBuf, Programs), private_postgres::ServerError> {
    let server = PrivateServer::start(settings, environment, &mut |_| {})?;
    let programs = Programs { folder: server.binaries_dir().to_owned(), user: server.server_user().to_owned() };
    let data = server.data_dir().to_owned();
    server.stop()?;
    Ok((data, programs))
}

async fn place(folder: &Path, number: usize, programs: &Programs, data: PathBuf, log: &Path) -> Result<PlainServer, RunError> {
    let sockets = folder.join(format!("sockets-{number}"));
    fs::create_dir_all(&sockets)?;
    programs.give(&sockets).await?;
    let (hba, ident) = (folder.join("pg_hba.conf"), folder.join("pg_ident.conf"));
    // The system user of the server, and root, as which a run may act.
    fs::write(&hba, format!("local all {NAME} peer map={NAME}\nlocal replication {NAME} peer map={NAME}\nlocal all all scram-sha-256\n"))?;
    fs::write(&ident, format!("{NAME} root {NAME}\n{NAME} \"{}\" {NAME}\n", programs.user))?;
    let settings = [
        "fsync=on".to_owned(),
        "full_page_writes=on".to_owned(),
        "synchronous_commit=on".to_owned(),
        "wal_level=replica".to_owned(),
        "wal_keep_size=1GB".to_owned(),
        "wal_retrieve_retry_interval=200ms".to_owned(),
        format!("max_connections={MAX_CONNECTIONS}"),
        format!("hba_file={}", hba.display()),
        format!("ident_file={}", ident.display()),
    ];
    Ok(PlainServer::new(programs.clone(), data, sockets, log.to_owned(), settings.to_vec()))
}

async fn has_all(connection: &mut PgConnection, visible: &str, is_synchronous: bool) -> Result<bool, sqlx::Error> {
    let sql = "SELECT EXISTS (SELECT FROM pg_stat_replication
                               WHERE application_name = $1 AND state = 'streaming' AND sync_state = $2 AND flush_lsn >= $3::pg_lsn)";
    let state = if is_synchronous { "sync" } else { "async" };
    sqlx::query_scalar(sql).bind(STANDBY).bind(state).bind(visible).fetch_one(connection).await
}
