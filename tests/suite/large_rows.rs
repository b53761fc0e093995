//! Tests that no row stops delivery, however large or odd it is.

use std::time::Duration;

use serde_json::Value;

use super::support::provider::FakeProvider;
use super::support::*;
use super::upstream::holding;

/// Appends one row past the hub's checks. `data` is an SQL expression of JSON text.
async fn append(db: &TestDb, user: &str, data: &str) {
    let sql = format!(
        "SELECT recado.append(0, NULL, 'test/sql', ARRAY[gen_random_uuid()], '{{t}}', '{{large}}', '{{m}}', ARRAY[{data}],
                              ARRAY['u/{user}'], ARRAY['{user}'], '{{NULL}}', '{{NULL}}', '{{NULL}}', '{{true}}', '{{test}}', '{{NULL}}', '{{0}}')"
    );
    db.run(&sql).await;
}

/// Regression: a page of the tailer began with the row that was dispatched last. Where that row or the next one was as
/// large as a page, nothing else fitted, and the same page was read again for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_larger_than_a_page_is_delivered_and_so_is_what_follows() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").device("d").connect(&hub).await;
    let mut bob = TestClient::of("bob").connect(&hub).await;
    for (at, data) in ["to_json(repeat('x', 1048576))::text", "to_json(repeat('\"', 600000))::text"].into_iter().enumerate() {
        append(&db, "ann", data).await;
        let got = ann.until("large").await;
        assert!(got[0].data.len() > 1 << 20, "{}", got[0].data.len());
        let marker = format!("after-{at}");
        hub.post(&note(&marker).to_user("bob")).await;
        bob.until(&marker).await;
    }
    // A hub that starts while such a row is the last one, or right after a client's position.
    append(&db, "ann", "to_json(repeat('x', 1048576))::text").await;
    let second = TestHub::on(&db).start().await;
    let mut back = TestClient::of("ann").device("other").since("earliest").connect(&second).await;
    assert_eq!(back.until_caught_up().await.len(), 3, "each page holds one row");
    second.post(&note("later").to_user("bob")).await;
    bob.until("later").await;
    assert!(second.is_ready().await && hub.is_ready().await);
}

/// Regression: one row that could not be read failed the whole page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_breaks_the_rules_of_the_log_is_passed_over_and_counted() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut bob = TestClient::of("bob").device("d").connect(&hub).await;
    hub.post(&note("before").to_user("bob")).await;
    append(&db, "an odd id", "NULL").await;
    hub.post(&note("after").to_user("bob")).await;
    let got = bob.until("after").await;
    assert_eq!(got.iter().map(|n| n.seq).collect::<Vec<_>>(), [1, 3]);
    let (_, metrics) = hub.get("/metrics", Some(&db.admin_key())).await.unwrap();
    assert!(metrics.contains("\nrecado_unreadable_rows_total 1\n"), "{metrics}");
    assert!(hub.said().contains("passed over"), "{}", hub.said());
    assert!(hub.is_ready().await);
}

/// Regression: three seconds had to be enough for the row that was dispatched last and the next one together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn large_rows_come_over_a_slow_link_to_the_database() {
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    let hub = TestHub::on(&db).with("DATABASE_URL", &db.url_at(proxy.port)).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    proxy.set(ProxyFlow::Slow(80 << 10));
    for _ in 0..3 {
        append(&db, "ann", "to_json(repeat(md5(random()::text), 9600))::text").await;
    }
    for seq in 1..=3 {
        let frame = loop {
            match ann.try_next(Duration::from_secs(40)).await.expect("each row comes") {
                ClientSawFrame::Notification(notification) => break notification,
                ClientSawFrame::CaughtUp { .. } | ClientSawFrame::Heartbeat { .. } => {}
                other => panic!("a notification was to come, not {other:?}"),
            }
        };
        assert_eq!((frame.seq, frame.data.len()), (seq, 307_202));
    }
    eventually("it is ready", PATIENCE, async || hub.is_ready().await.then_some(())).await;
}

/// Regression: the socket's limit was computed for the text. As JSON a text of quotes is twice as long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_a_provider_that_is_too_large_as_json_is_told_as_a_gap() {
    let (db, fake) = (TestDb::new().await, FakeProvider::start().await);
    let file = fake.file("");
    let hub = holding(TestHub::on(&db), &file).start().await;
    let mut page = TestClient::of("42").connect(&hub).await;
    fake.connected("42").await;
    fake.say("42", &"\"".repeat(140_000)).await;
    fake.say("42", "{\"n\":1}").await;
    let got = page.until_seq_past_others(2).await;
    let gap = &got[0];
    assert_eq!(gap.kind, "upstream_gap");
    let data: Value = serde_json::from_str(&gap.data).unwrap();
    assert_eq!((&data["reason"], &data["bytes"], &data["maxBytes"]), (&"too_large".into(), &280_002.into(), &262_144.into()));
    assert_eq!(data["since"], data["until"]);
    assert_eq!(got[1].kind, "game-data", "the session goes on");
    let (_, metrics) = hub.get("/metrics", Some(&db.admin_key())).await.unwrap();
    assert!(metrics.contains("\nrecado_upstream_too_large_total 1\n"), "{metrics}");
}
