//! Promise: who may stay, and how many, is decided at every moment, not only when they come.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::support::*;

/// A token's end, in this test's time.
const TTL: Duration = Duration::from_secs(3);

fn with_token(user: &str, token: &str) -> Asked {
    Client::of(user).without_header().header("authorization", &format!("Bearer {token}"))
}

fn code(ended: &Ended) -> u16 {
    match ended {
        Ended::Code(code, _) => *code,
        Ended::Torn => 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_runs_out_ends_the_connection_after_a_warning() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).start().await;
    let mut ann = with_token("ann", &brief_token("ann", &[], TTL)).connect(&hub).await;
    let warning = ann.expect_other("auth_expiring").await;
    assert!(warning["expires_at"].is_string(), "{warning}");
    assert_eq!(code(&ann.ended(TTL + Duration::from_secs(5)).await), 4401);
    // What was posted meanwhile is not lost with the connection.
    let seq = hub.post(&note("later").to_user("ann")).await.seq;
    hub.settled(&db).await;
    let mut ann = Client::of("ann").connect(&hub).await;
    assert_eq!(ann.until_caught_up().await.iter().map(|n| n.seq).collect::<Vec<_>>(), [seq]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_ceases_to_speak_is_sent_away_when_its_token_ends() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).start().await;
    let socket = with_token("ann", &brief_token("ann", &[], TTL)).open(&hub).await.unwrap();
    let (reader, mut writer) = tokio::io::split(socket.into_inner());
    // An acknowledgement that says nothing new, masked with zeros: of these a client may send as many as it likes. Faster than they are read.
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
async fn a_newer_token_of_the_same_user_keeps_the_connection() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).start().await;
    let mut ann = with_token("ann", &brief_token("ann", &["7"], TTL)).connect(&hub).await;
    ann.say(&format!(r#"{{"type":"auth","token":"{}"}}"#, token("ann", &["7"]))).await;
    ann.expect_other("auth_ok").await;
    // The old token's end passes; a post after it still arrives.
    tokio::time::sleep(TTL + Duration::from_secs(1)).await;
    hub.post(&note("still here").to_user("ann")).await;
    ann.until("still here").await;
    // A token that is none changes nothing.
    ann.say(r#"{"type":"auth","token":"x.y.z"}"#).await;
    assert_eq!(ann.expect_other("error").await["code"], "bad_token");
    hub.post(&note("and here").to_user("ann")).await;
    ann.until("and here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_users_token_and_one_with_other_accounts_end_the_connection() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).start().await;
    for (newer, expected) in [(token("bob", &["7"]), 4501), (token("ann", &["8"]), 4401), (token("ann", &[]), 4401)] {
        let mut ann = Client::of("ann").account("7").connect(&hub).await;
        ann.say(&format!(r#"{{"type":"auth","token":"{newer}"}}"#)).await;
        assert_eq!(code(&ann.ended(PATIENCE).await), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_more_than_a_user_may_have_is_closed_and_the_others_stay() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).with("RECADO_MAX_CONNECTIONS_PER_USER", "2").start().await;
    let mut first = Client::of("ann").device("a").connect(&hub).await;
    let second = Client::of("ann").device("b").connect(&hub).await;
    let refused = Client::of("ann").device("c").open(&hub).await.unwrap();
    assert_eq!(code(&Client::over(refused).ended(PATIENCE).await), 4504);
    let mut bob = Client::of("bob").connect(&hub).await;
    hub.post(&note("to all").to_everyone()).await;
    first.until("to all").await;
    bob.until("to all").await;
    // A place that is given up can be taken.
    second.close().await;
    let mut third =
        eventually("the place is free", PATIENCE, async || Client::of("ann").device("c").try_connect(&hub.address).await.ok()).await;
    hub.post(&note("again").to_user("ann")).await;
    third.until("again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_the_single_policy_the_newer_connection_takes_over() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).with("RECADO_SESSION_POLICY", "single").start().await;
    let mut older = Client::of("ann").connect(&hub).await;
    let mut newer = Client::of("ann").connect(&hub).await;
    assert_eq!(code(&older.ended(PATIENCE).await), 4004);
    hub.post(&note("for the newer").to_user("ann")).await;
    newer.until("for the newer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_hub_says_so_before_the_upgrade() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).with("WS_MAX_CONNECTIONS", "2").start().await;
    let ann = Client::of("ann").connect(&hub).await;
    let _bob = Client::of("bob").connect(&hub).await;
    let refused = Client::of("eve").open(&hub).await.unwrap_err();
    let tokio_tungstenite::tungstenite::Error::Http(response) = refused else { panic!("{refused}") };
    assert_eq!(response.status().as_u16(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let body = String::from_utf8(response.body().clone().unwrap_or_default()).unwrap();
    assert!(body.contains(r#""code":"full""#), "{body}");
    ann.close().await;
    eventually("the place is free", PATIENCE, async || Client::of("eve").try_connect(&hub.address).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_is_refused_within_ten_seconds() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).start().await;
    hub.post(&note("before").to_user("ann")).await;
    db.run("UPDATE recado.service_key SET revoked_at = now()").await;
    let refused = async || {
        let answer = hub.try_post(&note("after").to_user("ann")).await.unwrap();
        (answer.status == 401).then_some(answer)
    };
    let answer = eventually("the key is refused", Duration::from_secs(12), refused).await;
    assert_eq!(answer.code(), "unauthorized");
}
