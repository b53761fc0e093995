//! Tests that a failover costs a pause, and that lost rows are reported.
//!
//! Failing over to a standby that has everything is invisible to clients. A standby that lacks the end of the log is
//! another history, and every client is told.

use std::collections::HashMap;
use std::time::Duration;

use recado::domain::Role;
use tokio::time::Instant;

use super::support::cluster::TestCluster;
use super::support::host::given;
use super::support::*;

/// The hub's five seconds, plus a margin for a busy machine.
const ANSWERED_WITHIN: Duration = Duration::from_secs(7);
const REPLICATES: &str = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
const IS_SYNCHRONOUS: &str = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";

/// A primary, and a standby that follows it.
pub(super) async fn pair(row: &str) -> Option<(TestCluster, TestCluster)> {
    let mut primary = given(row, TestCluster::make())?;
    primary.start().await;
    let mut standby = primary.standby();
    standby.start().await;
    eventually("the standby follows", PATIENCE, async || (primary.number(REPLICATES).await == 1).then_some(())).await;
    Some((primary, standby))
}

/// Makes commits wait for a standby from now on.
async fn be_synchronous(primary: &TestCluster) {
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
    primary.execute("SELECT pg_reload_conf()").await;
    eventually("it is synchronous", PATIENCE, async || (primary.number(IS_SYNCHRONOUS).await == 1).then_some(())).await;
}

async fn before(server: &TestCluster) -> (TestProxy, HubBuilder) {
    let proxy = TestProxy::before(&server.url()).await;
    let hub = TestHub::at(&TestCluster::url_at(&format!("127.0.0.1:{}", proxy.port)));
    (proxy, hub)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_failover_to_a_synchronous_standby_loses_no_201_and_clients_resume_silently() {
    let _turn = heavy().await;
    let Some((mut primary, standby)) = pair("F18").await else { return };
    be_synchronous(&primary).await;
    let (proxy, hub) = before(&primary).await;
    let hubs = [hub.start().await, hub.start().await];
    let addresses = Addresses::of(&hubs);
    let old = TestClient::of("eve").connect(&hubs[0]).await.log_id().to_owned();
    let fan = Fan::start(&["ann", "bob"], 2, &addresses).await;
    let writers = Writers::start(4, &addresses, &service_token("shop", Role::Service), Duration::ZERO, mixed);
    writers.until_count(80, PATIENCE * 3).await;
    primary.kill_9().await;
    standby.promote();
    proxy.point_at(&standby.url()).await;
    writers.until_count(writers.count() + 40, PATIENCE * 3).await;
    let diary = writers.stop().await;
    let end = hubs[1].post(&note("end").to_everyone()).await;
    fan.until_everyone_has(end.seq, PATIENCE * 2).await;
    nothing_is_lost(&log_rows(&standby.url()).await, &diary, &fan);
    assert!(fan.devices.iter().all(|device| device.stretches().len() == 1), "no client was affected");
    assert_eq!(TestClient::of("eve").connect(&hubs[0]).await.log_id(), old, "the log id is the same");
    // The timeline has changed, but clients need not be told of that.
    assert!(standby.text("SELECT pg_walfile_name(pg_current_wal_lsn())").await.starts_with("00000002"));
}

/// The hubs know both servers and find the new primary by themselves. Prints how long clients waited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn hubs_with_a_list_of_hosts_find_the_new_primary_in_seconds_and_lose_no_201() {
    let _turn = heavy().await;
    let Some((mut primary, standby)) = pair("F18").await else { return };
    be_synchronous(&primary).await;
    let hub = TestHub::at(&TestCluster::url_of(&[primary.socket_folder(), standby.socket_folder()]));
    let hubs = [hub.start().await, hub.start().await];
    let addresses = Addresses::of(&hubs);
    let fan = Fan::start(&["ann", "bob"], 2, &addresses).await;
    let writers = Writers::start(4, &addresses, &service_token("shop", Role::Service), Duration::ZERO, mixed);
    writers.until_count(80, PATIENCE * 3).await;
    primary.kill_9().await;
    standby.promote();
    let promoted = Instant::now();
    let first = note("first").to_user("ann").key("first");
    eventually("a post is taken", PATIENCE, async || hubs[0].try_post(&first).await.ok()?.is_receipt().then_some(())).await;
    let post = promoted.elapsed();
    let end = hubs[1].post(&note("end").to_everyone()).await;
    fan.until_everyone_has(end.seq, PATIENCE * 2).await;
    println!(
        "from the promotion: {} ms to the first 201, {} ms until all clients had all",
        post.as_millis(),
        promoted.elapsed().as_millis()
    );
    assert!(post < Duration::from_secs(10), "{post:?}");
    let diary = writers.stop().await;
    let last = hubs[0].post(&note("last").to_everyone()).await;
    fan.until_everyone_has(last.seq, PATIENCE * 2).await;
    nothing_is_lost(&log_rows(&standby.url()).await, &diary, &fan);
    assert!(fan.devices.iter().all(|device| device.stretches().len() == 1), "no client was affected");
}

