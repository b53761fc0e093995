//! Runs a durable PostgreSQL that a test may kill, copy and promote.
//!
//! All its safety settings are on, and its data can be put on any disk.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use recado_testkit::process;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection};

use super::disk::Disk;
use super::host::said;
use super::{PATIENCE, eventually};

/// The part of a server that is on a test's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDisk {
    Everything,
    Data,
    Wal,
}

pub struct TestCluster {
    /// Socket and log, on the machine's own disk; also the data, unless it is on another.
    folder: tempfile::TempDir,
    data: PathBuf,
    /// Commands that touch the data begin with these words.
    prefix: Vec<String>,
    settings: Vec<String>,
    server: Option<Child>,
}

impl TestCluster {
    /// Creates a server on the machine's own disk; not yet running.
    ///
    /// # Errors
    /// Names what this machine lacks for it.
    pub fn make() -> Result<Self, String> {
        let mut cluster = Self::nowhere()?;
        cluster.data = cluster.folder.path().join("data");
        cluster.initdb(&[])?;
        Ok(cluster)
    }

    /// Creates a server with a part of it on `disk`; not yet running.
    ///
    /// # Errors
    /// Names what this machine lacks for it.
    pub fn on(disk: &Disk, part: OnDisk) -> Result<Self, String> {
        let mut cluster = Self::nowhere()?;
        let (here, there) = (cluster.folder.path().to_owned(), disk.path());
        cluster.data = if part == OnDisk::Wal { here.join("data") } else { there.join("data") };
        let prefix = std::mem::take(&mut cluster.prefix);
        cluster.prefix = ["nsenter".to_owned()].into_iter().chain(disk.enter()).chain(prefix).collect();
        disk.inside(&["chown", "postgres", there.to_str().unwrap()])?;
        let wal = match part {
            OnDisk::Everything => None,
            OnDisk::Data => Some(here.join("wal")),
            OnDisk::Wal => Some(there.join("wal")),
        };
        cluster.initdb(&wal.map_or_else(Vec::new, |wal| vec!["-X".to_owned(), wal.display().to_string()]))?;
        disk.flush();
        Ok(cluster)
    }

