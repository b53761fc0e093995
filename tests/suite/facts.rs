//! Tests the delivery facts: when each connection was sent, and each device acknowledged, a row.
//!
//! They are kept for as long as the rows.

use std::time::Duration;

use chrono::{DateTime, Utc};
use recado::log::retention::RetentionPolicy;

use super::retention::{ALL_FULL, log_of, retain};
use super::support::*;

/// Tolerance for a timestamp on a busy machine: the time that one statement takes to reach the database.
const LATE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, sqlx::FromRow)]
struct FactRow {
    is_beside: bool,
    sent_seq: Option<i64>,
    sent_at: Option<DateTime<Utc>>,
    acked_seq: Option<i64>,
    acked_at: Option<DateTime<Utc>>,
}

impl FactRow {
    fn numbers(&self) -> (Option<i64>, Option<i64>) {
        (self.sent_seq, self.acked_seq)
    }
}

async fn facts_of(db: &TestDb, device: &str) -> Vec<FactRow> {
    let sql = "SELECT session_id IS NULL AS is_beside, sent_seq, sent_at, acked_seq, acked_at FROM recado.progress
                WHERE client_id = $1 ORDER BY greatest(sent_at, acked_at)";
    sqlx::query_as(sql).bind(device).fetch_all(&mut db.connect().await).await.unwrap()
}

async fn fact_that(what: &str, db: &TestDb, device: &str, is: impl Fn(&FactRow) -> bool) -> FactRow {
    eventually(what, PATIENCE, async || facts_of(db, device).await.into_iter().find(&is)).await
}

async fn clock(db: &TestDb) -> DateTime<Utc> {
    sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut db.connect().await).await.unwrap()
}

async fn session_ended(db: &TestDb, device: &str) {
    let sql = format!("SELECT count(*) FROM recado.session WHERE client_id = '{device}' AND ended_at IS NOT NULL");
    eventually("its end is stored", PATIENCE, async || (db.number(&sql).await == 1).then_some(())).await;
}

