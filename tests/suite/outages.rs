//! Tests that PostgreSQL can stop, freeze, or run out of connections without losing posts.
//!
//! Posts are refused in time, and the hubs recover by themselves.

use std::time::Duration;

use recado::domain::Role;

use super::support::*;

/// Runs two hubs under load on a server of their own. `fault` injects and undoes a fault, once or more.
pub async fn under_load(server: &mut DurableServer, mut fault: impl AsyncFnMut(&mut DurableServer, &[TestHub], &Writers)) {
    let hub = TestHub::at(&server.url());
    let hubs = [hub.start().await, hub.start().await];
    let addresses = Addresses::of(&hubs);
    let fan = Fan::start(&["ann", "bob"], 2, &addresses).await;
    let writers = Writers::start(4, &addresses, &service_token("shop", Role::Service), Duration::from_millis(5), mixed);
    writers.until_count(60, PATIENCE).await;
    fault(server, &hubs, &writers).await;
    until_ready_again(&hubs).await;
    writers.until_count(writers.count() + 40, PATIENCE).await;
    let diary = writers.stop().await;
    assert!(!diary.refused.is_empty(), "the writers met the outage");
    assert!(diary.slowest < Duration::from_secs(6), "an answer within five seconds, whatever happens: {:?}", diary.slowest);
    let end = hubs[1].post(&note("end").to_everyone()).await;
    fan.until_everyone_has(end.seq, PATIENCE).await;
    nothing_is_lost(&log_rows(&server.url()).await, &diary, &fan);
    for hub in &hubs {
        assert!(!hub.said().contains("panicked"), "a task panicked");
    }
}

pub async fn until_not_ready(hubs: &[TestHub]) {
    for hub in hubs {
        eventually("not ready", Duration::from_secs(6), async || (!hub.is_ready().await).then_some(())).await;
    }
}

pub async fn until_ready_again(hubs: &[TestHub]) {
    for hub in hubs {
        eventually("ready again", Duration::from_secs(10), async || hub.is_ready().await.then_some(())).await;
    }
}

pub async fn is_answered_with_503(hub: &TestHub) {
    let away = hub.try_post(&note("away").to_user("eve")).await.unwrap();
    assert_eq!(away.status, 503, "{}", away.body);
    assert!(away.took < Duration::from_millis(5500), "{:?}", away.took);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_postgresql_that_is_stopped_at_once_or_quickly_is_503_until_it_is_back() {
    let _turn = heavy().await;
    let mut server = DurableServer::start().await;
    under_load(&mut server, async |server, hubs, _| {
        for stop in ["-QUIT", "-INT"] {
            server.signal(stop);
            until_not_ready(hubs).await;
            is_answered_with_503(&hubs[0]).await;
            server.start_again().await;
            until_ready_again(hubs).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_frozen_postgresql_loses_nothing_and_meets_no_storm_when_it_wakes() {
    let _turn = heavy().await;
    let mut server = DurableServer::start().await;
    let so_far = sessions(&server.url()).await;
    under_load(&mut server, async |server, hubs, _| {
        server.signal_all("-STOP");
        until_not_ready(hubs).await;
        is_answered_with_503(&hubs[0]).await;
        server.signal_all("-CONT");
    })
    .await;
    let opened = sessions(&server.url()).await - so_far;
    // A start opens about ten a hub, and so does each round of retries, which takes three seconds.
    assert!(opened < 120, "{opened} connections");
}

/// Number of connections that were opened so far.
async fn sessions(url: &str) -> i64 {
    use sqlx::Connection;
    let sql = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()";
    sqlx::query_scalar(sql).fetch_one(&mut sqlx::PgConnection::connect(url).await.unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn without_a_free_connection_posts_are_503_and_what_others_append_is_still_delivered() {
    let db = TestDb::new().await;
    let few = format!("{}_few", db.name);
    // A login with all rights of the usual one, but with a connection limit, which the usual one cannot have.
    db.run(&format!(
        "CREATE ROLE {few} LOGIN PASSWORD 'secret';
         DO $$ BEGIN EXECUTE format('GRANT %I, recado_hub TO {few}', current_user); END $$"
    ))
    .await;
    let (hub, other) = (TestHub::on(&db).with("DATABASE_URL", &db.url_of(&few, "secret")).start().await, TestHub::on(&db).start().await);
    let mut ann = TestClient::of("ann").connect(&hub).await;
    ann.until_caught_up().await;
    hub.post(&note("before").to_user("ann")).await;
    assert_eq!(ann.expect_notification().await.title, "before");

    let of_few = format!("FROM pg_stat_activity WHERE usename = '{few}'");
    db.run(&format!("ALTER ROLE {few} CONNECTION LIMIT 3")).await;
    let end = format!("SELECT count(pg_terminate_backend(pid)) {of_few} AND application_name = 'recado appender'");
    assert_eq!(db.number(&end).await, 1);
    assert!(db.number(&format!("SELECT count(*) {of_few}")).await > 3, "the hub's own connections use every slot");
    let draft = note("meanwhile").to_user("ann").key("meanwhile");
    let refused = hub.try_post(&draft).await.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.took < Duration::from_millis(5500), "{:?}", refused.took);
    let refused = hub.try_post(&draft).await.unwrap();
    assert_eq!(refused.status, 503, "still: {}", refused.body);
    // The tailer and the listener have their own connections.
    other.post(&note("of another hub").to_user("ann")).await;
    assert_eq!(ann.expect_notification().await.title, "of another hub");
    assert!(!hub.is_ready().await, "readiness follows the appends");

    db.run(&format!("ALTER ROLE {few} CONNECTION LIMIT -1")).await;
    eventually("it recovers", PATIENCE, async || hub.try_post(&draft).await.unwrap().is_receipt().then_some(())).await;
    assert_eq!(ann.expect_notification().await.title, "meanwhile");
    assert_eq!(db.head().await, 3, "and it is there once");
    assert!(!hub.said().contains("panicked"), "a task panicked");
}
