//! Tests that a device resumes after any break without missing or reordering anything.
//!
//! Otherwise the hub reports a gap or a reset.

use std::time::Duration;

use super::support::*;

fn titles(got: &[ClientNotification]) -> Vec<&str> {
    got.iter().map(|n| n.title.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_client_gets_exactly_what_it_missed() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let asked = TestClient::of("ann").device("web").query("ack", "client");
    let mut client = asked.connect(&hub).await;
    for n in 0..3 {
        hub.post(&note(&format!("seen {n}")).to_user("ann")).await;
    }
    let seen = client.until("seen 2").await;
    client.ack(seen[2].seq).await;
    eventually("the ack is stored", PATIENCE, async || (db.place("ann", "web").await == Some(3)).then_some(())).await;
    client.kill();
    hub.post(&note("of bob").to_user("bob")).await;
    for n in 0..4 {
        hub.post(&note(&format!("missed {n}")).to_user("ann")).await;
    }
    hub.post(&note("of bob").to_user("bob")).await;

    hub.settled(&db).await;
    let mut client = asked.connect(&hub).await;
    assert_eq!((client.resume_status(), client.hello["resume"]["from"].as_i64()), ("ok", Some(3)));
    assert_eq!(titles(&client.until_caught_up().await), ["missed 0", "missed 1", "missed 2", "missed 3"]);
    assert_eq!(client.given, 9, "caught_up names the head, not the user's last row");
    hub.post(&note("live").to_user("ann")).await;
    let live = client.expect_notification().await;
    assert_eq!((live.title.as_str(), live.replayed, live.prev), ("live", false, 9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_device_starts_at_the_head_and_its_start_is_a_place() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("before").to_user("ann")).await;
    hub.settled(&db).await;
    let asked = TestClient::of("ann").device("new").query("ack", "client");
    let mut client = asked.connect(&hub).await;
    assert_eq!((client.resume_status(), client.hello["resume"]["from"].as_i64()), ("live", Some(1)));
    assert_eq!(titles(&client.until_caught_up().await), [""; 0]);
    assert_eq!(db.place("ann", "new").await, Some(1));
    client.kill();
    hub.post(&note("meanwhile").to_user("ann")).await;
    hub.settled(&db).await;
    // It never acknowledged anything, and still misses nothing.
    let mut client = asked.connect(&hub).await;
    assert_eq!(titles(&client.until_caught_up().await), ["meanwhile"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn since_live_earliest_and_a_number_mean_what_they_say() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    for n in 1..=5 {
        hub.post(&note(&n.to_string()).to_user("ann")).await;
    }
    hub.settled(&db).await;
    let cases: [(&str, &str, &[&str]); 5] = [
        ("live", "live", &[]),
        ("earliest", "ok", &["1", "2", "3", "4", "5"]),
        ("0", "ok", &["1", "2", "3", "4", "5"]),
        ("3", "ok", &["4", "5"]),
        ("5", "ok", &[]),
    ];
    for (since, status, expected) in cases {
        let mut client = TestClient::of("ann").since(since).connect(&hub).await;
        assert_eq!(client.resume_status(), status, "since={since}");
        assert_eq!(titles(&client.until_caught_up().await), expected, "since={since}");
    }
    for bad in ["-1", "x", "9223372036854775808"] {
        let refused = TestClient::of("ann").since(bad).open(&hub).await.expect_err("no handshake");
        assert!(refused.to_string().contains("400"), "since={bad}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_resume_under_load_has_no_hole_and_no_double() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    db.run(&many_rows(3000)).await;
    hub.has_published(3000).await;
    let addresses = Addresses::of([&hub]);
    let draft = |n: usize| if n.is_multiple_of(3) { note("w").to_user("bob") } else { note("w").to_user("ann") };
    let writers = Writers::start(2, &addresses, &db.key(), Duration::from_millis(2), draft);
    writers.until_count(10, PATIENCE).await;
    // Several at once, each at another point of the load.
    let mut clients = Vec::new();
    for n in 0..4 {
        clients.push(TestClient::of("ann").device(&format!("d{n}")).since("earliest").connect(&hub).await);
        writers.until_count(10 + n * 30, PATIENCE).await;
    }
    let mut received = Vec::new();
    for client in &mut clients {
        let mut got = client.until_caught_up().await;
        assert!(got.len() >= 3000, "{}", got.len());
        received.push(std::mem::take(&mut got));
    }
    let diary = writers.stop().await;
    let end = hub.post(&note("end").to_everyone()).await;
    let expected = addressed_to(&db, "ann").await;
    assert!(diary.posted.len() > 50 && expected.len() as i64 > 3000);
    for (client, mut got) in clients.iter_mut().zip(received) {
        got.extend(client.until_seq(end.seq).await);
        let seqs: Vec<i64> = got.iter().map(|n| n.seq).collect();
        assert_eq!(seqs, expected);
    }
}

/// Rows for ann, made by the log's own function in one statement.
pub fn many_rows(count: usize) -> String {
    format!(
        "SELECT recado.append(0, NULL, 'test', array_agg(gen_random_uuid()), array_agg('t'::text), array_agg('bulk'::text), array_agg('m'::text),
                array_agg(NULL::text), array_agg('u/ann'::text), array_agg('ann'::text), array_agg(NULL::text), array_agg(NULL::text),
                array_agg(NULL::integer), array_agg(true), array_agg('test'::text), array_agg(NULL::uuid), array_agg(0::bigint))
           FROM generate_series(1, {count})"
    )
}

async fn addressed_to(db: &TestDb, user: &str) -> Vec<i64> {
    let sql = "SELECT seq FROM recado.log WHERE topic IN ('*', 'u/' || $1) ORDER BY seq";
    sqlx::query_scalar(sql).bind(user).fetch_all(&mut db.connect().await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_expired_or_is_not_for_replay_comes_live_only() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut live = TestClient::of("ann").connect(&hub).await;
    hub.post(&note("short-lived").to_user("ann").ttl(1)).await;
    hub.post(&note("long-lived").to_user("ann").ttl(3600)).await;
    hub.post(&note("live only").to_user("ann").never_replayed()).await;
    hub.post(&note("live only to many").to_users(&["ann", "bob"]).never_replayed()).await;
    hub.post(&note("end").to_user("ann")).await;
    let got = live.titles_before("end").await;
    assert_eq!(got, ["short-lived", "long-lived", "live only", "live only to many"]);

    let before = TestClient::of("ann").since("earliest").device("2").connect(&hub).await.until_caught_up().await;
    assert!(!titles(&before).iter().any(|title| title.starts_with("live only")), "{before:?}");
    let expired = "SELECT count(*) FROM recado.log WHERE expires_at <= clock_timestamp()";
    eventually("its time is over", PATIENCE, async || (db.number(expired).await == 1).then_some(())).await;
    let mut late = TestClient::of("ann").since("earliest").device("3").connect(&hub).await;
    assert_eq!(titles(&late.until_caught_up().await), ["long-lived", "end"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_of_another_history_is_answered_with_reset() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ids = Vec::new();
    for n in 1..=3 {
        ids.push(hub.post(&note(&n.to_string()).to_user("ann")).await.id);
    }
    hub.settled(&db).await;
    let log_id = TestClient::of("ann").connect(&hub).await.log_id().to_owned();
    let another = "00000000-0000-4000-8000-000000000000";
    let cases = [
        ("another log", TestClient::of("ann").since(2).query("log_id", another), "reset"),
        ("another log, by the stored place", TestClient::of("ann").query("log_id", another), "reset"),
        ("another id at that number", TestClient::of("ann").since(2).query("last_id", another), "reset"),
        ("the id of another number", TestClient::of("ann").since(2).query("last_id", &ids[0]), "reset"),
        ("a place beyond the head", TestClient::of("ann").since(4), "reset"),
        ("the largest number", TestClient::of("ann").since(i64::MAX), "reset"),
        ("all is well", TestClient::of("ann").since(2).query("last_id", &ids[1]).query("log_id", &log_id), "ok"),
    ];
    for (what, asked, status) in cases {
        let mut client = asked.connect(&hub).await;
        assert_eq!(client.resume_status(), status, "{what}");
        let expected: &[&str] = if status == "reset" { &["1", "2", "3"] } else { &["3"] };
        assert_eq!(titles(&client.until_caught_up().await), expected, "{what}");
    }
}