async fn post_ack(hub: &TestHub, user: &str, device: &str, seq: i64) {
    let request = reqwest::Client::new().post(format!("http://{}/api/notifications/ack", hub.address)).bearer_auth(token(user, &[]));
    let body = serde_json::json!({ "client_id": device, "seq": seq });
    assert_eq!(request.json(&body).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_number_has_its_moment_and_what_did_not_move_is_not_said() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_DELIVERY_FACTS", "200ms").start().await;
    let mut client = TestClient::of("ann").device("d").query("ack", "client").connect(&hub).await;
    for seq in 1..=3 {
        let before = clock(&db).await;
        assert_eq!(hub.post(&note("n").to_user("ann")).await.seq, seq);
        client.until_seq(seq).await;
        let received = clock(&db).await;
        let sent = fact_that("it is known when it was sent", &db, "d", |f| f.sent_seq == Some(seq)).await.sent_at.unwrap();
        let created: DateTime<Utc> = sqlx::query_scalar("SELECT created_at FROM recado.log WHERE seq = $1")
            .bind(seq)
            .fetch_one(&mut db.connect().await)
            .await
            .unwrap();
        assert!(before <= created && created <= sent && sent <= received + LATE, "{before} {created} {sent} {received}");

        let before = clock(&db).await;
        client.ack(seq).await;
        client.say("{\"type\":\"ping\"}").await;
        client.expect_other("pong").await;
        let heard = clock(&db).await;
        let acked = fact_that("it is known when it was acknowledged", &db, "d", |f| f.acked_seq == Some(seq)).await.acked_at.unwrap();
        assert!(before <= acked && acked <= heard + LATE, "{before} {acked} {heard}");
    }
    client.close().await;
    session_ended(&db, "d").await;
    let numbers: Vec<_> = facts_of(&db, "d").await.iter().map(FactRow::numbers).collect();
    let expected: Vec<_> = (1..=3).flat_map(|seq| [(Some(seq), None), (None, Some(seq))]).collect();
    assert_eq!(numbers, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_connection_costs_one_fact_an_interval_and_one_at_its_end() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_DELIVERY_FACTS", "1h").start().await;
    let mut client = TestClient::of("ann").device("d").query("ack", "client").connect(&hub).await;
    for _ in 0..30 {
        hub.post(&note("n").to_user("ann")).await;
    }
    client.until_seq(30).await;
    for seq in [10, 20] {
        client.ack(seq).await;
    }
    client.close().await;
    fact_that("the end is told", &db, "d", |f| f.sent_seq == Some(30)).await;
    let numbers: Vec<_> = facts_of(&db, "d").await.iter().map(FactRow::numbers).collect();
    assert_eq!(numbers, [(Some(30), Some(20))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_stops_leaves_its_facts() {
    let db = TestDb::new().await;
    let mut hub = TestHub::on(&db).with("RECADO_DELIVERY_FACTS", "1h").start().await;
    let mut client = TestClient::of("ann").device("d").connect(&hub).await;
    hub.post(&note("n").to_user("ann")).await;
    client.until_seq(1).await;
    post_ack(&hub, "ann", "other", 1).await;
    hub.signal("-TERM").await;
    assert!(hub.ended(Duration::from_secs(15)).await.success());
    assert_eq!(facts_of(&db, "d").await.last().unwrap().sent_seq, Some(1));
    assert_eq!(facts_of(&db, "other").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switched_off_none_are_kept() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_DELIVERY_FACTS", "off").start().await;
    for device in ["d", "marker"] {
        let mut client = TestClient::of("ann").device(device).connect(&hub).await;
        let seq = hub.post(&note("n").to_user("ann")).await.seq;
        client.until_seq(seq).await;
        post_ack(&hub, "ann", device, seq).await;
        client.close().await;
        // The second session's end is written in a later round than the first session's facts would be.
        session_ended(&db, device).await;
    }
    assert_eq!(db.number("SELECT count(*) FROM recado.progress WHERE client_id = 'd'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ack_by_post_is_a_fact_of_the_device_once_and_moves_its_live_connection() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_DELIVERY_FACTS", "200ms").start().await;
    let mut client = TestClient::of("ann").device("d").query("ack", "client").connect(&hub).await;
    let mut other = TestClient::of("ann").device("other").query("ack", "client").connect(&hub).await;
    for _ in 0..3 {
        hub.post(&note("n").to_user("ann")).await;
    }
    client.until_seq(3).await;
    other.until_seq(3).await;
    post_ack(&hub, "ann", "d", 2).await;
    let acked = async |device: &str| {
        let stats = hub.stats().await;
        let sessions = stats["connections"].as_array().unwrap().clone();
        sessions.iter().find(|s| s["clientId"] == device).unwrap()["ackedSeq"].as_i64()
    };
    assert_eq!((acked("d").await, acked("other").await), (Some(2), Some(0)));
    let fact = fact_that("it is known", &db, "d", |f| f.acked_seq == Some(2)).await;
    assert!(fact.is_beside);
    // An acknowledgement that moves nothing is no fact: neither a repeated nor a lower one.
    for seq in [2, 1] {
        post_ack(&hub, "ann", "d", seq).await;
    }
    client.ack(3).await;
    assert!(!fact_that("the later one is known", &db, "d", |f| f.acked_seq == Some(3)).await.is_beside);
    let acks: Vec<_> = facts_of(&db, "d").await.iter().filter_map(|f| f.acked_seq).collect();
    assert_eq!(acks, [2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_confirms_the_very_start_of_its_stream_is_believed() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_DELIVERY_FACTS", "200ms").start().await;
    for _ in 0..5 {
        hub.post(&note("n").to_user("ann")).await;
    }
    hub.settled(&db).await;
    let mut client = TestClient::of("ann").device("d").query("ack", "client").since(3).connect(&hub).await;
    client.until_caught_up().await;
    client.ack(3).await;
    fact_that("it is known", &db, "d", |f| f.acked_seq == Some(3)).await;
    eventually("the position is stored", PATIENCE, async || (db.place("ann", "d").await == Some(3)).then_some(())).await;
    // An EventSource acknowledges through the id of its last event.
    let page = EventSourcePage::of("ann").device("page");
    let _source = page.open_again(&hub, "4").await;
    let fact = fact_that("it is known", &db, "page", |f| f.acked_seq == Some(4)).await;
    assert!(!fact.is_beside);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_database_that_is_away_keeps_no_delivery_waiting_and_gets_the_ends_later() {
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    let hub = TestHub::on(&db).with("DATABASE_URL", &db.url_at(proxy.port)).with("RECADO_DELIVERY_FACTS", "200ms").start().await;
    let mut client = TestClient::of("ann").device("d").query("ack", "client").connect(&hub).await;
    hub.post(&note("n").to_user("ann")).await;
    client.until_seq(1).await;
    let before = clock(&db).await;
    proxy.set(ProxyFlow::Hole);
    client.ack(1).await;
    client.say("{\"type\":\"ping\"}").await;
    client.expect_other("pong").await;
    client.close().await;
    let left = clock(&db).await;
    eventually("it has failed to write", PATIENCE, async || hub.said().contains("could not store").then_some(())).await;
    proxy.set(ProxyFlow::Pass);
    let fact = fact_that("it is written when the database is back", &db, "d", |f| f.acked_seq == Some(1)).await;
    let at = fact.acked_at.unwrap();
    assert!(before <= at && at <= left + LATE, "dated when it was, not when it was written: {before} {at} {left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_go_with_their_numbers_and_with_their_sessions() {
    let db = log_of(10).await;
    let hub = TestHub::on(&db).with("RECADO_DELIVERY_FACTS", "200ms").start().await;
    let stays = async |device: &str, seq: i64| {
        let mut client = TestClient::of("ann").device(device).query("ack", "client").connect(&hub).await;
        let mut last = 0;
        while last < seq {
            last = hub.post(&note("n").to_user("ann")).await.seq;
        }
        client.until_seq(seq).await;
        client.ack(seq).await;
        client.close().await;
        fact_that("its end is told", &db, device, |f| f.acked_seq == Some(seq)).await;
        post_ack(&hub, "ann", &format!("{device}-beside"), seq).await;
        fact_that("so is the other", &db, &format!("{device}-beside"), |f| f.acked_seq == Some(seq)).await;
    };
    stays("old", 9).await;
    stays("edge", 20).await;
    stays("new", 25).await;
    let done = retain(&db, ALL_FULL).await;
    assert_eq!(done.partitions_dropped, 2, "0 to 9 and 10 to 19");
    assert!(facts_of(&db, "old").await.is_empty() && facts_of(&db, "old-beside").await.is_empty());
    assert_eq!(facts_of(&db, "edge").await.last().unwrap().acked_seq, Some(20), "facts that include 20 stay");
    assert!(facts_of(&db, "edge").await.iter().all(|f| f.sent_seq.max(f.acked_seq) >= Some(20)));
    assert!(done.facts_deleted >= 2, "{done:?}");

    let an_hour = RetentionPolicy { sessions: Some(Duration::from_secs(3600)), ..RetentionPolicy::default() };
    for device in ["edge", "new"] {
        session_ended(&db, device).await;
    }
    assert_eq!(retain(&db, an_hour).await.facts_deleted, 0);
    db.run("UPDATE recado.session SET ended_at = ended_at - interval '2 hours' WHERE client_id = 'edge'").await;
    db.run("UPDATE recado.progress SET acked_at = acked_at - interval '2 hours' WHERE client_id = 'edge-beside'").await;
    let done = retain(&db, an_hour).await;
    assert!(done.sessions_deleted == 1 && done.facts_deleted >= 2, "{done:?}");
    assert!(facts_of(&db, "edge").await.is_empty() && facts_of(&db, "edge-beside").await.is_empty());
    assert!(!facts_of(&db, "new").await.is_empty() && !facts_of(&db, "new-beside").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_role_that_serves_may_add_facts_and_change_none() {
    let db = TestDb::new().await;
    let can = async |what: &str| {
        db.number(&format!("SELECT has_table_privilege('recado_hub', 'recado.progress', '{what}')::integer::bigint")).await == 1
    };
    assert!(can("SELECT").await && can("INSERT").await);
    assert!(!can("UPDATE").await && !can("DELETE").await && !can("TRUNCATE").await);
}
