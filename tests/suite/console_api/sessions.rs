//! Tests the list of sessions: every column, every filter, the order, and what is refused.

use serde_json::{Value, json};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_all_instances_have_every_column() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let mut ann = TestClient::of("ann").account("7").account("8").device("web-1").connect(&here).await;
    let mut bob = TestClient::of("bob").query("ack", "client").connect(&there).await;
    want(&db, &["ann"]).await;
    let seq = here.post(&note("n").to_everyone()).await.seq;
    ann.until_seq(seq).await;
    bob.until_seq(seq).await;
    for hub in [&here, &there] {
        let (of_ann, of_bob, instances) = eventually("both sessions are listed", PATIENCE, async || {
            let answer = shown(&db, hub, "/api/admin/sessions").await;
            let of = |user: &str| named(&answer).into_iter().find(|row| row["user_id"] == user && row["sent"] == seq);
            let (ann, bob) = (of("ann").filter(|row| row["acked"] == seq)?, of("bob")?);
            assert_eq!((&answer["total"], &answer["matching"], &answer["head"]), (&json!(2), &json!(2), &json!(seq)));
            chrono::DateTime::parse_from_rfc3339(answer["as_of"].as_str().unwrap()).unwrap();
            Some((ann, bob, answer["instances"].clone()))
        })
        .await;
        assert_eq!(of_ann["session_id"], ann.hello["session_id"]);
        assert_eq!((&of_ann["account_ids"], &of_ann["client_id"]), (&json!(["7", "8"]), &json!("web-1")));
        assert_eq!((&of_bob["account_ids"], &of_bob["acked"]), (&json!([]), &json!(0)));
        assert_ne!(of_ann["instance"], of_bob["instance"]);
        assert_eq!(instances.as_array().unwrap().len(), 2);
        let mine = if std::ptr::eq(hub, &here) { &of_ann } else { &of_bob };
        assert_eq!(mine["instance"], 0, "the answering instance comes first");
        for row in [&of_ann, &of_bob] {
            assert_eq!((&row["transport"], &row["upstream"]), (&json!("websocket"), &json!(false)));
            let (connected, active) = (row["connected_at"].as_i64().unwrap(), row["last_activity_at"].as_i64().unwrap());
            assert!(connected > 1_600_000_000_000 && active >= connected, "{row}");
        }
    }
}

