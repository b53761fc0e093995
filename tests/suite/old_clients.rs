//! Tests that clients of the two replaced services keep working.
//!
//! They need nothing new but a key for services and a token for users.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::support::{PATIENCE, TestDb, TestHub, eventually, note, token};

/// A WebSocket of any library: it answers pings by itself, and does not know the hub's protocol.
struct AnySocket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl AnySocket {
    async fn connect(hub: &TestHub, target: &str) -> Self {
        Self(tokio_tungstenite::connect_async(format!("ws://{}{target}", hub.address)).await.expect("a handshake").0)
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("a frame comes") {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    async fn send(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }
}

/// The roulette page's handler (`ws.onmessage`), branch for branch. As there, a frame without `data` must not break it.
#[derive(Default)]
struct RoulettePage {
    game_data: Vec<Value>,
    errors: Vec<String>,
    statuses: Vec<String>,
    pongs: usize,
    not_recognised: Vec<String>,
}

impl RoulettePage {
    fn on_message(&mut self, data: &Value) {
        match data["type"].as_str() {
            Some("status") => self.statuses.push(data["status"].as_str().unwrap().to_owned()),
            Some("game-data") => self.game_data.push(data["data"].clone()),
            Some("error") => self.errors.push(data["message"].as_str().expect("addLog wants a text").to_owned()),
            Some("pong") => self.pongs += 1,
            other => self.not_recognised.push(other.unwrap_or_default().to_owned()),
        }
    }

    async fn read_until(&mut self, socket: &mut AnySocket, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            let frame = socket.next().await.expect("the connection stays");
            self.on_message(&frame);
        }
    }
}

/// `wscat -c "ws://…/ws?token=TOKEN"`, and the `curl` command with which the central hub was tested.
#[tokio::test]
async fn the_central_hubs_curl_reaches_its_wscat() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut wscat = AnySocket::connect(&hub, &format!("/ws?token={}", token("USER_ID", &["ACCOUNT_ID"]))).await;
    let established = wscat.next().await.unwrap();
    assert_eq!(established["type"], "connection_established");
    let body = r#"{
    "type": "product_added",
    "title": "Teste",
    "message": "Produto de teste adicionado",
    "user_id": "USER_ID",
    "account_id": "ACCOUNT_ID"
  }"#;
    let answer = post(&hub, &db.key(), body).await;
    assert_eq!((answer.0, &answer.1["success"]), (201, &json!(true)), "{}", answer.1);
    let shown = loop {
        let frame = wscat.next().await.unwrap();
        if frame["type"] == "product_added" {
            break frame;
        }
    };
    assert_eq!((&shown["title"], &shown["message"]), (&json!("Teste"), &json!("Produto de teste adicionado")));
    assert!(shown["data"].is_null());
}

async fn post(hub: &TestHub, key: &str, body: &str) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("http://{}/api/internal/notify", hub.address)).bearer_auth(key);
    let response = request.header("Content-Type", "application/json").body(body.to_owned()).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// Every type of the old enumeration, in the form of the old schema: nulls where Python writes them.
