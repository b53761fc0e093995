//! Tests that NOTIFY is only a hint.
//!
//! With it delivery is quick; without it delivery is late by no more than the poll interval.

use std::collections::HashSet;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::support::*;

/// The longest poll interval that may be set. The default is shorter.
const POLL: (&str, &str) = ("RECADO_POLL_INTERVAL", "3s");
/// Far below that poll. After a row found by polling the next poll is at least 2.4 s away, so two quick rows in
/// succession prove NOTIFY.
const QUICK: Duration = Duration::from_millis(1500);

async fn comes_quickly(from: &TestHub, to: &mut TestClient) {
    for n in 0..3 {
        let begun = Instant::now();
        let seq = from.post(&note("n").to_user("ann")).await.seq;
        to.until_seq(seq).await;
        assert!(begun.elapsed() < QUICK, "number {n} took {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notify_brings_it_at_once_to_another_hub() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with(POLL.0, POLL.1);
    let (here, there) = (hub.start().await, hub.start().await);
    let mut ann = TestClient::of("ann").connect(&there).await;
    eventually("there listens", PATIENCE, async || (!listeners(&db).await.is_empty()).then_some(())).await;
    here.post(&note("warm").to_user("ann")).await;
    ann.until("warm").await;
    comes_quickly(&here, &mut ann).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_hub_that_hears_no_notify_is_late_by_the_poll_only() {
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    proxy.set(ProxyFlow::Hole);
    let here = TestHub::on(&db).start().await;
    let deaf = TestHub::on(&db).with("RECADO_LISTEN_DATABASE_URL", &db.url_at(proxy.port)).start().await;
    let mut ann = TestClient::of("ann").connect(&deaf).await;
    for n in 0..6 {
        let begun = Instant::now();
        let seq = here.post(&note(&n.to_string()).to_user("ann")).await.seq;
        assert_eq!(ann.expect_notification().await.seq, seq);
        assert!(begun.elapsed() < Duration::from_secs(2), "the poll of 1 s and 1 s: {:?}", begun.elapsed());
    }
    assert!(deaf.is_ready().await, "polling works, so it is ready");
}

async fn listeners(db: &TestDb) -> HashSet<i32> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'recado listener'";
    let pids: Vec<i32> = sqlx::query_scalar(sql).fetch_all(&mut db.connect().await).await.unwrap();
    pids.into_iter().collect()
}

async fn a_cut_listener_is_replaced(cut: Cut) {
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    let here = TestHub::on(&db).start().await;
    let cut_off = TestHub::on(&db).with(POLL.0, POLL.1).with("RECADO_LISTEN_DATABASE_URL", &db.url_at(proxy.port)).start().await;
    let mut ann = TestClient::of("ann").connect(&cut_off).await;
    let before = eventually("both listen", PATIENCE, async || Some(listeners(&db).await).filter(|pids| pids.len() == 2)).await;
    let opened = proxy.opened();

    proxy.cut(cut);
    let since_cut = Instant::now();
    let mut sent = 0;
    while proxy.opened() == opened || listeners(&db).await.is_subset(&before) {
        assert!(since_cut.elapsed() < Duration::from_secs(10), "{cut:?}: not replaced");
        let begun = Instant::now();
        sent += 1;
        let seq = here.post(&note(&sent.to_string()).to_user("ann")).await.seq;
        ann.until_seq(seq).await;
        assert!(begun.elapsed() < Duration::from_secs(4), "the poll of 3 s and 1 s: {:?}", begun.elapsed());
    }
    // The new LISTEN itself may be a moment behind its connection.
    here.post(&note("warm").to_user("ann")).await;
    ann.until("warm").await;
    comes_quickly(&here, &mut ann).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_was_closed_is_replaced() {
    a_cut_listener_is_replaced(Cut::Fin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_was_reset_is_replaced() {
    a_cut_listener_is_replaced(Cut::Rst).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_listener_in_a_black_hole_is_replaced() {
    a_cut_listener_is_replaced(Cut::Hole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn nothing_that_was_committed_while_the_listener_was_away_waits_for_the_next_notify() {
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    let here = TestHub::on(&db).start().await;
    let cut_off = TestHub::on(&db).with("DATABASE_URL", &db.url_at(proxy.port)).start().await;
    let mut ann = TestClient::of("ann").connect(&cut_off).await;
    for cut in [Cut::Rst, Cut::Fin, Cut::Hole] {
        // Every connection of that hub at once.
        proxy.cut(cut);
        let mut last = 0;
        for n in 0..20 {
            last = here.post(&note(&n.to_string()).to_user("ann")).await.seq;
        }
        let begun = Instant::now();
        let got = ann.until_seq(last).await;
        assert_eq!(got.len(), 20, "{cut:?}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{cut:?}: {:?}", begun.elapsed());
    }
}

/// Passes everything on a little later, as a network does.
async fn far_away(port: u16) -> u16 {
    async fn pass(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin) {
        let mut chunk = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut chunk).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if to.write_all(&chunk[..length]).await.is_err() {
                return;
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((hub, _)) = listener.accept().await {
            let (from_hub, to_hub) = hub.into_split();
            let (from_database, to_database) = TcpStream::connect(("127.0.0.1", port)).await.unwrap().into_split();
            tokio::spawn(pass(from_hub, to_database));
            tokio::spawn(pass(from_database, to_hub));
        }
    });
    here
}

/// A log that grows between any two polls is never read to an end that stays; that is no reason to report it as unread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_log_that_grows_without_a_pause_does_not_count_as_unread() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    let hub = TestHub::on(&db).with("DATABASE_URL", &db.url_at(far_away(proxy.port).await)).start().await;
    let append = super::resume::many_rows(1).replace("SELECT", "PERFORM");
    let grow = format!("DO $$ BEGIN FOR n IN 1..7000 LOOP {append}; COMMIT; PERFORM pg_sleep(0.001); END LOOP; END $$");
    let mut connection = db.connect().await;
    let grown = tokio::spawn(async move { sqlx::raw_sql(sqlx::AssertSqlSafe(grow)).execute(&mut connection).await.unwrap() });
    let mut looks = 0;
    while !grown.is_finished() {
        let (status, body) = hub.get("/readyz?verbose", None).await.unwrap();
        assert_eq!(status, 200, "with {} numbers in the log: {body}", db.head().await);
        looks += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    grown.await.unwrap();
    assert!(looks > 50, "it grew for longer than what counts as stale: {looks}");
}
