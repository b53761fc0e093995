//! Tests that a client receives the types that it asks for, and passes all others.

use std::time::Duration;

use serde_json::Value;

use super::support::*;

/// Posts a notification of this type to ann.
async fn post(hub: &TestHub, kind: &str, title: &str) -> i64 {
    hub.post(&note(title).to_user("ann").raw("type", &format!("\"{kind}\""))).await.seq
}

fn titles(got: Vec<ClientNotification>) -> Vec<String> {
    got.into_iter().map(|notification| notification.title).collect()
}

/// So many rows of a type that no client asks for, to ann.
fn many_others(count: usize) -> String {
    super::resume::many_rows(count).replace("'t'::text", "'other'::text")
}

/// Waits for a heartbeat at this number. The client checks that each `prev` names what it was given before.
async fn heartbeat_at(client: &mut TestClient, seq: i64) {
    loop {
        match client.next_frame().await {
            ClientSawFrame::Heartbeat { seq: at } if at == seq => return,
            ClientSawFrame::Heartbeat { seq: at } if at < seq => {}
            other => panic!("a heartbeat at {seq} was to come, not {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_gets_its_types_live_and_its_position_passes_all_others() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("WS_HEARTBEAT_INTERVAL", "1s").start().await;
    let asked = TestClient::of("ann").account("7").device("d").query("types", "order_*,stock.low").query("ack", "client");
    let mut client = asked.connect(&hub).await;
    client.until_caught_up().await;
    post(&hub, "chat", "no").await;
    hub.post(&note("no, to all").to_everyone().raw("type", "\"chat\"")).await;
    hub.post(&note("no, account").account("7").raw("type", "\"order\"")).await;
    let first = post(&hub, "order_created", "1").await;
    hub.post(&note("2, to all").to_everyone().raw("type", "\"stock.low\"")).await;
    hub.post(&note("3, account").account("7").raw("type", "\"order_paid\"")).await;
    hub.post(&note("4, to some").to_users(&["ann", "bob"]).raw("type", "\"order_\"")).await;
    let got = client.until("4, to some").await;
    assert_eq!(got[0].seq, first);
    assert_eq!(titles(got), ["1", "2, to all", "3, account", "4, to some"]);

    // A stretch of other types: the position moves by heartbeats and can be acknowledged. Nothing is repeated after it.
    let mut last = 0;
    for n in 0..5 {
        last = post(&hub, "chat", &format!("no {n}")).await;
    }
    heartbeat_at(&mut client, last).await;
    client.ack(last).await;
    eventually("the acknowledgement", PATIENCE, async || (db.place("ann", "d").await == Some(last)).then_some(())).await;
    client.kill();
    post(&hub, "chat", "no").await;
    post(&hub, "order_paid", "missed").await;
    let head = post(&hub, "chat", "no").await;
    let mut client = asked.connect(&hub).await;
    assert_eq!((client.resume_status(), client.hello["resume"]["from"].as_i64()), ("ok", Some(last)));
    assert_eq!(titles(client.until_caught_up().await), ["missed"]);
    assert_eq!(client.given, head, "caught_up is at the head");
    let live = post(&hub, "order_created", "live").await;
    let got = client.expect_notification().await;
    assert!((got.seq, got.prev) == (live, head) || got.prev > head, "{got:?}");

    // The position says nothing of the filter: another filter starts after it.
    client.ack(live).await;
    eventually("the acknowledgement", PATIENCE, async || (db.place("ann", "d").await == Some(live)).then_some(())).await;
    let mut all = TestClient::of("ann").device("d").connect(&hub).await;
    assert_eq!(titles(all.until_caught_up().await), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_skips_other_types_in_any_number_of_pages() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    db.run(&many_others(700)).await;
    post(&hub, "order_created", "a").await;
    db.run(&many_others(1200)).await;
    post(&hub, "order_created", "b").await;
    db.run(&many_others(600)).await;
    hub.has_published(2502).await;
    for frames in ["", "lines"] {
        let asked = TestClient::of("ann").since("earliest").query("types", "order_created").query("frames", frames);
        let mut client = asked.connect(&hub).await;
        let got = client.until_caught_up().await;
        assert_eq!((got[0].prev, got[1].prev, client.given), (0, 701, 2502));
        assert_eq!(titles(got), ["a", "b"]);
    }
    // A resume in the middle of a stretch that was left out.
    let mut client = TestClient::of("ann").since(1000).query("types", "order_created").connect(&hub).await;
    assert_eq!(titles(client.until_caught_up().await), ["b"]);
    let mut client = TestClient::of("ann").since("earliest").query("types", "unheard.of").connect(&hub).await;
    assert_eq!((client.until_caught_up().await.len(), client.given), (0, 2502));
    // The send queue of a client holds what it asked for.
    post(&hub, "other", "no").await;
    let seq = post(&hub, "unheard.of", "yes").await;
    assert_eq!(client.expect_notification().await.seq, seq);
}

/// A client that hears nothing for two heartbeats reconnects. It would start the same long replay again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_long_replay_that_leaves_out_everything_moves_the_client_by_heartbeats() {
    let db = TestDb::new().await;
    // Slow enough for some heartbeats: pages of 500 rows of 1 kB.
    let hub = TestHub::on(&db).with("WS_HEARTBEAT_INTERVAL", "1s").with("RECADO_USER_READ_RATE", "400kB").start().await;
    db.run(&many_others(5000).replace("'m'::text", "repeat('m', 1000)")).await;
    let last = post(&hub, "order_created", "last").await;
    hub.has_published(last).await;
    let asked = TestClient::of("ann").since("earliest").query("types", "order_*").query("ack", "client");
    let mut client = asked.connect(&hub).await;
    let at = match client.next_frame().await {
        ClientSawFrame::Heartbeat { seq } => seq,
        other => panic!("a heartbeat was to come, not {other:?}"),
    };
    assert!(0 < at && at < last, "the heartbeat is at {at}");
    client.kill();
    let mut client = TestClient::of("ann").device("e").since(at).query("types", "order_*").connect(&hub).await;
    assert_eq!(client.resume_status(), "ok");
    assert_eq!(titles(client.until_seq(last).await), ["last"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_source_with_types_resumes_after_a_stretch_of_others() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("WS_HEARTBEAT_INTERVAL", "1s").start().await;
    let page = EventSourcePage::of("ann").device("d").query("types", "order_*");
    let mut source = page.open(&hub).await;
    source.named("caught_up").await;
    post(&hub, "chat", "no").await;
    post(&hub, "order_created", "1").await;
    assert_eq!(source.message().await.title(), "1");
    let mut last = 0;
    for n in 0..4 {
        last = post(&hub, "chat", &format!("no {n}")).await;
    }
    while source.last_event_id != last.to_string() {
        assert_eq!(source.next_block().await.unwrap().name.as_deref(), Some("heartbeat"));
    }
    drop(source);
    post(&hub, "order_created", "missed").await;
    post(&hub, "chat", "no").await;
    hub.settled(&db).await;
    let mut source = page.open_again(&hub, &last.to_string()).await;
    assert_eq!(source.replayed().await, ["missed"]);
    eventually("the event id acknowledges", PATIENCE, async || (db.place("ann", "d").await? >= last).then_some(())).await;
    let seq = post(&hub, "order_paid", "live").await;
    assert_eq!(source.message().await.id, Some(seq.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_history_has_the_same_filter_in_both_orders_and_when_it_is_followed() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut expected = Vec::new();
    for n in 0..9 {
        post(&hub, ["chat", "order_created", "order_paid"][n % 3], &n.to_string()).await;
        expected.extend((n % 3 > 0).then(|| n.to_string()));
    }
    let bearer = token("ann", &[]);
    for (order, expected) in [("asc", expected.clone()), ("desc", expected.iter().rev().cloned().collect())] {
        let (mut got, mut after) = (Vec::new(), String::new());
        loop {
            let query = format!("/api/notifications?types=order_*,unheard.of&limit=4&order={order}{after}");
            let (status, body) = hub.get(&query, Some(&bearer)).await.unwrap();
            assert_eq!(status, 200, "{body}");
            let page: Value = serde_json::from_str(&body).unwrap();
            got.extend(page["notifications"].as_array().unwrap().iter().map(|n| n["title"].as_str().unwrap().to_owned()));
            match page["next"].as_i64() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert_eq!(got, expected, "{order}");
    }
    let followed = reqwest::Client::new().get(format!("http://{}/api/notifications?follow=1&types=order_paid", hub.address));
    let mut followed = followed.bearer_auth(&bearer).send().await.unwrap();
    let (mut text, mut seqs) = (String::new(), Vec::new());
    while seqs.len() < 4 {
        let chunk = tokio::time::timeout(PATIENCE, followed.chunk()).await.expect("a line comes").unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        while let Some(end) = text.find('\n') {
            let line: String = text.drain(..=end).collect();
            let frame: Value = serde_json::from_str(&line).unwrap();
            if frame["type"] == "caught_up" {
                post(&hub, "chat", "no").await;
                post(&hub, "order_paid", "live").await;
            } else if frame["seq"].is_number() {
                assert_eq!(frame["type"], "order_paid");
                seqs.push(frame["seq"].as_i64().unwrap());
            }
        }
    }
    assert_eq!(seqs, [3, 6, 9, 11]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_breaks_the_rule_is_refused_on_every_way() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let many = vec!["a"; 33].join(",");
    for bad in ["a,", "Order", "*a", "a*b", "a%20b", many.as_str()] {
        let asked = TestClient::of("ann").query("types", bad);
        let problem = asked.try_connect(&hub.address).await.unwrap_err();
        assert!(problem.contains("400"), "{problem}");
        let socket = asked.header("origin", "http://localhost").open(&hub).await.unwrap();
        assert_eq!(TestClient::over(socket).ended(PATIENCE).await, ClientEnd::Code(4510, "bad_query".to_owned()), "{bad}");
        assert_eq!(EventSourcePage::of("ann").query("types", bad).refused(&hub).await, (400, "bad_query".to_owned()));
        let (status, body) = hub.get(&format!("/api/notifications?types={bad}"), Some(&token("ann", &[]))).await.unwrap();
        assert_eq!(status, 422, "{body}");
        assert!(body.contains("\"pointer\":\"/types\"") && body.contains("1 to 32"), "{body}");
    }
    let (status, body) = hub.get("/api/notifications?types=a&type=a", Some(&token("ann", &[]))).await.unwrap();
    assert_eq!(status, 422, "{body}");
    // A page without a value writes `types=`.
    let mut client = TestClient::of("ann").query("types", "").connect(&hub).await;
    post(&hub, "any", "any").await;
    assert_eq!(client.expect_notification().await.title, "any");
    assert!(client.try_next(Duration::from_millis(1)).await.is_none());
}

/// A filter must not hide that messages may be missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hubs_own_notifications_pass_every_filter() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    db.run(&super::resume::many_rows(1).replace("'t'::text", "'upstream_gap'::text")).await;
    db.run(&many_others(1)).await;
    hub.has_published(2).await;
    let mut client = TestClient::of("ann").since("earliest").query("types", "game-data").connect(&hub).await;
    let got = client.until_caught_up().await;
    assert_eq!(got.iter().map(|n| n.kind.as_str()).collect::<Vec<_>>(), ["upstream_gap"]);
    db.run(&super::resume::many_rows(1).replace("'t'::text", "'upstream_gap'::text")).await;
    assert_eq!(client.expect_notification().await.kind, "upstream_gap");
    let (_, body) = hub.get("/api/notifications?types=game-data", Some(&token("ann", &[]))).await.unwrap();
    let page: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(page["notifications"].as_array().unwrap().len(), 2);
}
