//! Creates a database for each test.

use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Mutex, OnceLock};

use private_postgres::{Environment, ServerError, ServerSettings, TestServer};
use recado::domain::Role;
use recado::store::{Database, keys, migrate};
use reqwest::Url;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

const TEMPLATE: &str = "recado_template";
/// How many databases are made before a test asks for one. A copy and a drop each take a checkpoint, for which a test
/// need not wait.
const READY: usize = 3;

/// The cluster of this run.
enum RunCluster {
    Ours(Box<TestServer>),
    Given(Url),
}

impl RunCluster {
    fn url(&self, database: &str) -> String {
        match self {
            Self::Ours(server) => server.connection_url(database),
            Self::Given(url) => {
                let mut url = url.clone();
                url.set_path(database);
                url.to_string()
            }
        }
    }

    /// A database of the cluster that no test uses.
    fn admin_url(&self) -> String {
        match self {
            Self::Ours(server) => server.connection_url("recado"),
            Self::Given(url) => url.to_string(),
        }
    }
}

/// The reason why the template could not be made. The test that makes it panics instead.
struct TemplateError(String);

impl From<ServerError> for TemplateError {
    fn from(error: ServerError) -> Self {
        Self(error.to_string())
    }
}

fn cluster() -> &'static RunCluster {
    static CLUSTER: OnceLock<RunCluster> = OnceLock::new();
    // On a thread of its own: it blocks, and needs a runtime, which a test's thread has already.
    CLUSTER.get_or_init(|| std::thread::spawn(start).join().expect("the test cluster starts"))
}

fn start() -> RunCluster {
    if let Ok(given) = std::env::var("TEST_DATABASE_URL") {
        let cluster = RunCluster::Given(Url::parse(&given).expect("TEST_DATABASE_URL is a URL"));
        block_on(make_template(&cluster));
        return cluster;
    }
    let environment = Environment {
        path: std::env::var_os("PATH"),
        home: std::env::var_os("HOME").map(Into::into),
        tmpdir: std::env::var_os("TMPDIR").map(Into::into).or_else(private_postgres::memory_folder),
        ..Environment::default()
    };
    let server = TestServer::start_for_tests(std::os::unix::process::parent_id(), &ServerSettings::default(), &environment, &mut |_| {})
        .unwrap_or_else(|error| panic!("{error}"));
    let cluster = RunCluster::Ours(Box::new(server));
    let RunCluster::Ours(server) = &cluster else { unreachable!() };
    server
        .run_once("template", || {
            block_on(make_template(&cluster));
            Ok::<_, TemplateError>(())
        })
        .unwrap_or_else(|trouble| panic!("{}", trouble.0));
    cluster
}

/// Created under another name and renamed when it is complete, so that no test can copy half a template.
async fn make_template(cluster: &RunCluster) {
    let mut admin = PgConnection::connect(&cluster.admin_url()).await.expect("the test cluster answers");
    run(&mut admin, &format!("DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)")).await;
    run(&mut admin, "DROP DATABASE IF EXISTS recado_new WITH (FORCE)").await;
    run(&mut admin, "CREATE DATABASE recado_new").await;
    let database = Database::parse(&cluster.url("recado_new"), None).unwrap();
    migrate::run(&database).await.expect("the migrations apply");
    run(&mut admin, &format!("ALTER DATABASE recado_new RENAME TO {TEMPLATE}")).await;
}

async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Databases of our own cluster, made ahead.
fn ready() -> TestDb {
    static READY_ONES: OnceLock<Mutex<Receiver<TestDb>>> = OnceLock::new();
    let made = READY_ONES.get_or_init(|| {
        let (sender, made) = sync_channel(READY);
        std::thread::spawn(move || {
            block_on(async {
                // What was not taken goes with the cluster.
                while sender.send(TestDb::with_keys().await).is_ok() {}
            });
        });
        Mutex::new(made)
    });
    made.lock().expect("no test panics with it").recv().expect("databases are made, or the reason is printed above")
}

/// Drops databases of our own cluster, one after the other.
fn dropper() -> &'static Sender<String> {
    static DROPPER: OnceLock<Sender<String>> = OnceLock::new();
    DROPPER.get_or_init(|| {
        let (sender, dropped) = channel::<String>();
        std::thread::spawn(move || {
            for name in dropped {
                // A database that stays costs 8 MB until the run ends; no reason to fail.
                let _ = block_on(drop_database(&name));
            }
        });
        sender
    })
}

async fn drop_database(name: &str) -> Result<(), sqlx::Error> {
    let mut admin = PgConnection::connect(&cluster().admin_url()).await?;
    sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))).execute(&mut admin).await?;
    // Roles outlive the database that they were made for.
    for purpose in ["hub", "producer", "analyst"] {
        sqlx::raw_sql(AssertSqlSafe(format!("DROP ROLE IF EXISTS recado_{purpose}_{name}"))).execute(&mut admin).await?;
    }
    Ok(())
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A database, dropped with this value.
pub struct TestDb {
    pub name: String,
}

