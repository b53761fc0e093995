//! Tests several clients of one user under one `client_id`, or none.
//!
//! Each gets what it missed, whichever returns first.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::support::*;

fn titles(got: &[ClientNotification]) -> Vec<&str> {
    got.iter().map(|n| n.title.as_str()).collect()
}

async fn post(hub: &TestHub, range: std::ops::RangeInclusive<i32>) -> i64 {
    let mut last = 0;
    for n in range {
        last = hub.post(&note(&n.to_string()).to_user("ann")).await.seq;
    }
    last
}

/// Open connections of processes that exist.
const OVER: &str =
    "SELECT count(*) FROM recado.session s JOIN recado.instance i USING (instance_id) JOIN pg_stat_activity a ON a.pid = i.backend_pid
                     WHERE s.ended_at IS NULL";

async fn left(hub: &TestHub, count: i64) {
    eventually("the hub counts the connections", PATIENCE, async || (hub.stats().await["totalConnections"] == count).then_some(())).await;
}

async fn place_becomes(db: &TestDb, device: &str, seq: i64) {
    eventually("the position is stored", PATIENCE, async || (db.place("ann", device).await == Some(seq)).then_some(())).await;
}

/// Regression: the second of them got nothing and was told `resume: ok`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_without_a_client_id_both_get_what_was_posted_while_their_hub_was_dead() {
    let db = TestDb::new().await;
    let (doomed, other) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let asked = TestClient::of("ann");
    let (mut first, mut second) = (asked.connect(&doomed).await, asked.connect(&doomed).await);
    first.until_caught_up().await;
    second.until_caught_up().await;
    doomed.kill().await;
    let last = post(&other, 1..=4).await;
    let mut first = asked.connect(&other).await;
    assert_eq!(titles(&first.until_seq(last).await), ["1", "2", "3", "4"]);
    // Its pongs acknowledge all four for the device.
    place_becomes(&db, "default", last).await;
    let mut second = asked.connect(&other).await;
    assert_eq!(second.hello["resume"]["shared"], true);
    assert_eq!(titles(&second.until_seq(last).await), ["1", "2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn clients_on_two_hubs_that_share_an_id_both_get_what_they_missed() {
    let db = TestDb::new().await;
    let (one, two, last_hub) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let asked = TestClient::of("ann").device("web");
    let (mut first, mut second) = (asked.connect(&one).await, asked.connect(&two).await);
    first.until_caught_up().await;
    second.until_caught_up().await;
    // One of them stays: the other one's hub is killed, and the first acknowledged the posts made meanwhile.
    one.kill().await;
    let seen = post(&two, 1..=3).await;
    second.until_seq(seen).await;
    place_becomes(&db, "web", seen).await;
    let mut first = asked.connect(&last_hub).await;
    assert_eq!(titles(&first.until_seq(seen).await), ["1", "2", "3"]);
    // Now both hubs' clients are cut.
    two.kill().await;
    first.kill();
    last_hub.settled(&db).await;
    let last = post(&last_hub, 4..=6).await;
    let mut second = asked.connect(&last_hub).await;
    let got = second.until_seq(last).await;
    assert!(titles(&got).ends_with(&["4", "5", "6"]), "{:?}", titles(&got));
    place_becomes(&db, "web", last).await;
    let mut first = asked.connect(&last_hub).await;
    let got = first.until_seq(last).await;
    assert!(titles(&got).ends_with(&["4", "5", "6"]), "{:?}", titles(&got));
}

/// Many clients come back at once. One waited for a lock while a later one wrote down when the hub had gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_hub_was_found_dead_by_a_later_one_repeats_nothing() {
    let db = TestDb::new().await;
    let (doomed, other) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let asked = TestClient::of("ann").device("web").query("ack", "client");
    asked.connect(&doomed).await.until_caught_up().await;
    doomed.kill().await;
    eventually("its database connection is gone", PATIENCE, async || (db.number(OVER).await == 0).then_some(())).await;
    let last = post(&other, 1..=3).await;
    let mut later = db.connect().await;
    let lock = "BEGIN; SELECT FROM recado.instance WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = backend_pid) FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut later).await.unwrap();
    let coming = {
        let (asked, address) = (asked.clone(), other.address.clone());
        tokio::spawn(async move { asked.try_connect(&address).await })
    };
    eventually("the connect waits for the instance's row", PATIENCE, async || (db.waiting_connects().await == 1).then_some(())).await;
    let write = "UPDATE recado.instance SET gone_at = clock_timestamp()
                  WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = backend_pid); COMMIT";
    sqlx::raw_sql(write).execute(&mut later).await.unwrap();
    let mut client = coming.await.unwrap().unwrap();
    assert_eq!(titles(&client.until_seq(last).await), ["1", "2", "3"]);
    client.ack(last).await;
    place_becomes(&db, "web", last).await;
    client.close().await;
    assert!(asked.connect(&other).await.until_caught_up().await.is_empty());
}

