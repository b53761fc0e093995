//! Tests each answer that the database may give in the middle of the hub's work.
//!
//! A transaction that was rolled back is tried again and its row exists once. A commit with an unknown outcome is
//! reported as unknown. No client is disconnected.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection};

use super::support::*;

/// Makes the database answer the next `times` appends with this SQLSTATE. The count survives the rollbacks.
async fn answers(db: &TestDb, state: &str, times: u32) {
    db.run(&format!(
        "DROP SEQUENCE IF EXISTS public.turn;
         CREATE SEQUENCE public.turn;
         CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
             IF nextval('public.turn') <= {times} THEN RAISE EXCEPTION 'made up' USING ERRCODE = '{state}'; END IF;
             RETURN NULL; END $$;
         CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON recado.log FOR EACH STATEMENT EXECUTE FUNCTION public.refuse()"
    ))
    .await;
}

async fn turns(db: &TestDb) -> i64 {
    db.number("SELECT last_value FROM public.turn").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_surely_rolled_back_is_tried_again_and_is_there_once() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    // Serialization failure, deadlock, lock and statement timeouts, read-only, a stale plan, a full disk, no connection
    // left.
    for (n, state) in (1..).zip(["40001", "40P01", "55P03", "57014", "25006", "0A000", "53100", "53300"]) {
        answers(&db, state, 2).await;
        let answer = hub.try_post(&note(state).to_user("ann").key(state)).await.unwrap();
        assert_eq!(answer.status, 201, "{state}: {}", answer.body);
        assert!(answer.took < Duration::from_secs(5), "{state}: {:?}", answer.took);
        assert_eq!((answer.receipt().seq, db.head().await, turns(&db).await), (n, n, 3), "{state}");
        assert_eq!(ann.expect_notification().await.title, state);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_been_committed_is_unknown_and_the_repeat_settles_it() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    // The server is told to stop, crashes, or starts. It may say so after a commit.
    for (n, state) in (1..).zip(["57P01", "57P02", "57P03", "08006"]) {
        answers(&db, state, 1).await;
        let draft = note(state).to_user("ann").key(state);
        let unknown = hub.try_post(&draft).await.unwrap();
        assert_eq!((unknown.status, unknown.code(), turns(&db).await), (503, "outcome_unknown", 1), "{state}: {}", unknown.body);
        assert!(unknown.took < Duration::from_secs(5), "{state}: {:?}", unknown.took);
        let repeat = hub.try_post(&draft).await.unwrap();
        assert_eq!((repeat.status, repeat.receipt().seq, db.head().await), (201, n, n), "{state}: {}", repeat.body);
        assert_eq!(ann.expect_notification().await.title, state);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_the_database_cancels_is_asked_for_again_and_the_client_stays() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    db.run(&super::resume::many_rows(700)).await;
    hub.settled(&db).await;
    let mut locker = db.connect().await;
    let mut lock = locker.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE recado.log IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let mut client = TestClient::of("ann").since("earliest").connect(&hub).await;
    // As `statement_timeout` would, with the same SQLSTATE, but at once.
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = 'recado reader' AND wait_event_type = 'Lock'";
    for _ in 0..2 {
        eventually("a page is waited for, and cancelled", PATIENCE, async || (db.number(cancel).await > 0).then_some(())).await;
    }
    eventually("it was told so", PATIENCE, async || hub.said().contains("could not read a replay page; retrying").then_some(())).await;
    lock.rollback().await.unwrap();
    let got = client.until_caught_up().await;
    assert_eq!(got.iter().map(|n| n.seq).collect::<Vec<_>>(), (1..=700).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn columns_that_are_added_under_load_fail_no_post_and_lose_nothing() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let hubs = [TestHub::on(&db).start().await, TestHub::on(&db).start().await];
    let addresses = Addresses::of(&hubs);
    let fan = Fan::start(&["ann", "bob"], 3, &addresses).await;
    let writers = Writers::start(4, &addresses, &db.key(), Duration::from_millis(2), mixed);
    let tables = ["log", "log_member", "idempotency", "meta", "cursor", "session", "progress", "service_key"];
    for (n, table) in tables.into_iter().enumerate() {
        writers.until_count(writers.count() + 15, PATIENCE).await;
        // As a migration does that must not block other sessions for long.
        let alter = format!("SET lock_timeout = '1s'; ALTER TABLE recado.{table} ADD COLUMN later_{n} text");
        eventually("the column is there", PATIENCE, async || {
            sqlx::raw_sql(AssertSqlSafe(alter.clone())).execute(&mut db.connect().await).await.ok()
        })
        .await;
        // A resume uses the plans from before the change.
        let mut client = TestClient::of("ann").device("late").since("earliest").connect(&hubs[n % 2]).await;
        client.until_caught_up().await;
    }
    writers.until_count(writers.count() + 30, PATIENCE).await;
    let diary = writers.stop().await;
    assert!(diary.refused.len() * 100 <= diary.posted.len(), "{} of {}: {:?}", diary.refused.len(), diary.posted.len(), diary.refused);
    let end = hubs[0].post(&note("end").to_everyone()).await;
    fan.until_everyone_has(end.seq, PATIENCE).await;
    nothing_is_lost(&log_rows(&db.url()).await, &diary, &fan);
}
