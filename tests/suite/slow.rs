//! Tests that a slow client costs other clients nothing, and loses nothing.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::support::*;

/// About 16 KB a notification.
fn large(n: usize) -> Note {
    note(&n.to_string()).to_user("ann").data(&format!("\"{}\"", "x".repeat(16_000)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn clients_that_never_read_cost_the_fast_one_nothing_and_resume_later() {
    const COUNT: usize = 300;
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_SEND_DEADLINE", "2s").start().await;
    let mut fast = TestClient::of("ann").device("fast").connect(&hub).await;
    let mut deaf = Vec::new();
    for n in 0..10 {
        deaf.push(TestClient::of("ann").device(&format!("deaf-{n}")).receive_buffer(4096).open(&hub).await.unwrap());
    }
    let places = "SELECT count(*) FROM recado.cursor";
    eventually("all have a place", PATIENCE, async || (db.number(places).await == 11).then_some(())).await;
    let before = hub.resident_kib();
    let mut slowest = Duration::ZERO;
    for n in 0..COUNT {
        let begun = Instant::now();
        let seq = hub.post(&large(n)).await.seq;
        assert_eq!(fast.expect_notification().await.seq, seq);
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "the fast one waited {slowest:?}");
    let grown = hub.resident_kib().saturating_sub(before);
    // 5 MB were posted; each of the ten may hold 256 KiB here and one page.
    assert!(grown < 40 << 10, "{grown} KiB more");
    let closed = "SELECT count(*) FROM recado.session WHERE end_reason = 'slow_consumer'";
    eventually("all ten are closed", PATIENCE, async || (db.number(closed).await == 10).then_some(())).await;
    // Bytes that had reached the kernel still arrive; the close code may not reach a client that does not read.
    let mut got = 0;
    while let Some(Ok(message)) = deaf[0].next().await {
        match message {
            Message::Close(frame) => assert_eq!(frame.map(|f| u16::from(f.code)), Some(4001)),
            Message::Text(_) => got += 1,
            _ => {}
        }
    }
    assert!(got < COUNT);
    drop(deaf);
    let mut back = TestClient::of("ann").device("deaf-0").connect(&hub).await;
    let replayed = back.until_caught_up().await;
    let titles: Vec<usize> = replayed.iter().map(|n| n.title.parse().unwrap()).collect();
    assert_eq!(titles, (0..COUNT).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_client_that_reads_slowly_but_steadily_gets_everything_in_order() {
    const COUNT: usize = 300;
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_SEND_DEADLINE", "2s").start().await;
    let mut slow = TestClient::of("ann").device("slow").receive_buffer(4096).open(&hub).await.unwrap();
    let mut fast = TestClient::of("ann").device("fast").connect(&hub).await;
    let posting = async {
        for n in 0..COUNT {
            hub.post(&large(n)).await;
        }
    };
    let reading = async {
        let mut numbers: Vec<(i64, i64)> = Vec::new();
        while numbers.len() < COUNT {
            let message = tokio::time::timeout(PATIENCE, slow.next()).await.expect("it goes on").expect("open").expect("well");
            let Message::Text(text) = message else { continue };
            let frame: serde_json::Value = serde_json::from_str(&text).unwrap();
            if let (Some(seq), Some(prev), Some(_)) = (frame["seq"].as_i64(), frame["prev"].as_i64(), frame["title"].as_str()) {
                numbers.push((seq, prev));
                // The reading rate of this client.
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        }
        numbers
    };
    let (numbers, ()) = tokio::join!(reading, posting);
    let expected: Vec<(i64, i64)> = (1..=COUNT as i64).map(|seq| (seq, seq - 1)).collect();
    assert_eq!(numbers, expected);
    assert_eq!(fast.until_seq(COUNT as i64).await.len(), COUNT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_answers_no_ping_is_closed() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("WS_HEARTBEAT_INTERVAL", "1s").with("RECADO_PONG_DEADLINE", "1s").start().await;
    let mut alive = TestClient::of("ann").device("alive").connect(&hub).await;
    // Open, but with no client behind it.
    let half_open = TestClient::of("ann").device("half-open").open(&hub).await.unwrap();
    let closed = "SELECT count(*) FROM recado.session WHERE client_id = 'half-open' AND end_reason = 'no_pong'";
    eventually("it is closed", Duration::from_secs(8), async || (db.number(closed).await == 1).then_some(())).await;
    drop(half_open);
    hub.post(&note("end").to_user("ann")).await;
    alive.until("end").await;
}
