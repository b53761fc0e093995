//! Tests that no token, key, secret or body is logged, at any level.

use serde_json::json;

use super::probe::{RawSocket, ask, request, upgrade};
use crate::support::{SECRET, TestClient, TestDb, TestHub, note, token};

#[tokio::test]
#[ignore = "slow"]
async fn no_secret_reaches_the_log_at_the_loudest_level() {
    for (format, filter) in [("text", "trace"), ("json", "trace,tungstenite::protocol=trace,hyper::proto=trace,sqlx::query=trace")] {
        let db = TestDb::new().await;
        let hub = TestHub::on(&db).with("RECADO_LOG", filter).with("RECADO_LOG_FORMAT", format).start().await;
        let body = "canary-in-a-body";
        let good = token("1", &["canary-account"]);
        let bad = "eyJhbGciOiJub25lIn0.Y2FuYXJ5.canary-bad-token";

        let mut client = TestClient::of("1").connect(&hub).await;
        hub.post(&note(body).to_user("1").message(body).data(&json!({ "k": body }).to_string()).key("canary-idempotency-key")).await;
        client.expect_notification().await;
        for token in [good.as_str(), bad] {
            for (target, headers) in [
                (format!("/ws?token={token}"), String::new()),
                (format!("/?token={token}"), String::new()),
                ("/ws".to_owned(), format!("Authorization: Bearer {token}\r\n")),
                ("/ws".to_owned(), format!("Sec-WebSocket-Protocol: recado.v1, recado.bearer.{token}\r\n")),
            ] {
                let mut socket = RawSocket::upgraded(&hub, &target, &headers).await;
                socket.next_text().await;
                socket.say(&json!({"type": "auth", "token": token}).to_string()).await;
                socket.say(&format!("{{\"type\":\"{body}\"}}")).await;
            }
            // Requests that fail: a wrong route, a bad query, a foreign origin, a broken handshake, a refused body.
            let foreign = format!("{}Origin: https://evil.example\r\n\r\n", upgrade(&format!("/ws?token={token}")));
            let broken = format!("{}\r\n", upgrade(&format!("/ws?token={token}")).replace("13", "8"));
            for bytes in [
                request("GET", &format!("/nothing?token={token}"), &[], b""),
                request("GET", &format!("/ws?token={token}&since={body}"), &[("Upgrade", "websocket")], b""),
                foreign.into_bytes(),
                broken.into_bytes(),
                request("GET", "/stats", &[("Authorization", &format!("Bearer {token}"))], b""),
                request("POST", "/api/internal/notify", &[("Authorization", &format!("Bearer {token}"))], body.as_bytes()),
                request(
                    "POST",
                    &format!("/api/internal/notify?key={}", db.key()),
                    &[("Content-Type", "application/json")],
                    body.as_bytes(),
                ),
            ] {
                let answer = ask(&hub, &bytes).await;
                assert!(!format!("{answer:?}").contains(token), "an answer echoes a token: {answer:?}");
            }
        }
        client.close().await;

        let said = hub.said();
        assert!(said.lines().count() > 5, "the log says something at trace:\n{said}");
        let signature = good.rsplit('.').next().unwrap();
        for canary in [good.as_str(), signature, bad, &db.key(), SECRET, body, "canary-idempotency-key"] {
            let line = said.lines().find(|line| line.contains(canary));
            assert!(line.is_none(), "{canary} was logged, as {format}:\n{}", line.unwrap());
        }
    }
}
