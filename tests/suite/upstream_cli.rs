//! Tests `recado upstream ls | show | reconnect | release` against a running hub.

use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use super::support::*;

async fn upstream(db: &TestDb, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
    command.arg("upstream").args(args).env_clear().kill_on_drop(true);
    command.env("DATABASE_URL", db.url()).env("RECADO_ALLOW_UNSAFE_DURABILITY", "on").env("RECADO_JWT_SECRET", SECRET);
    timeout(Duration::from_secs(60), command.output()).await.expect("the command ends").unwrap()
}

async fn json_of(db: &TestDb, args: &[&str]) -> Value {
    let output = upstream(db, &[args, &["-o", "json"]].concat()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The next frame of this type.
async fn next_of(page: &mut TestClient, kind: &str) -> Value {
    loop {
        match page.next_frame().await {
            ClientSawFrame::Other(value) if value["type"] == kind => return value,
            ClientSawFrame::Ended(ended) => panic!("{kind} was to come, not {ended:?}"),
            _ => {}
        }
    }
}

/// The next notification; skips other frames.
async fn notification(page: &mut TestClient) -> ClientNotification {
    loop {
        match page.next_frame().await {
            ClientSawFrame::Notification(notification) => return *notification,
            ClientSawFrame::Ended(ended) => panic!("a notification was to come, not {ended:?}"),
            _ => {}
        }
    }
}

struct Scene {
    db: TestDb,
    provider: FakeProvider,
    hub: TestHub,
    _file: ProviderFile,
}

/// A hub with a provider, and no client connected.
async fn scene() -> Scene {
    let (db, provider) = (TestDb::new().await, FakeProvider::start().await);
    let file = provider.file("");
    let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let hub = TestHub::on(&db).with("RECADO_UPSTREAM_FILE", file.path()).with("RECADO_UPSTREAM_KEY", key).start().await;
    Scene { db, provider, hub, _file: file }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_and_commands_are_shown_without_their_secrets() {
    let Scene { db, provider, hub, _file } = scene().await;
    assert_eq!(json_of(&db, &["ls"]).await, json!([]));
    let mut page = TestClient::of("42").device("web").connect(&hub).await;
    assert_eq!(next_of(&mut page, "status").await["status"], "connected");
    let secret = provider.connected("42").await;
    page.say(r#"{"type":"bet","id":"b-1","payload":{"chip":"of-the-payload"}}"#).await;
    assert_eq!(next_of(&mut page, "command_result").await["status"], "sent");

    let listed = json_of(&db, &["ls"]).await;
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    let session = &listed[0];
    assert_eq!((&session["provider"], &session["userId"]), (&json!("fake"), &json!("42")));
    assert_eq!((&session["state"], &session["isLive"], &session["error"]), (&json!("live"), &json!(true), &Value::Null));
    let instance = hub.stats().await["instance"].clone();
    assert_eq!(session["owner"], instance);

    let shown = json_of(&db, &["show", "42"]).await;
    assert_eq!(shown["sessions"][0]["state"], "live");
    let command = &shown["commands"][0];
    assert_eq!((&command["id"], &command["type"], &command["state"]), (&json!("b-1"), &json!("bet"), &json!("sent")));
    assert_eq!(command["clientId"], "web");
    assert_eq!(json_of(&db, &["show", "nobody"]).await, json!({"sessions": [], "commands": []}));

    for args in [&["ls"][..], &["show", "42"], &["ls", "-o", "json"], &["ls", "-o", "ndjson"], &["show", "42", "-o", "json"]] {
        let output = upstream(&db, args).await;
        assert!(output.status.success(), "{}", said(&output));
        let said = said(&output);
        assert!(said.contains("fake") && said.contains("live"), "{args:?}: {said}");
        assert!(!said.contains(&secret) && !said.contains("of-the-payload"), "{args:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnect_drops_the_socket_signs_in_anew_and_the_page_goes_on() {
    let Scene { db, provider, hub, _file } = scene().await;
    let mut page = TestClient::of("42").connect(&hub).await;
    let _other = TestClient::of("43").connect(&hub).await;
    next_of(&mut page, "status").await;
    let first = provider.connected("42").await;
    provider.connected("43").await;
    let asked = upstream(&db, &["reconnect", "42", "--provider", "fake"]).await;
    assert!(asked.status.success() && said(&asked).contains("asked: reconnect of one session"), "{}", said(&asked));
    let second = |record: &ProviderRecord| record.of("42").find(|c| c.is_open() && c.session != first).map(|c| c.session.clone());
    provider.until("a new session", second).await;
    let record = provider.record();
    assert_eq!((record.sign_ins_of("42"), record.open_of("42")), (2, 1));
    assert_eq!(record.of("42").next().unwrap().closed.as_ref().unwrap().1, SocketEnd::ByHub(Some(1000)));
    assert_eq!(record.of("43").count(), 1, "the other user's session is left alone");
    provider.say_numbered("42", [1]).await;
    assert_eq!(notification(&mut page).await.kind, "upstream_gap", "a new connection follows a gap");
    assert_eq!(notification(&mut page).await.kind, "game-data");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn release_ends_a_session_until_the_users_next_connection() {
    let Scene { db, provider, hub, _file } = scene().await;
    let mut page = TestClient::of("42").connect(&hub).await;
    next_of(&mut page, "status").await;
    provider.connected("42").await;
    let asked = upstream(&db, &["release", "42"]).await;
    assert!(asked.status.success() && said(&asked).contains("asked: release of one session"), "{}", said(&asked));
    assert_eq!(next_of(&mut page, "status").await["status"], "disconnected");
    provider.until("the socket is closed", |record| (record.open_of("42") == 0).then_some(())).await;
    eventually("it is shown", PATIENCE, async || (json_of(&db, &["show", "42"]).await["sessions"][0]["state"] == "released").then_some(()))
        .await;
    // The page is still connected and sends a command.
    page.say(r#"{"type":"bet","id":"b-1","payload":1}"#).await;
    let result = next_of(&mut page, "command_result").await;
    assert_eq!((&result["status"], &result["detail"]), (&json!("rejected"), &json!("released")), "{result}");
    assert_eq!(provider.record().of("42").count(), 1);
    let mut again = TestClient::of("42").device("another").connect(&hub).await;
    assert_eq!(next_of(&mut again, "status").await["status"], "connected");
    assert_eq!(provider.record().open_of("42"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_said_and_nothing_happens() {
    let Scene { db, provider, hub, _file } = scene().await;
    let mut page = TestClient::of("42").connect(&hub).await;
    next_of(&mut page, "status").await;
    for (args, code, words) in [
        (&["reconnect", "nobody"][..], 1, "nobody has no such session"),
        (&["release", "42", "--provider", "other"], 1, "42 has no such session"),
        (&["release", "42", "--provider", "No Name"], 1, "--provider"),
        (&["show", ""], 1, "the user"),
        (&["show"], 2, "<USER>"),
    ] {
        let output = upstream(&db, args).await;
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", said(&output));
        assert!(said(&output).contains(words), "{args:?}: {}", said(&output));
    }
    provider.say_numbered("42", [1]).await;
    notification(&mut page).await;
    assert_eq!(provider.record().of("42").count(), 1);
}
