//! Tests that pages of the past come from a standby that has them.
//!
//! A standby that lags, fails or is promoted costs no client a row or an error, and delivers nothing that was erased.

use std::time::Duration;

use recado::domain::{Seq, UserId};
use recado::store::Database;
use recado::store::erase::{self, EraseTarget};
use sqlx::{AssertSqlSafe, Connection};
use tokio::time::Instant;

use super::failover::pair;
use super::support::cluster::TestCluster;
use super::support::*;

/// A second, plus a margin for a busy machine.
const LEFT_WITHIN: Duration = Duration::from_millis(2500);
/// How long a client waits for its page at most: the time to leave a standby, and the page of the primary.
const SERVED_WITHIN: Duration = Duration::from_secs(5);
/// Rows that a standby has looked up in the log.
const LOOKED_UP: &str =
    "SELECT coalesce(sum(idx_tup_fetch), 0)::bigint FROM pg_stat_user_tables WHERE schemaname = 'recado' AND relname LIKE 'log_p%'";

/// The settings of a hub that reads from these standbys.
fn reading(primary: &TestCluster, standbys: &[&TestCluster]) -> HubBuilder {
    let urls: Vec<String> = standbys.iter().map(|standby| standby.url()).collect();
    TestHub::at(&primary.url()).with("RECADO_READ_DATABASE_URL", &urls.join(","))
}

async fn hub_with(primary: &TestCluster, standbys: &[&TestCluster]) -> TestHub {
    reading(primary, standbys).start().await
}

async fn in_use(hub: &TestHub, count: f64) {
    let what = format!("{count} standbys are in use");
    eventually(&what, PATIENCE, async || (hub.metric("recado_standby_in_use").await == count).then_some(())).await;
}

