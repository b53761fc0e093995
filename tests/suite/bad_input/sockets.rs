//! Tests bad frames from clients on their WebSocket.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::probe::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, RawFrame, RawSocket, TEXT, frame};
use crate::support::{ClientEnd, TestClient, TestDb, TestHub, note, token};

fn code(ended: &ClientEnd) -> u16 {
    match ended {
        ClientEnd::Code(code, _) => *code,
        ClientEnd::Torn => 0,
    }
}

#[tokio::test]
async fn a_frame_that_breaks_the_protocol_is_answered_with_its_code() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut neighbour = TestClient::of("2").connect(&hub).await;
    let rsv1 = 0x40;
    let rows: Vec<(&str, Vec<RawFrame>, u16)> = vec![
        ("unmasked", vec![frame(FIN | TEXT, "{}").unmasked()], 1002),
        ("a reserved bit", vec![frame(FIN | rsv1 | TEXT, "{}")], 1002),
        ("another reserved bit", vec![frame(FIN | 0x10 | TEXT, "{}")], 1002),
        ("a reserved opcode", vec![frame(FIN | 3, "")], 1002),
        ("a reserved control opcode", vec![frame(FIN | 11, "")], 1002),
        ("a ping of 126 bytes", vec![frame(FIN | PING, [b'a'; 126])], 1002),
        ("a ping in parts", vec![frame(PING, "a")], 1002),
        ("a close in parts", vec![frame(CLOSE, "")], 1002),
        ("the rest of nothing", vec![frame(FIN | CONTINUATION, "a")], 1002),
        ("a text within a text", vec![frame(TEXT, "a"), frame(FIN | TEXT, "b")], 1002),
        ("a close with half a code", vec![frame(FIN | CLOSE, [3])], 1002),
        ("a close with code 999", vec![frame(FIN | CLOSE, 999_u16.to_be_bytes())], 1002),
        ("a close with code 1005", vec![frame(FIN | CLOSE, 1005_u16.to_be_bytes())], 1002),
        ("a close with bytes for a reason", vec![frame(FIN | CLOSE, [0x03, 0xe8, 0xff, 0xfe])], 1007),
        ("a text of bytes", vec![frame(FIN | TEXT, [0xff, 0xfe])], 1007),
        ("a text with a surrogate", vec![frame(FIN | TEXT, [0xed, 0xa0, 0x80])], 1007),
        ("a text cut within a letter", vec![frame(TEXT, [0xc3]), frame(FIN | CONTINUATION, "a")], 1007),
        ("binary", vec![frame(FIN | BINARY, "{}")], 1003),
        ("16 KiB and a byte", vec![frame(FIN | TEXT, vec![b' '; (16 << 10) + 1])], 1009),
        ("the promise of 2^62 bytes", vec![frame(FIN | TEXT, "").says_length(1 << 62)], 1009),
        ("too much in parts", vec![frame(TEXT, vec![b' '; 9 << 10]), frame(FIN | CONTINUATION, vec![b' '; 9 << 10])], 1009),
    ];
    for (what, frames, expected) in rows {
        let mut socket = RawSocket::open(&hub, "1").await;
        for frame in &frames {
            socket.send(frame).await;
        }
        let ended = socket.ended().await;
        assert_eq!(code(&ended), expected, "{what}: {ended:?}");
    }
    hub.post(&note("after all that").to_user("2")).await;
    assert_eq!(neighbour.expect_notification().await.title, "after all that");
}

