//! Tests that closing by a filter closes the counted sessions, on every hub.

use serde_json::json;

use super::*;

fn closed() -> ClientEnd {
    ClientEnd::Code(4505, "closed_by_admin".into())
}

const CLOSE: &str = "/api/admin/sessions/close";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sessions_that_match_are_closed_everywhere_if_they_are_as_many_as_expected() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let mut of_seven = [TestClient::of("ann").account("7").connect(&here).await, TestClient::of("bob").account("7").connect(&there).await];
    let mut other = TestClient::of("cat").account("8").connect(&there).await;
    let filter = json!({ "account": "7", "transport": "websocket" });
    let (status, refused) = post(&here, CLOSE, &db.admin_key(), &closing(&filter, 3)).await;
    assert_eq!((status, &refused["code"]), (409, &json!("other_count")));
    assert!(refused["detail"].as_str().unwrap().starts_with("matching sessions: 2, expected: 3;"), "{refused}");
    assert_eq!(db.number("SELECT count(*) FROM recado.access_change").await, 0);
    assert_eq!(acts(&db, &here, "session.close").await.len(), 0);

    let (status, answer) = post(&here, CLOSE, &db.admin_key(), &closing(&filter, 2)).await;
    assert_eq!((status, answer), (200, json!({ "success": true, "sessions": 2 })));
    for client in &mut of_seven {
        assert_eq!(client.ended(PATIENCE).await, closed());
    }
    // A hub of an earlier version knows this kind.
    assert_eq!(db.number("SELECT count(*) FROM recado.access_change WHERE kind = 'close_session'").await, 2);
    let acts = acts(&db, &here, "session.close").await;
    assert_eq!(acts.len(), 1);
    assert_eq!(acts[0]["object"], "filter");
    assert_eq!(acts[0]["details"], json!({ "sessions": 2, "filter": { "account": "7", "transport": "websocket" } }));
    assert_eq!((&acts[0]["who"], &acts[0]["user_id"]), (&json!("key:boss"), &json!(null)));

    let seq = here.post(&note("goes on").to_user("cat")).await.seq;
    other.until_seq(seq).await;
    // The id of a user stands where an erasure finds it.
    let (status, _) = post(&here, CLOSE, &db.admin_key(), &closing(&json!({ "user": "cat" }), 1)).await;
    assert_eq!((status, other.ended(PATIENCE).await), (200, closed()));
    let last = super::acts(&db, &here, "session.close").await.pop().unwrap();
    assert_eq!((&last["user_id"], &last["details"]), (&json!("cat"), &json!({ "sessions": 1, "filter": {} })));
}

/// The list has the rule in Rust, the closing has it in SQL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closing_counts_what_the_list_shows() {
    let db = TestDb::new().await;
    append(&db, "nobody", 20, 1).await;
    let hub = TestHub::on(&db).start().await;
    let instance = another_instance(
        &db,
        "SELECT (ARRAY['ann', 'bob'])[1 + n % 2], CASE WHEN n % 3 = 0 THEN '{}' ELSE ARRAY['7', (n % 5)::text] END,
                (ARRAY['web', 'phone', 'tv'])[1 + n % 3], (ARRAY['websocket', 'sse', 'ndjson'])[1 + n % 3], (n % 22)::bigint, now()
           FROM generate_series(1, 200) n",
    )
    .await;
    let (mut compared, mut sizes) = (0, std::collections::BTreeSet::new());
    for user in [None, Some("ann"), Some("eve")] {
        for account in [None, Some("7"), Some("0")] {
            for client in [None, Some("tv")] {
                for (transport, instance) in [(None, None), (Some("sse"), None), (None, Some(instance.as_str()))] {
                    for min_lag in [None, Some(1), Some(10), Some(20)] {
                        let filter = json!({ "user": user, "account": account, "client": client, "transport": transport,
                                             "instance": instance, "min_lag": min_lag });
                        let given: serde_json::Map<String, Value> = filter
                            .as_object()
                            .unwrap()
                            .iter()
                            .filter(|(_, value)| !value.is_null())
                            .map(|(n, v)| (n.clone(), v.clone()))
                            .collect();
                        if given.is_empty() {
                            continue;
                        }
                        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                        let query: Vec<String> = given.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
                        let listed =
                            shown(&db, &hub, &format!("/api/admin/sessions?limit=1&{}", query.join("&"))).await["matching"].clone();
                        let (status, refused) = post(&hub, CLOSE, &db.admin_key(), &closing(&given.into(), 1_000_000)).await;
                        assert_eq!(status, 409);
                        let counted = format!("matching sessions: {listed}, expected: 1000000;");
                        assert!(refused["detail"].as_str().unwrap().starts_with(&counted), "{query:?}: {listed} listed, but {refused}");
                        compared += 1;
                        sizes.insert(listed.as_i64().unwrap());
                    }
                }
            }
        }
    }
    assert!(compared > 200 && sizes.len() > 15, "{compared} filters with {sizes:?}");
    assert_eq!(db.number("SELECT count(*) FROM recado.access_change").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closing_without_a_condition_or_without_a_number_is_refused() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    for (body, pointer) in [
        (json!({ "filter": {}, "expect": 0 }), "/filter"),
        (json!({ "filter": { "min_lag": 0 }, "expect": 0 }), "/filter/min_lag"),
        (json!({ "filter": { "user": "a b" }, "expect": 0 }), "/filter/user"),
        (json!({ "filter": { "user": "ann" } }), "/expect"),
    ] {
        let (status, refused) = post(&hub, CLOSE, &db.admin_key(), &body).await;
        assert_eq!((status, &refused["errors"][0]["pointer"]), (422, &json!(pointer)), "{body}");
    }
    // The function itself refuses as well.
    let all = "SELECT recado.close_matching_sessions(NULL, NULL, NULL, NULL, NULL, NULL, 0)";
    let error = sqlx::raw_sql(all).execute(&mut db.connect().await).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("22023"));
}

