//! Tests that rows are written past waiting tasks, and that their clients see no difference.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::support::*;

const DIRECT: &str = "recado_sent_directly_total";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_to_waiting_clients_is_written_past_their_tasks() {
    const CLIENTS: usize = 40;
    const POSTS: i64 = 10;
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let mut client = TestClient::of(&format!("user{n}")).connect(&hub).await;
        client.until_caught_up().await;
        clients.push(client);
    }
    for n in 1..=POSTS {
        hub.post(&note(&format!("{n}")).to_everyone()).await;
        for client in &mut clients {
            let got = client.expect_notification().await;
            assert_eq!((got.seq, got.prev, got.title, got.replayed), (n, n - 1, n.to_string(), false));
        }
    }
    let all = (CLIENTS as i64 * POSTS) as f64;
    let direct = hub.metric(DIRECT).await;
    // A task that a ping or a heartbeat has woken writes its row itself.
    assert!(direct >= all / 2.0 && direct <= all, "{direct} of {all}");
    assert_eq!(hub.metric("recado_sent_total{how=\"live\"}").await, all);
    let acked = format!("SELECT count(*) FROM recado.cursor WHERE acked_seq = {POSTS}");
    eventually("pongs acknowledge them", PATIENCE, async || (db.number(&acked).await == CLIENTS as i64).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_row_is_written_past_the_task_together_with_its_ping() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut by_pong = TestClient::of("ann").device("pong").connect(&hub).await;
    let mut by_ack = TestClient::of("ann").device("ack").query("ack", "client").connect(&hub).await;
    let mut of_lines = TestClient::of("ann").device("lines").query("ack", "client").query("frames", "lines").connect(&hub).await;
    for client in [&mut by_pong, &mut by_ack, &mut of_lines] {
        client.until_caught_up().await;
    }
    for n in 1..=20 {
        hub.post(&note("one").to_user("ann")).await;
        for client in [&mut by_pong, &mut by_ack, &mut of_lines] {
            let got = client.expect_notification().await;
            assert_eq!((got.seq, got.prev), (n, n - 1));
        }
        // The task takes over the number that was sent past it.
        by_ack.ack(n).await;
    }
    let acked = "SELECT count(*) FROM recado.cursor WHERE acked_seq = 20 AND client_id IN ('ack', 'pong')";
    eventually("acks and pongs acknowledge it", PATIENCE, async || (db.number(acked).await == 2).then_some(())).await;
    // A task that was woken by a pong or an ack, or to plan a ping, writes its row itself.
    let direct = hub.metric(DIRECT).await;
    assert!((20.0..=40.0).contains(&direct), "{direct} of 40 to the two with one frame a message");
}

/// The kernel's buffers fill up, so frames are taken in part, and then the client falls behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_late_gets_every_row_whole_and_in_order() {
    const COUNT: i64 = 150;
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut late = TestClient::of("ann").query("ack", "client").receive_buffer(4096).open(&hub).await.unwrap();
    let mut witness = TestClient::of("bob").query("ack", "client").connect(&hub).await;
    witness.until_caught_up().await;
    let mut numbers = Vec::new();
    let mut read = async |until: i64| {
        while numbers.last().is_none_or(|(seq, _)| *seq < until) {
            let message = timeout(PATIENCE, late.next()).await.expect("it goes on").expect("open").expect("well");
            let Message::Text(text) = message else { continue };
            let frame: Value = serde_json::from_str(&text).unwrap();
            if let (Some(seq), Some(prev), Some(_)) = (frame["seq"].as_i64(), frame["prev"].as_i64(), frame["title"].as_str()) {
                numbers.push((seq, prev));
            }
        }
        numbers.clone()
    };
    hub.post(&note("first").to_everyone()).await;
    read(1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let long = "x".repeat(20 << 10);
    for n in 2..=COUNT {
        assert_eq!(hub.post(&note(&format!("{n} {long}")).to_everyone()).await.seq, n);
    }
    witness.until_seq(COUNT).await;
    let expected: Vec<(i64, i64)> = (1..=COUNT).map(|seq| (seq, seq - 1)).collect();
    assert_eq!(read(COUNT).await, expected);
    // It is live again.
    hub.post(&note("last").to_everyone()).await;
    assert_eq!(read(COUNT + 1).await.last(), Some(&(COUNT + 1, COUNT)));
}

/// The ping of a broadcast is written past the task, so the task learns of it late. It still closes a client that does
/// not answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_answers_a_ping_is_closed_after_a_heartbeat() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("WS_HEARTBEAT_INTERVAL", "2s").with("RECADO_PONG_DEADLINE", "1s").start().await;
    // Its library answers pings only when it is read.
    let mut silent = TestClient::of("ann").open(&hub).await.unwrap();
    while !matches!(timeout(PATIENCE, silent.next()).await, Ok(Some(Ok(Message::Text(text)))) if text.contains("\"caught_up\"")) {}
    hub.post(&note("first").to_everyone()).await;
    let ended = "SELECT count(*) FROM recado.session WHERE end_reason = 'no_pong'";
    eventually("it is closed", PATIENCE, async || (db.number(ended).await == 1).then_some(())).await;
    assert_eq!(db.number("SELECT count(*) FROM recado.cursor WHERE acked_seq > 0").await, 0);
}
