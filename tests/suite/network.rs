//! Tests that a lossy, stalled or slow network costs time, and loses or reorders nothing.
//!
//! The traffic runs between two addresses that exist in the tests' own network namespaces only.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::support::host::given;
use super::support::net::{FAR, NEAR, Net};
use super::support::*;

/// A hub that can be reached from the other machine.
fn hub_on(db: &TestDb) -> HubBuilder {
    TestHub::on(db).with("RECADO_BIND", NEAR)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: needs the machine"]
async fn one_packet_in_five_lost_on_the_way_to_clients_delays_and_loses_nothing_and_pings_end_nobody() {
    const COUNT: i64 = 100;
    let Some(net) = given("F41", Net::make()) else { return };
    // Otherwise one run in 14 had a client that waited for a frame for 20 s.
    net.repeat_each_second();
    let db = TestDb::new().await;
    net.near(|| async {
        let hub = hub_on(&db).with("WS_HEARTBEAT_INTERVAL", "1s").start().await;
        let mut clients = Vec::new();
        for n in 0..5 {
            clients.push(TestClient::of("ann").device(&n.to_string()).connect_over(net.connect(&hub.address), &hub).await);
        }
        net.drop_where("meta l4proto tcp numgen random mod 100 < 20");
        // A client that connects while packets are lost.
        clients.push(TestClient::of("ann").device("late").connect_over(net.connect(&hub.address), &hub).await);
        for n in 1..=COUNT {
            assert_eq!(hub.post(&note(&n.to_string()).to_user("ann")).await.seq, n);
        }
        for client in &mut clients {
            let got = client.until_seq(COUNT).await;
            assert_eq!(got.iter().map(|n| n.seq).collect::<Vec<_>>(), (1..=COUNT).collect::<Vec<_>>(), "each once, in order");
        }
        // Some pings and pongs are lost on these few connections as well.
        let answered_late =
            |session: &serde_json::Value| session["lastActivity"].as_i64().unwrap() > session["connectedAt"].as_i64().unwrap() + 3000;
        eventually("they have been pinged for a while", PATIENCE, async || {
            let stats = hub.stats().await;
            let sessions = stats["connections"].as_array().unwrap();
            (sessions.len() == 6 && sessions.iter().all(answered_late)).then_some(())
        })
        .await;
        assert_eq!(db.number("SELECT count(*) FROM recado.session WHERE ended_at IS NOT NULL").await, 0, "no client was disconnected");
        assert_eq!(db.number("SELECT count(*) FROM recado.session").await, 6);
        assert!(net.dropped() >= 10, "{} packets were lost", net.dropped());
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: needs the machine"]
async fn a_half_open_client_is_closed_within_ping_and_pong_deadline_and_confirms_nothing_more() {
    let Some(net) = given("F42", Net::make()) else { return };
    let db = TestDb::new().await;
    net.near(|| async {
        let hub = hub_on(&db).with("WS_HEARTBEAT_INTERVAL", "1s").with("RECADO_PONG_DEADLINE", "1s").start().await;
        let mut gone = TestClient::of("ann").device("gone").connect_over(net.connect(&hub.address), &hub).await;
        let mut here = TestClient::of("ann").device("here").connect(&hub).await;
        hub.post(&note("1").to_user("ann")).await;
        gone.until_seq(1).await;
        gone.ack(1).await;
        eventually("it is confirmed", PATIENCE, async || (db.place("ann", "gone").await == Some(1)).then_some(())).await;
        net.drop_where("meta l4proto tcp");
        let cut = Instant::now();
        for n in 2..=8 {
            hub.post(&note(&n.to_string()).to_user("ann")).await;
        }
        let closed = "SELECT count(*) FROM recado.session WHERE client_id = 'gone' AND end_reason = 'no_pong'";
        // A second to the next ping, a second for its pong, and a margin for a busy machine.
        eventually("it is closed", Duration::from_secs(10), async || (db.number(closed).await == 1).then_some(())).await;
        eprintln!("closed after {:?}", cut.elapsed());
        assert_eq!(hub.stats().await["totalConnections"], 1, "the hub keeps no connection for it");
        assert_eq!(db.place("ann", "gone").await, Some(1), "undelivered rows are not acknowledged");
        assert_eq!(here.until_seq(8).await.len(), 8, "the other client is not affected");
        assert!(net.dropped() > 0);
        // The client's own side is still open, because no close reached it. It comes back, and resumes after its
        // position.
        net.heal();
        let mut back = TestClient::of("ann").device("gone").connect_over(net.connect(&hub.address), &hub).await;
        assert_eq!(back.resume_status(), "ok");
        assert_eq!(back.until_caught_up().await.iter().map(|n| n.seq).collect::<Vec<_>>(), (2..=8).collect::<Vec<_>>());
    });
}

/// An event stream sends no pings, so no pong is missed. What went wrong: the kernel tried to reach vanished clients
/// for a quarter of an hour, and the hub counted them for as long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: needs the machine"]
async fn a_stream_whose_client_vanished_is_ended_within_seconds() {
    let Some(net) = given("N12n", Net::make()) else { return };
    let db = TestDb::new().await;
    net.near(|| async {
        let hub = hub_on(&db).with("WS_HEARTBEAT_INTERVAL", "1s").with("RECADO_SEND_DEADLINE", "100ms").start().await;
        let mut vanished = Vec::new();
        for (n, kind) in ["text/event-stream", "application/x-ndjson"].iter().enumerate() {
            let mut stream = net.connect(&hub.address);
            let asked = EventSourcePage::of("ann").device(&n.to_string());
            let head = format!(
                "GET {} HTTP/1.1\r\nHost: {}\r\nAccept: {kind}\r\nAuthorization: Bearer {}\r\n\r\n",
                asked.target(),
                hub.address,
                token("ann", &[]),
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
            vanished.push(stream);
        }
        let here = EventSourcePage::of("ann").device("here").open(&hub).await;
        let counted = async || hub.stats().await["totalConnections"].as_u64().unwrap();
        eventually("all are there", PATIENCE, async || (counted().await == 3).then_some(())).await;
        net.drop_where("meta l4proto tcp");
        let cut = Instant::now();
        // Ten seconds: the write timeout of 5.1 s, and five more.
        eventually("those that vanished are ended", Duration::from_secs(25), async || (counted().await == 1).then_some(())).await;
        eprintln!("ended after {:?}", cut.elapsed());
        assert!(net.dropped() > 0);
        drop((here, vanished));
    });
}

/// What went wrong: the tailer repeated a page that did not arrive within its three seconds, with the same size, for as
/// long as the link was slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: needs the machine"]
async fn a_slow_link_to_the_database_delays_and_neither_loses_nor_stalls() {
    let Some(net) = given("F40", Net::make()) else { return };
    let db = TestDb::new().await;
    let draft = |n: i64| note(&n.to_string()).to_user("ann").data(&format!("\"{}\"", "x".repeat(8000)));
    net.near(|| async {
        let proxy = TestProxy::at(net.listen(), &db.url()).await;
        let url = db.url_at(proxy.port).replace("127.0.0.1", FAR);
        let slow = hub_on(&db).with("DATABASE_URL", &url).start().await;
        let mut ann = TestClient::of("ann").connect(&slow).await;
        net.slow_down_to("256kbit");
        // A post of its own: its row goes up the link, and not down again.
        let begun = Instant::now();
        for n in 1..=3 {
            let answer = slow.try_post(&draft(n).key(&n.to_string())).await.unwrap();
            assert!(answer.is_receipt(), "{}", answer.body);
        }
        assert_eq!(ann.until_seq(3).await.len(), 3);
        // Rows of another hub, at once: more than arrive in the time of one page.
        db.run(
            "SELECT recado.append(0, NULL, 'test', array_agg(gen_random_uuid()), array_agg(text 't'), array_agg(n::text), array_agg(text 'm'),
                                  array_agg(to_json(repeat('y', 8000))::text), array_agg(text 'u/ann'), array_agg(text 'ann'),
                                  array_agg(NULL::text), array_agg(NULL::text), array_agg(NULL::integer), array_agg(true),
                                  array_agg(text 'test'), array_agg(NULL::uuid), array_agg(bigint '0'))
               FROM generate_series(4, 23) n",
        )
        .await;
        let mut got = Vec::new();
        while got.len() < 20 {
            // Each page takes seconds.
            match ann.try_next(PATIENCE * 2).await.expect("a page comes") {
                ClientSawFrame::Notification(n) => got.push(n),
                ClientSawFrame::CaughtUp { .. } | ClientSawFrame::Heartbeat { .. } => {}
                other => panic!("a notification was to come, not {other:?}"),
            }
        }
        assert_eq!(got.iter().map(|n| n.title.parse::<i64>().unwrap()).collect::<Vec<_>>(), (4..=23).collect::<Vec<_>>());
        let took = begun.elapsed();
        assert!(took > Duration::from_secs(4), "the link was slow: {took:?}");
        eprintln!("184 KB in {took:?}");
        let answer = slow.try_post(&note("small").to_user("ann")).await.unwrap();
        assert_eq!((answer.status, answer.receipt().seq), (201, 24));
        eventually("it is ready", PATIENCE, async || slow.is_ready().await.then_some(())).await;
    });
}
