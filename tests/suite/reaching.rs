//! Tests that the hub accepts every supported database URL and refuses others by name.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::support::cluster::TestCluster;
use super::support::host::given;
use super::support::*;

/// Not a loopback address, so it counts as another machine; the system routes it to this one.
const ANOTHER_MACHINE: &str = "0.0.0.0";

/// A file with a secret that other users may read is refused.
fn for_us_alone(file: &std::path::Path) {
    std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

async fn refused(hub: &HubBuilder, named: &str) -> String {
    let (code, said) = run_to_the_end(hub).await;
    assert_eq!(code, Some(78), "{named}: {said}");
    assert!(said.contains(named), "{named}: {said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_url_that_cannot_be_kept_is_refused_by_name_and_shows_no_value() {
    for (url, named) in [
        ("mysql://u:geheim@h/db", "DATABASE_URL"),
        ("postgres://u:geheim@h/db?sslmod=verify-full", "sslmod"),
        ("postgres://u:geheim@h/db?sslpassword=geheim", "sslpassword"),
        ("postgres://u:geheim@h/db?service=geheim", "service"),
        ("postgres://u:geheim@h/db?sslmode=prefer", "sslmode"),
        ("", "DATABASE_URL is empty"),
        (" \t", "DATABASE_URL is empty"),
    ] {
        let said = refused(&TestHub::at(url), named).await;
        assert!(!said.contains("geheim"), "{url}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_setting_or_file_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("empty");
    std::fs::write(&file, " \n").unwrap();
    for_us_alone(&file);
    let file = file.to_str().unwrap();
    let db = TestDb::bare().await;
    for (setting, value) in [
        ("RECADO_JWT_SECRET", " "),
        ("RECADO_LISTEN_DATABASE_URL", ""),
        ("RECADO_UPSTREAM_FILE", ""),
        ("RECADO_DATA_DIR", " "),
        ("RECADO_UPSTREAM_KEY_FILE", file),
        ("RECADO_LISTEN_DATABASE_URL_FILE", file),
        ("RECADO_LISTEN_DATABASE_URL_FILE", ""),
    ] {
        refused(&TestHub::on(&db).with(setting, value), setting).await;
    }
    refused(&TestHub::on(&db).without("DATABASE_URL").with("DATABASE_URL_FILE", file), "DATABASE_URL_FILE").await;
    refused(&TestHub::on(&db).without("RECADO_JWT_SECRET").with("RECADO_JWT_SECRET_FILE", file), "RECADO_JWT_SECRET_FILE").await;
    refused(&TestHub::on(&db).with("TOKIO_WORKER_THREADS", "0"), "TOKIO_WORKER_THREADS").await;
}

/// Such a setting was passed over: the hub used the default folder, and a provider was told an empty credential.
#[test]
fn a_setting_that_is_not_utf8_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("provider.toml");
    std::fs::write(
        &file,
        "[[provider]]\nname = \"p\"\nhosts = [\"p.example\"]\n[provider.socket]\nurl = \"wss://p.example/{env:P_KEY}\"\n\
         [provider.messages]\ntype = \"p\"\ntitle = \"p\"\ndata = \"text\"\n",
    )
    .unwrap();
    let run = |arguments: &[&str], name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
        command.args(arguments).env_clear().env("HOME", folder.path()).stdin(Stdio::null());
        command.env(name, std::ffi::OsStr::from_bytes(b"/tmp/\xff-secret"));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(name) && said.contains("UTF-8") && !said.contains("-secret"), "{name}: {said}");
        output.status.code()
    };
    for name in ["RECADO_DATA_DIR", "DATABASE_URL", "RECADO_JWT_SECRET_FILE", "PORT", "WS_HEARTBEAT_INTERVAL"] {
        assert_eq!(run(&["serve"], name), Some(78), "{name}");
    }
    for name in ["P_KEY", "P_KEY_FILE"] {
        assert_ne!(run(&["upstream", "check", file.to_str().unwrap()], name), Some(0), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_variables_of_kubernetes_services_named_recado_stop_nothing() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db)
        .with("RECADO_PORT", "tcp://10.0.0.7:8080")
        .with("RECADO_SERVICE_HOST", "10.0.0.7")
        .with("RECADO_SERVICE_PORT", "8080")
        .with("RECADO_SERVICE_PORT_HTTP", "8080")
        .with("RECADO_PORT_8080_TCP", "tcp://10.0.0.7:8080")
        .with("RECADO_PORT_8080_TCP_ADDR", "10.0.0.7")
        .with("RECADO_METRICS_PORT_9090_TCP_PROTO", "tcp");
    let running = hub.start().await;
    assert_eq!(running.said().lines().filter(|line| line.contains("service links")).count(), 1);
    // A misspelled name stays an error.
    refused(&hub.with("RECADO_PROT", "8080"), "RECADO_PROT").await;
}

/// Accepts one connection, answers each packet with the next answer, and returns all that it received.
async fn a_stranger(answers: &'static [&'static [u8]]) -> (u16, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = tokio::spawn(async move {
        let mut heard = Vec::new();
        let (mut stream, _) = listener.accept().await.unwrap();
        for answer in answers {
            let mut packet = [0; 1024];
            match stream.read(&mut packet).await {
                Ok(read) if read > 0 => heard.extend(&packet[..read]),
                _ => break,
            }
            let _ = stream.write_all(answer).await;
        }
        // Reads the reply, if there is one.
        let mut packet = [0; 1024];
        if let Ok(Ok(read)) = tokio::time::timeout(Duration::from_secs(3), stream.read(&mut packet)).await {
            heard.extend(&packet[..read]);
        }
        heard
    });
    (port, heard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_password_goes_to_another_machine_in_clear_text() {
    // The hub asks for TLS, and the server refuses.
    let (port, heard) = a_stranger(&[b"N"]).await;
    let url = format!("postgres://u:geheim@{ANOTHER_MACHINE}:{port}/db");
    let (code, said) = run_to_the_end(&TestHub::at(&url).with("RECADO_DATABASE_WAIT", "0s")).await;
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("TLS") && !said.contains("geheim"), "{said}");
    assert!(!String::from_utf8_lossy(&heard.await.unwrap()).contains("geheim"), "the hub sent the password");
    // TLS is turned off explicitly, and the server asks for the password in clear text.
    let (port, heard) = a_stranger(&[b"R\0\0\0\x08\0\0\0\x03"]).await;
    let url = format!("postgres://u:geheim@{ANOTHER_MACHINE}:{port}/db?sslmode=disable");
    refused(&TestHub::at(&url), "clear text").await;
    assert!(!String::from_utf8_lossy(&heard.await.unwrap()).contains("geheim"), "the hub sent the password");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn of_several_hosts_the_one_that_takes_writes_is_found_again_and_again() {
    let Some(mut primary) = given("D7", TestCluster::make()) else { return };
    primary.start().await;
    let mut standby = primary.standby();
    standby.start().await;
    let url = TestCluster::url_of(&[Path::new("/nowhere"), standby.socket_folder(), primary.socket_folder()]);
    let hub = TestHub::at(&url).start().await;
    let ann = token("ann", &[]);
    hub.post(&note("1").to_user("ann")).await;
    assert_eq!(hub.get("/api/notifications", Some(&ann)).await.unwrap().0, 200);
    eventually("the standby has it", PATIENCE, async || (standby.number("SELECT count(*) FROM recado.log").await == 1).then_some(())).await;
    primary.kill_9().await;
    standby.promote();
    let draft = note("2").to_user("ann").key("2");
    eventually("it goes on", PATIENCE, async || hub.try_post(&draft).await.unwrap().is_receipt().then_some(())).await;
    eventually("pages come from there", PATIENCE, async || {
        let (status, body) = hub.get("/api/notifications", Some(&ann)).await.unwrap();
        (status == 200 && body.contains("\"2\"")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_that_changes_in_its_file_is_followed_by_the_next_connection() {
    let db = TestDb::new().await;
    let (old, new) = (TestProxy::before(&db.url()).await, TestProxy::before(&db.url()).await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    std::fs::write(&file, db.url_at(old.port)).unwrap();
    for_us_alone(&file);
    let hub = TestHub::on(&db).without("DATABASE_URL").with("DATABASE_URL_FILE", file.to_str().unwrap()).start().await;
    let ann = token("ann", &[]);
    hub.post(&note("1").to_user("ann")).await;
    assert_eq!(hub.get("/api/notifications", Some(&ann)).await.unwrap().0, 200);
    // As an editor writes it that puts a byte order mark before the text.
    std::fs::write(&file, format!("\u{feff}{}\r\n", db.url_at(new.port))).unwrap();
    old.cut(Cut::Fin);
    drop(old);
    let draft = note("2").to_user("ann").key("2");
    eventually("it posts", PATIENCE, async || hub.try_post(&draft).await.unwrap().is_receipt().then_some(())).await;
    eventually("it reads", PATIENCE, async || (hub.get("/api/notifications", Some(&ann)).await.unwrap().0 == 200).then_some(())).await;
    assert!(new.opened() > 0);
}

/// The look before the first connection was the only one: a URL that changed later was followed, password and all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_that_changes_to_a_server_that_wants_the_password_in_clear_text_is_not_followed() {
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    std::fs::write(&file, db.url_at(proxy.port)).unwrap();
    for_us_alone(&file);
    let hub = TestHub::on(&db).without("DATABASE_URL").with("DATABASE_URL_FILE", file.to_str().unwrap()).start().await;
    hub.post(&note("1").to_user("ann")).await;
    let (port, heard) = a_stranger(&[b"R\0\0\0\x08\0\0\0\x03"]).await;
    std::fs::write(&file, format!("postgres://u:geheim@{ANOTHER_MACHINE}:{port}/db?sslmode=disable")).unwrap();
    proxy.cut(Cut::Fin);
    let heard = tokio::time::timeout(PATIENCE, heard).await.expect("the hub looks there").unwrap();
    assert!(!String::from_utf8_lossy(&heard).contains("geheim"), "it was told the password");
    let wish = note("2").to_user("ann").key("2");
    eventually("it goes on where it was", PATIENCE, async || hub.try_post(&wish).await.unwrap().is_receipt().then_some(())).await;
    assert!(hub.said().contains("clear text") && !hub.said().contains("geheim"), "{}", hub.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_hub_waits_for_a_database_that_starts_later() {
    let Some(mut server) = given("D12", TestCluster::make()) else { return };
    let hub = TestHub::at(&server.url());
    let (hub, ()) = tokio::join!(hub.start(), async {
        // Long enough that a hub that does not wait has ended.
        tokio::time::sleep(Duration::from_secs(2)).await;
        server.start().await;
    });
    hub.post(&note("1").to_user("ann")).await;
    assert!(hub.said().contains("waiting for the database"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_with_another_secret_than_the_one_that_lives_does_not_start() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let another = TestHub::on(&db).with("RECADO_JWT_SECRET", "another-secret-of-the-test-suite-32-bytes");
    let said = refused(&another, "RECADO_JWT_SECRET").await;
    assert!(!said.contains("another-secret"), "{said}");
    let second = TestHub::on(&db).start().await;
    hub.kill().await;
    second.kill().await;
    // Once no instance with the old secret can be alive, the new secret is accepted.
    db.run("UPDATE recado.instance SET seen_at = seen_at - interval '1 hour'").await;
    db.run("UPDATE recado.secret_fingerprint SET set_at = set_at - interval '1 hour'").await;
    let _third = another.start().await;
    refused(&TestHub::on(&db), "RECADO_JWT_SECRET").await;
}

/// A pooler in front of this database, in this mode; `None` where it is not installed.
pub struct Pooler {
    child: std::process::Child,
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl Pooler {
    pub async fn before(db: &TestDb, mode: &str) -> Option<Self> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].into_iter().find(|program| std::path::Path::new(program).exists());
        let program = given("D3", program.ok_or_else(|| "PgBouncer is not installed".to_owned()))?;
        let folder = tempfile::Builder::new().prefix("recado-pool").tempdir_in("/tmp").unwrap();
        let (port, proxy) = (free_port(), TestProxy::before(&db.url()).await);
        let user = reqwest::Url::parse(&db.url_at(1)).unwrap().username().to_owned();
        let ini = folder.path().join("ini");
        let text = format!(
            "[databases]\n{name} = host=127.0.0.1 port={at} dbname={name} user={user}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             auth_type = any\npool_mode = {mode}\nunix_socket_dir =\n",
            name = db.name,
            at = proxy.port,
        );
        std::fs::write(&ini, text).unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut command = Command::new(program);
        if super::support::host::root().is_ok() {
            command.args(["-u", "postgres"]);
        }
        let child = command.arg(&ini).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let pooler = Self { child, port, _folder: folder };
        // The proxy lives as long as the test's runtime.
        std::mem::forget(proxy);
        eventually("the pooler listens", PATIENCE, async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop)).await;
        Some(pooler)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_in_session_mode_serves_and_one_in_transaction_mode_is_refused_by_name() {
    let db = TestDb::new().await;
    let Some(pooler) = Pooler::before(&db, "session").await else { return };
    let hub = TestHub::on(&db).with("DATABASE_URL", &db.url_at(pooler.port)).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    hub.post(&note("1").to_user("ann")).await;
    ann.until("1").await;
    drop(hub);
    let Some(pooler) = Pooler::before(&db, "transaction").await else { return };
    refused(&TestHub::on(&db).with("DATABASE_URL", &db.url_at(pooler.port)), "session pooling").await;
}