impl TestDb {
    /// A migrated, empty database with a service key and an admin key.
    pub async fn new() -> Self {
        match cluster() {
            // nextest has a process for each test.
            RunCluster::Ours(_) if std::env::var_os("NEXTEST").is_none() => {
                tokio::task::spawn_blocking(ready).await.expect("databases are made, or the reason is printed above")
            }
            _ => Self::with_keys().await,
        }
    }

    async fn with_keys() -> Self {
        let db = Self::from_template(TEMPLATE).await;
        let mut connection = db.connect().await;
        keys::create(&mut connection, "shop", Role::Service, &db.key()).await.unwrap();
        keys::create(&mut connection, "boss", Role::Admin, &db.admin_key()).await.unwrap();
        db
    }

    /// A database without a schema.
    pub async fn bare() -> Self {
        Self::from_template("template0").await
    }

    /// Copies this database as it is now; there must be no connection to it.
    pub async fn copy(&self) -> Self {
        let mut admin = PgConnection::connect(&cluster().admin_url()).await.unwrap();
        let leave = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
        sqlx::query(leave).bind(&self.name).execute(&mut admin).await.unwrap();
        super::eventually("everyone has left the database", super::PATIENCE, async || {
            let here = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
            let left: i64 = sqlx::query_scalar(here).bind(&self.name).fetch_one(&mut admin).await.unwrap();
            (left == 0).then_some(())
        })
        .await;
        Self::from_template(&self.name).await
    }

    async fn from_template(template: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut admin = PgConnection::connect(&cluster().admin_url()).await.expect("the test cluster answers");
        run(&mut admin, &format!("CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")).await;
        Self { name }
    }

    /// URL of the superuser, over the cluster's own way.
    pub fn url(&self) -> String {
        cluster().url(&self.name)
    }

    /// URL of the superuser, through a listener on a port of this machine.
    pub fn url_at(&self, port: u16) -> String {
        let options = PgConnectOptions::from_str(&self.url()).unwrap();
        let mut url = Url::parse(&format!("postgres://127.0.0.1:{port}/{}?sslmode=disable", self.name)).unwrap();
        url.set_username(options.get_username()).unwrap();
        if let RunCluster::Given(given) = cluster() {
            url.set_password(given.password()).unwrap();
        }
        url.to_string()
    }

    /// URL of another login of the cluster.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        let mut url = Url::parse(&self.url()).unwrap();
        let others: Vec<(String, String)> =
            url.query_pairs().into_owned().filter(|(name, _)| !["user", "password"].contains(&name.as_str())).collect();
        let login = [("user", user), ("password", password)];
        if url.has_host() && url.host_str().is_some_and(|host| !host.is_empty()) {
            url.set_username(user).unwrap();
            url.set_password(Some(password)).unwrap();
            return url.to_string();
        }
        url.query_pairs_mut().clear().extend_pairs(others).extend_pairs(login);
        url.to_string()
    }

    pub async fn connect(&self) -> PgConnection {
        let options = PgConnectOptions::from_str(&self.url()).unwrap().application_name("test");
        options.disable_statement_logging().connect().await.expect("the test's own connection")
    }

    /// Runs statements as the superuser.
    pub async fn run(&self, sql: &str) {
        run(&mut self.connect().await, sql).await;
    }

    /// Replaces the partitions of an empty log by those that `make` creates: at once, or a hub would put its own
    /// between.
    pub async fn with_partitions(&self, make: &str) {
        self.run(&format!(
            "DO $$ DECLARE p record; BEGIN
                 FOR p IN SELECT inhrelid::regclass AS name FROM pg_inherits
                           WHERE inhparent IN ('recado.log'::regclass, 'recado.log_member'::regclass) LOOP
                     EXECUTE format('DROP TABLE %s', p.name);
                 END LOOP;
             END $$;
             DELETE FROM recado.partition;
             {make}"
        ))
        .await;
    }

    /// One number.
    pub async fn number(&self, sql: &str) -> i64 {
        let mut connection = self.connect().await;
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// How many connects wait for a lock.
    pub async fn waiting_connects(&self) -> i64 {
        self.number(
            "SELECT count(*) FROM pg_stat_activity
              WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE ANY ('{%connection_begin%,%connections_begin%}')",
        )
        .await
    }

    pub async fn head(&self) -> i64 {
        self.number("SELECT coalesce(max(seq), 0) FROM recado.log").await
    }

    /// The stored position of a device, if it has one.
    pub async fn place(&self, user: &str, device: &str) -> Option<i64> {
        let sql = "SELECT acked_seq FROM recado.cursor WHERE user_id = $1 AND client_id = $2";
        sqlx::query_scalar(sql).bind(user).bind(device).fetch_optional(&mut self.connect().await).await.unwrap()
    }

    /// The service key of "shop".
    pub fn key(&self) -> String {
        format!("rck_{:0>64}", self.name.replace(|c: char| !c.is_ascii_hexdigit(), ""))
    }

    /// The admin key of "boss".
    pub fn admin_key(&self) -> String {
        format!("rck_{:f>64}", self.name.replace(|c: char| !c.is_ascii_hexdigit(), ""))
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        match cluster() {
            RunCluster::Ours(_) => drop(dropper().send(name)),
            // Of a given cluster nothing may stay.
            RunCluster::Given(_) => drop(std::thread::spawn(move || block_on(drop_database(&name))).join()),
        }
    }
}
