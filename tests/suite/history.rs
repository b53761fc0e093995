//! Tests reading a user's notifications over HTTP, page by page, with access checks.

use serde_json::{Value, json};

use super::resume::many_rows;
use super::retention::{ALL_FULL, log_of, retain};
use super::support::*;

async fn ask(hub: &TestHub, user: &str, query: &str) -> (u16, Value) {
    let (status, body) = hub.get(&format!("/api/notifications{query}"), Some(&token(user, &["7"]))).await.unwrap();
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
}

/// The titles of all pages, from the first on, and the number of pages.
async fn walk(hub: &TestHub, user: &str, query: &str) -> (Vec<String>, usize) {
    let (mut titles, mut after, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let (status, page) = ask(hub, user, &format!("?{query}{after}")).await;
        assert_eq!(status, 200, "{page}");
        pages += 1;
        titles.extend(page["notifications"].as_array().unwrap().iter().map(|n| n["title"].as_str().unwrap().to_owned()));
        match page["next"].as_i64() {
            Some(next) => after = format!("&after={next}"),
            None => return (titles, pages),
        }
    }
}

async fn send(hub: &TestHub, user: &str, path: &str, body: &str) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("http://{}{path}", hub.address)).bearer_auth(token(user, &["7"]));
    let response = request.header("content-type", "application/json").body(body.to_owned()).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_hold_everything_once_in_both_orders_and_nothing_of_others() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut expected = Vec::new();
    for n in 0..20 {
        hub.post(&note(&format!("of ann {n}")).to_user("ann")).await;
        hub.post(&note("of bob").to_user("bob")).await;
        hub.post(&note("in 8").account("8")).await;
        expected.push(format!("of ann {n}"));
        if n % 4 == 0 {
            hub.post(&note(&format!("in 7 {n}")).account("7")).await;
            hub.post(&note(&format!("to some {n}")).to_users(&["ann", "bob"])).await;
            hub.post(&note(&format!("to all {n}")).to_everyone()).await;
            expected.extend([format!("in 7 {n}"), format!("to some {n}"), format!("to all {n}")]);
        }
    }
    hub.post(&note("live only").to_user("ann").never_replayed()).await;
    for limit in [1, 7, 1000] {
        let (rising, pages) = walk(&hub, "ann", &format!("limit={limit}")).await;
        assert_eq!(rising, expected, "limit={limit}");
        assert!(pages >= expected.len().div_ceil(limit) && pages <= expected.len() / limit + 2, "limit={limit}: {pages} pages");
        let (mut falling, _) = walk(&hub, "ann", &format!("limit={limit}&order=desc")).await;
        falling.reverse();
        assert_eq!(falling, expected, "limit={limit}, newest first");
    }
    let (_, page) = ask(&hub, "ann", "").await;
    assert_eq!(page["head"], db.head().await, "a row answered with 201 can be read at once");
    let (status, head) = ask(&hub, "ann", "/head").await;
    assert_eq!((status, head), (200, json!({ "head": page["head"], "earliest": 1, "log_id": page["log_id"] })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_has_the_same_bytes_on_every_way_to_its_reader() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut socket = TestClient::of("ann").device("ws").connect(&hub).await;
    let mut source = EventSourcePage::of("ann").device("sse").open(&hub).await;
    hub.post(&note("lines \u{1f600}").to_user("ann").data("{ \"z\":\t1.0,\n  \"a\": [1e2,\n null] }")).await;
    let frame = socket.expect_notification().await.text;
    assert_eq!(source.message().await.data.as_ref(), Some(&frame));
    let record = frame.replacen("\"prev\":0,", "", 1);
    let bearer = token("ann", &[]);
    let (_, body) = hub.get("/api/notifications", Some(&bearer)).await.unwrap();
    assert!(body.starts_with(&format!("{{\"notifications\":[{record}],\"next\":null,")), "{body}");

    let lines = reqwest::Client::new().get(format!("http://{}/api/notifications?limit=1", hub.address)).bearer_auth(&bearer);
    let lines = lines.header("accept", "application/x-ndjson").send().await.unwrap();
    assert_eq!(
        (lines.headers()["content-type"].as_bytes(), lines.headers()["recado-head"].as_bytes()),
        (&b"application/x-ndjson"[..], &b"1"[..])
    );
    // A line break in posted data is white space; in NDJSON it becomes a space.
    assert_eq!(lines.text().await.unwrap(), format!("{}\n", record.replace('\n', " ")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rare_type_is_found_in_steps_of_bounded_cost() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("first").to_user("ann")).await;
    db.run(&many_rows(3000)).await;
    hub.post(&note("last").to_user("ann")).await;
    for (order, expected) in [("asc", ["first", "last"]), ("desc", ["last", "first"])] {
        let (titles, pages) = walk(&hub, "ann", &format!("type=order_created&order={order}")).await;
        assert_eq!(titles, expected);
        assert!(pages > 1, "3,000 rows are not read for one answer");
    }
    assert_eq!(walk(&hub, "ann", "type=unheard.of").await.0, [""; 0]);
    assert_eq!(walk(&hub, "bob", "type=order_created").await.0, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_is_not_in_the_log_is_told_apart() {
    let db = log_of(10).await;
    let hub = TestHub::on(&db).start().await;
    for n in 1..=25 {
        if n == 16 {
            assert_eq!(retain(&db, ALL_FULL).await.partitions_dropped, 1, "1 to 9");
        }
        hub.post(&note(&n.to_string()).to_user("ann")).await;
    }
    let another = "00000000-0000-4000-8000-000000000000";
    for (query, status, code) in [
        ("after=26", 409, "reset"),
        ("after=9223372036854775807", 409, "reset"),
        ("after=26&follow=1", 409, "reset"),
        (&format!("after=20&log_id={another}"), 409, "reset"),
        ("after=0", 410, "expired"),
        ("after=8", 410, "expired"),
        ("after=8&follow=1", 410, "expired"),
    ] {
        let (got, problem) = ask(&hub, "ann", &format!("?{query}")).await;
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{query}");
        assert_eq!((&problem["head"], &problem["earliest"]), (&json!(25), &json!(10)), "{query}");
    }
    let kept: Vec<String> = (10..=25).map(|n: i32| n.to_string()).collect();
    assert_eq!(walk(&hub, "ann", "limit=10").await.0, kept, "without a position it begins at the earliest row");
    assert_eq!(walk(&hub, "ann", "limit=100&after=9").await.0, kept);
    assert_eq!(walk(&hub, "ann", "limit=10&order=desc").await.0, kept.iter().rev().cloned().collect::<Vec<_>>());
    assert_eq!(ask(&hub, "ann", "?after=25").await.1["notifications"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_wrongly_is_refused_and_says_where() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("one").to_user("ann")).await;
    for (query, pointer) in [
        ("after=-1", "/after"),
        ("after=abc", "/after"),
        ("after=", "/after"),
        ("after=9223372036854775808", "/after"),
        ("after=1e3", "/after"),
        ("after=%2B1", "/after"),
        ("limit=0", "/limit"),
        ("limit=-1", "/limit"),
        ("limit=1001", "/limit"),
        ("limit=1000000000", "/limit"),
        ("limit=1e3", "/limit"),
        ("type=x'%20OR%201=1--", "/type"),
        ("type=;", "/type"),
        ("type=$1", "/type"),
        ("type=%5C", "/type"),
        ("type=", "/type"),
        ("order=seq;drop", "/order"),
        ("sort=seq;drop", "/sort"),
        ("follow=perhaps", "/follow"),
        ("follow=1&limit=5", "/limit"),
        ("log_id=7", "/log_id"),
        ("limit=5&limit=5", "/limit"),
    ] {
        let (status, problem) = ask(&hub, "ann", &format!("?{query}")).await;
        assert_eq!(
            (status, problem["code"].as_str(), problem["errors"][0]["pointer"].as_str()),
            (422, Some("invalid_field"), Some(pointer)),
            "{query}"
        );
    }
    let service = service_token("shop", recado::domain::Role::Service);
    for path in ["/api/notifications", "/api/notifications/head", "/api/notifications?follow=1", "/api/whoami"] {
        for (bearer, expected) in [(None, 401), (Some("x.y.z"), 401), (Some(service.as_str()), 403)] {
            assert_eq!(hub.get(path, bearer).await.unwrap().0, expected, "{path} with {bearer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_are_followed_are_the_stream_of_a_socket() {
    let db = TestDb::new().await;
    let mut hub = TestHub::on(&db).start().await;
    hub.post(&note("before").to_user("ann").data("[1,\n2]")).await;
    hub.post(&note("of bob").to_user("bob")).await;
    hub.settled(&db).await;
    let request = reqwest::Client::new().get(format!("http://{}/api/notifications?follow=1", hub.address)).bearer_auth(token("ann", &[]));
    let mut lines = request.send().await.unwrap();
    let mut unread = String::new();
    let mut next = async || loop {
        if let Some((line, rest)) = unread.split_once('\n') {
            let frame: Value = serde_json::from_str(line).expect("a line is a frame");
            unread = rest.to_owned();
            return Some(frame);
        }
        let piece = tokio::time::timeout(PATIENCE, lines.chunk()).await.expect("a line comes").unwrap_or(None)?;
        unread.push_str(std::str::from_utf8(&piece).unwrap());
    };
    assert_eq!(next().await.unwrap()["type"], "connection_established");
    let before = next().await.unwrap();
    assert_eq!((&before["title"], &before["data"], &before["replayed"]), (&json!("before"), &json!([1, 2]), &json!(true)));
    assert_eq!(next().await.unwrap(), json!({ "type": "caught_up", "seq": 2, "replayed": 1 }));
    hub.post(&note("live").to_user("ann")).await;
    let live = next().await.unwrap();
    assert_eq!((&live["title"], &live["prev"]), (&json!("live"), &json!(2)));
    hub.signal("-TERM").await;
    assert_eq!(next().await.unwrap()["type"], "goodbye");
    assert!(next().await.is_none());
    assert!(hub.ended(PATIENCE).await.success());
    assert_eq!(db.place("ann", "default").await, None, "reading history acknowledges nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_over_http_is_stored_when_it_is_answered() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    for n in 1..=4 {
        hub.post(&note(&n.to_string()).to_user("ann")).await;
    }
    let path = "/api/notifications/ack";
    assert_eq!(send(&hub, "ann", path, r#"{"client_id":"tab","seq":3}"#).await, (200, json!({ "acked": 3 })));
    assert_eq!(db.place("ann", "tab").await, Some(3));
    assert_eq!(send(&hub, "ann", path, r#"{"client_id":"tab","seq":2}"#).await, (200, json!({ "acked": 3 })), "never backward");
    assert_eq!(send(&hub, "ann", path, r#"{"client_id":"phone","seq":1}"#).await, (200, json!({ "acked": 1 })));
    assert_eq!(send(&hub, "ann", path, r#"{"client_id":"phone","seq":4}"#).await, (200, json!({ "acked": 4 })), "forward");
    assert_eq!(db.place("ann", "phone").await, Some(4));
    assert_eq!(send(&hub, "ann", path, r#"{"seq":1}"#).await, (200, json!({ "acked": 1 })));
    assert_eq!((db.place("ann", "default").await, db.place("bob", "tab").await), (Some(1), None));
    for (body, status, code) in [
        (r#"{"client_id":"tab","seq":5}"#, 409, "ack_ahead"),
        (r#"{"client_id":"tab","seq":-1}"#, 422, "invalid_field"),
        (r#"{"client_id":"tab","seq":"3"}"#, 422, "invalid_field"),
        (r#"{"client_id":"tab","seq":3.5}"#, 422, "invalid_field"),
        (r#"{"client_id":"a/b","seq":3}"#, 422, "invalid_field"),
        (r#"{"client_id":"tab"}"#, 422, "invalid_field"),
        (r#"{"seq":3,"user_id":"bob"}"#, 422, "invalid_field"),
        (r#"{"seq":3,"seq":4}"#, 422, "invalid_field"),
        ("[]", 422, "invalid_field"),
        ("{", 400, "malformed_json"),
    ] {
        let (got, problem) = send(&hub, "ann", path, body).await;
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{body}");
    }
    assert_eq!(db.place("ann", "tab").await, Some(3));
    // A device that comes back over a WebSocket resumes after that position.
    hub.settled(&db).await;
    let mut back = TestClient::of("ann").device("tab").connect(&hub).await;
    assert_eq!(back.until_caught_up().await.iter().map(|n| n.seq).collect::<Vec<_>>(), [4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_says_who_it_is_for() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let (status, body) = hub.get("/api/whoami", Some(&token("ann", &["7", "8"]))).await.unwrap();
    let who: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &who["user_id"], &who["account_ids"]), (200, &json!("ann"), &json!(["7", "8"])));
    assert!(who["expires_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(hub.get(&format!("/api/whoami?token={}", token("ann", &[])), None).await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_asks_without_end_is_slowed_down_and_the_others_are_not() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_USER_RATE", "5").start().await;
    let client = http_client();
    let ask = async |path: &str, user: &str| {
        let url = format!("http://{}{path}", hub.address);
        let request = if path.ends_with("ack") {
            client.post(url).header("content-type", "application/json").body("{\"seq\":0}")
        } else {
            client.get(url)
        };
        let response = request.bearer_auth(token(user, &[])).send().await.unwrap();
        (response.status().as_u16(), response.headers().get("retry-after").map(|after| after.to_str().unwrap().to_owned()))
    };
    for path in ["/api/notifications", "/api/notifications/head", "/api/whoami", "/api/notifications/ack"] {
        let user = path.replace('/', ".");
        let mut asked = 0;
        let refusal = loop {
            let answer = ask(path, &user).await;
            if answer.0 != 200 {
                break answer;
            }
            asked += 1;
            assert!(asked < 1000, "{path}: no limit");
        };
        assert_eq!(refusal, (429, Some("1".to_owned())), "{path}");
        assert!(asked >= 5, "{path}: the burst is the rate");
    }
    assert_eq!(ask("/api/whoami", "another").await.0, 200);
    eventually("the bucket fills again", PATIENCE, async || (ask("/api/whoami", ".api.whoami").await.0 == 200).then_some(())).await;
}
