//! Tests that a hub frozen in the middle of its work blocks no other hub.
//!
//! It continues when it wakes.

use std::time::Duration;

use tokio::time::Instant;

use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_frozen_hub_stalls_nobody_and_its_clients_get_everything_when_it_wakes() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let (frozen, awake) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let (of_frozen, of_awake) = (Addresses::of([&frozen]), Addresses::of([&awake]));
    let fan_of_frozen = Fan::start(&["ann", "bob"], 2, &of_frozen).await;
    let fan_of_awake = Fan::start(&["ann", "bob"], 1, &of_awake).await;
    let busy_on_frozen = Writers::start(3, &of_frozen, &db.key(), Duration::ZERO, mixed);
    let other_key = service_token("other", recado::domain::Role::Service);
    let writers = Writers::start(2, &of_awake, &other_key, Duration::from_millis(5), mixed);
    for _ in 0..2 {
        busy_on_frozen.until_count(busy_on_frozen.count() + 50, PATIENCE).await;
        frozen.signal("-STOP").await;
        let asleep_since = Instant::now();
        // A little longer than a stall may last.
        while asleep_since.elapsed() < Duration::from_secs(4) {
            let before = Instant::now();
            writers.until_count(writers.count() + 1, Duration::from_secs(3)).await;
            assert!(before.elapsed() < Duration::from_secs(3));
        }
        frozen.signal("-CONT").await;
    }
    let diary = writers.stop().await;
    let other_diary = busy_on_frozen.stop().await;
    assert!(diary.slowest < Duration::from_secs(3), "{:?}", diary.slowest);
    assert!(diary.refused.is_empty(), "{:?}", diary.refused);
    let end = awake.post(&note("end").to_everyone()).await;
    for fan in [&fan_of_frozen, &fan_of_awake] {
        fan.until_everyone_has(end.seq, PATIENCE).await;
    }
    let rows = log_rows(&db.url()).await;
    nothing_is_lost(&rows, &diary, &fan_of_frozen);
    nothing_is_lost(&rows, &other_diary, &fan_of_awake);
}
