//! Tests that acknowledgements move a device's position forward, never back.
//!
//! Old clients that send none resume all the same.

use std::time::Duration;

use super::support::*;

async fn place_becomes(db: &TestDb, user: &str, device: &str, seq: i64) {
    eventually("the position is stored", Duration::from_secs(5), async || (db.place(user, device).await == Some(seq)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pongs_alone_acknowledge_and_nothing_comes_twice() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let asked = TestClient::of("ann").device("old");
    let mut client = asked.connect(&hub).await;
    for n in 1..=5 {
        hub.post(&note(&n.to_string()).to_user("ann")).await;
        client.expect_notification().await;
    }
    // The client has sent no ack frame, and no heartbeat is due within the next half minute.
    place_becomes(&db, "ann", "old", 5).await;
    client.kill();
    hub.post(&note("6").to_user("ann")).await;
    hub.settled(&db).await;
    let mut client = asked.connect(&hub).await;
    let got = client.until_caught_up().await;
    assert_eq!(got.iter().map(|n| n.title.as_str()).collect::<Vec<_>>(), ["6"]);
    place_becomes(&db, "ann", "old", 6).await;
}

/// After a broadcast the ack prober pings the clients. No heartbeat is needed, whatever other posts and pings come in
/// between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn pongs_alone_acknowledge_what_went_to_everyone() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let asked = ["ann", "bob"].map(|user| TestClient::of(user).device("old"));
    let mut clients = Vec::new();
    for asked in &asked {
        clients.push(asked.connect(&hub).await);
    }
    // A single broadcast; some broadcasts within one another's delay; then one followed by a post to one user, whose
    // ping covers the earlier rows.
    let mut head = 0;
    for (pause, to_ann_first) in [(0, false), (700, false), (60, false), (120, true), (260, true), (5, true), (480, false), (1_100, true)] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if to_ann_first {
            hub.post(&note("ann").to_user("ann")).await;
            head += 1;
        }
        hub.post(&note("all").to_everyone()).await;
        head += 1;
        if pause == 700 || pause == 1_100 {
            for user in ["ann", "bob"] {
                place_becomes(&db, user, "old", head).await;
            }
        }
    }
    for (user, client) in ["ann", "bob"].into_iter().zip(&mut clients) {
        client.until_seq(head).await;
        place_becomes(&db, user, "old", head).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_clients_place_keeps_up_by_heartbeats() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("WS_HEARTBEAT_INTERVAL", "1s").start().await;
    let mut idle = TestClient::of("ann").connect(&hub).await;
    for n in 1..=3 {
        hub.post(&note(&n.to_string()).to_user("bob")).await;
    }
    idle.until_seq(3).await;
    place_becomes(&db, "ann", "default", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn with_ack_client_a_pong_proves_nothing() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("WS_HEARTBEAT_INTERVAL", "1s").start().await;
    let asked = TestClient::of("ann").device("strict").query("ack", "client");
    let mut client = asked.connect(&hub).await;
    let mut old = TestClient::of("ann").device("old").connect(&hub).await;
    for n in 1..=3 {
        hub.post(&note(&n.to_string()).to_user("ann")).await;
        client.expect_notification().await;
        old.expect_notification().await;
    }
    // Heartbeats ping every client. The other device's pong proves, twice, that the round is over.
    hub.post(&note("4").to_user("bob")).await;
    client.until_seq(4).await;
    place_becomes(&db, "ann", "old", 4).await;
    hub.post(&note("5").to_user("bob")).await;
    client.until_seq(5).await;
    place_becomes(&db, "ann", "old", 5).await;
    assert_eq!(db.place("ann", "strict").await, Some(0));
    client.ack(2).await;
    place_becomes(&db, "ann", "strict", 2).await;
    client.kill();
    let got = asked.connect(&hub).await.until_caught_up().await;
    assert_eq!(got.iter().map(|n| n.seq).collect::<Vec<_>>(), [3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lower_ack_changes_nothing_and_one_ahead_is_refused() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut client = TestClient::of("ann").device("d").query("ack", "client").connect(&hub).await;
    for n in 1..=3 {
        hub.post(&note(&n.to_string()).to_user("ann")).await;
        client.expect_notification().await;
    }
    client.ack(3).await;
    place_becomes(&db, "ann", "d", 3).await;
    client.ack(1).await;
    client.ack(4).await;
    // The answer to the second proves that the hub received the first.
    assert_eq!(client.expect_other("error").await["code"], "ack_ahead");
    client.ack(i64::MAX).await;
    assert_eq!(client.expect_other("error").await["code"], "ack_ahead");
    hub.post(&note("4").to_user("ann")).await;
    assert_eq!(client.expect_notification().await.seq, 4);
    client.ack(4).await;
    place_becomes(&db, "ann", "d", 4).await;
    for bad in ["{\"type\":\"ack\"}", "{\"type\":\"ack\",\"seq\":\"4\"}", "{\"type\":\"ack\",\"seq\":-1}", "{\"type\":\"ack\",\"seq\":1.5}"]
    {
        client.say(bad).await;
        client.expect_other("error").await;
    }
    assert_eq!(db.place("ann", "d").await, Some(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_connection_on_another_hub_cannot_move_a_place_back() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let asked = TestClient::of("ann").device("d").query("ack", "client");
    let (mut first, mut second) = (asked.connect(&here).await, asked.connect(&there).await);
    for n in 1..=3 {
        here.post(&note(&n.to_string()).to_user("ann")).await;
        first.expect_notification().await;
        second.expect_notification().await;
    }
    first.ack(3).await;
    place_becomes(&db, "ann", "d", 3).await;
    second.ack(1).await;
    // Another device of the same hub, whose ack is written in the same round or a later one.
    there.settled(&db).await;
    let mut witness = TestClient::of("ann").device("witness").query("ack", "client").since("earliest").connect(&there).await;
    witness.until_caught_up().await;
    witness.ack(2).await;
    place_becomes(&db, "ann", "witness", 2).await;
    assert_eq!(db.place("ann", "d").await, Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ack_given_to_one_hub_counts_on_the_other() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let asked = TestClient::of("ann").device("d").query("ack", "client");
    for round in 0..6 {
        let (a, b) = if round % 2 == 0 { (&here, &there) } else { (&there, &here) };
        let mut client = asked.connect(a).await;
        client.until_caught_up().await;
        let seq = a.post(&note(&format!("{round} seen")).to_user("ann")).await.seq;
        client.until_seq(seq).await;
        client.ack(seq).await;
        place_becomes(&db, "ann", "d", seq).await;
        client.kill();
        b.post(&note(&format!("{round} missed")).to_user("ann")).await;
        b.settled(&db).await;
        let mut client = asked.connect(b).await;
        let got = client.until_caught_up().await;
        assert_eq!(got.iter().map(|n| n.title.clone()).collect::<Vec<_>>(), [format!("{round} missed")]);
        client.ack(got[0].seq).await;
        place_becomes(&db, "ann", "d", got[0].seq).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_in_memory_are_stored_when_the_hub_stops() {
    let db = TestDb::new().await;
    let mut hub = TestHub::on(&db).start().await;
    let mut clients = Vec::new();
    for n in 0..20 {
        clients.push(TestClient::of("ann").device(&format!("d{n}")).query("ack", "client").connect(&hub).await);
        if n == 10 {
            // One user may have 20 connections.
            hub.post(&note("early").to_user("ann")).await;
        }
    }
    let last = hub.post(&note("last").to_everyone()).await.seq;
    for client in &mut clients {
        client.until_seq(last).await;
        client.ack(last).await;
    }
    // Each answer proves that the hub received the ack before it.
    for client in &mut clients {
        client.say("{\"type\":\"ping\"}").await;
        client.expect_other("pong").await;
    }
    hub.signal("-TERM").await;
    assert!(hub.ended(Duration::from_secs(15)).await.success());
    assert_eq!(db.number(&format!("SELECT count(*) FROM recado.cursor WHERE acked_seq = {last}")).await, 20);
}