/// What a device knows of a history: the title at each number.
type KnownHistory = HashMap<(String, i64), String>;

fn learn(known: &mut KnownHistory, log_id: &str, got: impl IntoIterator<Item = ClientNotification>) {
    for n in got {
        let old = known.insert((log_id.to_owned(), n.seq), n.id.clone());
        assert!(old.as_ref().is_none_or(|old| *old == n.id), "number {} of {log_id} was {old:?} and is {}", n.seq, n.id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_failover_that_lost_the_end_of_the_log_is_another_history_and_everyone_is_told() {
    let Some((mut primary, mut standby)) = pair("F19").await else { return };
    let (proxy, hub) = before(&primary).await;
    let hubs = [hub.start().await, hub.start().await];
    let mut known = KnownHistory::new();
    let mut ann = TestClient::of("ann").device("here").connect(&hubs[0]).await;
    let mut away = TestClient::of("ann").device("away").query("ack", "client").connect(&hubs[1]).await;
    for n in 0..20 {
        hubs[n % 2].post(&note(&n.to_string()).to_user("ann")).await;
    }
    away.until_seq(20).await;
    let caught_up = "SELECT (pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn())::integer::bigint";
    let has_all = async || {
        let there = standby.number("SELECT count(*) FROM recado.log").await == 20 && standby.number(caught_up).await == 1;
        there.then_some(())
    };
    eventually("the standby has all", PATIENCE, has_all).await;
    standby.stop().await;
    // Acknowledged and delivered, but on the primary alone.
    for n in 20..60 {
        hubs[n % 2].post(&note(&n.to_string()).to_user("ann")).await;
    }
    let old = ann.log_id().to_owned();
    learn(&mut known, &old, ann.until_seq(60).await);
    away.until_seq(60).await;
    away.kill();
    primary.kill_9().await;
    standby.start().await;
    standby.promote();
    proxy.point_at(&standby.url()).await;

    assert_eq!(ann.ended(PATIENCE).await, ClientEnd::Code(4003, "server_error".to_owned()), "its position belongs to another history");
    let renewed = "SELECT log_id::text FROM recado.meta";
    let new =
        eventually("the log has another log id", PATIENCE, async || Some(standby.text(renewed).await).filter(|new| *new != old)).await;
    assert_eq!(standby.number("SELECT max(seq) FROM recado.log").await, 20, "no row was appended under the old log id");
    // The lost numbers come again, under the new log id alone. They go past the old head, so that only the log id shows
    // the difference.
    let mut first = None;
    for n in 0..50 {
        let draft = note(&format!("new {n}")).to_user("ann").key(&format!("new {n}"));
        let answer = eventually("the hubs append again", PATIENCE, async || {
            let answer = hubs[n % 2].try_post(&draft).await.unwrap();
            answer.is_receipt().then_some(answer)
        });
        first = first.or(Some(answer.await.receipt().seq));
    }
    assert_eq!(first, Some(21));
    for hub in &hubs {
        hub.has_published(70).await;
        let mut returned = TestClient::of("ann").device("there").since(60).query("log_id", &old).connect(hub).await;
        assert_eq!((returned.resume_status(), returned.log_id()), ("reset", new.as_str()));
        learn(&mut known, &new, returned.until_caught_up().await);
        assert_eq!(returned.given, 70);
    }
    let mut back = TestClient::of("ann").device("away").connect(&hubs[0]).await;
    assert_eq!(back.resume_status(), "reset", "its position was lost with the end of the log, and it gets a reset");
    assert_eq!(back.until_caught_up().await.len(), 70);
}

/// The commit is done on the primary and waits for a standby that is gone. The hub must not report it as safe, and
/// cancelling the wait would make it look safe.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn without_its_synchronous_standby_a_post_is_503_unknown_in_five_seconds_and_the_retry_finds_one_row() {
    let Some((primary, mut standby)) = pair("F20").await else { return };
    be_synchronous(&primary).await;
    let hub = TestHub::at(&primary.url()).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    hub.post(&note("before").to_user("ann")).await;
    ann.until("before").await;
    standby.stop().await;

    let draft = note("once").to_user("ann").key("once");
    let unknown = hub.try_post(&draft).await.unwrap();
    assert_eq!((unknown.status, unknown.code()), (503, "outcome_unknown"), "{}", unknown.body);
    assert!(unknown.took < ANSWERED_WITHIN, "{:?}", unknown.took);
    // Later commits wait for the same standby, and are answered in time all the same.
    let begun = Instant::now();
    let mut most = 0;
    while begun.elapsed() < Duration::from_secs(10) {
        let others: Vec<Note> = (0..4).map(|n| note(&format!("other {n}")).to_user("ann").key(&format!("other {n}"))).collect();
        for answer in futures_util::future::join_all(others.iter().map(|other| hub.try_post(other))).await {
            let answer = answer.unwrap();
            assert_eq!(answer.status, 503, "{}", answer.body);
            assert!(answer.took < ANSWERED_WITHIN, "{:?}", answer.took);
        }
        let here = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'recado %'";
        most = most.max(primary.number(here).await);
        assert_eq!(
            primary
                .number("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'recado appender'")
                .await,
            1
        );
    }
    assert!(most < 30, "the hub jams the server with {most} connections");
    assert!(!primary.log().contains("canceling wait"), "no wait was cancelled");
    assert!(!hub.is_ready().await, "readiness follows the appends");
    assert!(ann.try_next(Duration::from_millis(1)).await.is_none(), "rows that are not safe are not delivered");

    primary.execute("ALTER SYSTEM SET synchronous_standby_names = ''").await;
    primary.execute("SELECT pg_reload_conf()").await;
    let settled = eventually("the post is settled", PATIENCE, async || {
        let answer = hub.try_post(&draft).await.unwrap();
        answer.is_receipt().then_some(answer)
    });
    let settled = settled.await;
    assert_eq!((settled.status, settled.receipt().seq, settled.receipt().duplicate), (200, 2, true));
    assert_eq!(primary.number("SELECT count(*) FROM recado.log WHERE title = 'once'").await, 1);
    assert_eq!(ann.expect_notification().await.title, "once");
}

/// A standby answers queries. A hub that took it for the primary would serve an old head, and could store nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_hub_that_is_led_to_a_standby_is_not_ready_and_comes_back_to_the_primary() {
    let Some((primary, mut standby)) = pair("F23").await else { return };
    let (proxy, hub) = before(&primary).await;
    let hub = hub.start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    hub.post(&note("1").to_user("ann")).await;
    let has_it = "SELECT count(*) FROM pg_tables WHERE schemaname = 'recado'";
    eventually("the standby has the schema", PATIENCE, async || (standby.number(has_it).await > 0).then_some(())).await;
    let (code, said) = run_to_the_end(&TestHub::at(&standby.url())).await;
    assert!(code == Some(78) && said.contains("standby"), "{code:?}: {said}");

    // Once with a standby that has everything, once with one that lags behind.
    let old = ann.log_id().to_owned();
    for lags in [false, true] {
        if lags {
            standby.execute("SELECT pg_wal_replay_pause()").await;
            hub.post(&note("not there").to_user("ann")).await;
            ann.until("not there").await;
        }
        proxy.point_at(&standby.url()).await;
        proxy.cut(Cut::Fin);
        let draft = note("there").to_user("ann").key(&format!("{lags}"));
        let refused = hub.try_post(&draft).await.unwrap();
        assert_eq!(refused.status, 503, "{}", refused.body);
        assert!(refused.took < ANSWERED_WITHIN, "{:?}", refused.took);
        eventually("not ready", PATIENCE, async || (!hub.is_ready().await).then_some(())).await;
        // The hub gives up its connections to the standby by itself: an operator need not cut them.
        proxy.point_at(&primary.url()).await;
        eventually("ready again", PATIENCE, async || hub.is_ready().await.then_some(())).await;
        eventually("it goes on", PATIENCE, async || hub.try_post(&draft).await.unwrap().is_receipt().then_some(())).await;
        ann.until("there").await;
    }
    assert_eq!(primary.text("SELECT log_id::text FROM recado.meta").await, old, "the log id is unchanged");
    standby.execute("SELECT pg_wal_replay_resume()").await;
    standby.stop().await;
}