/// A crash of the server must not lose a connection whose client was told where it begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_on_disk_before_its_stream_begins() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    TestClient::of("ann").device("web").connect(&hub).await.close().await;
    let mut connection = db.connect().await;
    let begin = "SET synchronous_commit = on; BEGIN; SELECT count(*) FROM recado.meta m, recado.connection_begin('ann', 'web', m.log_id, 0, gen_random_uuid(),
                     (SELECT instance_id FROM recado.instance LIMIT 1), '{}', 'websocket')";
    sqlx::raw_sql(begin).execute(&mut connection).await.unwrap();
    let setting: String = sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&mut connection).await.unwrap();
    assert_eq!(setting, "on");
}

/// Pages that were opened anew name no last event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_event_sources_that_share_an_id_both_get_what_they_missed() {
    let db = TestDb::new().await;
    let (doomed, other) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let page = EventSourcePage::of("ann");
    let (first, second) = (page.open(&doomed).await, page.open(&doomed).await);
    doomed.kill().await;
    drop((first, second));
    let last = post(&other, 1..=4).await;
    let mut first = page.open(&other).await;
    for title in ["1", "2", "3", "4"] {
        assert_eq!(first.message().await.title(), title);
    }
    let body = format!("{{\"seq\":{last}}}");
    let ack = reqwest::Client::new().post(format!("http://{}/api/notifications/ack", other.address)).bearer_auth(token("ann", &[]));
    let answer = ack.header("content-type", "application/json").body(body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    place_becomes(&db, "default", last).await;
    let mut second = page.open(&other).await;
    assert_eq!(second.hello["resume"]["shared"], true);
    for title in ["1", "2", "3", "4"] {
        assert_eq!(second.message().await.title(), title);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slower_of_two_that_are_cut_is_given_what_only_the_quicker_acknowledged() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let asked = TestClient::of("ann").query("ack", "client");
    let (mut quick, mut slow) = (asked.connect(&hub).await, asked.connect(&hub).await);
    let last = post(&hub, 1..=4).await;
    quick.until_seq(last).await;
    slow.until_seq(last).await;
    quick.ack(last).await;
    slow.ack(last - 2).await;
    place_becomes(&db, "default", last).await;
    slow.say("{\"type\":\"ping\"}").await;
    slow.expect_other("pong").await;
    quick.kill();
    slow.kill();
    left(&hub, 0).await;
    for round in ["first", "second"] {
        let mut back = asked.connect(&hub).await;
        assert_eq!(titles(&back.until_caught_up().await), ["3", "4"], "{round}");
        back.ack(last).await;
        back.say("{\"type\":\"ping\"}").await;
        back.expect_other("pong").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_client_that_is_alone_on_its_device_repeats_nothing_and_is_told_nothing() {
    let db = TestDb::new().await;
    let (mut here, mut there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let asked = TestClient::of("ann").device("web-1f3a").query("ack", "client");
    asked.connect(&here).await.until_caught_up().await;
    for round in 0..6 {
        let mut client = asked.connect(&here).await;
        assert!(client.until_caught_up().await.is_empty(), "round {round}");
        assert!(client.hello["resume"].get("shared").is_none(), "{}", client.hello);
        let last = post(&here, 1..=3).await;
        client.until_seq(last).await;
        client.ack(last).await;
        place_becomes(&db, "web-1f3a", last).await;
        match round % 3 {
            0 => client.kill(),
            1 => client.close().await,
            _ => {
                let next = TestHub::on(&db).start().await;
                std::mem::replace(&mut here, next).kill().await;
            }
        }
        // Otherwise the hub would only know that it may be over, and would repeat.
        eventually("its end is known", PATIENCE, async || (db.number(OVER).await == 0).then_some(())).await;
        std::mem::swap(&mut here, &mut there);
        here.settled(&db).await;
    }
    // Another hub ends the killed hub's connection in time; the next connect then forgets all that was resumed.
    let open = "SELECT count(*) FROM recado.session WHERE ended_at IS NULL";
    eventually("all are ended", Duration::from_secs(40), async || (db.number(open).await == 0).then_some(())).await;
    let _client = asked.connect(&here).await;
    let kept = "SELECT count(*) FROM recado.session WHERE is_kept AND client_id = 'web-1f3a'";
    eventually("the resumed position is forgotten", PATIENCE, async || (db.number(kept).await == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_window_only_the_devices_place_counts() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_RESUME_WINDOW", "0s").start().await;
    let asked = TestClient::of("ann").query("ack", "client");
    let (mut quick, slow) = (asked.connect(&hub).await, asked.connect(&hub).await);
    let last = post(&hub, 1..=2).await;
    quick.until_seq(last).await;
    quick.ack(last).await;
    place_becomes(&db, "default", last).await;
    slow.kill();
    left(&hub, 1).await;
    let ended = "SELECT count(*) FROM recado.session WHERE ended_at IS NOT NULL AND ended_at < statement_timestamp()";
    eventually("its end is written down", PATIENCE, async || (db.number(ended).await == 1).then_some(())).await;
    quick.kill();
    left(&hub, 0).await;
    eventually("both ends are", PATIENCE, async || (db.number(ended).await == 2).then_some(())).await;
    assert!(asked.connect(&hub).await.until_caught_up().await.is_empty());
}

/// Chromium answers pings for some milliseconds after a page has begun to unload; none of its scripts runs any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pong_of_a_connection_that_ends_at_once_acknowledges_nothing() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let asked = TestClient::of("ann").device("page");
    let mut socket = asked.open(&hub).await.unwrap();
    // A single row: a pong for an earlier one may count by now on a busy machine.
    let last = post(&hub, 1..=1).await;
    // Answers pings, as a browser's network process does, and is gone.
    pong_up_to(&mut socket, last).await;
    socket.send(Message::Close(None)).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    let mut page = asked.connect(&hub).await;
    assert_eq!(titles(&page.until_caught_up().await), ["1"]);
    // This one stays for a moment: its pong counts.
    place_becomes(&db, "page", last).await;
    page.kill();
    assert!(asked.connect(&hub).await.until_caught_up().await.is_empty());
}

/// Reads until a ping names the number; reading answers it.
async fn pong_up_to(socket: &mut WebSocketStream<TcpStream>, seq: i64) {
    let named = async {
        while let Some(Ok(message)) = socket.next().await {
            if matches!(&message, Message::Ping(payload) if payload.as_ref() == seq.to_string().as_bytes()) {
                return socket.flush().await.unwrap();
            }
        }
        panic!("no ping names {seq}");
    };
    tokio::time::timeout(PATIENCE, named).await.expect("a ping comes");
}
