//! Tests a server that is not ours as a provider, by its file alone.
//!
//! It is the JSON-RPC 2.0 server of the npm package rpc-websockets 10.0.1 (its own WebSocket server is `ws`). Users are
//! signed in by the fake provider, as it has no sign-in. Skipped with a message where node or npm is not installed or
//! the package cannot be had.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::support::*;

const PACKAGE: &str = "rpc-websockets@10.0.1";
/// Longest wait for a package to be installed.
const INSTALL_LIMIT: std::time::Duration = std::time::Duration::from_secs(120);

/// The folder with the package; `None`, with a message, where it cannot be had.
async fn installed() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(PACKAGE.replace('@', "-"));
    if folder.join("done").exists() {
        return Some(folder);
    }
    // Into a folder of our own first, so that half of it is never found.
    let new = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional", "--prefix"]);
    npm.arg(new.path()).arg(PACKAGE).stdin(Stdio::null()).kill_on_drop(true);
    match timeout(INSTALL_LIMIT, npm.output()).await {
        Ok(Ok(output)) if output.status.success() => {}
        other => {
            eprintln!("SKIPPED: {PACKAGE} cannot be installed by npm: {other:?}");
            return None;
        }
    }
    std::fs::write(new.path().join("done"), "").unwrap();
    // Another process may have been quicker.
    let _ = std::fs::rename(new.keep(), &folder);
    Some(folder)
}

/// The server process. Dropping it kills it.
struct RpcServer {
    child: Child,
    said: Arc<Mutex<Vec<Value>>>,
    stdin: ChildStdin,
    port: u16,
}

impl RpcServer {
    async fn start(folder: &Path, port: u16) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rpc-websockets/provider.cjs");
        let mut node = Command::new("node");
        node.arg(script).arg(folder).arg(port.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = node.spawn().expect("npm is here, so node is");
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let said: Arc<Mutex<Vec<Value>>> = Arc::default();
        let heard = Arc::clone(&said);
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                heard.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        let mut server = Self { child, said, stdin, port: 0 };
        let port = server.until("it listens", |said| said.iter().find_map(|line| line["port"].as_u64())).await;
        server.port = u16::try_from(port).unwrap();
        server
    }

    async fn until<T>(&self, what: &str, probe: impl Fn(&[Value]) -> Option<T>) -> T {
        eventually(what, PATIENCE, async || probe(&self.said.lock().unwrap())).await
    }

    async fn announce(&mut self, result: &Value) {
        self.stdin.write_all(format!("{result}\n").as_bytes()).await.unwrap();
    }

    fn bets(&self) -> Vec<Value> {
        self.said.lock().unwrap().iter().filter(|line| !line["bet"].is_null()).map(|line| line["bet"].clone()).collect()
    }

    async fn kill(mut self) {
        self.child.start_kill().unwrap();
        self.child.wait().await.unwrap();
    }
}

fn file(fake: &FakeProvider, port: u16) -> ProviderFile {
    let sign_in = &fake.address;
    ProviderFile::of(&format!(
        r#"
[[provider]]
name = "rpc"
hosts = ["{sign_in}", "127.0.0.1:{port}"]
insecure = true

[provider.sign_in]
url = "http://{sign_in}/sign-in"
body = '{{"user_id":"{{user_id}}"}}'
session = "/data/jsessionId"

[provider.socket]
# The path is the namespace of its methods; they are in that of "/".
url = "ws://127.0.0.1:{port}/?JSESSIONID={{session}}"

[provider.keepalive]
text = '{{"id":"1","jsonrpc":"2.0","method":"protocol/v1/ping","params":{{"time":"{{timestamp}}","seq":"{{timestamp}}"}}}}'
interval = "500ms"
deadline = "5s"
answers = ['"pong"']

[provider.messages]
type = "game-data"
title = "Games"

[provider.commands]
types = ["bet", "rpc.on"]
frame = '{{"jsonrpc":"2.0","id":{{id}},"method":{{type}},"params":{{payload}}}}'

[provider.backoff]
first = "100ms"
most = "1s"
tries = 1000
"#
    ))
}

