//! Compares each answer and each frame of an inbox with the hub's documents.
//!
//! The test clients check every frame against `/asyncapi.json`, and `asked` every answer against `/openapi.json`.

use serde_json::{Value, json};

use super::support::*;

/// The answer of a user's request, after a check against the document.
async fn asked(hub: &TestHub, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let bearer = token("ann", &["7"]);
    let mut request = http_client().request(method.parse().unwrap(), format!("http://{}{path}", hub.address)).bearer_auth(bearer);
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    let answer = request.send().await.unwrap();
    let (status, media) = (answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap().to_owned());
    let text = answer.text().await.unwrap();
    matches_document(method, path, status, Some(&media), &text);
    (status, serde_json::from_str(&text).unwrap())
}

async fn change(hub: &TestHub, body: Value) -> (u16, Value) {
    asked(hub, "POST", "/api/inbox", Some(body)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_answer_and_frame_of_an_inbox_is_documented() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_REQUIRED_TYPES", "security_*").start().await;
    let mut socket = TestClient::of("ann").account("7").device("socket").query("inbox", "1").connect(&hub).await;
    // A pong would acknowledge what it is counted for below.
    let mut plain = TestClient::of("ann").account("7").device("plain").query("ack", "client").connect(&hub).await;
    let mut source = EventSourcePage::of("ann").device("source").query("inbox", "1").open(&hub).await;
    assert_eq!(source.named("caught_up").await["unread"], 0);

    hub.post(&note("one").to_user("ann").data(r#"{"n":1}"#)).await;
    hub.post(&note("two").account("7")).await;
    hub.post(&note("no item").to_user("ann").raw("inbox", "false")).await;
    for title in ["one", "two", "no item"] {
        assert_eq!(socket.expect_notification().await.title, title);
    }
    for filter in ["all", "unread", "archived"] {
        let (status, page) = asked(&hub, "GET", &format!("/api/inbox?filter={filter}&limit=1"), None).await;
        assert_eq!((status, page["items"].as_array().unwrap().len()), (200, usize::from(filter != "archived")), "{page}");
    }

    for (body, answer) in [
        (json!({"op": "read", "seqs": [1]}), json!(4)),
        (json!({"op": "read", "seqs": [1]}), Value::Null),
        (json!({"op": "unread", "seqs": [1]}), json!(5)),
        (json!({"op": "archive", "seqs": [1, 2]}), json!(6)),
        (json!({"op": "unarchive", "seqs": [2]}), json!(7)),
        (json!({"op": "seen", "up_to": 3}), json!(8)),
        (json!({"op": "read", "up_to": 1, "log_id": socket.log_id()}), json!(9)),
        (json!({"op": "archive", "up_to": 3}), json!(10)),
    ] {
        let (status, changed) = change(&hub, body.clone()).await;
        assert_eq!((status, &changed["seq"]), (200, &answer), "{body}: {changed}");
    }
    for (body, status, code) in [
        (json!({"op": "read", "seqs": [1, 3]}), 422, "invalid_field"),
        (json!({"op": "read", "up_to": 99}), 422, "invalid_field"),
        (json!({"op": "seen", "seqs": [1]}), 422, "invalid_field"),
        (json!({"op": "read", "up_to": 1, "log_id": "01935a6e-9f0c-7b3a-8c21-0d2f5a1b9c44"}), 409, "reset"),
    ] {
        let (got, problem) = change(&hub, body.clone()).await;
        assert_eq!((got, &problem["code"]), (status, &json!(code)), "{body}: {problem}");
    }
    for muted in [json!({"muted": ["stock_alert", "product_*"]}), json!({"muted": ["stock_alert", "product_*"]})] {
        assert_eq!(asked(&hub, "POST", "/api/preferences", Some(muted)).await.0, 200);
    }
    assert_eq!(asked(&hub, "POST", "/api/preferences", Some(json!({"muted": ["sec*"]}))).await.0, 422);
    let (_, preferences) = asked(&hub, "GET", "/api/preferences", None).await;
    assert_eq!(preferences, json!({"muted": ["product_*", "stock_alert"], "required": ["security_*"]}));

    hub.post(&note("muted").to_user("ann").raw("type", r#""stock_alert""#)).await;
    let mut kinds = Vec::new();
    let muted = loop {
        let frame: Value = serde_json::from_str(&socket.expect_notification().await.text).unwrap();
        if frame["title"] == "muted" {
            break frame;
        }
        kinds.push(frame["type"].as_str().unwrap().to_owned());
    };
    assert_eq!((kinds[..7].iter().all(|kind| kind == "inbox"), &kinds[7..]), (true, &["preferences".to_owned()][..]));
    assert_eq!((&muted["muted"], &muted["unread"]), (&json!(true), &Value::Null));
    // A connection without an inbox receives the notifications alone.
    assert_eq!(plain.titles_before("muted").await, ["one", "two", "no item"]);

    // An erasure has no row for the user.
    hub.post(&note("erased").to_user("ann")).await;
    let (counted, seq) = loop {
        let frame: Value = serde_json::from_str(&socket.expect_notification().await.text).unwrap();
        if frame["title"] == "erased" {
            break (frame["unread"].clone(), frame["seq"].clone());
        }
    };
    assert_eq!(counted, 1);
    TestHub::on(&db).run(&["erase", "--seq", &seq.to_string(), "--reason", "a test"]).await;
    assert_eq!(socket.expect_other("inbox_counts").await["unread"], 0);

    let (_, user) = hub.get("/api/admin/users/ann", Some(&db.admin_key())).await.unwrap();
    let user: Value = serde_json::from_str(&user).unwrap();
    assert_eq!((&user["inbox"]["muted"], &user["inbox"]["seen_seq"]), (&json!(["product_*", "stock_alert"]), &json!(3)), "{user}");
    // A change of the inbox is no notification that a device has not acknowledged.
    let plain = user["devices"].as_array().unwrap().iter().find(|device| device["client_id"] == "plain").unwrap();
    assert_eq!(plain["unacked"], 4, "{plain}");
    let (_, list) = hub.get("/api/admin/devices?user=ann&client=plain", Some(&db.admin_key())).await.unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    let at = list["columns"].as_array().unwrap().iter().position(|name| name == "unacked").unwrap();
    assert_eq!(list["rows"][0][at], 4, "{list}");
    let (_, nobody) = hub.get("/api/admin/users/bob", Some(&db.admin_key())).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&nobody).unwrap()["inbox"], Value::Null);
    let (_, why) = hub.get(&format!("/api/admin/why?user=ann&seq={}", muted["seq"]), Some(&db.admin_key())).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&why).unwrap()["muted"], true);
    for (outcome, times) in [("done", 8.0), ("unchanged", 2.0), ("refused", 2.0), ("failed", 0.0)] {
        let counted = hub.metric(&format!("recado_inbox_changes_total{{outcome=\"{outcome}\"}}")).await;
        assert_eq!(counted, times, "{outcome}");
    }
    assert!(hub.metric("recado_inbox_count_seconds_count").await > 10.0);

    // The same rows on the other streams.
    let mut source = EventSourcePage::of("ann").device("replay").query("inbox", "1").query("since", "0").open(&hub).await;
    assert_eq!(source.named("caught_up").await["as_of"], 14);
    let mut lines = http_client()
        .get(format!("http://{}/api/notifications/ndjson?follow=1&after=0&inbox=1", hub.address))
        .bearer_auth(token("ann", &["7"]))
        .send()
        .await
        .unwrap();
    let mut text = String::new();
    while !text.contains("caught_up") || !text.ends_with('\n') {
        let bytes = tokio::time::timeout(PATIENCE, lines.chunk()).await.expect("a line comes").unwrap().unwrap();
        text.push_str(std::str::from_utf8(&bytes).unwrap());
    }
    let frames: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    frames.iter().for_each(|frame| frame_matches(frame).unwrap_or_else(|problem| panic!("{problem}")));
    assert_eq!(frames.iter().filter(|frame| frame["type"] == "inbox" && frame["replayed"] == true).count(), 7);
}
