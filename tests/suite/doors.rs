//! Tests that access and connection limits hold at all times, not only at connect.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::support::*;

/// Lifetime of a token in this test.
const TTL: Duration = Duration::from_secs(3);

fn with_token(user: &str, token: &str) -> ClientBuilder {
    TestClient::of(user).without_header().header("authorization", &format!("Bearer {token}"))
}

fn code(ended: &ClientEnd) -> u16 {
    match ended {
        ClientEnd::Code(code, _) => *code,
        ClientEnd::Torn => 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_token_that_runs_out_ends_the_connection_after_a_warning() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = with_token("ann", &brief_token("ann", &[], TTL)).connect(&hub).await;
    let warning = ann.expect_other("auth_expiring").await;
    assert!(warning["expires_at"].is_string(), "{warning}");
    assert_eq!(code(&ann.ended(TTL + Duration::from_secs(5)).await), 4401);
    // Posts made meanwhile are not lost with the connection.
    let seq = hub.post(&note("later").to_user("ann")).await.seq;
    hub.settled(&db).await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    assert_eq!(ann.until_caught_up().await.iter().map(|n| n.seq).collect::<Vec<_>>(), [seq]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_client_that_never_ceases_to_speak_is_sent_away_when_its_token_ends() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let socket = with_token("ann", &brief_token("ann", &[], TTL)).open(&hub).await.unwrap();
    let (reader, mut writer) = tokio::io::split(socket.into_inner());
    // An acknowledgement of nothing new, masked with zeros. A client may send as many of these as it likes; the test
    // sends them faster than the hub reads.
    let ack = br#"{"type":"ack","seq":0}"#;
    let frame = [&[0x81, 0x80 | ack.len() as u8, 0, 0, 0, 0], &ack[..]].concat();
    let frames = frame.repeat(2000);
    let speaking = tokio::spawn(async move {
        let mut said = 0;
        while writer.write_all(&frames).await.is_ok() {
            said += frames.len();
        }
        said
    });
    let mut heard = WebSocketStream::from_raw_socket(tokio::io::join(reader, tokio::io::sink()), Role::Client, None).await;
    let ended = tokio::time::timeout(TTL + PATIENCE, async {
        while let Some(Ok(message)) = heard.next().await {
            if let Message::Close(frame) = message {
                return frame.map(|frame| u16::from(frame.code));
            }
        }
        None
    });
    assert_eq!(ended.await.expect("it is sent away in time"), Some(4401));
    hub.kill().await;
    assert!(speaking.await.unwrap() > 1 << 20, "it spoke without a pause");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_newer_token_of_the_same_user_keeps_the_connection() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = with_token("ann", &brief_token("ann", &["7"], TTL)).connect(&hub).await;
    ann.say(&format!(r#"{{"type":"auth","token":"{}"}}"#, token("ann", &["7"]))).await;
    ann.expect_other("auth_ok").await;
    // The old token expires; a later post still arrives.
    tokio::time::sleep(TTL + Duration::from_secs(1)).await;
    hub.post(&note("still here").to_user("ann")).await;
    ann.until("still here").await;
    // An invalid token changes nothing.
    ann.say(r#"{"type":"auth","token":"x.y.z"}"#).await;
    assert_eq!(ann.expect_other("error").await["code"], "bad_token");
    hub.post(&note("and here").to_user("ann")).await;
    ann.until("and here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_users_token_and_one_with_other_accounts_end_the_connection() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    for (newer, expected) in [(token("bob", &["7"]), 4501), (token("ann", &["8"]), 4401), (token("ann", &[]), 4401)] {
        let mut ann = TestClient::of("ann").account("7").connect(&hub).await;
        ann.say(&format!(r#"{{"type":"auth","token":"{newer}"}}"#)).await;
        assert_eq!(code(&ann.ended(PATIENCE).await), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_more_than_a_user_may_have_is_closed_and_the_others_stay() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_MAX_CONNECTIONS_PER_USER", "2").start().await;
    let mut first = TestClient::of("ann").device("a").connect(&hub).await;
    let second = TestClient::of("ann").device("b").connect(&hub).await;
    let refused = TestClient::of("ann").device("c").open(&hub).await.unwrap();
    assert_eq!(code(&TestClient::over(refused).ended(PATIENCE).await), 4504);
    let mut bob = TestClient::of("bob").connect(&hub).await;
    hub.post(&note("to all").to_everyone()).await;
    first.until("to all").await;
    bob.until("to all").await;
    // A connection that closes makes room for another.
    second.close().await;
    let mut third =
        eventually("the place is free", PATIENCE, async || TestClient::of("ann").device("c").try_connect(&hub.address).await.ok()).await;
    hub.post(&note("again").to_user("ann")).await;
    third.until("again").await;
}

// Regression: streams whose client had vanished without a close used up all connections of a user, and the next one was
// refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_limit_the_oldest_connection_of_the_same_device_makes_room() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_MAX_CONNECTIONS_PER_USER", "2").start().await;
    let mut oldest = TestClient::of("ann").device("a").connect(&hub).await;
    let mut other = TestClient::of("ann").device("b").connect(&hub).await;
    let mut newest = TestClient::of("ann").device("a").connect(&hub).await;
    assert_eq!(oldest.ended(PATIENCE).await, ClientEnd::Code(4004, "session_replaced".to_owned()));
    hub.post(&note("to both").to_user("ann")).await;
    newest.until("to both").await;
    other.until("to both").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_the_single_policy_the_newer_connection_takes_over() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_SESSION_POLICY", "single").start().await;
    let mut older = TestClient::of("ann").connect(&hub).await;
    let mut newer = TestClient::of("ann").connect(&hub).await;
    assert_eq!(code(&older.ended(PATIENCE).await), 4004);
    hub.post(&note("for the newer").to_user("ann")).await;
    newer.until("for the newer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_hub_says_so_before_the_upgrade() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("WS_MAX_CONNECTIONS", "2").start().await;
    let ann = TestClient::of("ann").connect(&hub).await;
    let _bob = TestClient::of("bob").connect(&hub).await;
    let refused = TestClient::of("eve").open(&hub).await.unwrap_err();
    let tokio_tungstenite::tungstenite::Error::Http(response) = refused else { panic!("{refused}") };
    assert_eq!(response.status().as_u16(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let body = String::from_utf8(response.body().clone().unwrap_or_default()).unwrap();
    assert!(body.contains(r#""code":"full""#), "{body}");
    ann.close().await;
    eventually("the place is free", PATIENCE, async || TestClient::of("eve").try_connect(&hub.address).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_revoked_key_is_refused_within_ten_seconds() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("before").to_user("ann")).await;
    db.run("UPDATE recado.service_key SET revoked_at = now()").await;
    let refused = async || {
        let answer = hub.try_post(&note("after").to_user("ann")).await.unwrap();
        (answer.status == 401).then_some(answer)
    };
    let answer = eventually("the key is refused", Duration::from_secs(12), refused).await;
    assert_eq!(answer.code(), "unauthorized");
}

/// A page whose name leads to 127.0.0.1 sends no `Origin` with a GET of its own host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_loopback_a_request_to_an_unknown_name_is_refused_with_or_without_an_origin() {
    let db = TestDb::new().await;
    let status = async |hub: &TestHub, path: &str, host: &str, more: &str| -> u16 {
        let mut stream = TcpStream::connect(&hub.address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer[9..12].parse().unwrap()
    };
    let hub = TestHub::on(&db).with("RECADO_ALLOWED_ORIGINS", "https://app.example.com").start().await;
    let bearer = format!("Authorization: Bearer {}\r\n", token("ann", &[]));
    for path in ["/health", "/metrics", "/openapi.json", "/livez", "/nowhere", "/api/notifications"] {
        assert_eq!(status(&hub, path, "evil.test", &bearer).await, 421, "{path}");
    }
    assert_eq!(status(&hub, "/health", "evil.test", "Origin: http://evil.test\r\n").await, 421);
    for host in ["localhost", "127.0.0.1:8080", "[::1]", "app.example.com", "10.0.0.5"] {
        assert_eq!(status(&hub, "/health", host, "").await, 200, "{host}");
    }
    assert!(hub.said().contains("RECADO_ALLOWED_HOSTS"), "{}", hub.said());
    let hub = TestHub::on(&db).with("RECADO_ALLOWED_HOSTS", "hub.example.com, *.test").start().await;
    for (host, expected) in [("evil.test", 200), ("hub.example.com:8080", 200), ("app.example.com", 421)] {
        assert_eq!(status(&hub, "/health", host, "").await, expected, "{host}");
    }
    let behind = TestHub::on(&db).with("RECADO_TRUSTED_PROXIES", "127.0.0.1").start().await;
    assert_eq!(status(&behind, "/health", "hub.example.com", "X-Forwarded-For: 203.0.113.9\r\n").await, 200);
}
