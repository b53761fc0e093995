//! Tests that a client may start at a time, on every way to the log.

use serde_json::Value;

use super::retention::{ALL_FULL, log_of, retain};
use super::support::*;

/// A log whose rows are ann's, one for each minute, the last of them one minute old. Row 7 is of another user.
async fn one_a_minute(db: &TestDb, hub: &TestHub, rows: i64) {
    for n in 1..=rows {
        hub.post(&note(&n.to_string()).to_user(if n == 7 { "bob" } else { "ann" })).await;
    }
    age(db, rows).await;
}

async fn age(db: &TestDb, rows: i64) {
    db.run(&format!(
        "SET session_replication_role = replica;
         UPDATE recado.log SET created_at = now() - interval '1 minute' * ({rows} + 1 - seq);"
    ))
    .await;
}

/// The time of a row, as a client is told it, moved by so many milliseconds.
async fn time_of(db: &TestDb, seq: i64, moved_ms: i64) -> String {
    let sql = "SELECT to_char((date_trunc('milliseconds', created_at) + $2 * interval '1 millisecond') AT TIME ZONE 'UTC', \
               'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') FROM recado.log WHERE seq = $1";
    sqlx::query_scalar(sql).bind(seq).bind(moved_ms as f64).fetch_one(&mut db.connect().await).await.unwrap()
}

/// The titles of a socket that starts there, the status and start of its stream.
async fn by_socket(hub: &TestHub, since: &str) -> (String, i64, Vec<String>) {
    let mut client = TestClient::of("ann").device("socket").since(since).connect(hub).await;
    let titles = client.until_caught_up().await.into_iter().map(|n| n.title).collect();
    (client.resume_status().to_owned(), client.hello["resume"]["from"].as_i64().unwrap(), titles)
}

async fn by_event_source(hub: &TestHub, since: &str) -> Vec<String> {
    EventSourcePage::of("ann").device("page").query("since", since).open(hub).await.replayed().await
}

