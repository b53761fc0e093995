//! Tests `recado why`: whether a user has a notification, when, or why not.
//!
//! It tells when it was sent and acknowledged.

use std::time::Duration;

use recado::domain::{Role, Seq, UserId};
use recado::log::retention::RetentionPolicy;
use recado::store::{Database, why};
use serde_json::Value;
use tokio::process::Command;

use super::retention::{ALL_FULL, log_of, retain};
use super::support::*;

async fn ask(hub: &TestHub, db: &TestDb, user: &str, seq: i64) -> Value {
    let (status, body) = hub.get(&format!("/api/admin/why?user={user}&seq={seq}"), Some(&db.admin_key())).await.unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Asks until the devices have these verdicts: facts are written a moment after the events that they record.
async fn becomes(hub: &TestHub, db: &TestDb, user: &str, seq: i64, devices: &[(&str, &str)]) -> Value {
    let found = |answer: &Value| -> Vec<(String, String)> {
        let devices = answer["devices"].as_array().unwrap().iter();
        devices.map(|d| (d["client_id"].as_str().unwrap().to_owned(), d["verdict"].as_str().unwrap().to_owned())).collect()
    };
    let expected: Vec<_> = devices.iter().map(|(device, verdict)| ((*device).to_owned(), (*verdict).to_owned())).collect();
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = ask(hub, db, user, seq).await;
        if found(&answer) == expected {
            return answer;
        }
        assert!(tokio::time::Instant::now() < end, "expected {expected:?}: {answer:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn device<'a>(answer: &'a Value, client: &str) -> &'a Value {
    answer["devices"].as_array().unwrap().iter().find(|d| d["client_id"] == client).unwrap()
}

async fn session_ended(db: &TestDb, device: &str, count: i64) {
    let sql = format!("SELECT count(*) FROM recado.session WHERE client_id = '{device}' AND ended_at IS NOT NULL");
    eventually("its end is stored", PATIENCE, async || (db.number(&sql).await == count).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn two_devices_on_two_hubs_have_each_their_times_and_an_absent_one_its_reason() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    TestClient::of("ann").device("tablet").connect(&here).await.close().await;
    session_ended(&db, "tablet", 1).await;
    let mut web = TestClient::of("ann").device("web").query("ack", "client").connect(&here).await;
    let mut phone = TestClient::of("ann").device("phone").query("ack", "client").connect(&there).await;
    let seq = here.post(&note("n").to_users(&["ann", "bob"])).await.seq;
    web.until_seq(seq).await;
    phone.until_seq(seq).await;
    becomes(&here, &db, "ann", seq, &[("phone", "sent"), ("tablet", "no_session"), ("web", "sent")]).await;
    phone.ack(seq).await;
    for hub in [&here, &there] {
        let answer = becomes(hub, &db, "ann", seq, &[("phone", "acked"), ("tablet", "no_session"), ("web", "sent")]).await;
        assert_eq!(
            (&answer["verdict"], &answer["notification"]["to"], &answer["notification"]["source"]),
            (&"acked".into(), &"list".into(), &"shop".into())
        );
        let answer = eventually("the fact is there", PATIENCE, async || {
            let answer = ask(hub, &db, "ann", seq).await;
            device(&answer, "phone")["acked_after_ms"].is_i64().then_some(answer)
        })
        .await;
        let phone_says = device(&answer, "phone");
        let (sent, acked) = (phone_says["sent_after_ms"].as_i64().unwrap(), phone_says["acked_after_ms"].as_i64().unwrap());
        assert!(0 <= sent && sent <= acked && acked < 60_000, "{phone_says}");
        assert_eq!((&phone_says["sent_exact"], &phone_says["session_id"]), (&true.into(), &phone.hello["session_id"]));
        let text = answer["text"].as_str().unwrap();
        for part in [
            "appended at",
            "to ann in a list",
            "phone was sent it after 0.",
            "and acknowledged it",
            "tablet was not sent it: it has no session",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    // The next one is acknowledged by POST alone.
    let next = there.post(&note("n").to_user("ann")).await.seq;
    web.until_seq(next).await;
    let request = reqwest::Client::new().post(format!("http://{}/api/notifications/ack", there.address)).bearer_auth(token("ann", &[]));
    let acked = request.json(&serde_json::json!({ "client_id": "web", "seq": next })).send().await.unwrap();
    assert_eq!(acked.status(), 200);
    becomes(&here, &db, "ann", next, &[("phone", "sent"), ("tablet", "no_session"), ("web", "acked")]).await;
    // The time of sending is a fact of its own, and may be written after the acknowledgement.
    eventually("the session is named", PATIENCE, async || {
        let answer = ask(&here, &db, "ann", next).await;
        (device(&answer, "web")["session_id"] == web.hello["session_id"]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn whom_it_was_for_is_told_first() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").account("7").connect(&hub).await;
    let to_bob = hub.post(&note("n").to_user("bob")).await.seq;
    let to_8 = hub.post(&note("n").account("8")).await.seq;
    let to_7 = hub.post(&note("n").account("7")).await.seq;
    let to_ann_in_8 = hub.post(&note("n").to_user("ann").account("8")).await.seq;
    let to_list = hub.post(&note("n").to_users(&["bob", "eve"])).await.seq;
    let to_all = hub.post(&note("n").to_everyone()).await.seq;
    ann.until_seq(to_all).await;
    eventually("her session is stored", PATIENCE, async || (db.number("SELECT count(*) FROM recado.session").await == 1).then_some(()))
        .await;
    for (user, seq, verdict) in [
        ("ann", to_bob, "not_addressed"),
        ("ann", to_8, "not_in_account"),
        ("ann", to_ann_in_8, "not_in_account"),
        ("ann", to_list, "not_addressed"),
        ("bob", to_bob, "never_connected"),
        ("nobody", to_all, "never_connected"),
        ("ann", to_all + 1, "not_given"),
    ] {
        let answer = ask(&hub, &db, user, seq).await;
        assert_eq!(answer["verdict"], verdict, "{user} {seq}: {answer}");
    }
    let answer = ask(&hub, &db, "ann", to_8).await;
    assert!(answer["text"].as_str().unwrap().contains("the sessions that are kept were in 7"), "{answer}");
    for seq in [to_7, to_all] {
        becomes(&hub, &db, "ann", seq, &[("default", "acked")]).await;
    }
    // In an account of hers, but not on this device.
    let mut other = TestClient::of("ann").account("8").device("eight").connect(&hub).await;
    let later = hub.post(&note("n").to_user("ann").account("8")).await.seq;
    other.until_seq(later).await;
    becomes(&hub, &db, "ann", later, &[("default", "other_account"), ("eight", "acked")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn what_a_device_passed_without_being_sent_it_is_not_called_acknowledged() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let asked = TestClient::of("ann").device("d");
    let mut client = asked.connect(&hub).await;
    let first = hub.post(&note("first").to_user("ann")).await.seq;
    client.until_seq(first).await;
    becomes(&hub, &db, "ann", first, &[("d", "acked")]).await;
    client.close().await;
    session_ended(&db, "d", 1).await;
    let brief = hub.post(&note("brief").to_user("ann").ttl(1)).await.seq;
    let once = hub.post(&note("once").to_user("ann").never_replayed()).await.seq;
    let kept = hub.post(&note("kept").to_user("ann")).await.seq;
    becomes(&hub, &db, "ann", kept, &[("d", "no_session")]).await;
    let over = format!("SELECT (expires_at <= clock_timestamp())::integer::bigint FROM recado.log WHERE seq = {brief}");
    eventually("it is over", PATIENCE, async || (db.number(&over).await == 1).then_some(())).await;
    let mut client = asked.connect(&hub).await;
    assert_eq!(client.until_caught_up().await.iter().map(|n| n.seq).collect::<Vec<_>>(), [kept]);
    becomes(&hub, &db, "ann", kept, &[("d", "acked")]).await;
    becomes(&hub, &db, "ann", brief, &[("d", "expired")]).await;
    becomes(&hub, &db, "ann", once, &[("d", "not_replayed")]).await;
    becomes(&hub, &db, "ann", first, &[("d", "acked")]).await;
    // Live, both are sent all the same.
    let live = hub.post(&note("live").to_user("ann").never_replayed().ttl(1)).await.seq;
    client.until_seq(live).await;
    becomes(&hub, &db, "ann", live, &[("d", "acked")]).await;
    // One that begins at the head, and one that is new.
    let _live = TestClient::of("ann").device("live").since("live").connect(&hub).await;
    let _new = TestClient::of("ann").device("new").connect(&hub).await;
    becomes(&hub, &db, "ann", kept, &[("d", "acked"), ("live", "began_after"), ("new", "new_since")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_of_the_user_is_named_with_its_reason() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    TestClient::of("ann").device("d").connect(&hub).await.close().await;
    session_ended(&db, "d", 1).await;
    let seq = hub.post(&note("n").to_user("ann")).await.seq;
    let before = ask(&hub, &db, "ann", seq).await;
    assert_eq!((&before["revocation"], before["text"].as_str().unwrap().contains("revoked")), (&serde_json::Value::Null, false));
    let program = TestHub::on(&db).with("RECADO_URL", &format!("http://{}", hub.address));
    program.run(&["revoke", "ann", "--reason", "left the company"]).await;
    let answer = ask(&hub, &db, "ann", seq).await;
    assert_eq!(answer["revocation"]["reason"], "left the company");
    let said = format!(
        "Access of ann is revoked (left the company): tokens issued before {} are refused.",
        answer["revocation"]["not_before"].as_str().unwrap()
    );
    assert!(answer["text"].as_str().unwrap().ends_with(&said), "{answer}");
    assert!(program.run(&["why", "ann", &seq.to_string()]).await.contains(&said));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_not_that_far_is_behind() {
    let db = TestDb::new().await;
    let (here, frozen) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let _client = TestClient::of("ann").device("d").connect(&frozen).await;
    eventually("the session is stored", PATIENCE, async || (db.number("SELECT count(*) FROM recado.session").await == 1).then_some(()))
        .await;
    frozen.signal("-STOP").await;
    let seq = here.post(&note("n").to_user("ann")).await.seq;
    let answer = becomes(&here, &db, "ann", seq, &[("d", "behind")]).await;
    assert!(answer["text"].as_str().unwrap().contains("it was sent up to 0"), "{answer}");
    frozen.signal("-CONT").await;
    becomes(&here, &db, "ann", seq, &[("d", "acked")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forgotten_is_said_to_be() {
    let db = log_of(10).await;
    let hub = TestHub::on(&db).start().await;
    let mut client = TestClient::of("ann").device("d").connect(&hub).await;
    for _ in 0..12 {
        hub.post(&note("n").to_user("ann")).await;
    }
    client.until_seq(12).await;
    becomes(&hub, &db, "ann", 12, &[("d", "acked")]).await;
    client.close().await;
    session_ended(&db, "d", 1).await;
    assert_eq!(retain(&db, ALL_FULL).await.partitions_dropped, 1);
    let answer = ask(&hub, &db, "ann", 9).await;
    assert_eq!((&answer["verdict"], &answer["notification"]), (&"dropped".into(), &Value::Null));
    assert!(answer["text"].as_str().unwrap().contains("no longer known"), "{answer}");
    // The sessions and facts of that time are gone, the position is not.
    db.run("DELETE FROM recado.session; DELETE FROM recado.progress").await;
    let answer = ask(&hub, &db, "ann", 11).await;
    assert_eq!(device(&answer, "d")["verdict"], "acked");
    assert!(answer["text"].as_str().unwrap().contains("when is not known"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_forgotten_device_acknowledged_stays_acknowledged() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut client = TestClient::of("ann").device("d").connect(&hub).await;
    hub.post(&note("n").to_user("ann")).await;
    client.until_seq(1).await;
    becomes(&hub, &db, "ann", 1, &[("d", "acked")]).await;
    client.close().await;
    session_ended(&db, "d", 1).await;
    let facts = "SELECT count(*) FROM recado.progress WHERE acked_seq >= 1";
    eventually("the fact is stored", PATIENCE, async || (db.number(facts).await > 0).then_some(())).await;
    db.run("UPDATE recado.cursor SET acked_at = now() - interval '9 days', seen_at = now() - interval '9 days'").await;
    let week = RetentionPolicy { devices: Some(Duration::from_secs(7 * 86_400)), ..RetentionPolicy::default() };
    assert_eq!(retain(&db, week).await.devices_forgotten, 1);
    let answer = ask(&hub, &db, "ann", 1).await;
    assert_eq!(device(&answer, "d")["verdict"], "acked", "{answer:#}");
    assert!(device(&answer, "d")["acked_after_ms"].is_i64(), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_for_admins_and_says_what_is_wrong_with_a_question() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let (user, service, key) = (token("ann", &[]), service_token("shop", Role::Service), db.key());
    for (bearer, status) in [(None, 401), (Some(&user), 403), (Some(&service), 403), (Some(&key), 403)] {
        let (answered, body) = hub.get("/api/admin/why?user=ann&seq=1", bearer.map(String::as_str)).await.unwrap();
        assert_eq!(answered, status, "{body}");
    }
    for query in [
        "",
        "?user=ann",
        "?seq=1",
        "?user=ann&seq=0",
        "?user=ann&seq=x",
        "?user=a%20b&seq=1",
        "?user=ann&seq=1&user=bob",
        "?user=ann&seq=1&x=1",
    ] {
        let (answered, body) = hub.get(&format!("/api/admin/why{query}"), Some(&db.admin_key())).await.unwrap();
        assert!(answered == 422 && body.contains("invalid_field"), "{query}: {answered} {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_says_it_in_a_paragraph_or_as_data() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut client = TestClient::of("ann").device("web").connect(&hub).await;
    let seq = hub.post(&note("n").to_user("ann")).await.seq;
    client.until_seq(seq).await;
    becomes(&hub, &db, "ann", seq, &[("web", "acked")]).await;
    let recado = async |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
        command.args(args).env_clear().env("RECADO_JWT_SECRET", SECRET).env("RECADO_URL", format!("http://{}", hub.address));
        let output = command.output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = recado(&["why", "ann", "1"]).await;
    assert!(
        code == Some(0) && said.starts_with("Number 1 (order_created, from shop) was appended at") && said.lines().count() == 1,
        "{said}"
    );
    let (code, said) = recado(&["why", "ann", "1", "-o", "json"]).await;
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, answer["verdict"].as_str()), (Some(0), Some("acked")));
    assert_eq!(recado(&["why", "ann", "0"]).await.0, Some(2));
    assert_eq!(recado(&["why", "a b", "1"]).await.0, Some(2));
}

/// Plans are the server's choice, so the test counts what it read. Reading a whole table is counted as such.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_long_log_with_many_sessions_and_facts_no_table_is_read_whole() {
    let db = TestDb::new().await;
    db.run(
        "INSERT INTO recado.log (seq, id, created_at, type, title, message, topic, user_id, replay, source, bytes)
         SELECT n, gen_random_uuid(), clock_timestamp() - (50000 - n) * interval '1 second', 't', 't', 'm', 'u/u' || n % 50, 'u' || n % 50, true, 's', 2
           FROM generate_series(1, 50000) n;
         INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq)
         SELECT 'u' || n % 50, 'd' || n, log_id, n FROM recado.meta, generate_series(1, 20000) n;
         INSERT INTO recado.session (session_id, instance_id, user_id, account_ids, client_id, transport, log_id, from_seq, sent_seq, acked_seq,
                                     connected_at, last_activity_at, ended_at, end_reason)
         SELECT gen_random_uuid(), gen_random_uuid(), 'u' || n % 50, '{7}', 'd' || n, 'websocket', log_id, n, n + 10, n + 10,
                clock_timestamp() - (50000 - n) * interval '1 second', clock_timestamp(), clock_timestamp() - (49900 - n) * interval '1 second', 'lost'
           FROM recado.meta, generate_series(1, 50000) n;
         INSERT INTO recado.progress (session_id, user_id, client_id, log_id, sent_seq, sent_at, acked_seq, acked_at)
         SELECT session_id, user_id, client_id, log_id, sent_seq, ended_at, acked_seq, ended_at FROM recado.session;
         ANALYZE recado.log; ANALYZE recado.cursor; ANALYZE recado.session; ANALYZE recado.progress",
    )
    .await;
    let tables = "FROM pg_stat_user_tables WHERE schemaname = 'recado' AND pg_relation_size(relid) > 500000";
    assert_eq!(db.number(&format!("SELECT count(*) {tables}")).await, 4, "the tables that are filled");
    // A session reports its counts when it ends, so this one must be over before they are set to zero.
    db.run("SELECT pg_stat_force_next_flush(); SELECT pg_stat_reset()").await;
    let reader = Database::parse(&db.url(), None).unwrap().reader("why", 1);
    let facts = why::facts(&reader, &UserId::parse("u7").unwrap(), Seq::from_db(25_007)).await.unwrap();
    assert!(facts.row.is_some() && facts.sessions.len() > 100 && facts.devices.len() > 200, "positions, and devices of sessions");
    assert!(facts.sessions.iter().any(|s| s.reached.is_some()));
    reader.close().await;
    let all_used = format!("SELECT count(*) {tables} AND idx_scan > 0");
    eventually("the reader's counts are reported", PATIENCE, async || (db.number(&all_used).await == 4).then_some(())).await;
    let whole: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT relname::text {tables} AND seq_scan > 0")))
        .fetch_all(&mut db.connect().await)
        .await
        .unwrap();
    assert_eq!(whole, [""; 0], "read whole");
}

/// What went wrong: `why` and the views counted what a filter had left out as sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_connection_did_not_ask_for_was_not_sent() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut some = TestClient::of("ann").device("some").query("types", "order_*,stock").query("ack", "client").connect(&hub).await;
    let mut all = TestClient::of("ann").device("all").query("ack", "client").connect(&hub).await;
    let other = hub.post(&note("other").raw("type", "\"invoice\"").to_user("ann")).await.seq;
    let order = hub.post(&note("order").raw("type", "\"order_paid\"").to_user("ann")).await.seq;
    some.until_seq_past_others(order).await;
    all.until_seq(order).await;
    becomes(&hub, &db, "ann", order, &[("all", "sent"), ("some", "sent")]).await;
    becomes(&hub, &db, "ann", other, &[("all", "sent"), ("some", "other_types")]).await;
    let answer = ask(&hub, &db, "ann", other).await;
    assert!(answer["text"].as_str().unwrap().contains("some was not sent it: it asked for other types only."), "{answer}");
    // A session's row is stored some seconds late. What was not asked for does not wait for an acknowledgement either.
    for (what, expected) in [
        ("count(*) FROM recado_views.deliveries WHERE client_id = 'all'", 2),
        ("count(*) FROM recado_views.deliveries WHERE client_id = 'some'", 1),
        ("unacked FROM recado_views.unacked WHERE client_id = 'all'", 2),
        ("unacked FROM recado_views.unacked WHERE client_id = 'some'", 1),
        ("count(*) FROM recado_views.sessions WHERE types = 'order_*,stock'", 1),
    ] {
        eventually(what, PATIENCE, async || (db.number(&format!("SELECT {what}")).await == expected).then_some(())).await;
    }
    // The function agrees with the hub's filter.
    for (types, kind, takes) in
        [("a,b*", "a", true), ("a,b*", "ab", false), ("a,b*", "bc", true), ("*", "x", true), ("a", "upstream_gap", true)]
    {
        let sql = format!("SELECT recado_views.takes('{types}', '{kind}')::int::bigint");
        assert_eq!(db.number(&sql).await, i64::from(takes), "{types} {kind}");
    }
}