#[tokio::test]
async fn a_text_that_is_no_frame_of_ours_is_answered_and_the_connection_stays() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut socket = RawSocket::open(&hub, "1").await;
    let big_id = format!(r#"{{"type":"ping","id":"{}"}}"#, "a".repeat(200));
    let rows = [
        ("", "malformed_json"),
        ("{", "malformed_json"),
        ("\u{feff}{}", "malformed_json"),
        ("null", "invalid_frame"),
        (r#"[{"type":"ping"}]"#, "invalid_frame"),
        ("{}", "invalid_frame"),
        (r#"{"type":7}"#, "invalid_frame"),
        (r#"{"type":"subscribe","user_id":"2"}"#, "unknown_type"),
        (r#"{"type":"heartbeat","seq":9}"#, "unknown_type"),
        (r#"{"type":"order_created","title":"forged"}"#, "unknown_type"),
        (r#"{"type":"ack"}"#, "bad_ack"),
        (r#"{"type":"ack","seq":"1"}"#, "bad_ack"),
        (r#"{"type":"ack","seq":0.5}"#, "bad_ack"),
        (r#"{"type":"ack","seq":-1}"#, "bad_ack"),
        (r#"{"type":"ack","seq":1e400}"#, "malformed_json"),
        (r#"{"type":"ack","seq":9223372036854775807}"#, "ack_ahead"),
        (r#"{"type":"ack","seq":1}"#, "ack_ahead"),
        (&big_id, "invalid_frame"),
        (r#"{"type":"auth"}"#, "invalid_frame"),
        (r#"{"type":"auth","token":"a.b.c"}"#, "bad_token"),
    ];
    for (text, expected) in rows {
        socket.say(text).await;
        let answer = socket.next_text().await.expect("the connection stays");
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!(expected)), "{text}: {answer}");
        assert!(answer["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer}");
    }
    let deep = "[".repeat(16_000);
    socket.say(&deep).await;
    assert_eq!(socket.next_text().await.unwrap()["code"], "malformed_json");
    socket.say(r#"{"type":"ping","id":"still here"}"#).await;
    assert_eq!(socket.next_text().await.unwrap()["id"], "still here");
    hub.post(&note("delivered").to_user("1")).await;
    assert_eq!(socket.next_text().await.unwrap()["title"], "delivered");
    assert!(db.place("1", "default").await.is_none_or(|place| place == 0), "a refused ack was stored");
}

#[tokio::test]
async fn sixty_refused_frames_end_the_connection() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut socket = RawSocket::open(&hub, "1").await;
    for _ in 0..60 {
        socket.say("{}").await;
    }
    assert_eq!(socket.ended().await, ClientEnd::Code(4502, "protocol_error".to_owned()));
}

/// Acknowledgements are not counted as messages; refused ones are counted as refused.
#[tokio::test]
async fn acks_of_what_was_never_sent_end_the_connection_too() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut socket = RawSocket::open(&hub, "1").await;
    for _ in 0..10_000 {
        if !socket.say(r#"{"type":"ack","seq":99}"#).await {
            break;
        }
    }
    assert!(matches!(code(&socket.ended().await), 4502 | 0), "all 10,000 wrong acks were read");
}

#[tokio::test]
async fn a_flood_is_told_when_to_come_back_and_others_are_served() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut neighbour = TestClient::of("2").connect(&hub).await;
    for (what, one) in [("pings", frame(FIN | PING, "a")), ("messages", frame(FIN | TEXT, r#"{"type":"ping"}"#))] {
        let mut socket = RawSocket::open(&hub, "1").await;
        for _ in 0..100 {
            socket.send(&one).await;
        }
        let goodbye = loop {
            let text = socket.next_text().await.unwrap_or_else(|| panic!("{what}: hung up without a goodbye"));
            if text["type"] != "pong" {
                break text;
            }
        };
        assert_eq!((&goodbye["type"], &goodbye["reason"]), (&json!("goodbye"), &json!("rate_limited")), "{what}: {goodbye}");
        assert!(goodbye["after_ms"].as_u64().is_some_and(|after| after > 0), "{goodbye}");
        assert_eq!(socket.ended().await, ClientEnd::Code(4029, "rate_limited".to_owned()), "{what}");
    }
    hub.post(&note("meanwhile").to_user("2")).await;
    assert_eq!(neighbour.expect_notification().await.title, "meanwhile");
}

#[tokio::test]
async fn who_never_answers_a_ping_is_closed() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("WS_HEARTBEAT_INTERVAL", "1s").with("RECADO_PONG_DEADLINE", "1s").start().await;
    let mut socket = RawSocket::open(&hub, "1").await;
    let begun = Instant::now();
    assert_eq!(socket.ended().await, ClientEnd::Code(4002, "no_pong".to_owned()));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

/// Unsolicited pongs prove nothing: they neither acknowledge nor keep a dead connection open.
#[tokio::test]
async fn a_pong_that_nobody_asked_for_counts_for_nothing() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("WS_HEARTBEAT_INTERVAL", "1s").with("RECADO_PONG_DEADLINE", "1s").start().await;
    let mut socket = RawSocket::open(&hub, "1").await;
    for number in 0..50 {
        hub.post(&note("n").to_user("1")).await;
        socket.send(&frame(FIN | PONG, "9999")).await;
        socket.send(&frame(FIN | PONG, [0xff; 125])).await;
        if number % 10 == 0 {
            socket.send(&frame(FIN | PONG, "")).await;
        }
    }
    assert_eq!(socket.ended().await, ClientEnd::Code(4002, "no_pong".to_owned()));
    assert_eq!(db.place("1", "default").await, Some(0));
}

#[tokio::test]
async fn what_comes_after_a_close_is_ignored_and_the_socket_is_gone() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut socket = RawSocket::open(&hub, "1").await;
    socket.send(&frame(FIN | CLOSE, 1000_u16.to_be_bytes())).await;
    socket.say(r#"{"type":"ping"}"#).await;
    assert!(matches!(code(&socket.ended().await), 1000 | 0));

    let mut socket = RawSocket::open(&hub, "1").await;
    socket.send(&frame(FIN | BINARY, "")).await;
    for _ in 0..1000 {
        if !socket.say(r#"{"type":"ping"}"#).await {
            break;
        }
    }
    assert!(matches!(code(&socket.ended().await), 1003 | 0));

    let mut socket = RawSocket::open(&hub, "1").await;
    socket.half_close().await;
    socket.ended().await;

    let connections = async || hub.stats().await["totalConnections"].as_u64();
    crate::support::eventually("no client is connected any more", Duration::from_secs(5), async || {
        (connections().await == Some(0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_new_token_of_somebody_else_ends_the_connection() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    for (other, expected) in [(token("2", &[]), 4501), (crate::support::service_token("1", recado::domain::Role::Service), 4501)] {
        let mut socket = RawSocket::open(&hub, "1").await;
        socket.say(&json!({"type": "auth", "token": other}).to_string()).await;
        assert_eq!(code(&socket.ended().await), expected);
    }
    let mut socket = RawSocket::open(&hub, "1").await;
    socket.say(&json!({"type": "auth", "token": token("1", &[])}).to_string()).await;
    assert_eq!(socket.next_text().await.unwrap()["type"], "auth_ok");
}

/// A hub that was frozen must not take a client for dead: frames that it has not read yet count.
#[tokio::test]
async fn a_pong_that_waits_to_be_read_is_in_time() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_PONG_DEADLINE", "1s").start().await;
    let mut sockets = Vec::new();
    for n in 0..12 {
        sockets.push(RawSocket::open(&hub, &format!("u{n}")).await);
    }
    let mut pongs = Vec::new();
    for socket in &mut sockets {
        loop {
            if let (PING, payload) = socket.next().await.expect("a ping") {
                break pongs.push(frame(FIN | PONG, payload));
            }
        }
    }
    hub.signal("-STOP").await;
    for (socket, pong) in sockets.iter_mut().zip(&pongs) {
        assert!(socket.send(pong).await);
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    hub.signal("-CONT").await;
    for socket in &mut sockets {
        assert!(socket.say(r#"{"type":"ping"}"#).await);
        assert_eq!(socket.next_text().await.map(|answer| answer["type"].clone()), Some("pong".into()));
    }
}
