//! Tests that a log that was truncated or restored is another history.
//!
//! Every client that knew the old one is told.

use std::time::Duration;

use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_the_restored_log_does_not_reach_is_reset() {
    let db = TestDb::new().await;
    let asked = TestClient::of("ann").device("d").query("ack", "client");
    let hub = TestHub::on(&db).start().await;
    let mut client = asked.connect(&hub).await;
    for n in 1..=3 {
        hub.post(&note(&n.to_string()).to_user("ann")).await;
    }
    client.until_seq(3).await;
    let log_id = client.log_id().to_owned();
    hub.kill().await;
    let backup = db.copy().await;

    let hub = TestHub::on(&db).start().await;
    let mut ids = Vec::new();
    for n in 4..=8 {
        ids.push(hub.post(&note(&n.to_string()).to_user("ann")).await.id);
    }
    hub.kill().await;

    let hub = TestHub::on(&backup).publishing_with(&db.key()).start().await;
    let place = asked.clone().since(8).query("log_id", &log_id);
    let mut client = place.connect(&hub).await;
    assert_eq!((client.resume_status(), client.hello["head"].as_i64()), ("reset", Some(3)));
    let titles: Vec<String> = client.until_caught_up().await.into_iter().map(|n| n.title).collect();
    assert_eq!(titles, ["1", "2", "3"]);
    // The log has grown over the old number: only the id at that number shows the difference.
    for n in 0..8 {
        hub.post(&note(&format!("new {n}")).to_user("ann")).await;
    }
    hub.settled(&backup).await;
    let client = place.query("last_id", ids.last().unwrap()).connect(&hub).await;
    assert_eq!(client.resume_status(), "reset");
}

/// Imitates a failover to a server that lacks the end of the log. The superuser switches the triggers off.
async fn cut_the_tail(db: &TestDb, above: i64, then: &str) {
    db.run(&format!(
        "BEGIN; SET LOCAL session_replication_role = replica;
         DELETE FROM recado.log WHERE seq > {above}; DELETE FROM recado.log_member WHERE seq > {above};
         DELETE FROM recado.idempotency WHERE seq > {above}; {then}; COMMIT;"
    ))
    .await;
}

/// Every client is cut off, so that it comes back and is told, and the log has a new id.
async fn everyone_is_told(db: &TestDb, old_log_id: &str, clients: Vec<TestClient>) {
    for mut client in clients {
        loop {
            match client.try_next(Duration::from_secs(10)).await {
                Some(ClientSawFrame::Ended(ended)) => {
                    assert_eq!(ended, ClientEnd::Code(4003, "server_error".to_owned()));
                    break;
                }
                Some(_) => {}
                None => panic!("the stream went on to {} as if nothing had happened", client.given),
            }
        }
    }
    let log_id: String = sqlx::query_scalar("SELECT log_id::text FROM recado.meta").fetch_one(&mut db.connect().await).await.unwrap();
    assert_ne!(log_id, old_log_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_log_that_goes_back_under_running_hubs_gets_a_new_name_and_everyone_is_reset() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let (mut ann, mut bob) = (TestClient::of("ann").connect(&here).await, TestClient::of("bob").connect(&there).await);
    for n in 1..=10 {
        here.post(&note(&n.to_string()).to_everyone()).await;
    }
    ann.until_seq(10).await;
    bob.until_seq(10).await;
    let old = ann.log_id().to_owned();
    cut_the_tail(&db, 7, "SELECT 1").await;
    everyone_is_told(&db, &old, vec![ann, bob]).await;

    // Both by the position that the hub keeps and by the position that the client keeps.
    let mut ann = TestClient::of("ann").connect(&there).await;
    assert_eq!(ann.resume_status(), "reset");
    assert_ne!(ann.log_id(), old);
    assert_eq!(ann.until_caught_up().await.len(), 7);
    let bob = TestClient::of("bob").since(10).query("log_id", &old).connect(&here).await;
    assert_eq!(bob.resume_status(), "reset");
    for hub in [&here, &there] {
        let seq = hub.post(&note("new").to_user("ann")).await.seq;
        assert_eq!(ann.expect_notification().await.seq, seq, "numbers go on after the present end");
    }
    assert_eq!(db.head().await, 9);
    // The position in the new history replaces the higher one of the old.
    eventually("the new place", PATIENCE, async || (db.place("ann", "default").await == Some(9)).then_some(())).await;
    ann.kill();
    let ann = TestClient::of("ann").connect(&here).await;
    assert_eq!(ann.resume_status(), "ok");
}

/// A hub that was not connected at the time finds a head that is not lower than the one it knew. Numbers 8 to 10 are
/// other notifications now; a client that resumed at 11 without a reset would have an undetected hole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_went_back_and_grew_again_is_noticed_as_well() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    for n in 1..=10 {
        hub.post(&note(&n.to_string()).to_everyone()).await;
    }
    ann.until_seq(10).await;
    let old = ann.log_id().to_owned();
    cut_the_tail(&db, 7, &super::resume::many_rows(8)).await;
    everyone_is_told(&db, &old, vec![ann]).await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    assert_eq!(ann.resume_status(), "reset");
    assert_eq!(ann.until_caught_up().await.len(), 15);
}

/// The same, found by the hub's own appends: the first post after the loss finds the log shorter than the hub knows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_posts_right_after_the_loss_does_not_hide_it() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_POLL_INTERVAL", "3s").start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    for n in 1..=10 {
        hub.post(&note(&n.to_string()).to_everyone()).await;
    }
    ann.until_seq(10).await;
    let old = ann.log_id().to_owned();
    cut_the_tail(&db, 7, "SELECT 1").await;
    let drafts: Vec<Note> = (0..8).map(|n| note(&format!("new {n}")).to_everyone()).collect();
    futures_util::future::join_all(drafts.iter().map(|draft| hub.post(draft))).await;
    everyone_is_told(&db, &old, vec![ann]).await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    assert_eq!(ann.resume_status(), "reset");
    assert_eq!(ann.until_caught_up().await.len(), 15);
}

/// The lost end was another hub's. This hub has appended nothing yet, so its own appends show nothing; the rows that it
/// has dispatched do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_of_what_another_hub_appended_is_not_hidden_by_our_own_burst() {
    let db = TestDb::new().await;
    let here = TestHub::on(&db).with("RECADO_POLL_INTERVAL", "3s").start().await;
    let there = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").connect(&here).await;
    for n in 1..=10 {
        there.post(&note(&n.to_string()).to_everyone()).await;
    }
    ann.until_seq(10).await;
    there.kill().await;
    let old = ann.log_id().to_owned();
    cut_the_tail(&db, 7, "SELECT 1").await;
    for n in 0..5 {
        here.post(&note(&format!("new {n}")).to_everyone()).await;
    }
    everyone_is_told(&db, &old, vec![ann]).await;
    let mut ann = TestClient::of("ann").connect(&here).await;
    assert_eq!(ann.resume_status(), "reset");
    assert_eq!(ann.until_caught_up().await.len(), 12);
}
