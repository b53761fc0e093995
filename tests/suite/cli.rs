//! The command line beside a running hub: keys, posts, listening, statistics, and exit codes that scripts can trust.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::support::*;

/// `recado` with the settings of the hub, and nothing else from our environment.
fn recado(db: &TestDb, hub: &Hub, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
    command.args(args).env_clear().kill_on_drop(true);
    command.env("DATABASE_URL", db.url()).env("RECADO_ALLOW_UNSAFE_DURABILITY", "on");
    command.env("RECADO_JWT_SECRET", SECRET).env("RECADO_URL", format!("http://{}", hub.address));
    command
}

async fn run(mut command: Command) -> Output {
    timeout(Duration::from_secs(60), command.output()).await.expect("it ends").unwrap()
}

async fn json(command: Command) -> Value {
    let output = run(command).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_made_used_and_revoked() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).start().await;
    let made = json(recado(&db, &hub, &["key", "create", "billing", "-o", "json"])).await;
    assert_eq!((made["name"].as_str(), made["role"].as_str()), (Some("billing"), Some("service")));
    let key = made["key"].as_str().unwrap().to_owned();
    assert_eq!(hub.post_as(&key, &note("n").to_user("ann")).await.unwrap().status, 201);
    let twice = run(recado(&db, &hub, &["key", "create", "billing"])).await;
    assert_eq!(twice.status.code(), Some(1), "a live name is taken");

    let listed = run(recado(&db, &hub, &["key", "list", "-o", "json"])).await;
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("billing") && !listed.contains(&key), "{listed}");
    assert!(run(recado(&db, &hub, &["key", "revoke", "billing"])).await.status.success());
    // Hubs that know a key take it for 10 s more.
    eventually("it is refused", Duration::from_secs(12), async || {
        (hub.post_as(&key, &note("n").to_user("ann")).await.unwrap().status == 401).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_notify_posts_listen_prints_and_stats_shows_who_listens() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).start().await;
    let mut listen = recado(&db, &hub, &["listen", "--user", "ann", "-o", "ndjson"]);
    let mut listen = listen.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(listen.stdout.take().unwrap()).lines();
    eventually("it is connected", PATIENCE, async || {
        let stats = json(recado(&db, &hub, &["stats", "-o", "json"])).await;
        stats.to_string().contains("\"ann\"").then_some(())
    })
    .await;
    let args = ["notify", "--title", "Hello", "--user", "ann", "--data", "{\"n\": 1.0}", "--idempotency-key", "k", "-o", "json"];
    let posted = json(recado(&db, &hub, &args)).await;
    let again = json(recado(&db, &hub, &args)).await;
    assert_eq!((&again["seq"], again["duplicate"].as_bool()), (&posted["seq"], Some(true)));
    let heard = eventually("listen prints it", PATIENCE, async || {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("a line comes").unwrap().expect("it goes on");
        Some(line).filter(|line| line.contains("Hello"))
    })
    .await;
    let heard: Value = serde_json::from_str(&heard).unwrap_or_else(|error| panic!("{error}: {heard}"));
    assert_eq!((&heard["seq"], &heard["id"]), (&posted["seq"], &posted["id"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_tell_refused_from_absent() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).start().await;
    let mut refused = recado(&db, &hub, &["notify", "--title", "x", "--user", "ann"]);
    refused.env("RECADO_KEY", "rck_unknown");
    assert_eq!(run(refused).await.status.code(), Some(77));
    let nobody = run(recado(&db, &hub, &["notify", "--title", "x"])).await;
    assert_eq!(nobody.status.code(), Some(1), "{}", String::from_utf8_lossy(&nobody.stderr));
    assert_eq!(run(recado(&db, &hub, &["healthcheck"])).await.status.code(), Some(0));
    assert_eq!(run(recado(&db, &hub, &["no-such-command"])).await.status.code(), Some(2));
    let mut absent = recado(&db, &hub, &["healthcheck"]);
    absent.env("RECADO_URL", "http://127.0.0.1:1");
    assert_eq!(run(absent).await.status.code(), Some(69));
}
