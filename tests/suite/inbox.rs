//! Promise: every device of a user shows the same counts, without asking for them again.

use futures_util::StreamExt;
use recado::domain::{Seq, UserId};
use recado::store::erase::{self, EraseTarget};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::outages::{until_not_ready, until_ready_again};
use super::support::*;

const ALL: [InboxTransport; 3] = [InboxTransport::WebSocket, InboxTransport::EventSource, InboxTransport::Lines];

fn ann(device: &str, transport: InboxTransport) -> InboxStream {
    InboxStream::of("ann", &[], device, transport)
}

/// A page of the user, for requests.
fn page() -> InboxStream {
    ann("page", InboxTransport::WebSocket)
}

fn typed(kind: &str) -> Note {
    note("item").raw("type", &json!(kind).to_string()).to_user("ann")
}

async fn post(hub: &TestHub, count: usize) -> Vec<i64> {
    let mut seqs = Vec::new();
    for _ in 0..count {
        seqs.push(hub.post(&typed("order")).await.seq);
    }
    seqs
}

/// Posts many items at once. Returns the last number.
async fn post_many(hub: &TestHub, count: usize) -> i64 {
    let bodies: Vec<String> = (0..count).map(|_| typed("order").body()).collect();
    let body = format!("{{\"items\":[{}]}}", bodies.join(","));
    let answer = hub.post_raw("/api/internal/notify/batch", &[("content-type", "application/json")], body).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer.body["items"].as_array().unwrap().last().unwrap()["seq"].as_i64().unwrap()
}

fn both(answer: &Value) -> (u32, u32) {
    ToldCounts::of(answer).unwrap_or_else(|| panic!("counts: {answer}")).both()
}

