//! Runs a hub under test as a child process.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use recado::config::JwtRules;
use recado::domain::{AccountId, Principal, Role, UserId};
use recado_testkit::process::{self, ReadyProcess, clean_command};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use super::note::{Note, PostAnswer, PostReceipt};
use super::{PATIENCE, TestDb, eventually, matches_document};

pub const SECRET: &str = "the-secret-of-the-test-suite-32-bytes";

/// A hub may have to wait for another one that migrates, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Above the hub's own five seconds.
const POST_LIMIT: Duration = Duration::from_secs(25);

/// Settings that differ from the default.
#[derive(Clone)]
pub struct HubBuilder {
    vars: BTreeMap<String, String>,
    key: String,
    admin_key: String,
    files: Option<usize>,
}

impl HubBuilder {
    /// Limits the number of files that it may open.
    #[must_use]
    pub fn with_files(mut self, files: usize) -> Self {
        self.files = Some(files);
        self
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.vars.insert(name.to_owned(), value.to_owned());
        self
    }

    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.vars.remove(name);
        self
    }

    /// Posts with this instead of the database's own service key.
    #[must_use]
    pub fn publishing_with(mut self, bearer: &str) -> Self {
        bearer.clone_into(&mut self.key);
        self
    }

    fn command(&self) -> Command {
        self.recado(&["serve"])
    }

    /// Runs another subcommand with the same settings; returns its output.
    pub async fn run(&self, arguments: &[&str]) -> String {
        let output = timeout(START_LIMIT, self.recado(arguments).output()).await.expect("the command ends").unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Same, for a command that may fail; returns its exit code, its output and its messages.
    pub async fn try_run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = timeout(START_LIMIT, self.recado(arguments).output()).await.expect("the command ends").unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn recado(&self, arguments: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_recado");
        let mut command = match self.files {
            None => clean_command(program),
            Some(files) => {
                let mut shell = clean_command("sh");
                shell.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\""), program]);
                shell
            }
        };
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).envs(&self.vars);
        command
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&self) -> TestHub {
        let said = said_file();
        let file = File::create(&said).unwrap();
        self.start_with_log(file, said).await
    }

    /// Starts it with its log going to `stderr`.
    pub async fn start_logging_to(&self, stderr: impl Into<Stdio>) -> TestHub {
        self.start_with_log(stderr, said_file()).await
    }

    async fn start_with_log(&self, stderr: impl Into<Stdio>, said: PathBuf) -> TestHub {
        let mut command = self.command();
        command.stderr(stderr);
        let process = ReadyProcess::spawn(command, START_LIMIT).await.unwrap_or_else(|failure| {
            panic!("{failure}\n---- the hub said:\n{}", std::fs::read_to_string(&said).unwrap_or_default());
        });
        let (key, admin_key) = (self.key.clone(), self.admin_key.clone());
        TestHub { address: process.address.to_string(), process, said, client: http_client(), key, admin_key }
    }
}

fn said_file() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("recado-suite-{}-{}.stderr", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    std::env::temp_dir().join(name)
}

