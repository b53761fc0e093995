//! Tests that a hub told to stop closes its clients properly and finishes its work.
//!
//! It exits with success.

use std::time::Duration;

use tokio::time::Instant;

use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_hub_says_when_to_come_back_and_ends_with_zero() {
    let db = TestDb::new().await;
    let mut hub = TestHub::on(&db).with("RECADO_DRAIN_WINDOW", "2s").start().await;
    let mut clients = Vec::new();
    for n in 0..10 {
        clients.push(TestClient::of("ann").device(&format!("d{n}")).connect(&hub).await);
    }
    hub.post(&note("before").to_user("ann")).await;
    for client in &mut clients {
        client.expect_notification().await;
    }
    let told = Instant::now();
    hub.signal("-TERM").await;
    let mut moments = Vec::new();
    for client in &mut clients {
        let goodbye = client.expect_other("goodbye").await;
        assert_eq!(goodbye["reason"], "draining");
        moments.push(goodbye["after_ms"].as_u64().unwrap());
        assert_eq!(client.ended(PATIENCE).await, ClientEnd::Code(4000, "draining".to_owned()));
    }
    assert!(moments.iter().all(|after_ms| *after_ms <= 2000), "within the window: {moments:?}");
    moments.sort_unstable();
    moments.dedup();
    assert!(moments.len() >= 8, "spread over the window: {moments:?}");
    assert_eq!(hub.ended(Duration::from_secs(10)).await.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(10));
    assert!(!hub.said().contains("still ran"), "{}", hub.said());
    assert_eq!(db.number("SELECT count(*) FROM recado.session WHERE end_reason = 'draining'").await, 10);
    assert_eq!(db.number("SELECT count(*) FROM recado.instance WHERE ended_at IS NOT NULL").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn stopping_under_load_fails_no_post_and_loses_nothing() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let builder = TestHub::on(&db).with("RECADO_DRAIN_WINDOW", "500ms");
    let mut hubs = vec![builder.start().await, builder.start().await];
    let addresses = Addresses::of(&hubs);
    let fan = Fan::start(&["ann", "bob"], 3, &addresses).await;
    let writers = Writers::start(6, &addresses, &db.key(), Duration::ZERO, mixed);
    for _ in 0..5 {
        writers.until_count(writers.count() + 60, PATIENCE).await;
        let mut old = hubs.remove(0);
        old.signal("-TERM").await;
        assert_eq!(old.ended(Duration::from_secs(10)).await.code(), Some(0));
        hubs.push(builder.start().await);
        addresses.set(&hubs);
    }
    let diary = writers.stop().await;
    let end = hubs[0].post(&note("end").to_everyone()).await;
    fan.until_everyone_has(end.seq, PATIENCE).await;
    nothing_is_lost(&log_rows(&db.url()).await, &diary, &fan);
    assert!(diary.refused.is_empty(), "a post was answered with an error: {:?}", diary.refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_stops_it_as_well_and_a_stopping_hub_is_not_ready() {
    let db = TestDb::new().await;
    let mut hub = TestHub::on(&db).start().await;
    assert!(hub.is_ready().await);
    // A client that does not answer the close keeps the hub running for a moment, in which it can be asked.
    let stays = TestClient::of("ann").open(&hub).await.unwrap();
    hub.signal("-INT").await;
    eventually("not ready, or gone", PATIENCE, async || (!hub.is_ready().await).then_some(())).await;
    assert!(TestClient::of("bob").try_connect(&hub.address).await.is_err(), "no new client is accepted");
    assert_eq!(hub.ended(Duration::from_secs(10)).await.code(), Some(0));
    drop(stays);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_stops_the_hub_as_sigterm_does() {
    let db = TestDb::new().await;
    let mut hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    hub.signal("-HUP").await;
    assert_eq!(ann.ended(PATIENCE).await, ClientEnd::Code(4000, "draining".into()));
    assert!(hub.ended(PATIENCE).await.success());
}