    fn nowhere() -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("recado-pg").tempdir_in("/tmp").unwrap();
        let mut prefix = Vec::new();
        if super::host::root().is_ok() {
            said(Command::new("chown").arg("postgres").arg(folder.path()))?;
            prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"].map(str::to_owned).to_vec();
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).map_err(|error| error.to_string())?;
        Ok(Self { data: PathBuf::new(), folder, prefix, settings: Vec::new(), server: None })
    }

    fn initdb(&self, more: &[String]) -> Result<(), String> {
        let mut initdb = self.command("initdb");
        initdb.args(["--data-checksums", "--no-sync", "--wal-segsize=1", "-U", "recado", "-A", "trust", "-E", "UTF8", "--locale=C", "-D"]);
        said(initdb.arg(&self.data).args(more)).map(drop)
    }

    /// A program of PostgreSQL as the server's user, where the data can be seen.
    fn command(&self, program: &str) -> Command {
        let words: Vec<String> = self.prefix.iter().cloned().chain([programs().join(program).display().to_string()]).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir("/").stdin(Stdio::null());
        command
    }

    /// Takes effect at the next start.
    pub fn set(&mut self, setting: &str) {
        self.settings.push(setting.to_owned());
    }

    /// Starts it and waits until it answers.
    pub async fn start(&mut self) {
        self.spawn().await;
        eventually("the server answers", PATIENCE * 2, async || self.try_connect().await.ok()).await;
    }

    /// As [`TestCluster::start`], for a server that may be too damaged to start: whether it answers.
    pub async fn try_start(&mut self) -> bool {
        self.spawn().await;
        eventually("the server answers, or gives up", PATIENCE * 2, async || match self.try_connect().await {
            Ok(_) => Some(true),
            Err(_) => (!self.is_running()).then_some(false),
        })
        .await
    }

    async fn spawn(&mut self) {
        assert!(!self.is_running());
        // A killed server's shared memory goes with its last process, and only then may the next server start.
        eventually("the last process is gone", PATIENCE, async || self.processes().is_empty().then_some(())).await;
        let lock = self.data.join("postmaster.pid").display().to_string();
        self.run("rm", &["-f", &lock]).unwrap();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let server = self.command("postgres");
        let mut watched = Command::new("sh");
        watched.args(["-c", process::WATCHED, "sh"]).arg(server.get_program()).args(server.get_args());
        watched.arg("-D").arg(&self.data).args(["-c", "listen_addresses=", "-c"]);
        watched.arg(format!("unix_socket_directories={}", self.folder.path().display()));
        watched.args(self.settings.iter().flat_map(|setting| ["-c", setting]));
        watched.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.server = Some(watched.spawn().expect("PostgreSQL starts"));
    }

    /// Runs a program where the data can be seen, as the server's user.
    ///
    /// # Errors
    /// Holds the program's error output.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let words: Vec<&str> = self.prefix.iter().map(String::as_str).chain([program]).chain(arguments.iter().copied()).collect();
        said(Command::new(words[0]).args(&words[1..]).current_dir("/"))
    }

    /// Whether the postmaster is running.
    pub fn is_running(&mut self) -> bool {
        let ended = self.server.as_mut().is_none_or(|server| server.try_wait().is_ok_and(|status| status.is_some()));
        if ended {
            self.server = None;
        }
        !ended
    }

    pub fn url(&self) -> String {
        format!("postgresql:///postgres?host={}&user=recado", self.folder.path().display())
    }

    /// A URL that lists these folders of sockets, of which the server that takes writes is used.
    pub fn url_of(folders: &[&Path]) -> String {
        let list: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        format!("postgresql:///postgres?host={}&user=recado&target_session_attrs=read-write", list.join(","))
    }

    /// The folder of its socket.
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// A URL through a listener on a port of this machine.
    pub fn url_at(address: &str) -> String {
        format!("postgresql://recado@{address}/postgres?sslmode=disable")
    }

    pub async fn try_connect(&self) -> Result<PgConnection, sqlx::Error> {
        let options: PgConnectOptions = self.url().parse().unwrap();
        options.application_name("test").disable_statement_logging().connect().await
    }

    pub async fn execute(&self, sql: &str) {
        let mut connection = self.try_connect().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub async fn number(&self, sql: &str) -> i64 {
        let mut connection = self.try_connect().await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub async fn text(&self, sql: &str) -> String {
        let mut connection = self.try_connect().await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Shuts down cleanly: everything in memory is written.
    pub async fn stop(&mut self) {
        let data = self.data.display().to_string();
        said(self.command("pg_ctl").args(["stop", "-m", "fast", "-w", "-D", &data])).unwrap();
        eventually("the server has ended", PATIENCE, async || (!self.is_running()).then_some(())).await;
    }

    /// Kills the postmaster and every process of the server with SIGKILL, and waits until all are gone.
    pub async fn kill_9(&mut self) {
        eventually("every process of the server is gone", PATIENCE, async || {
            let left = self.processes();
            for pid in &left {
                let _ = Command::new("kill").args(["-9", pid]).stderr(Stdio::null()).status();
            }
            (left.is_empty() && !self.is_running()).then_some(())
        })
        .await;
    }

    /// Sends a signal to every process of the server, such as `-STOP` and `-CONT`.
    pub fn signal_all(&self, signal: &str) {
        // A process that has just ended is no error.
        let _ = Command::new("kill").arg(signal).args(self.processes()).stderr(Stdio::null()).status();
    }

    /// Processes of this server; they work in its data folder.
    fn processes(&self) -> Vec<String> {
        let works_here = |pid: &Path| fs::read_link(pid.join("cwd")).is_ok_and(|cwd| cwd == self.data);
        let all = fs::read_dir("/proc").unwrap().flatten().filter(|entry| works_here(&entry.path()));
        all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Flips one bit of a file below the data folder, while the server is stopped and the data is on the machine's own
    /// disk.
    pub fn flip_a_bit(&self, file: &str, at: u64) {
        let file = fs::OpenOptions::new().read(true).write(true).open(self.data.join(file)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }

    /// Creates a standby that follows this server's WAL from here on; not yet running.
    pub fn standby(&self) -> Self {
        let mut standby = Self::nowhere().unwrap();
        standby.data = standby.folder.path().join("data");
        let source = format!("host={} user=recado application_name=standby", self.folder.path().display());
        let mut copy = self.command("pg_basebackup");
        copy.args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", &source, "-D"]);
        said(copy.arg(&standby.data)).unwrap();
        standby
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        said(self.command("pg_ctl").args(["promote", "-w", "-D"]).arg(&self.data)).unwrap();
    }

    /// The server's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Runs `pg_amcheck` over everything; its complaints, or `None` where it is not installed.
    pub fn amcheck(&self) -> Option<String> {
        let mut check = self.command("pg_amcheck");
        check.args(["--install-missing", "--heapallindexed", "-U", "recado", "-h"]).arg(self.folder.path()).arg("postgres");
        if !programs().join("pg_amcheck").exists() {
            return None;
        }
        Some(said(&mut check).unwrap_or_else(|complaint| complaint))
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("---- PostgreSQL in {} said, last:\n{}", self.data.display(), lines[lines.len().saturating_sub(25)..].join("\n"));
        }
        if self.server.is_none() {
            return;
        }
        // A server that a test has frozen would not end.
        self.signal_all("-CONT");
        let Some(mut server) = self.server.take() else { return };
        // Its watcher sees the end of this input, and ends it at once.
        drop(server.stdin.take());
        let _ = server.wait();
    }
}

/// The folder of PostgreSQL's programs, found as in `.ci/run`.
fn programs() -> PathBuf {
    let named = std::env::var_os("RECADO_POSTGRES_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let linked = std::env::split_paths(&path).map(|folder| folder.join("postgres")).find_map(|program| program.canonicalize().ok());
    let mut usual: Vec<PathBuf> =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin")).collect();
    usual.sort();
    let linked = linked.and_then(|program| program.parent().map(Path::to_owned));
    let mut all = named.into_iter().chain(linked).chain(usual.into_iter().rev());
    all.find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists()).expect("the programs of PostgreSQL")
}