async fn by_history(hub: &TestHub, query: &str) -> Vec<String> {
    let (mut titles, mut after) = (Vec::new(), String::new());
    loop {
        let (status, body) = hub.get(&format!("/api/notifications?{query}{after}"), Some(&token("ann", &[]))).await.unwrap();
        assert_eq!(status, 200, "{body}");
        let page: Value = serde_json::from_str(&body).unwrap();
        titles.extend(page["notifications"].as_array().unwrap().iter().map(|n| n["title"].as_str().unwrap().to_owned()));
        match page["next"].as_i64() {
            Some(next) => after = format!("&after={next}"),
            None => return titles,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_starts_at_the_first_notification_of_that_time_or_later() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    one_a_minute(&db, &hub, 20).await;
    let from = |first: i64| (first..=20).filter(|n| *n != 7).map(|n| n.to_string()).collect::<Vec<_>>();
    let (at, before, after) = (time_of(&db, 15, 0).await, time_of(&db, 15, -1).await, time_of(&db, 15, 1).await);
    let with_offset = at.replace('Z', "%2B00:00");
    let bare_plus = at.replace('Z', "+00:00");
    for (since, first) in [
        // Row 11 was ten minutes old when the rows were dated, and is older now.
        ("630s", 11),
        ("10m", 12),
        ("1h", 1),
        ("36500d", 1),
        (at.as_str(), 15),
        (&before, 15),
        (&after, 16),
        (&with_offset, 15),
        (&bare_plus, 15),
        // The time of another user's row.
        (&time_of(&db, 7, 0).await, 7),
        ("1970-01-01T00:00:00Z", 1),
        ("0000-01-01T00:00:00Z", 1),
    ] {
        assert_eq!(by_socket(&hub, since).await, ("ok".to_owned(), first - 1, from(first)), "{since}");
        assert_eq!(by_event_source(&hub, since).await, from(first), "{since}");
        assert_eq!(by_history(&hub, &format!("since={since}&limit=3")).await, from(first), "{since}");
        let mut falling = by_history(&hub, &format!("since={since}&limit=3&order=desc")).await;
        falling.reverse();
        assert_eq!(falling, from(first), "{since}, newest first");
    }
    // Nothing is that late: the stream is live.
    for since in ["0s", "30s", "2100-01-01T00:00:00Z", "9999-12-31T23:59:59Z"] {
        assert_eq!(by_socket(&hub, since).await, ("live".to_owned(), 20, Vec::new()), "{since}");
        assert_eq!(by_event_source(&hub, since).await, [""; 0], "{since}");
        assert_eq!(by_history(&hub, &format!("since={since}")).await, [""; 0], "{since}");
    }
    let mut live = TestClient::of("ann").device("late").since("2100-01-01T00:00:00Z").connect(&hub).await;
    hub.post(&note("live").to_user("ann")).await;
    assert_eq!(live.expect_notification().await.title, "live");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_is_a_first_start_and_positions_count_afterwards() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    one_a_minute(&db, &hub, 20).await;
    let mut client = TestClient::of("ann").device("d").since("190s").query("ack", "client").connect(&hub).await;
    assert_eq!(client.until_caught_up().await.len(), 3);
    assert_eq!(db.place("ann", "d").await, Some(17), "the start of a new device is its position");
    client.ack(19).await;
    eventually("the acknowledgement", PATIENCE, async || (db.place("ann", "d").await == Some(19)).then_some(())).await;
    client.close().await;
    let mut client = TestClient::of("ann").device("d").connect(&hub).await;
    assert_eq!(client.until_caught_up().await.len(), 1);
    // An EventSource keeps its address, and adds the last event.
    let page = EventSourcePage::of("ann").device("page").query("since", "10m");
    assert_eq!(page.open_again(&hub, "18").await.replayed().await, ["19", "20"]);
    assert_eq!(page.clone().query("last_event_id", "19").open(&hub).await.replayed().await, ["20"]);
    // A followed history starts at the later one.
    for (query, first) in [("since=190s", 18), ("since=190s&after=19", 20), ("since=1h&after=19", 20)] {
        let url = format!("http://{}/api/notifications?follow=1&{query}", hub.address);
        let mut followed = reqwest::Client::new().get(url).bearer_auth(token("ann", &[])).send().await.unwrap();
        let mut text = String::new();
        while text.lines().count() < 2 {
            text.push_str(std::str::from_utf8(&followed.chunk().await.unwrap().unwrap()).unwrap());
        }
        assert_eq!(serde_json::from_str::<Value>(text.lines().nth(1).unwrap()).unwrap()["seq"], first, "{query}");
    }
    // Between two pages time goes by, so a duration begins later. Row 9 is in no page, if the duration counts again.
    for (query, first) in [("since=190s&after=8", 9), ("since=190s&after=8&order=asc", 9)] {
        let (_, body) = hub.get(&format!("/api/notifications?{query}"), Some(&token("ann", &[]))).await.unwrap();
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["notifications"][0]["seq"], first, "{query}");
    }
    let (status, body) = hub.get("/api/notifications?since=1h&after=21", Some(&token("ann", &[]))).await.unwrap();
    assert_eq!(status, 409, "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_before_the_log_is_its_earliest_row() {
    let db = log_of(10).await;
    let hub = TestHub::on(&db).start().await;
    for n in 1..=25 {
        hub.post(&note(&n.to_string()).to_user("ann")).await;
    }
    age(&db, 25).await;
    let dropped = retain(&db, ALL_FULL).await.partitions_dropped;
    assert!(dropped > 0);
    let floor = db.number("SELECT floor_seq FROM recado.meta").await;
    let told = async || {
        let client = TestClient::of("ann").device("live").since("live").connect(&hub).await;
        (client.hello["earliest"] == floor + 1).then_some(())
    };
    eventually("the hub knows what is kept", PATIENCE, told).await;
    let kept: Vec<String> = (floor + 1..=25).map(|n| n.to_string()).collect();
    // Like `earliest`: a time names nothing that the client has had, so nothing is lost for it.
    assert_eq!(by_socket(&hub, "1h").await, by_socket(&hub, "earliest").await);
    assert_eq!(by_socket(&hub, "1h").await, ("ok".to_owned(), floor, kept.clone()));
    assert_eq!(by_event_source(&hub, "1h").await, kept);
    assert_eq!(by_history(&hub, "since=1h").await, kept);
    let empty = TestDb::new().await;
    let hub = TestHub::on(&empty).start().await;
    assert_eq!(by_socket(&hub, "1h").await, ("live".to_owned(), 0, Vec::new()));
    assert_eq!(by_history(&hub, "since=1h").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_time_is_refused_on_every_way() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    for bad in ["10ms", "1.5h", "-10m", "36501d", "yesterday", "2026-11-21", "2026-11-21T12:00:00", "2026-13-21T12:00:00Z"] {
        let problem = TestClient::of("ann").since(bad).try_connect(&hub.address).await.unwrap_err();
        assert!(problem.contains("400"), "{problem}");
        let socket = TestClient::of("ann").since(bad).header("origin", "http://localhost").open(&hub).await.unwrap();
        assert_eq!(TestClient::over(socket).ended(PATIENCE).await, ClientEnd::Code(4510, "bad_query".to_owned()), "{bad}");
        assert_eq!(EventSourcePage::of("ann").query("since", bad).refused(&hub).await, (400, "bad_query".to_owned()));
        let (status, body) = hub.get(&format!("/api/notifications?since={bad}"), Some(&token("ann", &[]))).await.unwrap();
        assert_eq!(status, 422, "{body}");
        assert!(body.contains("\"pointer\":\"/since\""), "{body}");
    }
}
