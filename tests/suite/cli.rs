//! The command line beside a running hub: keys, posts, listening, statistics, and exit codes that scripts can trust.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
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
    json_of(&run(command).await)
}

fn json_of(output: &Output) -> Value {
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

/// `recado notify -`, given this to read.
async fn notify_all(db: &TestDb, hub: &Hub, args: &[&str], input: &str) -> Output {
    let mut command = recado(db, hub, &[&["notify", "-"], args].concat());
    let command = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let write = async {
        // A command that ends early does not read on.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
    };
    let (output, ()) = tokio::join!(timeout(Duration::from_secs(60), child.wait_with_output()), write);
    output.expect("it ends").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_on_stdin_is_posted_in_order_and_only_once() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).start().await;
    let lines: String = (1..=2500).map(|n| note(&n.to_string()).to_user("ann").data("{\"n\": 1.0}").body() + "\n").collect();
    // An import that breaks off half way, and is run again.
    let half: String = lines.lines().take(1500).map(|line| format!("{line}\n")).collect();
    let broken = notify_all(&db, &hub, &["--idempotency-key", "import"], &format!("{half}{{\n")).await;
    let said = String::from_utf8_lossy(&broken.stderr).into_owned();
    assert!(broken.status.code() == Some(1) && said.contains("line 1501 is not JSON"), "{said}");
    assert_eq!(db.head().await, 1500);
    let whole = notify_all(&db, &hub, &["--idempotency-key", "import", "-o", "ndjson"], &lines).await;
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let receipts: Vec<Value> = whole.stdout.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let got: Vec<(i64, bool)> = receipts.iter().map(|r| (r["seq"].as_i64().unwrap(), r["duplicate"] == true)).collect();
    assert_eq!(got, (1..=2500).map(|seq| (seq, seq <= 1500)).collect::<Vec<_>>());
    assert_eq!(db.number("SELECT count(*) FROM recado.log WHERE title <> seq::text OR data::text <> '{\"n\": 1.0}'").await, 0);

    let bad = note("good").to_user("ann").body() + "\n\n" + &note("to nobody").body() + "\n";
    let refused = notify_all(&db, &hub, &[], &bad).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("line 3:"), "{said}");
    let total = json_of(&notify_all(&db, &hub, &["-o", "json"], &note("one").to_user("ann").body()).await);
    assert_eq!((&total["posted"], &total["last_seq"]), (&1.into(), &2501.into()));
    assert_eq!(notify_all(&db, &hub, &["--title", "x"], "").await.status.code(), Some(2), "either one, or those on stdin");
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
