//! Tests that a follower of the log gets each row once or a gap.
//!
//! It ends with its key or token, and when the hub drains.

use std::collections::BTreeSet;
use std::time::Duration;

use recado::config::JwtRules;
use recado::domain::{Principal, Role, UserId};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::*;

/// A reader of the log.
struct Follower {
    response: reqwest::Response,
    text: String,
}

impl Follower {
    async fn of(hub: &TestHub, bearer: &str, query: &str) -> Self {
        let url = format!("http://{}/api/admin/log?follow=1{query}", hub.address);
        let response = reqwest::Client::new().get(url).bearer_auth(bearer).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        Self { response, text: String::new() }
    }

    /// The next line; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let line = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                self.text = rest.to_owned();
                return Some(line);
            }
            let chunk = timeout(PATIENCE, self.response.chunk()).await.expect("a line in time").unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    async fn row(&mut self) -> Value {
        let line = self.next().await.expect("a row");
        assert!(line["seq"].is_i64(), "{line}");
        line
    }

    /// The last line.
    async fn end(mut self) -> Value {
        let mut last = Value::Null;
        while let Some(line) = self.next().await {
            last = line;
        }
        last
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_come_as_they_are_committed_on_any_hub() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    here.post(&note("first").to_user("ann")).await;
    here.settled(&db).await;
    let mut all = Follower::of(&here, &db.admin_key(), "&after=0").await;
    let mut some = Follower::of(&here, &db.admin_key(), "&type=rare").await;
    let mut last = Follower::of(&here, &db.admin_key(), "&limit=1").await;
    assert_eq!((all.row().await["title"].clone(), last.row().await["title"].clone()), (json!("first"), json!("first")));
    for n in 0..20 {
        there.post(&note(&n.to_string()).to_user("bob")).await;
        assert_eq!(all.row().await["title"], n.to_string());
    }
    let rare = there.post(&note("rare").to_everyone().raw("type", "\"rare\"")).await.seq;
    assert_eq!((all.row().await["seq"].clone(), some.row().await["seq"].clone()), (json!(rare), json!(rare)));
    // What says where the log ends, when nothing is committed.
    assert_eq!(some.next().await, Some(json!({ "head": rare })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_far_behind_is_told_what_it_was_not_sent() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    append(&db, "ann", 9000, 10).await;
    hub.settled(&db).await;
    let mut follower = Follower::of(&hub, &db.admin_key(), "&after=100").await;
    assert_eq!(follower.next().await, Some(json!({ "skipped": { "from": 101, "to": 8500 } })));
    for seq in 8501..=9000 {
        assert_eq!(follower.row().await["seq"], seq);
    }
    // From here on the follower is behind or not, as fast as the hub reads. Every number was sent or skipped.
    append(&db, "ann", 9000, 10).await;
    let mut at = 9000;
    while at < 18_000 {
        let line = follower.next().await.unwrap();
        let (from, to) = line["seq"]
            .as_i64()
            .map_or_else(|| (line["skipped"]["from"].as_i64().unwrap(), line["skipped"]["to"].as_i64().unwrap()), |seq| (seq, seq));
        assert_eq!(from, at + 1, "{line}");
        at = to;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_ends_with_its_key_or_token_and_when_the_hub_drains() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let made = TestHub::on(&db).run(&["key", "create", "watcher", "--role", "admin"]).await;
    let key = made.split_whitespace().find(|word| word.starts_with("rck_")).unwrap();
    let by_key = Follower::of(&hub, key, "").await;
    let by_token = Follower::of(&hub, &service_token("operator", Role::Admin), "").await;
    let brief = brief_admin_token(Duration::from_secs(2));
    let by_brief_token = Follower::of(&hub, &brief, "").await;
    let other = Follower::of(&hub, &db.admin_key(), "").await;
    let unauthorized = json!({ "end": "unauthorized" });
    TestHub::on(&db).run(&["key", "revoke", "watcher"]).await;
    assert_eq!(by_key.end().await, unauthorized);
    let (status, _) = post(&hub, "/api/admin/revocations", &db.admin_key(), &json!({ "user_id": "operator" })).await;
    assert_eq!((status, by_token.end().await), (200, unauthorized.clone()));
    // It counts five seconds longer than it says: the clocks of a hub and an issuer may differ.
    assert_eq!(by_brief_token.end().await, unauthorized);
    hub.signal("-TERM").await;
    assert_eq!(other.end().await, json!({ "end": "draining" }));
    let mut hub = hub;
    assert!(hub.ended(PATIENCE).await.success());
}

fn brief_admin_token(ttl: Duration) -> String {
    let who = Principal { user: UserId::parse("brief").unwrap(), accounts: Vec::new() };
    recado::identity::mint(SECRET, &JwtRules::default(), &who, Some(Role::Admin), ttl).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_ends_when_the_log_is_another_one() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let follower = Follower::of(&hub, &db.admin_key(), "").await;
    TestHub::on(&db).run(&["log", "new-id"]).await;
    assert_eq!(follower.end().await, json!({ "end": "reset" }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_only_so_many_followers_and_no_key_takes_all_places() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut followers = Vec::new();
    for _ in 0..8 {
        followers.push(Follower::of(&hub, &db.admin_key(), "").await);
    }
    let (status, refused) = read(&db, &hub, "/api/admin/log?follow=1").await;
    assert_eq!((status, &refused["code"]), (429, &json!("too_many_connections")));
    assert!(refused["detail"].as_str().unwrap().starts_with("8 requests of key:boss follow the log"), "{refused}");
    let page = hub.get("/api/admin/log?limit=1", Some(&db.admin_key())).await.unwrap();
    assert_eq!(page.0, 200, "a page needs no place");
    for subject in ["ann", "bob", "cat"] {
        for _ in 0..8 {
            followers.push(Follower::of(&hub, &service_token(subject, Role::Admin), "").await);
        }
    }
    let follow = async |bearer: &str| {
        let url = format!("http://{}/api/admin/log?follow=1", hub.address);
        let answer = reqwest::Client::new().get(url).bearer_auth(bearer).send().await.unwrap();
        (answer.status().as_u16(), answer.headers().contains_key("retry-after"))
    };
    let eve = service_token("eve", Role::Admin);
    assert_eq!(follow(&eve).await, (503, true));
    assert_eq!(follow(&db.admin_key()).await, (429, true));
    drop(followers.pop());
    // The hub finds out that the reader has gone when it writes.
    hub.post(&note("n").to_everyone()).await;
    eventually("there is a place", PATIENCE, async || (follow(&eve).await.0 == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_takes_all_places_of_the_samples() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let live = async |bearer: &str| {
        let url = format!("http://{}/api/admin/live?window=0m", hub.address);
        reqwest::Client::new().get(url).bearer_auth(bearer).send().await.unwrap()
    };
    let mut streams = Vec::new();
    for _ in 0..32 {
        streams.push(live(&db.admin_key()).await);
        assert_eq!(streams.last().unwrap().status(), 200);
    }
    let refused = live(&db.admin_key()).await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"5".parse().unwrap()));
    let refused: Value = refused.json().await.unwrap();
    assert_eq!(refused["code"], "too_many_connections");
    for subject in ["ann", "bob", "cat"] {
        for _ in 0..32 {
            streams.push(live(&service_token(subject, Role::Admin)).await);
            assert_eq!(streams.last().unwrap().status(), 200);
        }
    }
    assert_eq!(live(&service_token("eve", Role::Admin)).await.status(), 503);
    drop(streams);
    eventually("there are places", PATIENCE, async || (live(&db.admin_key()).await.status() == 200).then_some(())).await;
}

/// A reader that takes nothing for a while: the hub keeps one page of rows for it, and tells it later what it missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_reader_that_pauses_costs_one_page_and_misses_nothing_silently() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_SEND_DEADLINE", "60s").start().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(hub.address.parse().unwrap()).await.unwrap();
    let request = format!(
        "GET /api/admin/log?follow=1&after=0 HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n\r\n",
        hub.address,
        db.admin_key()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let before = hub.resident_kib();
    for _ in 0..30 {
        append(&db, "ann", 1000, 4000).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    hub.settled(&db).await;
    let grown = hub.resident_kib().saturating_sub(before);
    assert!(grown < 60 << 10, "120 MB were appended, and the hub grew by {grown} KiB");
    let head = db.head().await;
    let (mut text, mut buffer) = (String::new(), vec![0; 1 << 16]);
    let (mut at, mut skipped, mut sent) = (0, 0, BTreeSet::new());
    while at < head {
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("more in time").unwrap();
        assert!(read > 0, "the stream ended at {at} of {head}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        while let Some((line, rest)) = text.split_once('\n') {
            // The head of the answer and the sizes of chunks are not JSON objects.
            if let Ok(Value::Object(line)) = serde_json::from_str::<Value>(line.trim()) {
                if let Some(gap) = line.get("skipped") {
                    assert_eq!(gap["from"].as_i64(), Some(at + 1));
                    at = gap["to"].as_i64().unwrap();
                    skipped += 1;
                } else if let Some(seq) = line.get("seq").and_then(Value::as_i64) {
                    assert_eq!(seq, at + 1, "each row follows the one before");
                    sent.insert(seq);
                    at = seq;
                }
            }
            text = rest.to_owned();
        }
    }
    eprintln!("{} rows were sent, {skipped} gaps, {grown} KiB more", sent.len());
    assert!(skipped > 0 && sent.len() > 500);
}
