//! Tests the WebSocket client of docs/guides/frontend.md over a kill -9 of its hub.
//!
//! It must apply each notification once, in order. Skipped with a message where there is no node with a WebSocket (20
//! with a flag, 22 and newer without).

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::support::*;

/// The block of the page that holds the client.
fn client() -> String {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guides/frontend.md")).unwrap();
    let blocks = page.split("```js\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let found: Vec<&str> = blocks.filter(|block| block.contains("function connect")).collect();
    assert_eq!(found.len(), 1, "exactly one block of the page is the client");
    found[0].to_owned()
}

/// Node 20 reports a refused connection by `error` alone; browsers, and newer versions, fire `close` as well.
const CLOSE_AFTER_A_REFUSED_CONNECTION: &str = "\
    globalThis.WebSocket = class extends globalThis.WebSocket {\
      constructor(...given) {\
        super(...given);\
        this.addEventListener('error', () => { if (this.readyState === 0) this.onclose({ code: 1006, reason: '' }); });\
      }\
    };";

async fn node_has_websockets() -> bool {
    let mut node = Command::new("node");
    node.args(["--experimental-websocket", "-e", "new WebSocket('ws://127.0.0.1:1').onerror = () => {}"]).stderr(Stdio::null());
    node.status().await.is_ok_and(|status| status.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_of_the_guide_resumes_after_its_hub_is_killed() {
    if !node_has_websockets().await {
        eprintln!("SKIPPED: there is no node with a WebSocket");
        return;
    }
    let db = TestDb::new().await;
    let builder = TestHub::on(&db);
    let hub = builder.clone().start().await;
    let script = format!(
        "{CLOSE_AFTER_A_REFUSED_CONNECTION}\n\
         const id = 'web-1', token = {:?};\n\
         const apply = (frame) => console.log(frame.title), tellUser = console.log, dropLocalState = () => console.log('reset');\n\
         const refreshToken = async () => console.log('token');\n{}",
        token("42", &["7"]),
        client().replace("wss://hub.example.com", &format!("ws://{}", hub.address))
    );
    let mut node = Command::new("node");
    node.args(["--experimental-websocket", "-e", &script]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut node = node.spawn().unwrap();
    let applied: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
    let heard = Arc::clone(&applied);
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            heard.lock().unwrap().push(line);
        }
    });
    let until = async |expected: &[&str]| {
        let what = format!("{expected:?}");
        eventually(&what, PATIENCE, async || (*applied.lock().unwrap() == expected).then_some(())).await;
    };
    eventually("it is connected", PATIENCE, async || (hub.stats().await["totalConnections"] == 1).then_some(())).await;
    hub.post(&note("one").to_user("42")).await;
    hub.post(&note("not mine").to_user("43")).await;
    hub.post(&note("two").account("7")).await;
    until(&["one", "two"]).await;

    let port = hub.address.rsplit(':').next().unwrap().to_owned();
    hub.kill().await;
    let other = builder.clone().start().await;
    other.post(&note("three").to_user("42")).await;
    let hub = builder.with("PORT", &port).start().await;
    until(&["one", "two", "three"]).await;
    hub.post(&note("four").to_everyone()).await;
    until(&["one", "two", "three", "four"]).await;
    assert!(node.try_wait().unwrap().is_none(), "it still runs");
}
