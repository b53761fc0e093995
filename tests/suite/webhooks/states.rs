//! Pause, 410, retention, a restored database, erasure and deletion.

use serde_json::json;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_webhook_posts_nothing_and_goes_on_where_it_stopped() {
    let (db, receiver, marker) = (TestDb::new().await, Receiver::start().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    create(&db, "gateway", &receiver.url, &[]).await;
    create(&db, "marker", &marker.url, &[]).await;
    hub.post(&order("before")).await;
    receiver.post_of("before").await;
    eventually("it is settled", PATIENCE, async || (waiting(&db).await == 0).then_some(())).await;
    webhook(&db, &["pause", "gateway"]).await;
    hub.post(&order("meanwhile")).await;
    marker.post_of("meanwhile").await;
    assert_eq!(receiver.titles(), ["before"]);
    let seen = shown(&db, "gateway").await;
    assert_eq!((&seen["state"], &seen["owner"], &seen["lag"]), (&json!("paused"), &json!(null), &json!(1)));
    webhook(&db, &["resume", "gateway"]).await;
    receiver.post_of("meanwhile").await;
    // It may also leave out what it has missed.
    webhook(&db, &["pause", "gateway"]).await;
    hub.post(&order("left out")).await;
    marker.post_of("left out").await;
    webhook(&db, &["resume", "gateway", "--start", "now"]).await;
    hub.post(&order("after")).await;
    receiver.post_of("after").await;
    all_posted(&db).await;
    assert_eq!(receiver.titles(), ["before", "meanwhile", "after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_whose_address_is_gone_is_disabled_until_it_is_resumed() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    create(&db, "gateway", &receiver.url, &[]).await;
    receiver.answer_with(410);
    hub.post(&order("paid")).await;
    let disabled = "SELECT count(*) FROM recado.webhook WHERE state = 'disabled'";
    eventually("it is disabled", PATIENCE, async || (db.number(disabled).await == 1).then_some(())).await;
    assert_eq!(
        db.number("SELECT count(*) FROM recado.audit WHERE what = 'webhook.disable' AND object = 'gateway' AND who = 'hub'").await,
        1
    );
    eventually("the metric says so", PATIENCE, async || (hub.metric("recado_webhooks_stopped").await == 1.0).then_some(())).await;
    receiver.answer_with(200);
    webhook(&db, &["resume", "gateway"]).await;
    let got = receiver.posts(2).await;
    assert_eq!(got[0].id(), got[1].id(), "the post was kept");
    all_posted(&db).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retention_dropped_is_counted_and_passed() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    create(&db, "gateway", &receiver.url, &[]).await;
    receiver.answer_with(500);
    hub.post(&order("1")).await;
    failed(&db, 1).await;
    webhook(&db, &["pause", "gateway"]).await;
    for n in 2..=6 {
        hub.post(&order(&n.to_string())).await;
    }
    db.run("SELECT recado.drop_old_rows(0.0, 4)").await;
    assert_eq!(db.number("SELECT floor_seq FROM recado.meta").await, 4);
    receiver.answer_with(200);
    webhook(&db, &["resume", "gateway"]).await;
    receiver.post_of("6").await;
    all_posted(&db).await;
    let mut titles = receiver.titles();
    titles.dedup();
    assert_eq!(titles, ["1", "5", "6"]);
    // Three numbers, and the post that waited.
    let seen = shown(&db, "gateway").await;
    assert_eq!((&seen["missed"], &seen["state"], &seen["passed"]), (&json!(4), &json!("active"), &json!(6)));
    assert!(hub.said().contains("retention dropped rows"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_a_webhook_posts_nothing_until_it_gets_a_position() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let first = hub(&db).start().await;
    create(&db, "gateway", &receiver.url, &[]).await;
    first.post(&order("before")).await;
    receiver.post_of("before").await;
    all_posted(&db).await;
    receiver.answer_with(500);
    first.post(&order("waits")).await;
    failed(&db, 1).await;
    first.kill().await;
    let backup = db.copy().await;
    hub(&backup).run(&["log", "new-id"]).await;
    // The lease of the dead hub is no reason to wait.
    backup.run("UPDATE recado.webhook SET lease_until = clock_timestamp() - interval '1 second'").await;
    receiver.answer_with(200);
    let got = receiver.got().len();
    // The keys are those of the original.
    let hub = hub(&backup).publishing_with(&db.key()).start().await;
    hub.post(&order("after")).await;
    let marker = Receiver::start().await;
    create(&backup, "marker", &marker.url, &[]).await;
    marker.post_of("after").await;
    assert_eq!(receiver.got().len(), got);
    let seen = shown(&backup, "gateway").await;
    assert_eq!((&seen["state"], &seen["owner"]), (&json!("reset"), &json!(null)));
    eventually("the metric says so", PATIENCE, async || (hub.metric("recado_webhooks_stopped").await == 1.0).then_some(())).await;
    let (code, _, said) = super::hub(&backup).try_run(&["webhook", "resume", "gateway"]).await;
    assert!(code == Some(1) && said.contains("--start"), "{said}");
    webhook(&backup, &["resume", "gateway", "--start", "2"]).await;
    receiver.posts(got + 1).await;
    all_posted(&backup).await;
    assert_eq!(receiver.titles()[got..], ["after"], "posts of the other log are dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_row_is_not_posted_and_an_erased_user_leaves_no_id() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    create(&db, "of-ann", &receiver.url, &["--user", "ann"]).await;
    receiver.answer_with(500);
    let seq = hub.post(&note("secret of ann").to_user("ann")).await.seq;
    failed(&db, 1).await;
    TestHub::on(&db).run(&["erase", "--seq", &seq.to_string(), "--reason", "a test"]).await;
    receiver.answer_with(200);
    let before = receiver.got().len();
    make_due(&db).await;
    eventually("the post is dropped", PATIENCE, async || (waiting(&db).await == 0).then_some(())).await;
    assert_eq!(receiver.got().len(), before, "its content is gone");
    hub.post(&note("kept").to_user("ann")).await;
    receiver.post_of("kept").await;
    assert!(receiver.titles().iter().filter(|title| *title == "secret of ann").count() >= 1);
    let before = receiver.got().len();
    TestHub::on(&db).run(&["erase", "--user", "ann", "--reason", "a test"]).await;
    assert_eq!(db.number("SELECT count(*) FROM recado.webhook WHERE user_id = 'ann'").await, 0);
    assert_eq!(
        db.number("SELECT count(*) FROM recado.audit a WHERE a::text LIKE '%ann%' AND what LIKE 'webhook%' AND user_id IS NOT NULL").await,
        0
    );
    let marker = Receiver::start().await;
    create(&db, "marker", &marker.url, &[]).await;
    hub.post(&note("marker").to_user("bob")).await;
    marker.post_of("marker").await;
    assert_eq!(receiver.got().len(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_webhook_leaves_nothing_and_its_name_can_be_used_again() {
    let (db, receiver, next) = (TestDb::new().await, Receiver::start().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    create(&db, "gateway", &receiver.url, &[]).await;
    receiver.answer_with(500);
    hub.post(&order("paid")).await;
    failed(&db, 1).await;
    let (code, _, said) = super::hub(&db).try_run(&["webhook", "create", "gateway", &next.url]).await;
    assert!(code == Some(1) && said.contains("exists"), "{said}");
    webhook(&db, &["delete", "gateway"]).await;
    assert_eq!(db.number("SELECT (SELECT count(*) FROM recado.webhook) + (SELECT count(*) FROM recado.webhook_post)").await, 0);
    for args in [&["delete", "gateway"] as &[&str], &["show", "gateway"], &["pause", "gateway"], &["test", "gateway"], &["dead", "gateway"]]
    {
        let (code, _, said) = super::hub(&db).try_run(&[&["webhook"], args].concat()).await;
        assert!(code == Some(1) && said.contains("no webhook has this name"), "{args:?}: {said}");
    }
    let before = receiver.got().len();
    create(&db, "gateway", &next.url, &[]).await;
    next.post_of("paid").await;
    assert_eq!(receiver.got().len(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_message_is_signed_and_says_how_it_was_answered() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let secret = create(&db, "gateway", &receiver.url, &[]).await;
    let said = webhook(&db, &["test", "gateway"]).await;
    assert!(said.contains("accepted with 204"), "{said}");
    let post = receiver.posts(1).await.remove(0);
    assert!(post.is_signed_with(&secret));
    assert_eq!((&post.json()["type"], &post.json()["data"]), (&json!("webhook_test"), &json!({ "webhook": "gateway" })));
    receiver.answer_with(500);
    let (code, _, said) = hub(&db).try_run(&["webhook", "test", "gateway"]).await;
    assert!(code == Some(1) && said.contains("answered with 500"), "{said}");
}