/// Sessions of another instance, in pairs that differ in one respect.
const VARIED: &str = "VALUES ('ann', '{7,8}'::text[], 'web', 'websocket', 90::bigint, now() - interval '4 min'),
    ('ann', '{7}', 'phone', 'sse', 50, now() - interval '3 min'),
    ('bob', '{}', 'web', 'ndjson', 99, now() - interval '2 min'),
    ('cat', '{77}', 'tv', 'websocket', 0, now() - interval '1 min')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_filter_and_every_order_is_applied_before_the_limit() {
    let db = TestDb::new().await;
    append(&db, "nobody", 100, 1).await;
    let hub = TestHub::on(&db).start().await;
    let instance = another_instance(&db, VARIED).await;
    let _dan = TestClient::of("dan").account("7").connect(&hub).await;
    let list = async |query: &str| shown(&db, &hub, &format!("/api/admin/sessions?{query}")).await;
    for (query, found) in [
        ("user=ann", vec!["ann", "ann"]),
        ("account=7&sort=user", vec!["ann", "ann", "dan"]),
        ("account=8", vec!["ann"]),
        ("client=web&sort=user", vec!["ann", "bob"]),
        ("transport=sse", vec!["ann"]),
        ("transport=websocket&sort=user", vec!["ann", "cat", "dan"]),
        ("min_lag=51", vec!["cat"]),
        ("min_lag=50&sort=-lag", vec!["cat", "ann"]),
        ("user=ann&account=8&client=web&transport=websocket&min_lag=10", vec!["ann"]),
        ("user=nobody", vec![]),
        (&format!("instance={instance}&sort=acked"), vec!["cat", "ann", "ann", "bob"]),
        (&format!("instance={}", uuid::Uuid::nil()), vec![]),
    ] {
        let answer = list(query).await;
        assert_eq!(users(&answer), found, "{query}");
        assert_eq!((&answer["matching"], &answer["total"]), (&json!(found.len()), &json!(5)), "{query}");
    }
    let mine = list("").await["instances"][0].as_str().unwrap().to_owned();
    assert_eq!(users(&list(&format!("instance={mine}")).await), ["dan"]);
    for (sort, sorted) in [
        ("user", ["ann", "ann", "bob", "cat", "dan"]),
        ("-user", ["dan", "cat", "bob", "ann", "ann"]),
        ("connected_at", ["ann", "ann", "bob", "cat", "dan"]),
        ("-last_activity_at", ["dan", "cat", "bob", "ann", "ann"]),
        ("-lag", ["cat", "ann", "ann", "bob", "dan"]),
        ("acked", ["cat", "ann", "ann", "bob", "dan"]),
        ("sent", ["cat", "ann", "ann", "bob", "dan"]),
    ] {
        assert_eq!(users(&list(&format!("sort={sort}")).await), sorted, "{sort}");
        let first = list(&format!("sort={sort}&limit=2")).await;
        assert_eq!((users(&first), &first["matching"]), (sorted[..2].iter().map(ToString::to_string).collect(), &json!(5)), "{sort}");
    }
    // The slowest first, if nothing else is asked.
    assert_eq!(users(&list("limit=1").await), ["cat"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_of_the_table_of_members_counts_for_sessions_that_follow_it() {
    let db = TestDb::new().await;
    let hub = |db| TestHub::on(db).with("RECADO_ACCOUNTS", "both");
    let (here, there) = (hub(&db).start().await, hub(&db).start().await);
    let _ann = TestClient::of("ann").account("7").connect(&here).await;
    for account in ["8", "9"] {
        let url = format!("http://{}/api/internal/accounts/{account}/members/ann", here.address);
        assert_eq!(http_client().put(url).bearer_auth(here.key()).send().await.unwrap().status(), 200);
    }
    for hub in [&here, &there] {
        eventually("the session has the accounts", PATIENCE, async || {
            let row = named(&shown(&db, hub, "/api/admin/sessions?account=9").await).pop()?;
            (row["account_ids"] == json!(["7", "8", "9"])).then_some(())
        })
        .await;
        assert_eq!(users(&shown(&db, hub, "/api/admin/sessions?account=10").await), Vec::<String>::new());
    }
    let (status, refused) = post(&here, "/api/admin/sessions/close", &db.admin_key(), &closing(&json!({ "account": "9" }), 5)).await;
    assert_eq!((status, refused["detail"].as_str().unwrap().starts_with("matching sessions: 1,")), (409, true), "{refused}");
}

/// Nothing but a hand writes such rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_session_with_an_odd_id_is_shown_and_hides_no_other() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    another_instance(
        &db,
        r"VALUES (E'a\nb', ARRAY[E'7\n8'], E'w\n', 'sse', 1::bigint, now()), ('bob', '{7}', 'web', 'sse', 2, now()), ('', '{}', '', 'sse', 3, now())",
    )
    .await;
    db.run("UPDATE recado.session SET types = 'order_*' WHERE user_id = 'bob'").await;
    let rows = named(&shown(&db, &hub, "/api/admin/sessions?sort=acked").await);
    let parts = |at: usize| ["user_id", "client_id", "transport", "acked", "types"].map(|name| rows[at][name].clone());
    assert_eq!(rows.len(), 3);
    assert_eq!(parts(0), [json!("a?b"), json!("w?"), json!("sse"), json!(1), json!(null)]);
    assert_eq!(parts(1), [json!("bob"), json!("web"), json!("sse"), json!(2), json!("order_*")]);
    assert_eq!(parts(2), [json!(""), json!(""), json!("sse"), json!(3), json!(null)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_breaks_a_rule_is_refused_with_every_rule() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    for (path, pointers) in [
        ("/api/admin/sessions?user=a%20b&instance=1&transport=smoke&min_lag=-1&sort=size&limit=0&page=2", 7),
        ("/api/admin/sessions?limit=10001", 1),
        ("/api/admin/devices?user=-&account=&client=a%7Cb&state=here&min_lag=x&sort=sent&limit=1001&page=2", 8),
        ("/api/admin/sessions?user=a&user=b", 1),
        ("/api/admin/users/a%20b", 1),
        ("/api/admin/users/-", 1),
        ("/api/admin/users/ann/notifications?before=0&limit=101", 2),
        ("/api/admin/log?after=x&limit=1001&type=A&user=&account=a%20b&source=&follow=yes", 7),
        ("/api/admin/log?before=7", 1),
    ] {
        let (status, answer): (u16, Value) = read(&db, &hub, path).await;
        assert_eq!(
            (status, &answer["code"], answer["errors"].as_array().unwrap().len()),
            (422, &json!("invalid_field"), pointers),
            "{path}"
        );
    }
}
