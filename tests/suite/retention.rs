//! Tests that expired rows go in whole partitions, and the devices concerned are told.
//!
//! Other clients are not affected.

use std::time::Duration;

use recado::log::retention::{self, RetentionOutcome, RetentionPolicy};
use recado::store::Database;

use super::support::*;

/// Expires every full partition, whatever its age.
pub const ALL_FULL: RetentionPolicy =
    RetentionPolicy { age: Some(Duration::ZERO), bytes: None, sessions: None, devices: None, upstream: None, audit: None };

pub async fn retain(db: &TestDb, policy: RetentionPolicy) -> RetentionOutcome {
    retention::round(&Database::parse(&db.url(), None).unwrap(), policy).await.unwrap()
}

/// A log with so many rows a partition.
pub async fn log_of(partition_rows: u32) -> TestDb {
    let db = TestDb::new().await;
    db.with_partitions(&format!("UPDATE recado.meta SET partition_rows = {partition_rows}; SELECT recado.ensure_partitions();")).await;
    db
}

/// Waits until the hub tells this number as its earliest.
pub async fn knows_the_floor(hub: &TestHub, earliest: i64) {
    eventually("the hub knows", PATIENCE, async || {
        let fresh = TestClient::of("eve").since("live").connect(hub).await;
        (fresh.hello["earliest"] == earliest).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_that_retention_passed_are_told_the_gap_and_the_others_go_on() {
    let db = log_of(10).await;
    let hub = TestHub::on(&db).start().await;
    let sleeper = TestClient::of("ann").device("sleeper").query("ack", "client");
    sleeper.connect(&hub).await.kill();
    for n in 1..=35 {
        hub.post(&note(&n.to_string()).to_users(&["ann", "bob"]).key(&n.to_string())).await;
    }
    hub.settled(&db).await;
    let mut awake = TestClient::of("ann").device("awake").connect(&hub).await;
    assert_eq!(retain(&db, ALL_FULL).await.partitions_dropped, 3, "0 to 9, 10 to 19, 20 to 29; the one with the head stays");
    knows_the_floor(&hub, 30).await;

    let mut client = sleeper.connect(&hub).await;
    let resume = &client.hello["resume"];
    assert_eq!(client.resume_status(), "gap", "{resume}");
    assert_eq!((resume["lost_from"].as_i64(), resume["lost_to"].as_i64(), resume["from"].as_i64()), (Some(1), Some(29), Some(29)));
    assert_eq!(client.until_caught_up().await.iter().map(|n| n.seq).collect::<Vec<_>>(), (30..=35).collect::<Vec<_>>());
    hub.post(&note("goes on").to_user("ann")).await;
    assert_eq!(client.expect_notification().await.title, "goes on");
    assert_eq!(awake.expect_notification().await.title, "goes on");
    let mut from_the_edge = TestClient::of("ann").since(29).connect(&hub).await;
    assert_eq!(from_the_edge.resume_status(), "ok", "29 was the last that is lost: nothing of ours is missing");
    assert_eq!(from_the_edge.until_caught_up().await.len(), 7);

    // Keys live as long as their row: the key of a dropped row makes a new one, the other finds its row.
    assert_eq!(db.number("SELECT count(*) FROM recado.idempotency").await, 6);
    let again = hub.try_post(&note("29").to_users(&["ann", "bob"]).key("29")).await.unwrap();
    assert_eq!((again.status, again.receipt().seq), (201, 37));
    let kept = hub.try_post(&note("30").to_users(&["ann", "bob"]).key("30")).await.unwrap();
    assert_eq!((kept.status, kept.receipt().seq), (200, 30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_size_the_oldest_go_until_the_rest_fits_and_the_head_stays() {
    let db = log_of(10).await;
    let hub = TestHub::on(&db).start().await;
    for n in 1..=45 {
        hub.post(&note(&n.to_string()).to_user("ann").data(&format!("\"{}\"", "x".repeat(10_000)))).await;
    }
    let total = "SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits
                  WHERE inhparent IN ('recado.log'::regclass, 'recado.log_member'::regclass)";
    let before = db.number(total).await;
    let fits = RetentionPolicy { bytes: Some(u64::try_from(before).unwrap()), ..RetentionPolicy::default() };
    assert_eq!(retain(&db, fits).await.partitions_dropped, 0);
    let one_too_many = RetentionPolicy { bytes: Some(u64::try_from(before - 1).unwrap()), ..RetentionPolicy::default() };
    assert_eq!(retain(&db, one_too_many).await.partitions_dropped, 1);
    let nothing_fits = RetentionPolicy { bytes: Some(1), ..RetentionPolicy::default() };
    assert_eq!(retain(&db, nothing_fits).await.partitions_dropped, 3);
    assert_eq!(db.number("SELECT min(seq) FROM recado.log").await, 40);
    assert_eq!(hub.post(&note("next").to_user("ann")).await.seq, 46);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn dropping_under_load_beside_a_long_reader_holds_up_no_post() {
    let _turn = heavy().await;
    let db = log_of(50).await;
    let hub = TestHub::on(&db).start().await;
    let addresses = Addresses::of([&hub]);
    let writers = Writers::start(4, &addresses, &db.key(), Duration::from_millis(2), mixed);
    writers.until_count(200, PATIENCE).await;
    // A reader that has the old partitions in its snapshot. A plain DETACH would wait for it, and every append behind
    // the DETACH.
    let mut reader = db.connect().await;
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM recado.log").execute(&mut reader).await.unwrap();
    let (url, so_far) = (db.url(), writers.count());
    let round = tokio::spawn(async move { retention::round(&Database::parse(&url, None).unwrap(), ALL_FULL).await });
    writers.until_count(so_far + 300, PATIENCE).await;
    assert!(!round.is_finished(), "the round waits for the reader; the posts did not");
    sqlx::raw_sql("COMMIT").execute(&mut reader).await.unwrap();
    let done = tokio::time::timeout(PATIENCE, round).await.expect("the reader has gone").unwrap().unwrap();
    assert!(done.partitions_dropped >= 3, "{done:?}");
    let diary = writers.stop().await;
    assert!(diary.refused.is_empty(), "{:?}", diary.refused);
    let floor = db.number("SELECT floor_seq FROM recado.meta").await;
    assert_eq!(db.number("SELECT min(seq) FROM recado.log").await, floor + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_round_left_behind_is_finished_by_the_next() {
    let db = log_of(10).await;
    let hub = TestHub::on(&db).start().await;
    for n in 1..=35 {
        hub.post(&note(&n.to_string()).to_users(&["ann", "bob"]).key(&n.to_string())).await;
    }
    // Killed after the floor was raised over two partitions, one of them detached and not dropped.
    db.run("UPDATE recado.meta SET floor_seq = 19; ALTER TABLE recado.log DETACH PARTITION recado.log_p000000000000").await;
    let keeps_everything = RetentionPolicy { sessions: Some(Duration::from_secs(3600)), ..RetentionPolicy::default() };
    assert_eq!(retain(&db, keeps_everything).await.partitions_dropped, 2);
    assert_eq!(db.number("SELECT count(*) FROM pg_class WHERE relname LIKE 'log%_p000000000000'").await, 0);
    assert_eq!(db.number("SELECT min(lo) FROM recado.partition").await, 20);
    assert_eq!(db.number("SELECT min(seq) FROM recado.idempotency").await, 20);
    assert_eq!(retain(&db, keeps_everything).await.partitions_dropped, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_instance_at_a_time_does_it() {
    let db = log_of(10).await;
    db.run("SELECT recado.take_lease('retention', gen_random_uuid(), 300)").await;
    assert!(retain(&db, ALL_FULL).await.busy_elsewhere);
    db.run("UPDATE recado.lease SET until = clock_timestamp()").await;
    assert!(!retain(&db, ALL_FULL).await.busy_elsewhere, "a lease that was not renewed is free");
    db.run("UPDATE recado.lease SET until = clock_timestamp() + interval '1 day'").await;
    assert!(!retain(&db, ALL_FULL).await.busy_elsewhere, "a clock that was set back does not make a lease of a day");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_ended_long_ago_are_forgotten_and_live_ones_are_not() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let _lives = TestClient::of("ann").connect(&hub).await;
    for _ in 0..3 {
        TestClient::of("bob").connect(&hub).await.close().await;
    }
    let ended = "SELECT count(*) FROM recado.session WHERE ended_at IS NOT NULL";
    eventually("the ends are stored", PATIENCE, async || (db.number(ended).await == 3).then_some(())).await;
    let an_hour = RetentionPolicy { sessions: Some(Duration::from_secs(3600)), ..RetentionPolicy::default() };
    assert_eq!(retain(&db, an_hour).await.sessions_deleted, 0);
    db.run("UPDATE recado.session SET ended_at = ended_at - interval '2 hours' WHERE ended_at IS NOT NULL").await;
    assert_eq!(retain(&db, an_hour).await.sessions_deleted, 3);
    assert_eq!(db.number("SELECT count(*) FROM recado.session").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settled_commands_and_unwanted_upstream_sessions_are_forgotten_after_their_time() {
    let db = TestDb::new().await;
    want(&db, &["ann", "bob"]).await;
    let mut owner = Owner::on(&db).await;
    for n in 0..3 {
        give(&db, &command("ann", &format!("b-{n}"), "1"), LONG).await;
    }
    let leases: Vec<_> = owner.claim(LONG).await.iter().map(recado::store::providers::Claimed::lease).collect();
    let ann = leases.iter().find(|lease| lease.user == user("ann")).unwrap();
    let taken = owner.take(ann).await;
    for command in &taken[..2] {
        owner.settle(ann.term, command.id, recado::store::providers::commands::MarkedSent::Sent).await;
    }
    let an_hour = RetentionPolicy { upstream: Some(Duration::from_secs(3600)), ..RetentionPolicy::default() };
    assert_eq!(retain(&db, an_hour).await, RetentionOutcome::default());
    // Made old, except for one command that is still under way and one session that is still held.
    db.run(
        "ALTER TABLE recado.upstream_command DISABLE TRIGGER command_goes_forward;
         UPDATE recado.upstream_command SET accepted_at = accepted_at - interval '2 hours', settled_at = settled_at - interval '2 hours';
         UPDATE recado.upstream_session SET wanted_until = wanted_until - interval '3 hours'",
    )
    .await;
    assert!(owner.release(leases.iter().find(|lease| lease.user == user("bob")).unwrap()).await);
    let done = retain(&db, an_hour).await;
    assert_eq!((done.commands_deleted, done.upstream_sessions_deleted), (2, 1));
    assert_eq!(db.number("SELECT count(*) FROM recado.upstream_command WHERE state = 'sending'").await, 1);
    assert_eq!(db.number("SELECT count(*) FROM recado.upstream_session WHERE user_id = 'ann'").await, 1);
}
