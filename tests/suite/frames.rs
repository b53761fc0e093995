//! Tests that a client may take several frames in one message.

use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::resume::many_rows;
use super::support::*;

/// What came in the messages up to `caught_up`.
struct Read {
    messages: usize,
    frames: usize,
    longest: usize,
}

/// Reads a replay message by message. A pong acknowledges every frame before its ping, so a ping must not overtake one.
async fn replay(hub: &TestHub, client: ClientBuilder) -> Read {
    let mut socket = client.open(hub).await.unwrap();
    let (mut read, mut given) = (Read { messages: 0, frames: 0, longest: 0 }, None);
    loop {
        match timeout(PATIENCE, socket.next()).await.expect("a message comes").unwrap().unwrap() {
            Message::Ping(payload) => {
                assert_eq!(Some(std::str::from_utf8(&payload).unwrap().parse::<i64>().unwrap()), given, "a ping names the last frame");
                socket.flush().await.unwrap();
            }
            Message::Text(text) => {
                (read.messages, read.longest) = (read.messages + 1, read.longest.max(text.len()));
                for line in text.split('\n') {
                    read.frames += 1;
                    let frame: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                    if let Some(prev) = frame["prev"].as_i64() {
                        assert_eq!(Some(prev), given, "{line}");
                    }
                    given = frame["resume"]["from"].as_i64().or(frame["seq"].as_i64());
                    if frame["type"] == "caught_up" {
                        return read;
                    }
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_comes_together_for_a_client_that_asks() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    db.run(&many_rows(1000)).await;
    hub.has_published(1000).await;
    let client = TestClient::of("ann").since(0);
    let single = replay(&hub, client.clone().device("a")).await;
    assert_eq!((single.frames, single.messages), (1002, 1002), "with connection_established and caught_up");
    for ack in ["pong", "client"] {
        let lines = replay(&hub, client.clone().device("b").query("ack", ack).query("frames", "lines")).await;
        assert_eq!(lines.frames, 1002);
        assert!(lines.messages < 100, "{} messages", lines.messages);
        assert!(lines.longest <= 64 << 10, "a message of {} bytes", lines.longest);
    }
    // A frame is counted, not a message.
    assert_eq!(hub.metric("recado_sent_total{how=\"replayed\"}").await, 3000.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_posted_data_stay_in_the_line_of_their_frame() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut lines = TestClient::of("ann").device("lines").query("frames", "lines").connect(&hub).await;
    let mut single = TestClient::of("ann").device("single").query("frames", "").connect(&hub).await;
    hub.post(&note("a \\n b").to_user("ann").data("{ \"a\":\t1.0,\r\n  \"b\":\n\"x\\ny\" }")).await;
    hub.post(&note("long").to_user("ann").message(&"m".repeat(60_000))).await;
    for _ in 0..2 {
        let (line, frame) = (lines.expect_notification().await, single.expect_notification().await);
        assert_eq!(line.text, frame.text.replace(['\n', '\r'], " "));
    }
    lines.ack(2).await;
    eventually("the acknowledgement", PATIENCE, async || (db.place("ann", "lines").await == Some(2)).then_some(())).await;
    lines.say(r#"{"type":"ping","id":7}"#).await;
    assert_eq!(lines.expect_other("pong").await["id"], 7);
    let (status, body) = hub.get(&format!("/ws?frames=some&token={}", token("ann", &[])), None).await.unwrap();
    assert_eq!(status, 426, "{body}");
    let refused = TestClient::of("ann").query("frames", "some").header("origin", "http://localhost").open(&hub).await.unwrap();
    let ended = TestClient::over(refused).ended(PATIENCE).await;
    assert_eq!(ended, ClientEnd::Code(4510, "bad_query".to_owned()));
}

/// Prints how long a program and a page take for 20,000 notifications, as single frames and as lines:
/// cargo test --release --test suite -- frames::by_hand --ignored --nocapture
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn by_hand_a_replay_as_single_frames_and_as_lines() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_USER_READ_RATE", "0").start().await;
    db.run(&many_rows(20_000)).await;
    hub.has_published(20_000).await;
    let client = TestClient::of("ann").since(0).query("ack", "client");
    for round in 0..6 {
        for (name, client) in [("single", client.clone()), ("lines", client.clone().query("frames", "lines"))] {
            let began = Instant::now();
            let read = replay(&hub, client).await;
            eprintln!("program, {round}, {name}: {:?}, {} messages", began.elapsed(), read.messages);
        }
    }
    let html = format!(
        r#"<!doctype html><title>page</title><script>
var got = [];
function replay(frames) {{
  return new Promise((resolve) => {{
    const began = performance.now();
    let messages = 0, count = 0;
    const socket = new WebSocket(`ws://{}/ws?client_id=page&since=0&ack=client&frames=${{frames}}`, ["recado.v1", "recado.bearer.{}"]);
    socket.onmessage = (event) => {{
      messages += 1;
      for (const line of event.data.split("\n")) {{
        const frame = JSON.parse(line);
        if (frame.title) count += 1;
        if (frame.type === "caught_up") {{
          got.push(frames === "lines" ? 1 : 0, Math.round(performance.now() - began), messages, count);
          socket.close();
          resolve();
        }}
      }}
    }};
  }});
}}
(async () => {{ for (let round = 0; round < 6; round++) {{ await replay(""); await replay("lines"); }} }})();
</script>"#,
        hub.address,
        token("ann", &[])
    );
    let Some(mut browser) = Browser::open(&html).await else { return };
    for run in browser.collected(48).await.chunks(4) {
        let name = if run[0] == 1 { "lines" } else { "single" };
        eprintln!("page, {name}: {} ms, {} messages, {} notifications", run[1], run[2], run[3]);
    }
}
