//! Leases, terms and take-overs.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::*;

/// Ends the leases, as if their time had passed, and wakes the hubs.
async fn expire(db: &TestDb) {
    db.run("UPDATE recado.webhook SET lease_until = clock_timestamp() - interval '1 second'; SELECT pg_notify('recado', 'webhooks')").await;
}

async fn term(db: &TestDb) -> i64 {
    db.number("SELECT term FROM recado.webhook").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_post_of_a_hub_that_is_killed_is_repeated_by_another_one() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let first = hub(&db).start().await;
    create(&db, "gateway", &receiver.url, &[]).await;
    let held = receiver.hold_next();
    first.post(&order("paid")).await;
    receiver.posts(1).await;
    let of_first = term(&db).await;
    let second = hub(&db).start().await;
    first.kill().await;
    drop(held);
    expire(&db).await;
    let got = receiver.posts(2).await;
    assert_eq!((got[0].id(), &got[0].body), (got[1].id(), &got[1].body), "the receiver can tell that it is a repeat");
    all_posted(&db).await;
    assert!(term(&db).await > of_first);
    second.post(&order("later")).await;
    receiver.post_of("later").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_owner_that_wakes_stores_no_result() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let first = hub(&db).start().await;
    create(&db, "gateway", &receiver.url, &[]).await;
    let of_first = receiver.hold_next();
    first.post(&order("paid")).await;
    receiver.posts(1).await;
    let old_term = term(&db).await;
    first.signal("-STOP").await;
    let second = hub(&db).start().await;
    let of_second = receiver.hold_next();
    expire(&db).await;
    receiver.posts(2).await;
    let new_term = term(&db).await;
    assert!(new_term > old_term);
    // The first one is told that its post was accepted. Another one owns the webhook, and its post fails.
    of_first.send(200).unwrap();
    first.signal("-CONT").await;
    let refused = format!(
        "SELECT recado.settle_webhook_posts('gateway', {old_term}, ARRAY[1], ARRAY[true], ARRAY[200], ARRAY[''], ARRAY[NULL::float8])"
    );
    let error = sqlx::raw_sql(sqlx::AssertSqlSafe(refused)).execute(&mut db.connect().await).await.unwrap_err();
    assert_eq!(error.as_database_error().and_then(|error| error.code()).as_deref(), Some("RC023"));
    eventually("the first hub is awake", PATIENCE, async || first.is_ready().await.then_some(())).await;
    of_second.send(500).unwrap();
    failed(&db, 1).await;
    assert_eq!((waiting(&db).await, term(&db).await), (1, new_term));
    make_due(&db).await;
    all_posted(&db).await;
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_frozen_owner_whose_lease_has_ended_sends_nothing_when_it_wakes() {
    let (db, receiver, points) = (TestDb::new().await, Receiver::start().await, Points::new());
    let first = points.of(hub(&db)).start().await;
    create(&db, "gateway", &receiver.url, &[]).await;
    points.hold("webhook.before_request");
    first.post(&order("paid")).await;
    points.reached("webhook.before_request").await;
    first.signal("-STOP").await;
    let frozen_at = Instant::now();
    points.release("webhook.before_request");
    let second = hub(&db).start().await;
    expire(&db).await;
    receiver.posts(1).await;
    all_posted(&db).await;
    // The first one trusts its lease for twelve seconds, by a clock that no test can move.
    sleep_until(frozen_at + Duration::from_secs(13)).await;
    first.signal("-CONT").await;
    eventually("it is awake", PATIENCE, async || first.is_ready().await.then_some(())).await;
    first.post(&order("later")).await;
    receiver.post_of("later").await;
    all_posted(&db).await;
    assert_eq!(receiver.titles(), ["paid", "later"], "the connection was open, and nothing was sent");
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_hubs_one_posts_and_a_hub_that_stops_gives_its_webhooks_back() {
    let db = TestDb::new().await;
    let (first, second) = (hub(&db).start().await, hub(&db).start().await);
    let mut receivers = Vec::new();
    for n in 0..4 {
        let receiver = Receiver::start().await;
        create(&db, &format!("w{n}"), &receiver.url, &[]).await;
        receivers.push(receiver);
    }
    for n in 0..25 {
        let hub = if n % 2 == 0 { &first } else { &second };
        hub.post(&order(&n.to_string())).await;
    }
    for receiver in &receivers {
        receiver.posts(25).await;
    }
    all_posted(&db).await;
    let owners = "SELECT count(DISTINCT owner) FROM recado.webhook";
    let (before, terms) = (db.number(owners).await, db.number("SELECT sum(term)::bigint FROM recado.webhook").await);
    assert!((1..=2).contains(&before), "{before}");
    // Beats of both hubs renew leases and take none.
    for _ in 0..4 {
        let lease = "SELECT (extract(epoch FROM min(lease_until)) * 1000)::bigint FROM recado.webhook";
        let renewed = db.number(lease).await;
        db.run("SELECT pg_notify('recado', 'webhooks')").await;
        eventually("the leases are renewed", PATIENCE, async || (db.number(lease).await > renewed).then_some(())).await;
    }
    assert_eq!(db.number("SELECT sum(term)::bigint FROM recado.webhook").await, terms, "no hub takes what another one has");
    first.signal("-TERM").await;
    second.post(&order("later")).await;
    for receiver in &receivers {
        receiver.post_of("later").await;
        assert_eq!(receiver.got().len(), 26, "each row was posted once");
    }
    drop(first);
    second.signal("-TERM").await;
    eventually("all leases are given back", PATIENCE, async || {
        (db.number("SELECT count(owner) FROM recado.webhook").await == 0).then_some(())
    })
    .await;
    assert!(db.number("SELECT sum(term)::bigint FROM recado.webhook").await >= terms);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_whose_connections_to_the_database_are_ended_goes_on() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    create(&db, "gateway", &receiver.url, &[]).await;
    hub.post(&order("first")).await;
    receiver.post_of("first").await;
    let held = receiver.hold_next();
    hub.post(&order("second")).await;
    receiver.posts(2).await;
    db.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'recado webhook%'").await;
    held.send(200).unwrap();
    all_posted(&db).await;
    hub.post(&order("third")).await;
    receiver.post_of("third").await;
}
