//! Tests the stored sessions: who is connected where, how far, and why it ended.

use std::time::Duration;

use recado::domain::Role;
use recado::store::instances;
use serde_json::Value;

use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn stats_show_every_session_of_every_instance_with_the_fields_of_the_contract() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let mut ann = TestClient::of("ann").account("7").account("8").device("web-1").connect(&here).await;
    let mut bob = TestClient::of("bob").query("ack", "client").connect(&there).await;
    let seq = here.post(&note("n").to_everyone()).await.seq;
    ann.until_seq(seq).await;
    bob.until_seq(seq).await;
    for hub in [&here, &there] {
        let (of_ann, of_bob) = eventually("both sessions are shown", PATIENCE, async || {
            let stats = hub.stats().await;
            let sessions = stats["connections"].as_array().unwrap().clone();
            let of = |user: &str| sessions.iter().find(|s| s["userId"] == user && s["sentSeq"] == seq).cloned();
            of("ann").filter(|s| s["ackedSeq"] == seq).zip(of("bob")).filter(|_| stats["totalConnections"] == 2)
        })
        .await;
        assert_eq!(of_ann["sessionId"], ann.hello["session_id"]);
        assert_eq!((&of_ann["accountIds"], &of_ann["clientId"]), (&serde_json::json!(["7", "8"]), &Value::from("web-1")));
        assert_eq!((of_ann["lag"].as_i64(), of_bob["lag"].as_i64(), of_bob["ackedSeq"].as_i64()), (Some(0), Some(1), Some(0)));
        assert_ne!(of_ann["instance"], of_bob["instance"]);
        for session in [&of_ann, &of_bob] {
            assert_eq!((&session["transport"], &session["upstreamConnected"]), (&Value::from("websocket"), &Value::from(false)));
            let (connected, active) = (session["connectedAt"].as_i64().unwrap(), session["lastActivity"].as_i64().unwrap());
            assert!(connected > 1_600_000_000_000 && active >= connected, "{session}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stats_are_for_admins() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let (user, service, admin) = (token("ann", &[]), service_token("shop", Role::Service), service_token("boss", Role::Admin));
    let (key, admin_key) = (db.key(), db.admin_key());
    let cases = [
        ("nobody", None, 401),
        ("an unknown key", Some("rck_unknown"), 401),
        ("a user", Some(user.as_str()), 403),
        ("a service's token", Some(&service), 403),
        ("a service's key", Some(&key), 403),
        ("an admin's token", Some(&admin), 200),
        ("an admin's key", Some(&admin_key), 200),
    ];
    for (who, bearer, status) in cases {
        let (answered, body) = hub.get("/stats", bearer).await.unwrap();
        assert_eq!(answered, status, "{who}: {body}");
        if status != 200 {
            assert!(!body.contains("connections") && body.contains("\"code\""), "{body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_row_says_from_where_to_where_and_why_it_ended() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("before").to_user("ann")).await;
    hub.settled(&db).await;
    let polite = async |device: &str| {
        let mut client = TestClient::of("ann").device(device).query("ack", "client").connect(&hub).await;
        client.until_caught_up().await;
        hub.post(&note("n").to_user("ann")).await;
        client.expect_notification().await;
        let seq = hub.post(&note("n").to_user("ann")).await.seq;
        client.until_seq(seq).await;
        client.ack(seq - 1).await;
        client.say("{\"type\":\"ping\"}").await;
        client.expect_other("pong").await;
        client
    };
    polite("goes").await.close().await;
    polite("vanishes").await.kill();
    let mut noisy = polite("noisy").await;
    for _ in 0..60 {
        noisy.say("nonsense").await;
    }
    let ended = noisy.ended(PATIENCE).await;
    assert!(matches!(ended, ClientEnd::Code(4502 | 4029, _)), "{ended:?}");
    let sql =
        "SELECT client_id, end_reason, from_seq, sent_seq, acked_seq FROM recado.session WHERE ended_at IS NOT NULL ORDER BY from_seq";
    let rows = eventually("all three have ended", PATIENCE, async || {
        let rows: Vec<(String, String, i64, i64, i64)> = sqlx::query_as(sql).fetch_all(&mut db.connect().await).await.unwrap();
        (rows.len() == 3).then_some(rows)
    })
    .await;
    let found: Vec<_> = rows.iter().map(|(device, why, from, sent, acked)| (device.as_str(), why.as_str(), *from, *sent, *acked)).collect();
    let why_noisy = found[2].1;
    assert!(["protocol_error", "rate_limited"].contains(&why_noisy), "{why_noisy}");
    assert_eq!(found, [("goes", "closed_by_client", 1, 3, 2), ("vanishes", "lost", 3, 5, 4), ("noisy", why_noisy, 5, 7, 6)]);
}

/// A hub that was frozen wakes, stores its connections as open, and is killed before it renews its heartbeat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_stored_as_open_after_its_instance_was_ended_is_ended_too() {
    let db = TestDb::new().await;
    let doomed = TestHub::on(&db).start().await;
    let _bob = TestClient::of("bob").connect(&doomed).await;
    doomed.kill().await;
    db.run("UPDATE recado.instance SET ended_at = seen_at").await;
    let mut connection = db.connect().await;
    assert_eq!(instances::bury_the_dead(&mut connection).await.unwrap(), 1);
    assert_eq!(db.number("SELECT count(*) FROM recado.session WHERE ended_at IS NULL").await, 0);
    assert_eq!(db.number("SELECT count(*) FROM recado.session WHERE end_reason = 'instance_lost'").await, 1);
    assert_eq!(instances::bury_the_dead(&mut connection).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn the_sessions_of_a_killed_instance_are_ended_by_another() {
    let db = TestDb::new().await;
    let (here, doomed) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let _ann = TestClient::of("ann").connect(&here).await;
    let _bob = TestClient::of("bob").connect(&doomed).await;
    let shown = async |count: i64| (here.stats().await["totalConnections"] == count).then_some(());
    eventually("both are shown", PATIENCE, async || shown(2).await).await;
    doomed.kill().await;
    // Three missed heartbeats of 5 s each, and the next check.
    eventually("one is left", Duration::from_secs(27), async || shown(1).await).await;
    let sql = "SELECT user_id, end_reason FROM recado.session WHERE ended_at IS NOT NULL";
    let ended: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(&mut db.connect().await).await.unwrap();
    assert_eq!(ended, [("bob".to_owned(), "instance_lost".to_owned())]);
    assert_eq!(db.number("SELECT count(*) FROM recado.instance WHERE ended_at IS NOT NULL").await, 1);
}
