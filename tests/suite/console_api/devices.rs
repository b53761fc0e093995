//! Tests the list of devices: those that are away are in it, every filter and order, and the reason of each lag.

use serde_json::{Value, json};

use super::*;

const DEVICES: &str = "/api/admin/devices";

async fn list(db: &TestDb, hub: &TestHub, query: &str) -> Value {
    shown(db, hub, &format!("{DEVICES}?{query}")).await
}

/// User, device and state of each row.
fn names(answer: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    named(answer).iter().map(|row| format!("{} {} {}", text(&row["user_id"]), text(&row["client_id"]), text(&row["state"]))).collect()
}

/// The reason of the lag of one device.
fn why(answer: &Value, client: &str) -> String {
    let row = named(answer).into_iter().find(|row| row["client_id"] == client).unwrap_or_else(|| panic!("{client}: {answer}"));
    row["why"].as_str().unwrap().to_owned()
}

/// Devices without a session, at these positions.
async fn devices_at(db: &TestDb, rows: &str) {
    db.run(&format!(
        "INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq, acked_at, seen_at)
         SELECT r.user_id, r.client_id, m.log_id, r.acked, now() - r.age, now() - r.age
           FROM recado.meta m, (VALUES {rows}) r (user_id, client_id, acked, age)"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_went_away_stays_in_the_list_with_the_reason() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut silent = TestClient::of("ann").device("silent").query("ack", "client").connect(&hub).await;
    let _choosy = TestClient::of("ann").device("choosy").query("types", "never_posted").connect(&hub).await;
    let mut gone = TestClient::of("bob").device("gone").connect(&hub).await;
    gone.until_caught_up().await;
    gone.close().await;
    let seq = hub.post(&note("n").to_everyone()).await.seq;
    silent.until_seq(seq).await;
    let answer = eventually("the end of the session is stored", PATIENCE, async || {
        let answer = list(&db, &hub, "").await;
        (why(&answer, "gone").contains("closed_by_client") && why(&answer, "choosy").contains("types")).then_some(answer)
    })
    .await;
    assert_eq!(names(&answer), ["ann choosy connected", "ann silent connected", "bob gone away"], "{answer}");
    let rows = named(&answer);
    for row in &rows {
        assert_eq!((&row["lag"], &row["acked"]), (&json!(1), &json!(0)), "{row}");
    }
    assert_eq!(rows.iter().map(|row| row["unacked"].clone()).collect::<Vec<_>>(), [json!(0), json!(1), json!(1)]);
    assert!(why(&answer, "silent").contains("it has not acknowledged for "), "{answer}");
    assert!(why(&answer, "choosy").contains("nothing waits for it"), "{answer}");
    assert!(why(&answer, "choosy").contains("it asked for types never_posted only"), "{answer}");
    assert_eq!((&rows[0]["types"], &rows[2]["end_reason"]), (&json!("never_posted"), &json!("closed_by_client")));
    assert!(rows[2]["ended_at"].as_i64().unwrap() >= rows[2]["connected_at"].as_i64().unwrap());
    // The page of the user says the same.
    let user = shown(&db, &hub, "/api/admin/users/ann").await;
    let silent = user["devices"].as_array().unwrap().iter().find(|device| device["client_id"] == "silent").unwrap();
    assert!(silent["why"].as_str().unwrap().contains("it has not acknowledged for "), "{user}");
    let program = TestHub::on(&db).with("RECADO_URL", &format!("http://{}", hub.address));
    let said = program.run(&["devices", "--state", "away", "--sort=user"]).await;
    assert!(said.contains("gone") && said.contains("closed_by_client") && !said.contains("silent"), "{said}");

    post(&hub, "/api/admin/revocations", &db.admin_key(), &json!({ "user_id": "bob", "reason": "left" })).await;
    assert!(why(&list(&db, &hub, "user=bob").await, "gone").ends_with("; access of the user is revoked (left)"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_filter_and_every_order_is_applied_before_the_limit() {
    let db = TestDb::new().await;
    append(&db, "nobody", 100, 1).await;
    let hub = TestHub::on(&db).start().await;
    another_instance(&db, "VALUES ('dan', '{7}'::text[], 'tv', 'sse', 90::bigint, now())").await;
    devices_at(
        &db,
        "('ann', 'web', 10, interval '3 h'), ('ann', 'phone', 50, interval '1 h'), ('bob', 'web', 99, interval '2 h'),
         ('dan', 'tv', 90, interval '10 s'), ('..', '..', 100, interval '4 h')",
    )
    .await;
    db.run("INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq) VALUES ('eve', 'old', gen_random_uuid(), 70)").await;
    db.run("INSERT INTO recado.member (user_id, account_id, since_seq) VALUES ('ann', '8', 1)").await;
    db.run(
        "INSERT INTO recado.forgotten_device SELECT 'gus', log_id, 3, ARRAY[recado.device_hash('pc'), 2], false FROM recado.meta;
         INSERT INTO recado.forgotten_device SELECT 'hal', log_id, 30, '{}', true FROM recado.meta",
    )
    .await;
    for (query, found) in [
        ("", vec!["eve old away", "ann web away", "ann phone away", "dan tv connected", "bob web away", ".. .. away"]),
        ("sort=lag&limit=2", vec![".. .. away", "bob web away"]),
        ("sort=user", vec![".. .. away", "ann phone away", "ann web away", "bob web away", "dan tv connected", "eve old away"]),
        ("sort=-user&limit=1", vec!["eve old away"]),
        ("sort=seen_at&limit=2", vec![".. .. away", "ann web away"]),
        ("sort=-seen_at&limit=2", vec!["eve old away", "dan tv connected"]),
        ("user=ann", vec!["ann web away", "ann phone away"]),
        ("user=..", vec![".. .. away"]),
        ("account=7", vec!["dan tv connected"]),
        ("account=8", vec!["ann web away", "ann phone away"]),
        ("client=web", vec!["ann web away", "bob web away"]),
        ("client=..", vec![".. .. away"]),
        ("state=connected", vec!["dan tv connected"]),
        ("state=away&min_lag=50", vec!["eve old away", "ann web away", "ann phone away"]),
        ("min_lag=91", vec!["eve old away"]),
        ("state=away&user=dan", vec![]),
        ("state=forgotten", vec!["gus - forgotten", "hal - forgotten"]),
        ("state=forgotten&client=pc&min_lag=80", vec!["gus pc forgotten"]),
        ("state=forgotten&sort=-user&limit=1", vec!["hal - forgotten"]),
    ] {
        let answer = list(&db, &hub, query).await;
        assert_eq!(names(&answer), found, "{query}");
        assert_eq!(answer["more"], query.contains("limit"), "{query}");
    }
    let forgotten = list(&db, &hub, "state=forgotten").await;
    let said: Vec<Value> = named(&forgotten).iter().map(|row| row["why"].clone()).collect();
    assert!(said[0].as_str().unwrap().starts_with("2 devices not seen"), "{said:?}");
    assert!(said[1].as_str().unwrap().starts_with("more than 1,000 devices"), "{said:?}");
    assert_eq!((&forgotten["head"], &named(&forgotten)[0]["lag"]), (&json!(100), &json!(97)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unacknowledged_notifications_are_counted_up_to_a_hundred() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    append(&db, "ann", 101, 1).await;
    hub.post(&note("to an account").account("7")).await;
    hub.post(&note("of another account").account("8")).await;
    another_instance(&db, "VALUES ('ann', '{7}'::text[], 'web', 'sse', 0::bigint, now()), ('ann', '{7}', 'late', 'sse', 0, now())").await;
    devices_at(&db, "('ann', 'web', 0, interval '1 h'), ('ann', 'late', 99, interval '1 h'), ('bob', 'web', 0, interval '1 h')").await;
    let rows = named(&list(&db, &hub, "sort=user").await);
    let counted: Vec<(Value, Value)> = rows.iter().map(|row| (row["unacked"].clone(), row["unacked_more"].clone())).collect();
    assert_eq!(counted, [(json!(3), json!(false)), (json!(100), json!(true)), (json!(0), json!(false))], "{rows:?}");
}

/// Browsers and clients remove `.` and `..` from a path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_dots_as_an_id_is_named_in_the_query() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("for the dots").to_user("..")).await;
    devices_at(&db, "('..', 'web', 0, interval '1 h')").await;
    let user = shown(&db, &hub, "/api/admin/users/-?user=..").await;
    assert_eq!((&user["user_id"], &user["devices"][0]["client_id"]), (&json!(".."), &json!("web")));
    let page = shown(&db, &hub, "/api/admin/users/-/notifications?user=..&limit=5").await;
    assert_eq!(page["notifications"][0]["title"], "for the dots");
    let admin = db.admin_key();
    let moved = post(&hub, "/api/admin/users/-/ack?user=..", &admin, &json!({ "client_id": "web", "seq": 1 })).await;
    assert_eq!((moved.0, &moved.1["acked"]), (200, &json!(1)));
    post(&hub, "/api/admin/revocations", &admin, &json!({ "user_id": ".." })).await;
    let url = format!("http://{}/api/admin/revocations/-?user=..", hub.address);
    let lifted: Value = http_client().delete(url).bearer_auth(&admin).send().await.unwrap().json().await.unwrap();
    assert_eq!((&lifted["user_id"], &lifted["lifted"]), (&json!(".."), &json!(true)));
    let (status, refused) = read(&db, &hub, "/api/admin/users/-").await;
    assert_eq!((status, &refused["errors"][0]["pointer"]), (422, &json!("/user")));
    let (status, refused) = read(&db, &hub, "/api/admin/users/ann/notifications?user=bob").await;
    assert_eq!((status, &refused["errors"][0]["pointer"]), (422, &json!("/user")), "a path that names the user leaves no room");
}
