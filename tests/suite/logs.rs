//! Tests that an unwritable or unread log never ends or stops the hub.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use super::support::*;

/// The value of a metric; `series` is its name with its labels.
async fn metric(hub: &TestHub, series: &str) -> f64 {
    let (_, page) = hub.get("/metrics", None).await.expect("the hub answers");
    let line = page.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("{series} is not on the page"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_on_a_full_disk_is_counted_and_the_hub_serves_on() {
    let db = TestDb::new().await;
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let hub = TestHub::on(&db).with("RECADO_LOG", "debug").start_logging_to(full).await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    let receipt = hub.post(&note("one").to_user("ann")).await;
    ann.until_seq(receipt.seq).await;
    assert!(metric(&hub, "recado_log_dropped_total{reason=\"unwritable\"}").await > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_log_that_nothing_reads_stops_nothing_and_the_loss_is_told_once_it_is_read() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let (reader, writer) = std::io::pipe().unwrap();
    let hub = TestHub::on(&db).with("RECADO_LOG", "trace").with("RECADO_ADDRESS_REQUESTS", "0").start_logging_to(writer).await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    let dropped = "recado_log_dropped_total{reason=\"queue_full\"}";
    let client = http_client();
    eventually("lines are dropped", Duration::from_secs(120), async || {
        // Each refusal is a log line of about 250 bytes.
        for n in 0..500 {
            let path = format!("http://{}/{n}/{}", hub.address, "x".repeat(150));
            client.get(path).send().await.expect("the hub answers");
        }
        (metric(&hub, dropped).await > 0.0).then_some(())
    })
    .await;
    assert!(hub.is_ready().await);
    let last = hub.post(&note("last").to_user("ann")).await;
    ann.until_seq(last.seq).await;

    // The test reads again: one line tells how many are missing.
    let told = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
        lines.find(|line| line.contains("log lines were dropped"))
    });
    let told = tokio::time::timeout(PATIENCE, told).await.expect("the loss is told").unwrap();
    assert!(told.is_some_and(|line| line.contains("dropped=")));
}