/// Runs a hub that is expected to end by itself; returns its exit code and its stderr.
pub async fn run_to_the_end(builder: &HubBuilder) -> (Option<i32>, String) {
    let output = timeout(START_LIMIT, builder.command().output()).await.expect("the hub ends by itself").unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A hub that is ready. Dropping it kills it; its log is shown when its test fails.
pub struct TestHub {
    process: ReadyProcess,
    /// `127.0.0.1:PORT`
    pub address: String,
    said: PathBuf,
    client: reqwest::Client,
    key: String,
    admin_key: String,
}

impl TestHub {
    /// A hub on a database of the test cluster. That cluster is not durable, so the hub gets the setting that allows
    /// it.
    pub fn on(db: &TestDb) -> HubBuilder {
        let mut hub = Self::at(&db.url()).with("RECADO_ALLOW_UNSAFE_DURABILITY", "on");
        (hub.key, hub.admin_key) = (db.key(), db.admin_key());
        hub
    }

    /// A hub on any database; it posts with a service's token.
    pub fn at(url: &str) -> HubBuilder {
        let vars = [
            ("DATABASE_URL", url),
            ("PORT", "0"),
            ("RECADO_JWT_SECRET", SECRET),
            ("RECADO_FETCH_POSTGRES", "off"),
            ("RECADO_LOG", "info,recado=debug"),
        ];
        let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        HubBuilder { vars, key: service_token("shop", Role::Service), admin_key: service_token("boss", Role::Admin), files: None }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid().expect("the hub runs")
    }

    /// Its memory in use, in KiB.
    pub fn resident_kib(&self) -> u64 {
        process::resident_kib(self.pid()).unwrap()
    }

    pub fn open_files(&self) -> usize {
        process::open_files(self.pid()).unwrap()
    }

    pub async fn signal(&self, signal: &str) {
        process::signal(signal, self.pid()).await.unwrap();
    }

    /// Kills the hub with SIGKILL and waits until it is gone.
    pub async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        self.process.ended(limit).await.unwrap().unwrap_or_else(|| panic!("the hub did not end within {limit:?}"))
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// Posts, and requires 201.
    pub async fn post(&self, note: &Note) -> PostReceipt {
        let answer = self.try_post(note).await.expect("the hub answers");
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.receipt()
    }

    /// Posts; `Err` when there was no answer.
    pub async fn try_post(&self, note: &Note) -> Result<PostAnswer, reqwest::Error> {
        self.post_as(&self.key, note).await
    }

    pub async fn post_as(&self, bearer: &str, note: &Note) -> Result<PostAnswer, reqwest::Error> {
        post_to(&self.client, &self.address, bearer, note).await
    }

    /// Posts any body to any path as the database's own service.
    pub async fn post_raw(&self, path: &str, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> PostAnswer {
        let mut request = self.client.post(format!("http://{}{path}", self.address)).bearer_auth(&self.key).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let begun = Instant::now();
        let response = request.send().await.expect("the hub answers");
        let (status, body) = read("POST", path, response).await.expect("it answers whole");
        PostAnswer { status, body: serde_json::from_str(&body).expect("it answers in JSON"), took: begun.elapsed() }
    }

    /// The status and body of a GET, with or without a bearer.
    pub async fn get(&self, path: &str, bearer: Option<&str>) -> Result<(u16, String), reqwest::Error> {
        let mut request = self.client.get(format!("http://{}{path}", self.address));
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        let response = request.send().await?;
        read("GET", path, response).await
    }

    /// The service key that it posts with.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The sum of a metric over all of its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, page) = self.get("/metrics", None).await.unwrap();
        let of_name = |line: &&str| line.starts_with(&format!("{name} ")) || line.starts_with(&format!("{name}{{"));
        page.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub async fn is_ready(&self) -> bool {
        matches!(self.get("/readyz", None).await, Ok((200, _)))
    }

    pub async fn stats(&self) -> serde_json::Value {
        let (status, body) = self.get("/stats", Some(&self.admin_key)).await.unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Waits until the hub has dispatched the whole log. A 201 may come a moment before that: a client that connects in
    /// between gets the notification live, after caught_up.
    pub async fn settled(&self, db: &TestDb) {
        self.has_published(db.head().await).await;
    }

    /// Waits until the hub has dispatched everything up to `seq`.
    pub async fn has_published(&self, seq: i64) {
        eventually("the hub has published it", PATIENCE, async || {
            let (_, body) = self.get("/health", None).await.ok()?;
            let health: serde_json::Value = serde_json::from_str(&body).ok()?;
            (health["head"].as_i64()? >= seq).then_some(())
        })
        .await;
    }
}

impl Drop for TestHub {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.said();
            let lines: Vec<&str> = said.lines().collect();
            eprintln!("---- the hub at {} said, last:\n{}", self.address, lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        let _ = std::fs::remove_file(&self.said);
    }
}

/// One post to any hub.
pub async fn post_to(client: &reqwest::Client, address: &str, bearer: &str, note: &Note) -> Result<PostAnswer, reqwest::Error> {
    let mut request = client.post(format!("http://{address}/api/internal/notify")).bearer_auth(bearer);
    request = request.header("content-type", "application/json").body(note.body());
    if let Some(key) = &note.header_key {
        request = request.header("idempotency-key", key);
    }
    let begun = Instant::now();
    let response = request.send().await?;
    let (status, body) = read("POST", "/api/internal/notify", response).await?;
    Ok(PostAnswer { status, body: serde_json::from_str(&body).expect("an answer in JSON"), took: begun.elapsed() })
}

/// Status and body of an answer, which the hub's own document must allow.
async fn read(method: &str, path: &str, response: reqwest::Response) -> Result<(u16, String), reqwest::Error> {
    let status = response.status().as_u16();
    let media = response.headers().get("content-type").map(|media| media.to_str().unwrap().to_owned());
    let body = response.text().await?;
    matches_document(method, path, status, media.as_deref(), &body);
    Ok((status, body))
}

pub fn http_client() -> reqwest::Client {
    reqwest::Client::builder().timeout(POST_LIMIT).build().unwrap()
}

/// A user's token.
pub fn token(user: &str, accounts: &[&str]) -> String {
    mint(user, accounts, None, Duration::from_secs(3600))
}

/// A user's token that soon expires.
pub fn brief_token(user: &str, accounts: &[&str], ttl: Duration) -> String {
    mint(user, accounts, None, ttl)
}

/// A token with the service or the admin role.
pub fn service_token(name: &str, role: Role) -> String {
    mint(name, &[], Some(role), Duration::from_secs(3600))
}

fn mint(user: &str, accounts: &[&str], role: Option<Role>, ttl: Duration) -> String {
    let rules = JwtRules::default();
    let accounts = accounts.iter().map(|account| AccountId::parse(account).unwrap()).collect();
    let who = Principal { user: UserId::parse(user).unwrap(), accounts };
    recado::identity::mint(SECRET, &rules, &who, role, ttl).unwrap()
}
