//! Tests that a batch is appended whole, in one commit, or not at all.
//!
//! Each item has its answer.

use std::collections::HashSet;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::*;

const BATCH: &str = "/api/internal/notify/batch";
const JSON: (&str, &str) = ("content-type", "application/json");

fn body(notes: &[Note]) -> String {
    let items: Vec<String> = notes.iter().map(Note::body).collect();
    format!("{{\"items\":[{}]}}", items.join(","))
}

fn to_ann(title: &str) -> Note {
    note(title).to_user("ann")
}

async fn post(hub: &TestHub, notes: &[Note]) -> PostAnswer {
    hub.post_raw(BATCH, &[JSON], body(notes)).await
}

fn items(answer: &PostAnswer) -> Vec<(i64, bool)> {
    assert!(answer.is_receipt(), "{} {}", answer.status, answer.body);
    assert_eq!(answer.body["success"], true);
    let items = answer.body["items"].as_array().unwrap();
    items.iter().map(|item| (item["seq"].as_i64().unwrap(), item["duplicate"].as_bool().unwrap())).collect()
}

fn pointers(answer: &PostAnswer) -> Vec<&str> {
    answer.body["errors"].as_array().into_iter().flatten().map(|error| error["pointer"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_one_commit_and_arrives_in_its_order() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    let notes: Vec<Note> = (0..1000).map(|n| to_ann(&n.to_string()).data(&format!("{{\"n\": {n}.0}}"))).collect();
    let answer = post(&hub, &notes).await;
    assert_eq!(answer.status, 201);
    assert_eq!(items(&answer), (1..=1000).map(|seq| (seq, false)).collect::<Vec<_>>());
    assert_eq!(db.number("SELECT count(DISTINCT xmin::text) FROM recado.log").await, 1, "one transaction");
    let got = ann.until_seq(1000).await;
    let ids: Vec<&str> = got.iter().map(|n| n.id.as_str()).collect();
    let answered: Vec<&str> = answer.body["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!(ids, answered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_item_refuses_the_whole_and_is_pointed_at() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let good = to_ann("good");
    let long = to_ann("long").data(&format!("\"{}\"", "x".repeat(64 << 10)));
    let refused: [(Vec<Note>, &str, &str); 5] = [
        (vec![good.clone(), good.clone(), good.clone(), good.clone().raw("title", "7")], "invalid_field", "/items/3/title"),
        (vec![good.clone(), note("nobody")], "no_audience", "/items/1"),
        (vec![good.clone().raw("type", "\"ack\""), good.clone()], "reserved_type", "/items/0/type"),
        (vec![good.clone(), long], "invalid_field", "/items/1"),
        (vec![], "invalid_field", "/items"),
    ];
    for (notes, code, pointer) in refused {
        let answer = post(&hub, &notes).await;
        assert_eq!((answer.status, answer.code(), pointers(&answer)), (422, code, vec![pointer]), "{}", answer.body);
    }
    assert_eq!(pointers(&post(&hub, &vec![good.clone(); 1001]).await), ["/items"]);
    // Content-Length alone is enough: the hub does not wait for the body.
    let mut socket = TcpStream::connect(&hub.address).await.unwrap();
    let length = (8 << 20) + 1;
    let key = db.key();
    let head = format!(
        "POST {BATCH} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    socket.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
    for (media, body) in [("application/json", "{"), ("text/plain", "{}")] {
        let answer = hub.post_raw(BATCH, &[("content-type", media)], body).await;
        assert!(matches!(answer.status, 400 | 415), "{}", answer.body);
    }
    assert_eq!(db.head().await, 0, "no refused post was appended");
    assert_eq!(items(&post(&hub, &[good]).await), [(1, false)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_make_a_batch_safe_to_repeat() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let notes = [to_ann("a").body_key("a"), to_ann("b"), to_ann("a").body_key("a")];
    let first = post(&here, &notes).await;
    assert_eq!((first.status, items(&first)), (201, vec![(1, false), (2, false), (1, true)]), "the same key and body twice are one row");
    let mixed = post(&there, &[to_ann("a").body_key("a"), to_ann("c").body_key("c")]).await;
    assert_eq!((mixed.status, items(&mixed)), (201, vec![(1, true), (3, false)]));
    let known = post(&there, &[to_ann("c").body_key("c"), to_ann("a").body_key("a")]).await;
    assert_eq!((known.status, items(&known)), (200, vec![(3, true), (1, true)]));

    let whole = body(&[to_ann("x"), to_ann("own").body_key("own"), to_ann("y")]);
    let keyed = [JSON, ("idempotency-key", "import-7")];
    let first = here.post_raw(BATCH, &keyed, whole.clone()).await;
    let again = there.post_raw(BATCH, &keyed, whole).await;
    assert_eq!((first.status, again.status), (201, 200));
    let (first, again) = (items(&first), items(&again));
    assert_eq!(again, first.iter().map(|(seq, _)| (*seq, true)).collect::<Vec<_>>());
    let single = there.try_post(&to_ann("y").key("import-7/2")).await.unwrap();
    assert_eq!((single.status, single.receipt().seq), (200, 6), "an item's key is derived from the batch key and its index");
    assert_eq!(db.head().await, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_with_another_body_refuses_the_whole() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&to_ann("first").key("k")).await;
    let conflicts: [(Vec<Note>, Vec<&str>); 3] = [
        (vec![to_ann("new"), to_ann("other").body_key("k"), to_ann("new too")], vec!["/items/1"]),
        (vec![to_ann("a").body_key("l"), to_ann("a").body_key("l"), to_ann("other").body_key("k")], vec!["/items/2"]),
        (vec![to_ann("a").body_key("l"), to_ann("b").body_key("l")], vec!["/items/1"]),
    ];
    for (notes, blamed) in conflicts {
        let answer = post(&hub, &notes).await;
        assert_eq!((answer.status, answer.code(), pointers(&answer)), (422, "idempotency_conflict", blamed), "{}", answer.body);
    }
    assert_eq!(db.head().await, 1, "no refused post was appended");
    assert_eq!(db.number("SELECT count(*) FROM recado.idempotency").await, 1);
}

/// Batches and single posts share commits. A refused batch fails no other post, and no batch is ever appended in part.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_other_writers_a_batch_is_still_whole_or_absent() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let hubs = [TestHub::on(&db).start().await, TestHub::on(&db).start().await];
    hubs[0].post(&to_ann("first").key("taken")).await;
    let hubs = &hubs;
    let writer = async |writer: usize| {
        for round in 0..20 {
            let hub = &hubs[(writer + round) % 2];
            let name = format!("{writer}-{round}");
            let mut notes: Vec<Note> = (0..5).map(|n| to_ann(&name).body_key(&format!("{name}-{n}"))).collect();
            match writer % 3 {
                0 => assert_eq!(hub.try_post(&to_ann("single").key(&name)).await.unwrap().status, 201),
                1 => assert_eq!(post(hub, &notes).await.status, 201),
                _ => {
                    notes.push(to_ann("other").body_key("taken"));
                    let answer = post(hub, &notes).await;
                    assert_eq!((answer.status, pointers(&answer)), (422, vec!["/items/5"]), "{}", answer.body);
                }
            }
        }
    };
    futures_util::future::join_all((0..12).map(writer)).await;
    assert_eq!(db.head().await, 1 + 4 * 20 + 4 * 20 * 5);
    let torn = "SELECT count(*) FROM (SELECT count(DISTINCT xmin::text) AS commits, count(*) AS rows, max(seq) - min(seq) AS span
                  FROM recado.log WHERE title NOT IN ('first', 'single') GROUP BY title) b WHERE commits <> 1 OR rows <> 5 OR span <> 4";
    assert_eq!(db.number(torn).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_megabytes_is_one_commit_and_is_delivered() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let data = format!("\"{}\"", "x".repeat(50_000));
    let notes: Vec<Note> = (0..150).map(|n| to_ann(&n.to_string()).data(&data)).collect();
    let mut ann = TestClient::of("ann").connect(&hub).await;
    assert_eq!(post(&hub, &notes).await.status, 201);
    assert_eq!(db.number("SELECT count(DISTINCT xmin::text) FROM recado.log").await, 1);
    assert_eq!(ann.until_seq(150).await.len(), 150);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_locked_log_refuses_a_batch_as_a_whole_and_the_repeat_is_there_once() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut locker = db.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE recado.log IN ACCESS EXCLUSIVE MODE").execute(&mut locker).await.unwrap();
    let whole = body(&[to_ann("a"), to_ann("b")]);
    let keyed = [JSON, ("idempotency-key", "k")];
    let held_up = hub.post_raw(BATCH, &keyed, whole.clone()).await;
    assert_eq!(held_up.status, 503, "{}", held_up.body);
    assert!(held_up.took < Duration::from_secs(6), "{:?}", held_up.took);
    sqlx::raw_sql("ROLLBACK").execute(&mut locker).await.unwrap();
    let repeat = hub.post_raw(BATCH, &keyed, whole).await;
    assert_eq!(items(&repeat).into_iter().map(|(seq, _)| seq).collect::<HashSet<_>>(), HashSet::from([1, 2]));
    assert_eq!(db.head().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_item_counts_for_the_rate() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_PUBLISH_RATE", "20").start().await;
    assert_eq!(post(&hub, &vec![to_ann("n"); 100]).await.status, 201);
    let answer = hub.try_post(&to_ann("too soon")).await.unwrap();
    assert_eq!((answer.status, answer.code()), (429, "rate_limited"));
}
