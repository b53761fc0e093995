//! Tests the command line against a running hub.
//!
//! Keys, posts, listening, statistics, and exit codes that scripts can rely on.

use std::process::Output;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::support::*;

/// `recado` with the settings of the hub, and nothing else from our environment.
fn recado(db: &TestDb, hub: &TestHub, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
    command.args(args).env_clear().kill_on_drop(true);
    command.env("DATABASE_URL", db.url()).env("RECADO_ALLOW_UNSAFE_DURABILITY", "on");
    command.env("RECADO_JWT_SECRET", SECRET).env("RECADO_URL", format!("http://{}", hub.address));
    command
}

async fn run(mut command: Command) -> Output {
    timeout(Duration::from_secs(60), command.output()).await.expect("the command ends").unwrap()
}

async fn json_by(command: Command) -> Value {
    json_of(&run(command).await)
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_made_used_and_revoked() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let made = json_by(recado(&db, &hub, &["key", "create", "billing", "-o", "json"])).await;
    assert_eq!((made["name"].as_str(), made["role"].as_str()), (Some("billing"), Some("service")));
    let key = made["key"].as_str().unwrap().to_owned();
    let other = TestHub::on(&db).start().await;
    for hub in [&hub, &other] {
        assert_eq!(hub.post_as(&key, &note("n").to_user("ann")).await.unwrap().status, 201);
    }
    let twice = run(recado(&db, &hub, &["key", "create", "billing"])).await;
    assert_eq!(twice.status.code(), Some(1), "a live name is taken");

    let listed = run(recado(&db, &hub, &["key", "list", "-o", "json"])).await;
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("billing") && !listed.contains(&key), "{listed}");
    assert!(run(recado(&db, &hub, &["key", "revoke", "billing"])).await.status.success());
    // Both hubs have cached the key, and would accept it for some seconds more without the revocation's NOTIFY.
    for hub in [&hub, &other] {
        eventually("it is refused", Duration::from_secs(4), async || {
            (hub.post_as(&key, &note("n").to_user("ann")).await.unwrap().status == 401).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_notify_posts_listen_prints_and_stats_shows_who_listens() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut listen = recado(&db, &hub, &["listen", "--user", "ann", "-o", "ndjson"]);
    let mut listen = listen.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(listen.stdout.take().unwrap()).lines();
    eventually("it is connected", PATIENCE, async || {
        let stats = json_by(recado(&db, &hub, &["stats", "-o", "json"])).await;
        stats.to_string().contains("\"ann\"").then_some(())
    })
    .await;
    let args = ["notify", "--title", "Hello", "--user", "ann", "--data", "{\"n\": 1.0}", "--idempotency-key", "k", "-o", "json"];
    let posted = json_by(recado(&db, &hub, &args)).await;
    let again = json_by(recado(&db, &hub, &args)).await;
    assert_eq!((&again["seq"], again["duplicate"].as_bool()), (&posted["seq"], Some(true)));
    let heard = eventually("listen prints it", PATIENCE, async || {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("a line comes").unwrap().expect("it goes on");
        Some(line).filter(|line| line.contains("Hello"))
    })
    .await;
    let heard: Value = serde_json::from_str(&heard).unwrap_or_else(|error| panic!("{error}: {heard}"));
    assert_eq!((&heard["seq"], &heard["id"]), (&posted["seq"], &posted["id"]));
}

/// Runs `recado notify -` with this input.
async fn notify_all(db: &TestDb, hub: &TestHub, args: &[&str], input: &str) -> Output {
    let mut command = recado(db, hub, &[&["notify", "-"], args].concat());
    let command = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let write = async {
        // A command that ends early does not read the rest.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
    };
    let (output, ()) = tokio::join!(timeout(Duration::from_secs(60), child.wait_with_output()), write);
    output.expect("the command ends").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_on_stdin_is_posted_in_order_and_only_once() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let lines: String = (1..=2500).map(|n| note(&n.to_string()).to_user("ann").data("{\"n\": 1.0}").body() + "\n").collect();
    // An import that stops half way, and is run again.
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
    let hub = TestHub::on(&db).start().await;
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

/// A command's output, and its messages on stderr.
async fn printed(command: Command) -> (String, String) {
    let output = run(command).await;
    let (out, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{said}");
    (out, said)
}

/// Whether a terminal would act on this character, or show it in another order.
fn is_harmful(c: char) -> bool {
    c.is_control() && c != '\n' || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listen_and_history_print_nothing_that_a_terminal_acts_on() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let evil = "\u{9b}31m\u{202e}gpj.exe\u{2066}\u{85}\u{7f}\u{2028}é😀";
    let data = format!("{{\"x\":\n\t\"{evil}\",\r\n\"\u{202e}k\":1.0}}");
    hub.post(&note(evil).message(evil).to_user("ann").data(&data)).await;
    let expected: Value = serde_json::from_str(&data).unwrap();
    let listen = ["listen", "--user", "ann", "--since", "earliest", "--until-caught-up", "--client-id", "a"];
    for (args, lines) in [(&listen[..], 1), (&["history", "ann"][..], 1)] {
        let (out, said) = printed(recado(&db, &hub, args)).await;
        assert!(!out.contains(is_harmful) && !said.contains(is_harmful), "{out:?} {said:?}");
        assert_eq!(out.lines().count(), lines, "{out:?}");
        let (out, _) = printed(recado(&db, &hub, &[args, &["-o", "ndjson"]].concat())).await;
        assert!(!out.contains(is_harmful), "{out:?}");
        let frames: Vec<Value> =
            out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
        let given = frames.iter().find(|frame| frame["title"].is_string()).expect("the notification");
        assert_eq!((&given["data"], given["title"].as_str()), (&expected, Some(evil)), "the same value");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listen_and_history_filter_by_type() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let titles = async |args: &[&str]| -> Vec<String> {
        let (out, _) = printed(recado(&db, &hub, &[args, &["-o", "ndjson"]].concat())).await;
        let frames = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        frames.filter_map(|frame| frame["title"].as_str().map(str::to_owned)).collect()
    };
    for (title, kind) in [("one", "order_created"), ("two", "chat"), ("three", "order_paid"), ("four", "stock.low")] {
        hub.post(&note(title).raw("type", &format!("{kind:?}")).to_user("ann")).await;
    }
    assert_eq!(titles(&["history", "ann", "--types", "order_*,stock.low"]).await, ["one", "three", "four"]);
    let listen = |types: &'static str| ["listen", "--user", "ann", "--until-caught-up", "--since", "earliest", "--types", types];
    assert_eq!(titles(&listen("stock.low,order_*")).await, ["one", "three", "four"]);
    // An acknowledgement covers what the filter left out, so each filter is a device, whatever its order.
    let ack = |types: &'static str| ["listen", "--user", "ann", "--until-caught-up", "--types", types];
    assert_eq!(titles(&ack("chat")).await, Vec::<String>::new(), "a new device begins at the head");
    hub.post(&note("five").raw("type", "\"order_paid\"").to_user("ann")).await;
    assert_eq!(titles(&ack("chat")).await, Vec::<String>::new());
    assert_eq!(titles(&ack("order_*,stock.low")).await, ["five"]);
    for args in [&["history", "ann", "--types", "Order"][..], &["listen", "--user", "ann", "--types", "a,,b"]] {
        let refused = run(recado(&db, &hub, args)).await;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && said.contains("must be 1 to 32 types"), "{said}");
    }
    let both = run(recado(&db, &hub, &["history", "ann", "--type", "chat", "--types", "chat"])).await;
    assert_eq!(both.status.code(), Some(2));
}

/// Whatever a hub says, in whichever field: where a number was expected, it was printed as it came.
#[tokio::test]
async fn the_talk_of_a_strange_hub_has_nothing_that_a_terminal_acts_on() {
    const EVIL: &str = "\u{9b}31m\u{202e}gpj.exe\u{2066}\u{85}\u{7f}\u{2028}";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let hub = tokio::spawn(async move {
        let mut socket = tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await.unwrap();
        for frame in [
            json!({ "type": "connection_established", "user_id": EVIL, "log_id": EVIL, "resume": { "status": "gap", "from": 1, "lost_from": EVIL, "lost_to": [EVIL] } }),
            json!({ "type": "error", "message": EVIL }),
            json!({ "type": "caught_up", "seq": EVIL, "replayed": { EVIL: 1 } }),
        ] {
            socket.send(Message::text(frame.to_string())).await.unwrap();
        }
        socket.close(Some(CloseFrame { code: 4501.into(), reason: "\u{202e}\u{9b}2J".into() })).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
    command.arg("listen").env_clear().kill_on_drop(true).env("RECADO_URL", url).env("RECADO_TOKEN", "x");
    let output = run(command).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains(is_harmful), "{said:?}");
    for part in ["lost to retention", "error from the hub", "caught up at", "connected as", "4501"] {
        assert!(said.contains(part), "{part}: {said:?}");
    }
    assert_eq!(output.status.code(), Some(1), "{said:?}");
    hub.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_prints_page_after_page_of_what_a_user_was_sent() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    for n in 1..=5 {
        hub.post(&note(&format!("n {n}")).to_user("ann").data("{ \"n\": 1.0 }")).await;
    }
    hub.post(&note("rare").raw("type", "\"rare\"").to_user("ann")).await;
    hub.post(&note("in 7").account("7")).await;
    hub.post(&note("of bob").to_user("bob")).await;
    let (out, said) = printed(recado(&db, &hub, &["history", "ann", "--limit", "2"])).await;
    assert!(out.contains("n 1") && out.contains("n 2") && !out.contains("n 3"), "{out}");
    assert!(said.contains("--after 2"), "{said}");
    let (out, said) = printed(recado(&db, &hub, &["history", "ann", "--after", "2", "-o", "ndjson"])).await;
    assert_eq!(out.lines().count(), 4);
    assert!(out.contains("\"data\":{ \"n\": 1.0 }") && said.contains("these are all"), "{out} {said}");
    let all = json_by(recado(&db, &hub, &["history", "ann", "--account", "7", "--output", "json"])).await;
    assert_eq!((all["notifications"].as_array().unwrap().len(), &all["next"]), (7, &Value::Null));
    let rare = json_by(recado(&db, &hub, &["history", "ann", "--type", "rare", "--output", "json"])).await;
    assert_eq!(rare["notifications"][0]["title"], "rare");
    let wrong = run(recado(&db, &hub, &["history", "ann", "--type", "No Type"])).await;
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("/type"), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_for_people_and_json_is_for_programs() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let (out, _) = printed(recado(&db, &hub, &["stats"])).await;
    assert!(out.contains("connections  0 on all hubs") && out.contains("Connections of this hub\n  none\n"), "{out}");
    let _ann = TestClient::of("ann").device("tab").account("7").connect(&hub).await;
    let mut command = recado(&db, &hub, &["stats"]);
    command.env("TZ", "UTC-3");
    let (out, _) = printed(command).await;
    assert!(out.contains("+03:00\n"), "times are those of this machine's time zone: {out}");
    let mut table = out.lines().skip_while(|line| *line != "Connections of this hub").skip(1);
    let (head, row) = (table.next().unwrap(), table.next().unwrap());
    assert!(head.trim_start().starts_with("USER") && head.contains("CONNECTED"), "{out}");
    assert!(row.contains("ann") && row.contains("tab") && row.contains("s ago") && row.contains("websocket"), "{out}");
    assert!(!out.contains("1970") && !["connectedAt", "userId", "ackedSeq"].iter().any(|name| out.contains(name)), "{out}");
    let json = json_by(recado(&db, &hub, &["stats", "-o", "json"])).await;
    assert!(json["connections"][0]["connectedAt"].is_i64() && json["totalConnections"] == 1, "{json}");
    printed(recado(&db, &hub, &["key", "create", "billing"])).await;
    let (out, _) = printed(recado(&db, &hub, &["key", "list"])).await;
    assert!(out.trim_start().starts_with("NAME") && out.contains("live") && out.contains("billing"), "{out}");
    assert!(!out.contains('.'), "times to the minute: {out}");
    assert!(json_by(recado(&db, &hub, &["key", "list", "--output", "json"])).await[0]["created_at"].is_string());
    let (out, _) = printed(recado(&db, &hub, &["config"])).await;
    assert!(out.contains("PORT  (default: 8080)\n    Port to listen on"), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 140), "no line is too long for a terminal");
    assert_eq!(json_by(recado(&db, &hub, &["config", "--output", "json"])).await[0]["setting"], "DATABASE_URL");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hub_would_refuse_or_do_nothing_about_is_said() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let said = async |args: &[&str]| {
        let output = run(recado(&db, &hub, args)).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said(&["token", "--user", "ann", "--ttl", "0"]).await.contains("--ttl must be 1s or more"));
    assert!(said(&["token", "--user", "ann", "--ttl", "500ms"]).await.contains("--ttl must be 1s or more"));
    let accounts: Vec<String> = (0..101).map(|n| format!("--account={n}")).collect();
    let args: Vec<&str> = ["token", "--user", "ann"].into_iter().chain(accounts.iter().map(String::as_str)).collect();
    assert!(said(&args).await.contains("at most 100 accounts"));
    let long: Vec<String> = (0..100).map(|n| format!("--account={n:0>128}")).collect();
    let args: Vec<&str> = ["token", "--user", "ann"].into_iter().chain(long.iter().map(String::as_str)).collect();
    assert!(said(&args).await.contains("give fewer accounts"));

    let version = json_by(recado(&db, &hub, &["migrate", "--output", "json"])).await["version"].as_i64().unwrap();
    db.run(
        "INSERT INTO recado.schema_history (version, name, applied_on, checksum)
         SELECT 9999, 'of_a_newer_program', applied_on, checksum FROM recado.schema_history LIMIT 1",
    )
    .await;
    let (_, said) = printed(recado(&db, &hub, &["migrate"])).await;
    assert!(said.contains("version 9999") && said.contains("newer"), "{version}: {said}");
    assert_eq!(json_by(recado(&db, &hub, &["migrate", "--output", "json"])).await["newer"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listen_finds_a_hub_below_a_path() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut listen = recado(&db, &hub, &["listen", "--user", "ann"]);
    listen.env("RECADO_URL", format!("http://{}/hub/", listener.local_addr().unwrap()));
    let child = listen.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let line = timeout(PATIENCE, BufReader::new(stream).lines().next_line()).await.unwrap().unwrap().unwrap();
    assert!(line.starts_with("GET /hub/ws?"), "{line}");
    drop(child);
}
