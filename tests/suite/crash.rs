//! Tests that every post answered with 201 survives kill -9 of hubs and PostgreSQL.
//!
//! It also reaches every device.

use std::time::Duration;

use recado::domain::Role;
use tokio::time::Instant;

use super::outages::{is_answered_with_503, under_load, until_not_ready, until_ready_again};
use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_killed_between_commit_and_answer_leaves_one_row_that_the_retry_finds() {
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    let doomed = TestHub::on(&db).with("DATABASE_URL", &db.url_at(proxy.port)).start().await;
    let other = TestHub::on(&db).start().await;
    let mut witness = TestClient::of("ann").connect(&other).await;
    doomed.post(&note("warm").to_user("ann")).await;
    proxy.set(ProxyFlow::NoAnswers);
    let draft = note("once").to_user("ann").key("once");
    // The answer never comes; the request dies with the hub.
    let (unanswered, ()) = tokio::join!(doomed.try_post(&draft), async {
        eventually("the row is committed", PATIENCE, async || (db.head().await == 2).then_some(())).await;
        doomed.signal("-KILL").await;
    });
    assert!(unanswered.is_err(), "{unanswered:?}");

    let retry = other.try_post(&draft).await.unwrap();
    assert_eq!((retry.status, retry.receipt().seq, retry.receipt().duplicate), (200, 2, true));
    other.post(&note("end").to_everyone()).await;
    assert_eq!(witness.titles_before("end").await, ["warm", "once"], "delivered once, though 201 was never sent");
    assert_eq!(db.head().await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_lost_answer_is_503_unknown_and_the_retry_on_the_same_hub_settles_it() {
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    let hub = TestHub::on(&db).with("DATABASE_URL", &db.url_at(proxy.port)).start().await;
    hub.post(&note("warm").to_user("ann")).await;
    proxy.set(ProxyFlow::NoAnswers);
    let draft = note("once").to_user("ann").key("once");
    let unknown = hub.try_post(&draft).await.unwrap();
    assert_eq!((unknown.status, unknown.code()), (503, "outcome_unknown"), "{}", unknown.body);
    assert!(unknown.took < Duration::from_secs(6), "{:?}", unknown.took);
    proxy.cut(Cut::Rst);
    proxy.set(ProxyFlow::Pass);
    let settled = eventually("the hub has recovered", PATIENCE, async || {
        let answer = hub.try_post(&draft).await.unwrap();
        answer.is_receipt().then_some(answer)
    })
    .await;
    assert_eq!((settled.status, settled.receipt().seq, db.head().await), (200, 2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_database_that_answers_nothing_is_503_within_five_seconds_even_for_a_key_never_seen() {
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    let hub = TestHub::on(&db).with("DATABASE_URL", &db.url_at(proxy.port)).start().await;
    proxy.set(ProxyFlow::Hole);
    let token = service_token("shop", Role::Service);
    let draft = note("x").to_user("ann");
    let (by_token, by_key) = tokio::join!(hub.post_as(&token, &draft), hub.try_post(&draft));
    for (what, answer) in [("a token", by_token.unwrap()), ("a key", by_key.unwrap())] {
        assert_eq!(answer.status, 503, "by {what}: {}", answer.body);
        assert!(answer.took < Duration::from_millis(5500), "by {what}: {:?}", answer.took);
    }
    let not_ready = async || (!hub.is_ready().await).then_some(());
    eventually("not ready", Duration::from_secs(5), not_ready).await;
    assert_eq!(hub.get("/livez", None).await.unwrap().0, 200, "the process itself is alive");
    proxy.set(ProxyFlow::Pass);
    eventually("ready again", Duration::from_secs(10), async || hub.is_ready().await.then_some(())).await;
    assert_eq!(hub.post(&note("after").to_user("ann")).await.seq, db.head().await);
}

/// Keys are remembered for 10 s; an outage may last longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn throughout_a_long_outage_every_post_is_answered_within_five_seconds() {
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    let hub = TestHub::on(&db).with("DATABASE_URL", &db.url_at(proxy.port)).start().await;
    hub.post(&note("known").to_user("ann")).await;
    proxy.set(ProxyFlow::Hole);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        let asked_at = begun.elapsed();
        let answer = hub.try_post(&note("x").to_user("ann")).await.unwrap();
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert!(answer.took < Duration::from_millis(5500), "asked {asked_at:?} into the outage: {:?}", answer.took);
    }
}

/// Connections are stored in groups, and by themselves when their group fails. Both wait for the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn throughout_a_long_outage_every_connect_is_answered_within_five_seconds() {
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    let hub = TestHub::on(&db).with("DATABASE_URL", &db.url_at(proxy.port)).start().await;
    TestClient::of("ann").device("known").connect(&hub).await.until_caught_up().await;
    proxy.set(ProxyFlow::Hole);
    let begun = Instant::now();
    // The second one of each pair arrives while the group of the first one waits.
    let ask = async |client: &str, late: Duration| {
        while begun.elapsed() < Duration::from_secs(12) {
            tokio::time::sleep(late).await;
            let asked = Instant::now();
            let refused = TestClient::of("ann").device(client).try_connect(&hub.address).await;
            let took = asked.elapsed();
            // By its status, or by a close frame if the hub had already accepted the handshake.
            assert!(
                refused.as_ref().is_err_and(|why| why.contains("503") || why.contains("server_error")),
                "{client}: {refused:?} after {took:?}"
            );
            assert!(took < Duration::from_millis(5500), "{client}, {:?} into the outage: {took:?}", asked - begun);
        }
    };
    tokio::join!(ask("known", Duration::ZERO), ask("new", Duration::from_millis(700)));
    proxy.set(ProxyFlow::Pass);
    eventually("it connects again", PATIENCE, async || TestClient::of("ann").device("known").try_connect(&hub.address).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn every_hub_killed_under_load_again_and_again_loses_nothing() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let hub = TestHub::on(&db);
    let mut hubs = vec![hub.start().await, hub.start().await];
    let addresses = Addresses::of(&hubs);
    let fan = Fan::start(&["ann", "bob"], 3, &addresses).await;
    let writers = Writers::start(4, &addresses, &db.key(), Duration::from_millis(5), mixed);
    for round in 0..4 {
        writers.until_count(writers.count() + 80, PATIENCE).await;
        // First one hub alone, then both at once.
        if round % 2 == 0 {
            hubs.remove(0).kill().await;
            addresses.set(&hubs);
            hubs.push(hub.start().await);
        } else {
            for hub in hubs.drain(..) {
                hub.kill().await;
            }
            addresses.set(&hubs);
            let places = places(&db).await;
            let so_far: Vec<usize> = fan.devices.iter().map(|device| device.stretches().len()).collect();
            hubs = vec![hub.start().await, hub.start().await];
            addresses.set(&hubs);
            for (device, so_far) in fan.devices.iter().zip(so_far) {
                let next = eventually("every device is back", PATIENCE, async || device.stretches().get(so_far).cloned()).await;
                let stored = places.iter().find(|(user, name, _)| *user == device.user && *name == device.name).unwrap().2;
                assert!(next.from >= stored, "what was acknowledged and stored came again: from {} below {stored}", next.from);
            }
        }
        addresses.set(&hubs);
    }
    writers.until_count(writers.count() + 40, PATIENCE).await;
    let diary = writers.stop().await;
    let end = hubs[0].post(&note("end").to_everyone()).await;
    fan.until_everyone_has(end.seq, PATIENCE).await;
    nothing_is_lost(&log_rows(&db.url()).await, &diary, &fan);
    assert!(fan.devices.iter().all(|device| device.stretches().len() > 2), "the devices were cut off");
}

async fn places(db: &TestDb) -> Vec<(String, String, i64)> {
    let sql = "SELECT user_id, client_id, acked_seq FROM recado.cursor";
    sqlx::query_as(sql).fetch_all(&mut db.connect().await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_killed_postgresql_loses_no_201_and_the_hubs_recover_by_themselves() {
    let _turn = heavy().await;
    let mut server = DurableServer::start().await;
    under_load(&mut server, async |server, hubs, writers| {
        for _ in 0..2 {
            writers.until_count(writers.count() + 60, PATIENCE).await;
            server.kill_9();
            until_not_ready(hubs).await;
            is_answered_with_503(&hubs[0]).await;
            server.start_again().await;
            until_ready_again(hubs).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_killed_in_the_middle_of_a_page_leaves_no_gap_in_the_resume() {
    let db = TestDb::new().await;
    let (doomed, other) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    db.run(&super::resume::many_rows(4000)).await;
    doomed.settled(&db).await;
    other.settled(&db).await;
    let asked = TestClient::of("ann").device("d").since(0);
    let mut client = asked.connect(&doomed).await;
    for _ in 0..700 {
        client.expect_notification().await;
    }
    doomed.kill().await;
    // Rows that were delivered before still arrive.
    let mut last = client.given;
    while let ClientSawFrame::Notification(n) = client.next_frame().await {
        assert_eq!(n.seq, last + 1);
        last = n.seq;
    }
    let mut client = TestClient::of("ann").device("d").since(last).connect(&other).await;
    let got = client.until_caught_up().await;
    assert_eq!(got.iter().map(|n| n.seq).collect::<Vec<_>>(), (last + 1..=4000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn connections_that_postgresql_ends_under_load_lose_nothing() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let hubs = [TestHub::on(&db).start().await, TestHub::on(&db).start().await];
    let addresses = Addresses::of(&hubs);
    let fan = Fan::start(&["ann", "bob"], 2, &addresses).await;
    let writers = Writers::start(4, &addresses, &db.key(), Duration::from_millis(2), mixed);
    for _ in 0..6 {
        writers.until_count(writers.count() + 30, PATIENCE).await;
        // Each round must find connections to end: after the previous round the hub's dedicated connections may still
        // be reconnecting.
        let theirs = "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'recado %'";
        let there = async || (db.number(&format!("SELECT count(*) {theirs}")).await >= 5).then_some(());
        eventually("the hubs are connected", PATIENCE, there).await;
        db.number(&format!("SELECT count(pg_terminate_backend(pid)) {theirs}")).await;
    }
    writers.until_count(writers.count() + 30, PATIENCE).await;
    let diary = writers.stop().await;
    assert!(diary.slowest < Duration::from_secs(5), "{:?}", diary.slowest);
    let end = hubs[0].post(&note("end").to_everyone()).await;
    fan.until_everyone_has(end.seq, PATIENCE).await;
    nothing_is_lost(&log_rows(&db.url()).await, &diary, &fan);
    assert!(fan.devices.iter().all(|device| device.stretches().len() == 1), "no client was affected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_database_that_takes_no_writes_is_503_until_it_does() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    let draft = note("once").to_user("ann").key("once");
    let turn = async |read_only: &str| {
        db.run(&format!("BEGIN READ WRITE; ALTER DATABASE {} SET default_transaction_read_only = {read_only}; COMMIT", db.name)).await;
        let end =
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        db.number(end).await;
    };
    turn("on").await;
    let refused = hub.try_post(&draft).await.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.took < Duration::from_millis(5500), "{:?}", refused.took);
    turn("off").await;
    eventually("it recovers", PATIENCE, async || hub.try_post(&draft).await.unwrap().is_receipt().then_some(())).await;
    ann.until("once").await;
    assert_eq!(db.head().await, 1);
}
