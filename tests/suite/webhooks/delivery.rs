//! Posts, conditions, failures, back-off and dead letters.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_posted_signed_and_once() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    let secret = create(&db, "gateway", &receiver.url, &[]).await;
    let posted = hub.post(&order("paid").message("Order #1").data(r#"{"n": 1.50}"#)).await;
    let post = receiver.posts(1).await.remove(0);
    assert_eq!((post.method.as_str(), post.path.as_str()), ("POST", "/hook?of=test"));
    assert_eq!(post.header("content-type"), "application/json");
    assert!(post.header("user-agent").starts_with("recado/"), "{:?}", post.headers);
    assert!(post.is_signed_with(&secret));
    let age = chrono::Utc::now().timestamp() - post.header("webhook-timestamp").parse::<i64>().unwrap();
    assert!((-1..60).contains(&age), "{age}");
    let body = post.json();
    assert_eq!(
        (&body["type"], &body["data"]["title"], &body["data"]["message"]),
        (&json!("order_paid"), &json!("paid"), &json!("Order #1"))
    );
    assert_eq!((&body["data"]["seq"], &body["data"]["id"]), (&json!(posted.seq), &json!(posted.id)));
    assert_eq!(
        (&body["data"]["user_ids"], &body["data"]["broadcast"], &body["data"]["source"]),
        (&json!(["42"]), &json!(false), &json!("shop"))
    );
    assert!(String::from_utf8_lossy(&post.body).contains("1.50"), "data is as it was posted");
    assert!(chrono::DateTime::parse_from_rfc3339(body["timestamp"].as_str().unwrap()).is_ok());
    assert_eq!(body["data"].get("unacked"), None);
    // A later row proves that nothing came twice.
    hub.post(&order("later")).await;
    receiver.post_of("later").await;
    all_posted(&db).await;
    assert_eq!(receiver.titles(), ["paid", "later"]);
    let ids = receiver.got().iter().map(GotPost::id).collect::<std::collections::HashSet<_>>();
    assert_eq!(ids.len(), 2);
    assert_eq!(hub.metric("recado_webhook_posts_total").await, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_webhook_posts_what_meets_all_of_its_conditions() {
    let db = TestDb::new().await;
    let hub = hub(&db).start().await;
    let kind = |title: &str, kind: &str| note(title).raw("type", &format!("\"{kind}\""));
    hub.post(&kind("order", "order_paid").to_user("42").account("7")).await;
    hub.post(&kind("orders", "orders").to_user("42")).await;
    hub.post(&kind("cart", "cart").to_users(&["41", "42"]).account("7")).await;
    hub.post(&kind("account", "cart").account("7")).await;
    hub.post(&kind("everyone", "cart").to_everyone()).await;
    hub.post(&kind("other", "cart").to_user("43")).await;
    hub.post(&kind("short", "cart").to_user("43").ttl(1)).await;
    db.run("SELECT recado.add_member('42', '7')").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    hub.post(&kind("order_last", "order_last").to_user("42").account("7").never_replayed()).await;
    let table: [(&[&str], &[&str]); 6] = [
        (&["--type", "order_*"], &["order", "order_last"]),
        (&["--type", "orders,cart", "--user", "42"], &["orders", "cart"]),
        (&["--account", "7"], &["order", "cart", "account", "order_last"]),
        (&["--audience", "account"], &["account"]),
        (&["--audience", "everyone"], &["everyone"]),
        (&["--audience", "users"], &["order", "orders", "cart", "other", "order_last"]),
    ];
    let mut receivers = Vec::new();
    for (at, (conditions, expected)) in table.iter().enumerate() {
        let receiver = Receiver::start().await;
        create(&db, &format!("w{at}"), &receiver.url, conditions).await;
        receivers.push((receiver, *conditions, *expected));
    }
    for (receiver, _, expected) in &receivers {
        receiver.posts(expected.len()).await;
    }
    all_posted(&db).await;
    for (receiver, conditions, expected) in &receivers {
        let (mut got, mut expected) = (receiver.titles(), expected.to_vec());
        // The order is not promised.
        got.sort();
        expected.sort_unstable();
        assert_eq!(got, expected, "{conditions:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_that_fails_is_repeated_under_its_id_with_growing_waits() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    create(&db, "gateway", &receiver.url, &[]).await;
    receiver.answer_with(500);
    hub.post(&order("paid")).await;
    let wait = "SELECT round(extract(epoch FROM due_at - tried_at))::bigint FROM recado.webhook_post";
    for (attempt, least) in [(1, 5), (2, 30), (3, 120), (4, 600)] {
        failed(&db, attempt).await;
        let waits = db.number(wait).await;
        assert!((least..=least + least / 5 + 1).contains(&waits), "after attempt {attempt}: {waits} s");
        make_due(&db).await;
    }
    let seen = shown(&db, "gateway").await;
    assert_eq!((&seen["last_error"], &seen["state"]), (&json!("answered with 500"), &json!("active")));
    receiver.answer_with(200);
    make_due(&db).await;
    all_posted(&db).await;
    let got = receiver.got();
    assert!(got.len() >= 5 && got.iter().all(|post| post.id() == got[0].id() && post.body == got[0].body), "{}", got.len());
    // Each attempt has a time and a signature of its own.
    let answers = hub.metric("recado_webhook_posts_total").await;
    assert_eq!(answers as usize, got.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_may_ask_for_time_and_gets_no_other_post_meanwhile() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    create(&db, "gateway", &receiver.url, &[]).await;
    receiver.next(ReceiverAnswer::Status(429, vec![("retry-after", "100".to_owned())]));
    hub.post(&order("first")).await;
    failed(&db, 1).await;
    let wait = db.number("SELECT round(extract(epoch FROM due_at - tried_at))::bigint FROM recado.webhook_post").await;
    assert!((100..=101).contains(&wait), "{wait}");
    hub.post(&order("second")).await;
    make_due(&db).await;
    // The hub is alive meanwhile: another webhook posts the same row.
    let other = Receiver::start().await;
    create(&db, "other", &other.url, &[]).await;
    other.post_of("second").await;
    assert_eq!(receiver.got().len(), 1, "it asked for time");
    // A new owner knows nothing of it.
    webhook(&db, &["resume", "gateway"]).await;
    receiver.post_of("second").await;
    all_posted(&db).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_that_fails_for_a_day_is_a_dead_letter_until_it_is_retried() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    create(&db, "gateway", &receiver.url, &[]).await;
    receiver.answer_with(503);
    let seqs = [hub.post(&order("first")).await.seq, hub.post(&order("second")).await.seq];
    failed(&db, 2).await;
    db.run("UPDATE recado.webhook_post SET attempts = 10").await;
    make_due(&db).await;
    let count = "SELECT count(*) FROM recado.webhook_post WHERE is_dead";
    eventually("both are dead letters", PATIENCE, async || (db.number(count).await == 2).then_some(())).await;
    eventually("the metric says so", PATIENCE, async || (hub.metric("recado_webhooks_dead").await == 2.0).then_some(())).await;
    let dead: Value = serde_json::from_str(&webhook(&db, &["dead", "gateway", "-o", "json"]).await).unwrap();
    assert_eq!((&dead[0]["seq"], &dead[1]["seq"]), (&json!(seqs[0]), &json!(seqs[1])));
    assert_eq!((&dead[0]["type"], &dead[0]["attempts"], &dead[0]["status"]), (&json!("order_paid"), &json!(11), &json!(503)));
    // A retry begins anew, also if it fails.
    webhook(&db, &["retry", "gateway", "--seq", &seqs[0].to_string()]).await;
    let again = "SELECT count(*) FROM recado.webhook_post WHERE NOT is_dead AND attempts = 1";
    eventually("it waits again", PATIENCE, async || (db.number(again).await == 1).then_some(())).await;
    db.run("UPDATE recado.webhook_post SET is_dead = true").await;
    // They keep no later row from being posted.
    receiver.answer_with(204);
    hub.post(&order("third")).await;
    receiver.post_of("third").await;
    let before = receiver.got().len();
    webhook(&db, &["retry", "gateway", "--seq", &seqs[1].to_string()]).await;
    assert_eq!(receiver.posts(before + 1).await[before].title(), "second");
    let (code, _, said) = super::hub(&db).try_run(&["webhook", "retry", "gateway", "--seq", &seqs[1].to_string()]).await;
    assert!(code == Some(1) && said.contains("no such dead letter"), "{said}");
    webhook(&db, &["retry", "gateway", "--all"]).await;
    assert_eq!(receiver.posts(before + 2).await[before + 1].title(), "first");
    all_posted(&db).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_are_not_followed_and_broken_answers_fail() {
    let (db, receiver, elsewhere) = (TestDb::new().await, Receiver::start().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    create(&db, "gateway", &receiver.url, &[]).await;
    receiver.next(ReceiverAnswer::Status(302, vec![("location", elsewhere.url.clone())]));
    hub.post(&order("paid")).await;
    failed(&db, 1).await;
    assert_eq!(shown(&db, "gateway").await["last_error"], "answered with 302: redirects are not followed");
    make_due(&db).await;
    all_posted(&db).await;
    assert!(elsewhere.got().is_empty());
    // A head that never ends.
    receiver.next(ReceiverAnswer::Status(200, vec![("x-long", "x".repeat(64 * 1024))]));
    hub.post(&order("long")).await;
    failed(&db, 1).await;
    make_due(&db).await;
    all_posted(&db).await;
}

/// One slow receiver holds its attempts; another webhook and the posts of users go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_does_not_answer_delays_no_other() {
    let (db, slow, quick) = (TestDb::new().await, Receiver::start().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    create(&db, "slow", &slow.url, &[]).await;
    create(&db, "quick", &quick.url, &[]).await;
    let held: Vec<_> = (0..12).map(|_| slow.hold_next()).collect();
    for n in 0..30 {
        hub.post(&order(&n.to_string())).await;
    }
    quick.posts(30).await;
    // At first one attempt runs, because the owner does not know the address.
    assert_eq!(slow.got().len(), 1);
    let mut held = held.into_iter();
    held.next().unwrap().send(200).unwrap();
    slow.posts(9).await;
    hub.post(&order("marker")).await;
    quick.post_of("marker").await;
    assert_eq!(slow.got().len(), 9, "eight at once");
    held.for_each(|answer| {
        let _ = answer.send(200);
    });
    slow.posts(31).await;
    all_posted(&db).await;
}