#[tokio::test]
async fn the_old_services_bodies_are_taken_as_they_are() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut client = AnySocket::connect(&hub, &format!("/ws?token={}", token("1", &["7"]))).await;
    let types = [
        "order_created",
        "payment_confirmed",
        "order_updated",
        "stock_alert",
        "cart_updated",
        "product_added",
        "product_updated",
        "product_deleted",
        "transaction_created",
        "profile_updated",
    ];
    for (at, kind) in types.into_iter().enumerate() {
        let (user, users, account) = match at % 3 {
            0 => (json!("1"), Value::Null, json!("7")),
            1 => (Value::Null, json!(["1", "2"]), Value::Null),
            _ => (Value::Null, Value::Null, json!("7")),
        };
        let body = json!({"type": kind, "title": "t", "message": "m", "data": {"id": at}, "user_id": user, "account_id": account, "user_ids": users});
        assert_eq!(post(&hub, &db.key(), &body.to_string()).await.0, 201, "{body}");
    }
    let mut got = Vec::new();
    while got.len() < types.len() {
        let frame = client.next().await.unwrap();
        if !frame["data"].is_null() {
            assert_eq!(frame["data"]["id"], got.len());
            got.push(frame["type"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(got, types);
}

#[tokio::test]
async fn the_roulette_page_connects_to_the_root_and_understands_what_it_gets() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut socket = AnySocket::connect(&hub, &format!("/?token={}&userId=somebody-else", token("42", &[]))).await;
    let mut page = RoulettePage::default();

    socket.send(r#"{"type":"ping"}"#).await;
    page.read_until(&mut socket, |page| page.pongs == 1).await;

    hub.post(&note("Game").to_user("42").raw("type", "\"game-data\"").data(r#"{"gameResult":{"score":"17"}}"#)).await;
    page.read_until(&mut socket, |page| !page.game_data.is_empty()).await;
    assert_eq!(page.game_data, [json!({"gameResult": {"score": "17"}})]);

    // No provider is configured, so a bet goes nowhere; the page gets an error and stays connected.
    socket.send(r#"{"type":"bet","payload":{"chip":5,"on":"17"}}"#).await;
    page.read_until(&mut socket, |page| page.errors.len() == 1).await;
    assert!(!page.errors[0].is_empty());
    socket.send(r#"{"type":"ping"}"#).await;
    page.read_until(&mut socket, |page| page.pongs == 2).await;

    // Every frame that the page does not know has a type, and falls into the branch that writes it to the console.
    assert!(page.not_recognised.contains(&"connection_established".to_owned()), "{:?}", page.not_recognised);
    assert!(page.not_recognised.iter().all(|kind| !kind.is_empty()), "{:?}", page.not_recognised);
    assert!(page.statuses.is_empty());
}

#[tokio::test]
async fn a_pong_has_the_time_in_milliseconds() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut socket = AnySocket::connect(&hub, &format!("/?token={}", token("42", &[]))).await;
    socket.send(r#"{"type":"ping"}"#).await;
    let pong = loop {
        let frame = socket.next().await.unwrap();
        if frame["type"] == "pong" {
            break frame;
        }
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let said = u128::from(pong["timestamp"].as_u64().expect("a whole number"));
    assert!(now.abs_diff(said) < 60_000, "{pong}");
}

#[tokio::test]
async fn who_watched_the_old_services_finds_the_fields_again() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut socket = AnySocket::connect(&hub, &format!("/?token={}", token("42", &[]))).await;
    socket.next().await.unwrap();

    let (status, body) = hub.get("/health", None).await.unwrap();
    let health: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &health["status"], &health["activeConnections"]), (200, &json!("ok"), &json!(1)), "{health}");
    assert!(health["uptime"].is_f64(), "seconds, as process.uptime() has them: {health}");
    let timestamp = health["timestamp"].as_str().unwrap();
    assert!(timestamp.len() == 24 && timestamp.ends_with('Z'), "as new Date().toISOString() writes it: {timestamp}");

    for path in ["/stats", "/api/internal/ws-stats"] {
        let (status, body) = hub.get(path, Some(&db.admin_key())).await.unwrap();
        let stats: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &stats["totalConnections"]), (200, &json!(1)), "{stats}");
        let connection = &stats["connections"][0];
        assert_eq!(connection["userId"], "42");
        let (connected, active) = (connection["connectedAt"].as_u64().unwrap(), connection["lastActivity"].as_u64().unwrap());
        assert!(connected > 1_700_000_000_000 && active >= connected, "milliseconds, as Date.now() has them: {connection}");
    }
}

/// The page needs no new line of code: its library answers pings, and those pongs acknowledge.
#[tokio::test]
async fn a_client_that_says_nothing_at_all_resumes_without_a_hole_and_without_repeats() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("WS_HEARTBEAT_INTERVAL", "1s").start().await;
    let target = format!("/ws?token={}", token("1", &[]));
    let titles = async |socket: &mut AnySocket, last: &str| {
        let mut titles = Vec::new();
        while titles.last().is_none_or(|title| title != last) {
            let frame = socket.next().await.unwrap();
            if let Some(title) = frame["title"].as_str() {
                titles.push(title.to_owned());
            }
        }
        titles
    };
    let post = async |title: &str| hub.post(&note(title).to_user("1")).await.seq;

    let mut socket = AnySocket::connect(&hub, &target).await;
    socket.next().await.unwrap();
    post("first").await;
    let second = post("second").await;
    assert_eq!(titles(&mut socket, "second").await, ["first", "second"]);
    // It keeps reading, as an open page does, so its library sees the ping that follows.
    eventually("its place is stored", PATIENCE, async || {
        let _ = timeout(Duration::from_millis(100), socket.0.next()).await;
        (db.place("1", "default").await == Some(second)).then_some(())
    })
    .await;
    drop(socket);

    post("missed").await;
    post("missed too").await;
    let mut socket = AnySocket::connect(&hub, &target).await;
    post("after").await;
    assert_eq!(titles(&mut socket, "after").await, ["missed", "missed too", "after"]);
}