/// Code and pointers of a refusal.
fn refusal((status, body): &(u16, Value)) -> (u16, &str, Vec<&str>) {
    let errors = body["errors"].as_array().into_iter().flatten();
    (*status, body["code"].as_str().unwrap(), errors.map(|error| error["pointer"].as_str().unwrap()).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_devices_on_two_hubs_agree_after_each_operation() {
    let db = TestDb::new().await;
    let hubs = [TestHub::on(&db).start().await, TestHub::on(&db).start().await];
    let mut devices = Vec::new();
    for at in 0..5 {
        let transport = [InboxTransport::WebSocket, InboxTransport::EventSource][at % 2];
        devices.push(ann(&format!("d{at}"), transport).connect(&hubs[at / 2 % 2].address, None).await);
    }
    let seqs = post(&hubs[0], 4).await;
    let foreign = hubs[1].post(&note("item").to_user("bob")).await.seq;
    let steps = [
        (json!({"op": "seen", "up_to": seqs[1]}), 4, 2),
        (json!({"op": "read", "seqs": [seqs[0], seqs[3]]}), 2, 2),
        (json!({"op": "unread", "seqs": [seqs[0]]}), 3, 2),
        (json!({"op": "archive", "seqs": [seqs[0], seqs[3]]}), 2, 1),
        (json!({"op": "unarchive", "seqs": [seqs[3]]}), 2, 2),
        (json!({"op": "read", "up_to": foreign}), 0, 0),
        (json!({"op": "unread", "seqs": [seqs[2]]}), 1, 0),
        (json!({"op": "archive", "up_to": seqs[3]}), 0, 0),
        (json!({"op": "unarchive", "seqs": [seqs[2], seqs[3]]}), 1, 0),
    ];
    for device in &mut devices {
        device.shows(4, 4).await;
    }
    for (at, (body, unread, unseen)) in steps.into_iter().enumerate() {
        let (status, answer) = page().change(&hubs[at % 2].address, &body).await;
        assert_eq!((status, both(&answer)), (200, (unread, unseen)), "{body}: {answer}");
        let seq = answer["seq"].as_i64().unwrap();
        for device in &mut devices {
            let frame = device.until(seq).await.pop().unwrap();
            assert_eq!((&frame["type"], both(&frame)), (&json!("inbox"), (unread, unseen)), "{body}: {frame}");
            assert_eq!((&frame["data"], &frame["title"], &frame["message"]), (&body, &json!(""), &json!("")));
        }
        // Repeating is harmless: no row, and the same answer.
        let (status, again) = page().change(&hubs[at % 2].address, &body).await;
        assert_eq!((status, &again["seq"], both(&again)), (200, &Value::Null, (unread, unseen)), "{body}: {again}");
    }
    let (_, list) = page().page(&hubs[0].address, "?filter=all&limit=1").await;
    assert_eq!((&list["items"][0]["seq"], &list["items"][0]["read"], &list["next"]), (&json!(seqs[3]), &json!(true), &json!(seqs[3])));
    let (_, list) = page().page(&hubs[1].address, &format!("?filter=archived&before={}", seqs[3])).await;
    let archived: Vec<i64> = list["items"].as_array().unwrap().iter().map(|item| item["seq"].as_i64().unwrap()).collect();
    assert_eq!((archived, &list["next"]), (vec![seqs[1], seqs[0]], &Value::Null));
    assert_eq!(list["log_id"], devices[0].hello["log_id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_stream_tells_the_counts_as_the_contract_says() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    for transport in ALL {
        drop(ann("d", transport).connect(&hub.address, None).await);
    }
    let first = post(&hub, 2).await;
    for transport in ALL {
        let mut device = ann("d", transport).connect(&hub.address, Some(first[0] - 1)).await;
        let known = both(&device.hello);
        let frames = device.until(*first.last().unwrap()).await;
        assert!(frames.iter().all(|frame| frame["replayed"] == true && ToldCounts::of(frame).is_none()), "{frames:?}");
        let caught_up = device.next_of("caught_up").await;
        assert_eq!((both(&caught_up), caught_up["as_of"].as_i64() >= caught_up["seq"].as_i64()), (known, true), "{caught_up}");
        let live = hub.post(&typed("order")).await.seq;
        let frame = device.until(live).await.pop().unwrap();
        assert_eq!((both(&frame), &frame["as_of"]), ((known.0 + 1, known.1 + 1), &json!(live)), "{frame}");
        for note in [typed("order").ttl(60), typed("order").never_replayed(), typed("order").raw("inbox", "false")] {
            let live = hub.post(&note).await.seq;
            let frame = device.until(live).await.pop().unwrap();
            assert!(frame["replayed"].is_null() && ToldCounts::of(&frame).is_none(), "{frame}");
        }
    }
    // Text order: the numbers come first, then the counts.
    let mut socket = TestClient::of("ann").device("raw").query("inbox", "1").open(&hub).await.unwrap();
    let text = loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) if text.contains("\"caught_up\"") => drop(hub.post(&typed("order")).await),
            Some(Ok(Message::Text(text))) if text.contains("\"title\"") => break text.to_string(),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    let order: Vec<usize> =
        ["\"seq\"", "\"prev\"", "\"unread\"", "\"unseen\"", "\"as_of\"", "\"type\""].iter().map(|name| text.find(name).unwrap()).collect();
    assert!(order.is_sorted(), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_for_no_inbox_gets_none_of_it() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut old = TestClient::of("ann").device("old").connect(&hub).await;
    let mut off = TestClient::of("ann").device("off").query("inbox", "0").connect(&hub).await;
    let mut new = ann("new", InboxTransport::WebSocket).connect(&hub.address, None).await;
    let seqs = post(&hub, 2).await;
    page().changed(&hub.address, json!({"op": "read", "seqs": seqs})).await;
    page().mute(&hub.address, &["order"]).await;
    let last = post(&hub, 1).await[0];
    new.until(last).await;
    for client in [&mut old, &mut off] {
        assert!(client.hello["unread"].is_null());
        let got = client.until_seq(last).await;
        assert_eq!(got.iter().map(|n| n.seq).collect::<Vec<_>>(), [seqs[0], seqs[1], last]);
        assert!(got.iter().all(|n| !n.text.contains("\"unread\"") && !n.text.contains("\"muted\"")));
    }
    let mut resumed = TestClient::of("ann").device("old").since(0).connect(&hub).await;
    assert_eq!(resumed.until_caught_up().await.len(), 3);
    let (_, history) = hub.get("/api/notifications", Some(&token("ann", &[]))).await.unwrap();
    let history: Value = serde_json::from_str(&history).unwrap();
    let types: Vec<&str> = history["notifications"].as_array().unwrap().iter().map(|n| n["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["order", "order", "order"]);

    for query in ["inbox=1&types=order", "inbox=2", "inbox=true"] {
        let target = format!("/api/notifications/stream?{query}");
        let (status, body) = inbox_request("GET", &hub.address, &target, &token("ann", &[]), None).await;
        assert_eq!(refusal(&(status, body)), (400, "bad_query", vec!["/inbox"]), "{query}");
    }
    for query in ["follow=1&inbox=1&types=order", "follow=1&inbox=2", "inbox=1"] {
        let target = format!("/api/notifications/ndjson?{query}");
        let (status, body) = inbox_request("GET", &hub.address, &target, &token("ann", &[]), None).await;
        assert_eq!(refusal(&(status, body)), (422, "invalid_field", vec!["/inbox"]), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_muted_type_is_delivered_and_not_counted() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_REQUIRED_TYPES", "security_*,terms").start().await;
    let mut device = ann("d", InboxTransport::EventSource).connect(&hub.address, None).await;
    post(&hub, 1).await;
    hub.post(&typed("product_new")).await;
    device.shows(2, 2).await;
    let (status, answer) = page().mute(&hub.address, &["product_*", "stock", "stock"]).await;
    assert_eq!((status, &answer["muted"], both(&answer)), (200, &json!(["product_*", "stock"]), (1, 1)), "{answer}");
    assert_eq!(answer["required"], json!(["security_*", "terms"]));
    let frame = device.next_of("preferences").await;
    assert_eq!((both(&frame), &frame["data"]), ((1, 1), &json!({"muted": ["product_*", "stock"]})), "{frame}");
    for (kind, muted) in [("product_old", true), ("stock", true), ("stocks", false), ("security_x", false)] {
        let seq = hub.post(&typed(kind)).await.seq;
        let frame = device.until(seq).await.pop().unwrap();
        assert_eq!((frame["muted"] == true, ToldCounts::of(&frame).is_none()), (muted, muted), "{frame}");
    }
    device.shows(3, 3).await;
    let (_, list) = page().page(&hub.address, "?filter=unread").await;
    assert_eq!((list["items"].as_array().unwrap().len(), &list["unread"]), (3, &json!(3)), "{list}");
    let (_, list) = page().page(&hub.address, "").await;
    assert_eq!(list["items"].as_array().unwrap().iter().filter(|item| item["muted"] == true).count(), 3, "{list}");
    let (_, same) = page().mute(&hub.address, &["stock", "product_*"]).await;
    assert_eq!((&same["seq"], both(&same)), (&Value::Null, (3, 3)), "the same set again");
    let (_, shown) = inbox_request("GET", &hub.address, "/api/preferences", &page().token(), None).await;
    assert_eq!(shown, json!({"muted": ["product_*", "stock"], "required": ["security_*", "terms"]}));
    for (types, pointers) in [
        (vec!["stock", "security_alert"], vec!["/muted/1"]),
        (vec!["sec*", "a b", "terms"], vec!["/muted/0", "/muted/1", "/muted/2"]),
        (vec!["*"], vec!["/muted/0"]),
        (vec!["a*b"], vec!["/muted/0"]),
    ] {
        assert_eq!(refusal(&page().mute(&hub.address, &types).await), (422, "invalid_field", pointers), "{types:?}");
    }
    let many: Vec<String> = (0..101).map(|n| format!("t{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(refusal(&page().mute(&hub.address, &many).await), (422, "invalid_field", vec!["/muted"]));
    page().mute(&hub.address, &[]).await;
    device.shows(6, 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_request_is_refused_with_a_pointer_and_changes_nothing() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut device = ann("d", InboxTransport::WebSocket).connect(&hub.address, None).await;
    let seqs = post(&hub, 2).await;
    let foreign = hub.post(&note("item").to_user("bob")).await.seq;
    let mut once = vec![foreign];
    for other in [typed("order").ttl(60), typed("order").never_replayed(), typed("order").raw("inbox", "false")] {
        once.push(hub.post(&other).await.seq);
    }
    let head = db.head().await;
    let too_many: Vec<i64> = (1..=1001).collect();
    let cases = [
        (
            json!({"op": "read", "seqs": [seqs[0], once[0], once[1], seqs[1], once[2], once[3], head + 1]}),
            422,
            vec!["/seqs/1", "/seqs/2", "/seqs/4", "/seqs/5", "/seqs/6"],
        ),
        (json!({"op": "read", "up_to": head + 1}), 422, vec!["/up_to"]),
        (json!({"op": "read", "up_to": -1}), 422, vec!["/up_to"]),
        (json!({"op": "unread", "up_to": head}), 422, vec!["/op"]),
        (json!({"op": "seen", "seqs": [seqs[0]]}), 422, vec!["/op"]),
        (json!({"op": "delete", "seqs": [seqs[0]]}), 422, vec!["/op"]),
        (json!({"op": "read", "seqs": []}), 422, vec!["/seqs"]),
        (json!({"op": "read", "seqs": too_many}), 422, vec!["/seqs"]),
        (json!({"op": "read", "seqs": [0, seqs[0]]}), 422, vec!["/seqs/0"]),
        (json!({"op": "read", "seqs": [seqs[0]], "up_to": head}), 422, vec![""]),
        (json!({"op": "read"}), 422, vec![""]),
        (json!({"op": "read", "up_to": 1, "log_id": "x"}), 422, vec!["/log_id"]),
    ];
    for (body, status, pointers) in cases {
        assert_eq!(refusal(&page().change(&hub.address, &body).await), (status, "invalid_field", pointers), "{body}");
    }
    let body = json!({"op": "read", "seqs": seqs, "log_id": "00000000-0000-7000-8000-000000000000"});
    assert_eq!(refusal(&page().change(&hub.address, &body).await), (409, "reset", vec![]));
    for (target, pointers) in [
        ("/api/inbox?filter=new", vec!["/filter"]),
        ("/api/inbox?limit=0", vec!["/limit"]),
        ("/api/inbox?limit=201", vec!["/limit"]),
        ("/api/inbox?before=x&after=1", vec!["/before", "/after"]),
    ] {
        let refused = inbox_request("GET", &hub.address, target, &page().token(), None).await;
        assert_eq!(refusal(&refused), (422, "invalid_field", pointers), "{target}");
    }
    assert_eq!(db.head().await, head, "nothing was written");
    let body = json!({"op": "read", "seqs": seqs, "log_id": device.hello["log_id"]});
    assert!(page().changed(&hub.address, body).await.is_some());
    device.shows(0, 2).await;
    let (status, _) = inbox_request("GET", &hub.address, "/api/inbox", "nothing", None).await;
    assert_eq!(status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_items_are_1000_or_more_and_are_marked_by_one_row() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut device = ann("d", InboxTransport::WebSocket).connect(&hub.address, None).await;
    let first = post_many(&hub, 1000).await - 999;
    device.shows(1000, 1000).await;
    let last = post_many(&hub, 10).await;
    device.until(last).await;
    assert_eq!(device.counts.map(ToldCounts::both), Some((1000, 1000)), "1000 or more");
    // Every second item: they cannot be folded into the watermark.
    let some: Vec<i64> = (first..=last).filter(|seq| seq % 2 == 0).collect();
    let before = db.head().await;
    page().changed(&hub.address, json!({"op": "read", "seqs": some})).await;
    assert_eq!(db.head().await, before + 1, "one row");
    device.shows(505, 1000).await;
    let marks = "SELECT count(*) FROM recado.inbox_item";
    assert!(db.number(marks).await >= 500);

    // Marks that agree with each other are folded into the watermark.
    let rest: Vec<i64> = (first..=last).filter(|seq| seq % 2 == 1).take(450).collect();
    page().changed(&hub.address, json!({"op": "read", "seqs": rest})).await;
    device.shows(55, 1000).await;
    assert!(db.number(marks).await < 200, "{}", db.number(marks).await);

    // Too many that do not agree.
    let first = post_many(&hub, 1000).await - 999;
    post_many(&hub, 1000).await;
    post_many(&hub, 300).await;
    let gaps: Vec<i64> = (first..first + 2300).step_by(2).collect();
    let (some, others) = gaps.split_at(900);
    page().changed(&hub.address, json!({"op": "archive", "seqs": some})).await;
    let full = page().change(&hub.address, &json!({"op": "archive", "seqs": others})).await;
    assert_eq!(refusal(&full), (409, "inbox_full", vec![]));
    page().changed(&hub.address, json!({"op": "archive", "up_to": db.head().await})).await;
    assert_eq!(db.number(marks).await, 55, "those of the items that are read one by one");
    device.shows(0, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_agree_after_their_hub_is_killed_and_after_a_resume() {
    let db = TestDb::new().await;
    let (doomed, other) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let mut gone = Vec::new();
    for transport in ALL {
        gone.push((transport, ann(&format!("{transport:?}"), transport).connect(&doomed.address, None).await));
    }
    let mut stays = ann("stays", InboxTransport::WebSocket).connect(&other.address, None).await;
    let seqs = post(&doomed, 3).await;
    for (_, device) in &mut gone {
        device.shows(3, 3).await;
    }
    doomed.kill().await;
    page().changed(&other.address, json!({"op": "read", "seqs": [seqs[1]]})).await;
    post(&other, 1).await;
    stays.shows(3, 4).await;
    for (transport, device) in gone {
        let mut back = ann(&format!("{transport:?}"), transport).connect(&other.address, Some(device.given)).await;
        back.next_of("caught_up").await;
        back.shows(3, 4).await;
    }
    let next = post(&other, 1).await[0];
    stays.until(next).await;
    stays.shows(4, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn counts_are_right_after_the_database_is_killed_and_comes_back() {
    let _turn = heavy().await;
    let mut server = DurableServer::start().await;
    let hub = TestHub::at(&server.url());
    let hubs = [hub.start().await, hub.start().await];
    let mut devices = Vec::new();
    for (at, transport) in ALL.into_iter().enumerate() {
        devices.push(ann(&format!("d{at}"), transport).connect(&hubs[at % 2].address, None).await);
    }
    let seqs = post(&hubs[0], 3).await;
    for device in &mut devices {
        device.shows(3, 3).await;
    }
    server.kill_9();
    until_not_ready(&hubs).await;
    let (status, refused) = page().change(&hubs[0].address, &json!({"op": "read", "seqs": [seqs[0]]})).await;
    assert_eq!(status, 503, "{refused}");
    server.start_again().await;
    until_ready_again(&hubs).await;
    // What the client may send again.
    eventually("the change is made", PATIENCE, async || {
        let (status, _) = page().change(&hubs[0].address, &json!({"op": "read", "seqs": [seqs[0]]})).await;
        (status == 200).then_some(())
    })
    .await;
    post(&hubs[1], 2).await;
    for device in &mut devices {
        device.shows(4, 5).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_go_on_without_counts_while_the_database_cannot_count() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut device = ann("d", InboxTransport::WebSocket).connect(&hub.address, None).await;
    let seqs = post(&hub, 2).await;
    device.shows(2, 2).await;
    let name = "recado.inbox_counts(text, text[], boolean)";
    db.run(&format!("ALTER FUNCTION {name} RENAME TO inbox_counts_away")).await;
    let (status, _) = page().change(&hub.address, &json!({"op": "read", "seqs": [seqs[1]]})).await;
    assert!(status >= 500, "{status}");
    // A change that is made, and cannot be counted.
    db.run(&format!("SELECT recado.mark_read('ann', '{{{}}}')", seqs[0])).await;
    eventually("it is moved", PATIENCE, async || (db.head().await > seqs[1]).then_some(())).await;
    let item = post(&hub, 1).await[0];
    let frames = device.until(item).await;
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert!(frames.iter().all(|frame| ToldCounts::of(frame).is_none()), "{frames:?}");
    db.run(&format!("ALTER FUNCTION {} RENAME TO inbox_counts", name.replace("counts", "counts_away"))).await;
    let told = device.next_of("inbox_counts").await;
    assert_eq!((both(&told), told["as_of"].as_i64() >= Some(item)), ((2, 3), true), "{told}");
    let item = post(&hub, 1).await[0];
    let frame = device.until(item).await.pop().unwrap();
    assert_eq!(both(&frame), (3, 4), "{frame}");
}

/// An answer over HTTP may have told other counts while frames went out without counts. So the next counts are told
/// even if they are the last ones again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_that_were_left_out_are_told_even_if_they_are_the_same() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut device = ann("d", InboxTransport::WebSocket).connect(&hub.address, None).await;
    let seqs = post(&hub, 3).await;
    device.shows(3, 3).await;
    let name = "recado.inbox_counts(text, text[], boolean)";
    db.run(&format!("ALTER FUNCTION {name} RENAME TO inbox_counts_away")).await;
    erase::erase(&mut db.connect().await, &EraseTarget::Seq(Seq::new(seqs[0]).unwrap()), "a test").await.unwrap();
    let item = post(&hub, 1).await[0];
    let frame = device.until(item).await.pop().unwrap();
    assert!(ToldCounts::of(&frame).is_none(), "{frame}");
    db.run(&format!("ALTER FUNCTION {} RENAME TO inbox_counts", name.replace("counts", "counts_away"))).await;
    let told = device.next_of("inbox_counts").await;
    assert_eq!((both(&told), told["as_of"].as_i64() >= Some(item)), ((3, 3), true), "{told}");
}

/// The row that tells the erasure was missing when the erased inbox was the last one, and zero counts were not counted
/// again: the connection kept the muted types, and the database did not count what followed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connected_user_who_is_erased_begins_anew() {
    let db = TestDb::new().await;
    let hubs = [TestHub::on(&db).start().await, TestHub::on(&db).start().await];
    let mut here = ann("here", InboxTransport::WebSocket).connect(&hubs[0].address, None).await;
    let mut there = ann("there", InboxTransport::EventSource).connect(&hubs[1].address, None).await;
    let item = post(&hubs[0], 2).await[1];
    page().mute(&hubs[0].address, &["order"]).await;
    page().changed(&hubs[0].address, json!({"op": "read", "up_to": item})).await;
    for device in [&mut here, &mut there] {
        device.shows(0, 0).await;
    }
    erase::erase(&mut db.connect().await, &EraseTarget::User(UserId::parse("ann").unwrap()), "a test").await.unwrap();
    let topics = "SELECT count(*) FROM recado.inbox_since";
    eventually("the connections open the inbox again", PATIENCE, async || (db.number(topics).await == 1).then_some(())).await;
    let head = db.head().await;
    for hub in &hubs {
        hub.has_published(head).await;
    }
    hubs[0].post(&note("item").raw("type", "\"order\"").to_everyone()).await;
    post(&hubs[1], 1).await;
    for device in [&mut here, &mut there] {
        device.shows(2, 2).await;
    }
    assert_eq!(both(&page().page(&hubs[0].address, "").await.1), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_whose_queue_overflows_is_told_the_counts_at_the_end() {
    const COUNT: usize = 300;
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_SEND_DEADLINE", "60s").start().await;
    let asked = TestClient::of("ann").device("slow").query("inbox", "1").receive_buffer(4096);
    let mut socket = asked.open(&hub).await.unwrap();
    let large = typed("order").message(&"x".repeat(8000));
    let mut last = 0;
    for _ in 0..COUNT {
        last = hub.post(&large).await.seq;
    }
    let answer = page().change(&hub.address, &json!({"op": "read", "up_to": last - 10})).await.1;
    assert_eq!(both(&answer), (10, 10), "{answer}");
    let (mut counts, mut rows, mut uncounted): (Option<ToldCounts>, usize, usize) = (None, 0, 0);
    while counts.is_none_or(|counts| counts.as_of <= last || counts.both() != (10, 10)) || rows < COUNT {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap_or_else(|_| panic!("{rows} rows, {counts:?}"));
        let Message::Text(text) = message.expect("open").expect("well") else { continue };
        let frame: Value = serde_json::from_str(&text).unwrap();
        let told = ToldCounts::of(&frame);
        if frame["title"] == "item" {
            rows += 1;
            uncounted += usize::from(told.is_none());
        }
        counts = told.filter(|told| counts.is_none_or(|known| known.as_of <= told.as_of)).or(counts);
    }
    assert_eq!(rows, COUNT);
    assert!(uncounted > 0, "the queue did not overflow");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_provider_sends_is_no_item() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut device = ann("d", InboxTransport::WebSocket).connect(&hub.address, None).await;
    want(&db, &["ann"]).await;
    let mut owner = Owner::on(&db).await;
    let lease = owner.claim_one(LONG).await;
    owner.append(&[message(&lease, 1, "one"), message(&lease, 2, "two")]).await;
    let seq = db.head().await;
    let frames = device.until(seq).await;
    assert!(frames.iter().filter(|frame| frame["id"].is_string()).all(|frame| ToldCounts::of(frame).is_none()), "{frames:?}");
    let item = post(&hub, 1).await[0];
    let frame = device.until(item).await.pop().unwrap();
    assert_eq!(both(&frame), (1, 1), "{frame}");
    assert_eq!(refusal(&page().change(&hub.address, &json!({"op": "read", "seqs": [seq]})).await).2, ["/seqs/0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_and_webhooks_get_changes_only_when_they_ask_for_the_type() {
    let (db, receiver, asking) = (TestDb::new().await, Receiver::start().await, Receiver::start().await);
    let key = "07070707070707070707070707070707070707070707070707070707070707aa";
    let builder = TestHub::on(&db).with("RECADO_WEBHOOK_NETWORKS", "127.0.0.0/8").with("RECADO_UPSTREAM_KEY", key);
    let hub = builder.start().await;
    builder.run(&["webhook", "create", "all", &receiver.url, "--start", "earliest"]).await;
    builder.run(&["webhook", "create", "inboxes", &asking.url, "--start", "earliest", "--type", "inbox"]).await;
    for (name, definition) in [("all", json!({})), ("inboxes", json!({"types": ["inbox"]}))] {
        let target = format!("/api/internal/consumers/{name}");
        let (status, body) = inbox_request("PUT", &hub.address, &target, &db.admin_key(), Some(&definition.to_string())).await;
        assert_eq!(status, 201, "{body}");
    }
    let seqs = post(&hub, 1).await;
    page().changed(&hub.address, json!({"op": "read", "seqs": seqs})).await;
    page().mute(&hub.address, &["stock"]).await;
    hub.post(&note("end").to_user("ann")).await;
    for (name, types) in [("all", vec!["order", "order_created"]), ("inboxes", vec!["inbox"])] {
        let target = format!("/api/internal/consumers/{name}/fetch");
        let (_, batch) = inbox_request("POST", &hub.address, &target, &db.admin_key(), Some(&json!({"owner": "a"}).to_string())).await;
        let got: Vec<&str> = batch["records"].as_array().unwrap().iter().map(|record| record["type"].as_str().unwrap()).collect();
        assert_eq!(got, types, "{name}: {batch}");
    }
    receiver.post_of("end").await;
    assert_eq!(receiver.titles(), ["item", "end"]);
    let change = asking.posts(1).await.remove(0).json();
    assert_eq!((&change["type"], &change["data"]["data"]), (&json!("inbox"), &json!({"op": "read", "seqs": seqs})), "{change}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_and_everyone_count_from_the_first_visit_and_the_user_from_the_beginning() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let to_all = async || {
        hub.post(&note("item").to_everyone()).await;
        hub.post(&note("item").account("7")).await;
        hub.post(&note("item").to_user("ann").account("7")).await;
        hub.post(&note("item").to_users(&["ann", "bob"])).await;
    };
    to_all().await;
    let mut alone = ann("alone", InboxTransport::WebSocket).connect(&hub.address, None).await;
    alone.shows(1, 1).await;
    to_all().await;
    alone.shows(3, 3).await;
    let member = InboxStream::of("ann", &["7"], "member", InboxTransport::Lines);
    let mut member = member.connect(&hub.address, Some(db.head().await)).await;
    assert_eq!(both(&member.hello), (5, 5), "the account counts from now on");
    to_all().await;
    member.shows(9, 9).await;
    alone.shows(5, 5).await;
}