/// Thousands of changes reach a hub, in one walk over its connections for each thousand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_sessions_are_closed_at_once() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").account("big").connect(&hub).await;
    let sessions = "SELECT 'u' || n, '{big}'::text[], 'web', 'websocket', 0::bigint, now() FROM generate_series(1, 5000) n";
    another_instance(&db, sessions).await;
    let (status, answer) = post(&hub, CLOSE, &db.admin_key(), &closing(&json!({ "account": "big" }), 5001)).await;
    assert_eq!((status, &answer["sessions"]), (200, &json!(5001)), "{answer}");
    assert_eq!(ann.ended(PATIENCE).await, closed());
    // The numbers go on: the next change is applied.
    let mut bob = TestClient::of("bob").connect(&hub).await;
    assert_eq!(post(&hub, CLOSE, &db.admin_key(), &json!({ "user_id": "bob" })).await.0, 200);
    assert_eq!(bob.ended(PATIENCE).await, closed());
    assert!(!hub.said().contains("no longer kept"), "the hub lost no change");
}

/// Two admins press the same button, or one presses it twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closing_that_is_asked_twice_at_once_counts_each_session_once() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    // Of an instance that applies no order: its sessions stay open.
    another_instance(&db, "SELECT 'u' || n, '{7}'::text[], 'web', 'websocket', 0::bigint, now() FROM generate_series(1, 50) n").await;
    let key = db.admin_key();
    let closed = async |body: Value| {
        let sum = |answers: Vec<(u16, Value)>| {
            assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
            answers.iter().map(|(_, answer)| answer["sessions"].as_i64().unwrap()).sum::<i64>()
        };
        sum(futures_util::future::join_all((0..6).map(|n| post(if n % 2 == 0 { &here } else { &there }, CLOSE, &key, &body))).await)
    };
    let orders = async || db.number("SELECT count(*) FROM recado.access_change WHERE kind = 'close_session'").await;
    assert_eq!((closed(closing(&json!({ "account": "7" }), 50)).await, orders().await), (50, 50));
    // Another filter with the same sessions, and the same sessions by another order.
    assert_eq!((closed(closing(&json!({ "user": "u1", "account": "7" }), 1)).await, orders().await), (0, 50));
    assert_eq!(closed(json!({ "account_id": "7" })).await, 0);
    let all = "SELECT coalesce(sum((details ->> 'sessions')::bigint), 0)::bigint FROM recado.audit WHERE what = 'session.close'";
    assert_eq!(db.number(all).await, 50);
    // A hub that missed an order gets it again.
    db.run("UPDATE recado.access_change SET made_at = made_at - interval '31 seconds'").await;
    assert_eq!((closed(closing(&json!({ "account": "7" }), 50)).await, orders().await), (50, 100));
    db.run("UPDATE recado.access_change SET made_at = made_at - interval '31 seconds'").await;
    assert_eq!((closed(json!({ "account_id": "7" })).await, closed(json!({ "user_id": "u2" })).await), (50, 1));
    let session = shown(&db, &here, "/api/admin/sessions?user=u3").await["rows"][0][0].clone();
    db.run("UPDATE recado.access_change SET made_at = made_at - interval '31 seconds'").await;
    assert_eq!(closed(json!({ "session_id": session })).await, 1);
    // A hub of an earlier version calls this, and compares the number that matches.
    assert_eq!(db.number("SELECT recado.close_matching_sessions(NULL, '7', NULL, NULL, NULL, NULL, 50)").await, 50);
}