/// How many pages each kind of server has read: the primary, standbys.
async fn pages(hub: &TestHub) -> (f64, f64) {
    let (_, page) = hub.get("/metrics", None).await.unwrap();
    let of = |source: &str| {
        let series = format!("recado_past_reads_total{{source=\"{source}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap()
    };
    (of("primary"), of("standby"))
}

/// Appends this many rows for `ann` at once.
async fn append(primary: &TestCluster, hub: &TestHub, title: &str, count: i64) -> i64 {
    let rows = format!("SELECT recado.notify('n', '{title} ' || n, repeat('x', 200), user_id => 'ann') FROM generate_series(1, {count}) n");
    let before = primary.number("SELECT coalesce(max(seq), 0) FROM recado.log").await;
    primary.execute(&rows).await;
    hub.has_published(before + count).await;
    before + count
}

/// The numbers that a new device of `ann` gets above `since`, up to the head.
async fn replayed(hub: &TestHub, since: i64) -> Vec<i64> {
    let mut client = TestClient::of("ann").device(&format!("d{}", rand::random::<u32>())).since(since).connect(hub).await;
    let got = client.until_caught_up().await;
    client.close().await;
    got.iter().map(|n| n.seq).collect()
}

/// As [`replayed`], within [`SERVED_WITHIN`].
async fn promptly(hub: &TestHub, since: i64) -> Vec<i64> {
    let begun = Instant::now();
    let got = replayed(hub, since).await;
    assert!(begun.elapsed() < SERVED_WITHIN, "{:?}", begun.elapsed());
    got
}

/// The numbers of the history, newest first.
async fn history(hub: &TestHub) -> Vec<i64> {
    let (status, body) = hub.get("/api/notifications?order=desc&limit=1000", Some(&token("ann", &[]))).await.unwrap();
    assert_eq!(status, 200, "{body}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    body["notifications"].as_array().unwrap().iter().map(|n| n["seq"].as_i64().unwrap()).collect()
}

fn lines(hub: &TestHub, text: &str) -> usize {
    hub.said().lines().filter(|line| line.contains(text)).count()
}

const LEFT: &str = "standby is not in use; the primary or another standby reads its pages";
const USED: &str = "standby is in use: it reads pages of the past";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_come_from_the_standby_and_the_primary_reads_none() {
    let Some((primary, standby)) = pair("R1").await else { return };
    let hub = hub_with(&primary, &[&standby]).await;
    let head = append(&primary, &hub, "row", 1200).await;
    in_use(&hub, 1.0).await;
    let (by_primary, by_standby) = pages(&hub).await;
    let there = standby.number(LOOKED_UP).await;
    let here = primary.number(LOOKED_UP).await;
    for _ in 0..5 {
        assert_eq!(replayed(&hub, 0).await, (1..=head).collect::<Vec<_>>());
        assert_eq!(history(&hub).await, (head - 999..=head).rev().collect::<Vec<_>>());
    }
    let (primary_now, standby_now) = pages(&hub).await;
    assert_eq!(primary_now, by_primary, "the primary read no page");
    assert!(standby_now >= by_standby + 25.0, "{standby_now} after {by_standby}");
    // A server counts when a session has been idle for a moment.
    let grown = async || (standby.number(LOOKED_UP).await >= there + 5 * 2200).then_some(());
    eventually("the standby has looked the rows up", PATIENCE, grown).await;
    let looked_up = primary.number(LOOKED_UP).await - here;
    // The rows that were appended before may be counted late.
    assert!(looked_up < 2200, "the primary looked up {looked_up} rows of 11,000");
    assert_eq!((lines(&hub, USED), lines(&hub, LEFT)), (1, 0), "one line says that it is used");
    assert!(hub.is_ready().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_replays_no_more_is_left_and_nothing_is_missing() {
    let Some((primary, standby)) = pair("R2").await else { return };
    let hub = hub_with(&primary, &[&standby]).await;
    let before = append(&primary, &hub, "row", 300).await;
    in_use(&hub, 1.0).await;
    standby.execute("SELECT pg_wal_replay_pause()").await;
    let head = append(&primary, &hub, "lags", 700).await;
    let begun = Instant::now();
    assert_eq!(promptly(&hub, before).await, (before + 1..=head).collect::<Vec<_>>());
    in_use(&hub, 0.0).await;
    assert!(begun.elapsed() < LEFT_WITHIN, "{:?}", begun.elapsed());
    eventually("the lag is shown", PATIENCE, async || (hub.metric("recado_standby_lag").await == 700.0).then_some(())).await;
    for _ in 0..3 {
        assert_eq!(replayed(&hub, 0).await, (1..=head).collect::<Vec<_>>());
        assert_eq!(history(&hub).await.len(), 1000);
    }
    assert!(hub.is_ready().await, "a hub needs no standby");
    let (_, by_standby) = pages(&hub).await;
    standby.execute("SELECT pg_wal_replay_resume()").await;
    in_use(&hub, 1.0).await;
    assert_eq!(replayed(&hub, 0).await, (1..=head).collect::<Vec<_>>());
    assert!(pages(&hub).await.1 > by_standby, "it reads again");
    assert_eq!((lines(&hub, LEFT), lines(&hub, USED)), (1, 2), "one line for each change");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_a_killed_and_a_stopped_standby_are_left_within_a_second_and_no_client_sees_an_error() {
    let Some((primary, mut standby)) = pair("R3").await else { return };
    let hub = hub_with(&primary, &[&standby]).await;
    let head = append(&primary, &hub, "row", 1500).await;
    let all: Vec<i64> = (1..=head).collect();
    for fault in ["frozen", "killed", "stopped"] {
        in_use(&hub, 1.0).await;
        let asking = async {
            for _ in 0..8 {
                let (one, two, three) = tokio::join!(promptly(&hub, 0), promptly(&hub, 0), history(&hub));
                assert_eq!((&one, &two, three.len()), (&all, &all, 1000), "{fault}");
            }
        };
        let breaking = async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            let begun = Instant::now();
            match fault {
                "frozen" => standby.signal_all("-STOP"),
                "killed" => standby.kill_9().await,
                _ => standby.stop().await,
            }
            in_use(&hub, 0.0).await;
            begun.elapsed()
        };
        let ((), took) = tokio::join!(asking, breaking);
        // A shutdown takes its own time.
        assert!(fault == "stopped" || took < LEFT_WITHIN, "{fault}: {took:?}");
        assert!(hub.is_ready().await, "{fault}");
        if fault == "frozen" {
            standby.signal_all("-CONT");
        } else {
            standby.start().await;
        }
    }
    in_use(&hub, 1.0).await;
    assert!(!hub.said().contains("could not read a replay page"), "no client was closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_is_left_for_good_and_its_own_rows_reach_no_client() {
    let Some((primary, standby)) = pair("R4").await else { return };
    let hub = hub_with(&primary, &[&standby]).await;
    let head = append(&primary, &hub, "row", 600).await;
    in_use(&hub, 1.0).await;
    assert_eq!(replayed(&hub, 0).await.len(), 600);
    standby.promote();
    in_use(&hub, 0.0).await;
    // The same numbers hold other rows there from now on.
    let other = TestHub::at(&standby.url()).start().await;
    // Not by SQL: the lease of the relay is still the first hub's there.
    for _ in 0..50 {
        other.post(&note("other").to_user("ann")).await;
    }
    let head = head.max(append(&primary, &hub, "row", 50).await);
    let mut client = TestClient::of("ann").device("promoted").since(0).connect(&hub).await;
    let got = client.until_caught_up().await;
    assert_eq!(got.iter().map(|n| n.seq).collect::<Vec<_>>(), (1..=head).collect::<Vec<_>>());
    assert!(got.iter().all(|n| n.title.starts_with("row ")), "a row of another history was delivered");
    assert!(hub.said().contains("the server takes writes"), "the log tells why");
    assert_eq!(hub.metric("recado_standby_in_use").await, 0.0);
}

/// The standby replays nothing, but lacks no row: only the count of erasures tells that it must not be asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erased_content_is_not_delivered_from_a_standby_that_has_not_replayed_the_erasure() {
    let Some((primary, standby)) = pair("R5").await else { return };
    let hub = hub_with(&primary, &[&standby]).await;
    let head = append(&primary, &hub, "row", 300).await;
    in_use(&hub, 1.0).await;
    assert_eq!(replayed(&hub, 0).await.len(), 300);
    standby.execute("SELECT pg_wal_replay_pause()").await;
    let mut connection = Database::parse(&primary.url(), None).unwrap().connect("test").await.unwrap();
    let erased = erase::erase(&mut connection, &EraseTarget::Seq(Seq::from_db(7)), "a slip").await.unwrap();
    assert_eq!(erased.erased, 1);
    let without: Vec<i64> = (1..=head).filter(|seq| *seq != 7).collect();
    for _ in 0..3 {
        assert_eq!(replayed(&hub, 0).await, without);
        assert_eq!(history(&hub).await, without.iter().rev().copied().collect::<Vec<_>>());
    }
    // The proof that the test means something: the standby still has the text, and is otherwise fit.
    assert_eq!(standby.text("SELECT title FROM recado.log WHERE seq = 7").await, "row 7");
    assert_eq!(hub.metric("recado_standby_in_use").await, 1.0);
    erase::erase(&mut connection, &EraseTarget::User(UserId::parse("ann").unwrap()), "asked for").await.unwrap();
    assert_eq!(history(&hub).await, [0; 0]);
    assert_eq!(replayed(&hub, 0).await, [0; 0]);
    let (_, by_standby) = pages(&hub).await;
    standby.execute("SELECT pg_wal_replay_resume()").await;
    let again = async || {
        assert_eq!(history(&hub).await, [0; 0]);
        (pages(&hub).await.1 > by_standby).then_some(())
    };
    eventually("it reads again when it has replayed the erasures", PATIENCE, again).await;
}

/// Replay cancels a query that stands in its way (40001). The page then comes from the primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_replay_cancels_comes_from_the_primary() {
    let Some((primary, mut standby)) = pair("R6").await else { return };
    standby.stop().await;
    standby.set("max_standby_streaming_delay=0");
    standby.start().await;
    let hub = hub_with(&primary, &[&standby]).await;
    let head = append(&primary, &hub, "row", 1500).await;
    in_use(&hub, 1.0).await;
    let all: Vec<i64> = (1..=head).collect();
    let cancelled = "SELECT sum(confl_lock)::bigint FROM pg_stat_database_conflicts";
    let end = Instant::now() + PATIENCE * 3;
    let reading = async {
        let mut conflicts = 0;
        while conflicts < 2 {
            assert!(Instant::now() < end, "replay cancelled {conflicts} queries");
            let (one, two, three) = tokio::join!(replayed(&hub, 0), replayed(&hub, 0), replayed(&hub, 0));
            assert!(one == all && two == all && three == all);
            conflicts = standby.number(cancelled).await;
        }
    };
    let locking = async {
        let mut connection = primary.try_connect().await.unwrap();
        loop {
            let mut transaction = connection.begin().await.unwrap();
            let lock = "LOCK TABLE recado.log IN ACCESS EXCLUSIVE MODE";
            sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *transaction).await.unwrap();
            transaction.commit().await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = reading => {}
        () = locking => {}
    }
    assert!(pages(&hub).await.1 > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_standbys_share_the_pages_and_the_fit_one_takes_over() {
    let Some((primary, first)) = pair("R1").await else { return };
    let mut second = primary.standby();
    second.start().await;
    let hub = hub_with(&primary, &[&first, &second]).await;
    let head = append(&primary, &hub, "row", 600).await;
    in_use(&hub, 2.0).await;
    let (before_first, before_second) = (first.number(LOOKED_UP).await, second.number(LOOKED_UP).await);
    for _ in 0..4 {
        assert_eq!(replayed(&hub, 0).await.len(), 600);
    }
    let both =
        async || (first.number(LOOKED_UP).await > before_first + 400 && second.number(LOOKED_UP).await > before_second + 400).then_some(());
    eventually("both have read", PATIENCE, both).await;
    second.kill_9().await;
    in_use(&hub, 1.0).await;
    let (by_primary, _) = pages(&hub).await;
    for _ in 0..4 {
        assert_eq!(replayed(&hub, 0).await, (1..=head).collect::<Vec<_>>());
    }
    assert_eq!(pages(&hub).await.0, by_primary, "the other standby reads everything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_reads_from_a_standby_and_holds_nothing_that_was_erased() {
    let Some((primary, mut standby)) = pair("R7").await else { return };
    let settings = reading(&primary, &[&standby]);
    let hub = settings.start().await;
    let head = append(&primary, &hub, "row", 5000).await;
    in_use(&hub, 1.0).await;
    let there = standby.number(LOOKED_UP).await;
    let seqs = |text: &str| -> Vec<i64> {
        let seq = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_i64().unwrap();
        text.lines().map(seq).collect()
    };
    assert_eq!(seqs(&settings.run(&["export"]).await), (1..=head).collect::<Vec<_>>());
    eventually("the standby has read", PATIENCE, async || (standby.number(LOOKED_UP).await >= there + head).then_some(())).await;
    standby.execute("SELECT pg_wal_replay_pause()").await;
    primary.execute("SELECT recado.erase_rows(NULL, 9, 10)").await;
    let text = settings.run(&["export"]).await;
    assert_eq!(seqs(&text), (1..=head).collect::<Vec<_>>(), "a tombstone keeps its number");
    assert!(text.contains("row 9\"") && text.contains("row 11\"") && !text.contains("row 10\""));
    assert_eq!(standby.text("SELECT title FROM recado.log WHERE seq = 10").await, "row 10");
    standby.kill_9().await;
    assert_eq!(settings.run(&["export"]).await, text, "the primary alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_that_leads_to_no_standby_is_told_and_the_primary_reads() {
    let db = TestDb::new().await;
    let refused = |urls: &str| TestHub::on(&db).with("RECADO_READ_DATABASE_URL", urls);
    for (urls, told) in [
        ("mysql://hub:geheim@h/db", "RECADO_READ_DATABASE_URL: URL 1: it must begin with postgres://"),
        ("postgres://hub:geheim@a,b/db", "RECADO_READ_DATABASE_URL: URL 1: it names several hosts"),
        (",", "RECADO_READ_DATABASE_URL: it holds 0 URLs"),
    ] {
        let (code, said) = run_to_the_end(&refused(urls)).await;
        assert!(code == Some(78) && said.contains(told) && !said.contains("geheim"), "{urls}: {code:?}: {said}");
    }
    // The primary itself, and a port at which nothing listens.
    let nowhere = "postgres://recado:geheim@127.0.0.1:1/db";
    let hub = refused(&format!("{} {nowhere}", db.url())).start().await;
    hub.post(&note("one").to_user("ann")).await;
    hub.settled(&db).await;
    eventually("both are told", PATIENCE, async || (lines(&hub, LEFT) == 2).then_some(())).await;
    assert_eq!(replayed(&hub, 0).await, [1]);
    assert!(hub.is_ready().await && hub.said().contains("the server takes writes") && !hub.said().contains("geheim"));
    assert_eq!(pages(&hub).await.1, 0.0);
}