/// The next message of the provider that `fits`; answers to pings must not be among them.
async fn message(page: &mut TestClient, fits: impl Fn(&Value) -> bool) -> Value {
    loop {
        match page.next_frame().await {
            ClientSawFrame::Notification(notification) if notification.kind == "upstream_gap" => {}
            ClientSawFrame::Notification(notification) => {
                let text: String = serde_json::from_str(&notification.data).expect("the provider's text, as a string");
                assert!(!text.contains("\"pong\""), "{text}");
                let said: Value = serde_json::from_str(&text).expect("JSON-RPC");
                if fits(&said) {
                    return said;
                }
            }
            ClientSawFrame::Ended(ended) => panic!("a message was to come, not {ended:?}"),
            _ => {}
        }
    }
}

async fn status(page: &mut TestClient, status: &str) {
    loop {
        match page.next_frame().await {
            ClientSawFrame::Other(frame) if frame["type"] == "status" && frame["status"] == status => return,
            ClientSawFrame::Ended(ended) => panic!("{status} was to come, not {ended:?}"),
            _ => {}
        }
    }
}

/// Events go only to subscribed sockets.
async fn subscribe(page: &mut TestClient, id: &str) {
    page.say(&json!({"type": "rpc.on", "id": id, "payload": ["gameResult"]}).to_string()).await;
    message(page, |said| said["result"]["gameResult"] == "ok").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_json_rpc_server_of_npm_is_a_provider_and_its_restart_is_survived() {
    let Some(folder) = installed().await else { return };
    let mut server = RpcServer::start(&folder, 0).await;
    let (db, fake) = (TestDb::new().await, FakeProvider::start().await);
    let file = file(&fake, server.port);
    let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let hub = TestHub::on(&db).with("RECADO_UPSTREAM_FILE", file.path()).with("RECADO_UPSTREAM_KEY", key).start().await;
    let mut page = TestClient::of("42").connect(&hub).await;
    status(&mut page, "connected").await;
    let url = server.until("it is connected", |said| said.iter().find_map(|line| line["connected"].as_str().map(str::to_owned))).await;
    assert!(url.starts_with("/?JSESSIONID="), "{url}");

    // Keep-alives: the server accepts them, with a valid time.
    let pings = server.until("keep-alives", |said| {
        let pings: Vec<Value> = said.iter().filter(|line| !line["ping"].is_null()).cloned().collect();
        (pings.len() >= 3).then_some(pings)
    });
    for ping in pings.await {
        assert!((0..10_000).contains(&ping["late"].as_i64().unwrap()), "{ping}");
    }

    // Its events are notifications.
    subscribe(&mut page, "s-1").await;
    server.announce(&json!({"number": 17})).await;
    let event = message(&mut page, |said| said["notification"] == "gameResult").await;
    assert!(event["params"].to_string().contains("17"), "{event}");

    // A command reaches it once, and its answer is a message.
    let bet = json!({"type": "bet", "id": "b-1", "payload": {"chip": 5}}).to_string();
    page.say(&bet).await;
    let answer = message(&mut page, |said| said["result"]["taken"].is_u64()).await;
    assert_eq!(answer["result"], json!({"taken": 1, "chip": 5}));
    page.say(&bet).await;
    page.say(&json!({"type": "bet", "id": "b-2", "payload": {"chip": 6}}).to_string()).await;
    let answer = message(&mut page, |said| said["result"]["taken"].is_u64()).await;
    assert_eq!(answer["result"], json!({"taken": 2, "chip": 6}), "b-1 went up once");
    assert_eq!(server.bets(), [json!({"chip": 5}), json!({"chip": 6})]);

    // It goes away, and comes back at the same address.
    let port = server.port;
    server.kill().await;
    status(&mut page, "disconnected").await;
    let mut server = RpcServer::start(&folder, port).await;
    status(&mut page, "connected").await;
    subscribe(&mut page, "s-2").await;
    server.announce(&json!({"number": 23})).await;
    let event = message(&mut page, |said| said["notification"] == "gameResult").await;
    assert!(event["params"].to_string().contains("23"), "{event}");
    assert_eq!(fake.record().sign_ins_of("42"), 1, "its session id was kept");
    assert!(server.bets().is_empty(), "nothing was sent again");
}
