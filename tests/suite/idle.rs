//! Tests that a database connection that died while idle fails no request.

use std::time::Duration;

use recado::domain::Role;

use super::support::cluster::TestCluster;
use super::support::host::given;
use super::support::*;

/// Ends every idle connection of the hub, and waits until the server has removed them. One statement chooses and ends
/// them: between two statements, a connection that was idle becomes busy, and would be awaited though it was not ended.
async fn end_the_idle(db: &TestDb, which: &str) -> usize {
    let end = format!(
        "WITH ended AS MATERIALIZED (SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND state = 'idle' AND application_name LIKE '{which}')
         SELECT coalesce(array_agg(pid), '{{}}') FROM ended"
    );
    let ended: Vec<i32> = sqlx::query_scalar(sqlx::AssertSqlSafe(end)).fetch_one(&mut db.connect().await).await.unwrap();
    eventually("they are gone", PATIENCE, async || {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)")
            .bind(&ended)
            .fetch_one(&mut db.connect().await)
            .await
            .unwrap();
        (left == 0).then_some(())
    })
    .await;
    ended.len()
}

/// Waits until the hub's connection of this name has been idle for longer than the hub trusts one.
async fn until_idle(db: &TestDb, name: &str) {
    let idle = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = '{name}'
            AND state = 'idle' AND state_change < clock_timestamp() - interval '300 ms'"
    );
    eventually("it is idle", PATIENCE, async || (db.number(&idle).await > 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_post_is_201_though_the_database_ends_the_appender_between_them() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    for n in 1..=4 {
        // `post` requires 201.
        hub.post(&note(&n.to_string()).to_user("ann")).await;
        until_idle(&db, "recado appender").await;
        assert_eq!(end_the_idle(&db, "recado appender").await, 1);
    }
    assert_eq!(db.head().await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_on_idle_sessions_costs_no_post_and_no_page() {
    let db = TestDb::new().await;
    db.run(&format!("ALTER DATABASE {} SET idle_session_timeout = '300ms'", db.name)).await;
    let hub = TestHub::on(&db).start().await;
    let ann = token("ann", &[]);
    for n in 1..=3 {
        hub.post(&note(&n.to_string()).to_user("ann")).await;
        let (status, body) = hub.get("/api/notifications", Some(&ann)).await.unwrap();
        assert_eq!(status, 200, "{body}");
        until_idle(&db, "recado reader").await;
        until_idle(&db, "recado appender").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_answered_though_every_idle_reader_was_ended() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let ann = token("ann", &[]);
    hub.post(&note("1").to_user("ann")).await;
    for _ in 0..3 {
        let pages = (0..12).map(|_| hub.get("/api/notifications", Some(&ann)));
        for page in futures_util::future::join_all(pages).await {
            assert_eq!(page.unwrap().0, 200);
        }
        assert!(end_the_idle(&db, "recado %").await > 1);
        let (status, body) = hub.get("/api/notifications", Some(&ann)).await.unwrap();
        assert_eq!(status, 200, "{body}");
        TestClient::of("ann").device("phone").connect(&hub).await.until_caught_up().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_post_and_page_after_a_restart_of_the_database_are_answered() {
    let Some(mut server) = given("N9", TestCluster::make()) else { return };
    server.start().await;
    let hub = TestHub::at(&server.url()).start().await;
    let ann = token("ann", &[]);
    hub.post(&note("before").to_user("ann")).await;
    assert_eq!(hub.get("/api/notifications", Some(&ann)).await.unwrap().0, 200);
    server.stop().await;
    server.start().await;
    hub.post(&note("after").to_user("ann")).await;
    let (status, body) = hub.get("/api/notifications", Some(&ann)).await.unwrap();
    assert!(status == 200 && body.contains("after"), "{status}: {body}");
}

/// A firewall that forgets an idle connection tells neither side.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_connection_that_a_firewall_forgot_costs_a_moment_and_no_request() {
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    let hub = TestHub::on(&db).with("DATABASE_URL", &db.url_at(proxy.port)).start().await;
    let ann = token("ann", &[]);
    hub.post(&note("1").to_user("ann")).await;
    let pages = (0..8).map(|_| hub.get("/api/notifications", Some(&ann)));
    futures_util::future::join_all(pages).await;
    until_idle(&db, "recado appender").await;
    until_idle(&db, "recado reader").await;
    proxy.cut(Cut::Hole);
    hub.post(&note("2").to_user("ann")).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(hub.get("/api/notifications", Some(&ann)).await.unwrap().0, 200);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

/// What went wrong: a living connection that was silent for 1.2 s was replaced, which takes several round trips over
/// the same slow link.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_silence_of_two_seconds_on_the_link_replaces_no_living_connection() {
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    let hub = TestHub::on(&db).with("DATABASE_URL", &db.url_at(proxy.port)).start().await;
    hub.post(&note("1").to_user("ann")).await;
    let pids = "SELECT coalesce(sum(pid), 0)::bigint FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'recado appender'";
    for n in 2..=4 {
        until_idle(&db, "recado appender").await;
        let before = db.number(pids).await;
        proxy.set(ProxyFlow::Hole);
        let wish = note(&n.to_string()).to_user("ann");
        let (answer, ()) = tokio::join!(hub.try_post(&wish), async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            proxy.set(ProxyFlow::Pass);
        });
        assert!(answer.unwrap().is_receipt());
        assert_eq!(db.number(pids).await, before, "the same connection, after the {n}. post");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turning_synchronous_commit_off_under_a_running_hub_loses_no_201() {
    let Some(mut server) = given("X4", TestCluster::make()) else { return };
    // A commit that is not flushed at once stays in memory for long, so that a loss shows.
    server.set("wal_writer_delay=10s");
    server.set("wal_writer_flush_after=1GB");
    server.start().await;
    let hub = TestHub::at(&server.url()).start().await;
    hub.post(&note("before").to_user("ann")).await;
    server.execute("ALTER SYSTEM SET synchronous_commit = off").await;
    server.execute("ALTER DATABASE postgres SET synchronous_commit = off").await;
    server.execute("SELECT pg_reload_conf()").await;
    server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'recado %'").await;
    let key = service_token("shop", Role::Service);
    let addresses = Addresses::of([&hub]);
    let writers = Writers::start(2, &addresses, &key, Duration::ZERO, mixed);
    writers.until_count(20, PATIENCE).await;
    server.kill_9().await;
    let posted = writers.abandon().await.posted;
    server.start().await;
    let rows = log_rows(&server.url()).await;
    for posted in &posted {
        let (seq, id) = (posted.receipt.seq, &posted.receipt.id);
        assert!(rows.iter().any(|(row, its, _)| *row == seq && its == id), "the 201 of {seq} is lost");
    }
    assert!(posted.len() >= 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn turning_fsync_off_under_a_running_hub_ends_its_readiness_by_name_until_it_is_on_again() {
    let Some(mut server) = given("X4", TestCluster::make()) else { return };
    server.start().await;
    let hub = TestHub::at(&server.url()).start().await;
    hub.post(&note("before").to_user("ann")).await;
    for setting in ["fsync", "full_page_writes"] {
        server.execute(&format!("ALTER SYSTEM SET {setting} = off")).await;
        server.execute("SELECT pg_reload_conf()").await;
        eventually("not ready", PATIENCE, async || (!hub.is_ready().await).then_some(())).await;
        let (_, body) = hub.get("/readyz?verbose", None).await.unwrap();
        assert!(body.contains(&format!("{setting} is off")), "{body}");
        // Nothing is sent to the database, so no answer says that the outcome is unknown, whenever its time runs out.
        let posts = (0..60).map(async |number| {
            tokio::time::sleep(Duration::from_millis(100) * number).await;
            hub.try_post(&note("not safe").to_user("ann")).await.unwrap()
        });
        for refused in futures_util::future::join_all(posts).await {
            assert_eq!((refused.status, refused.code()), (503, "unavailable"), "{}", refused.body);
        }
        server.execute(&format!("ALTER SYSTEM RESET {setting}")).await;
        server.execute("SELECT pg_reload_conf()").await;
        eventually("ready again", PATIENCE, async || hub.is_ready().await.then_some(())).await;
        hub.post(&note("after").to_user("ann")).await;
    }
}
