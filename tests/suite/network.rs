//! Promise: a network that loses, stalls or is slow costs time, and neither order nor a notification. The traffic is between
//! two addresses that exist in the tests' own network namespaces only.

use std::time::Duration;

use tokio::time::Instant;

use super::support::host::given;
use super::support::net::{FAR, NEAR, Net};
use super::support::*;

/// A hub that can be reached from the other machine.
fn hub_on(db: &TestDb) -> HubBuilder {
    Hub::on(db).with("RECADO_BIND", NEAR)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_packet_in_five_lost_on_the_way_to_clients_delays_and_loses_nothing_and_pings_end_nobody() {
    const COUNT: i64 = 100;
    let Some(net) = given("F41", Net::make()) else { return };
    let db = TestDb::new().await;
    net.near(|| async {
        let hub = hub_on(&db).with("WS_HEARTBEAT_INTERVAL", "1s").start().await;
        let mut clients = Vec::new();
        for n in 0..5 {
            clients.push(Client::of("ann").device(&n.to_string()).connect_over(net.connect(&hub.address), &hub).await);
        }
        net.drop_where("meta l4proto tcp numgen random mod 100 < 20");
        // One that comes while packets are lost.
        clients.push(Client::of("ann").device("late").connect_over(net.connect(&hub.address), &hub).await);
        for n in 1..=COUNT {
            assert_eq!(hub.post(&note(&n.to_string()).to_user("ann")).await.seq, n);
        }
        for client in &mut clients {
            let got = client.until_seq(COUNT).await;
            assert_eq!(got.iter().map(|n| n.seq).collect::<Vec<_>>(), (1..=COUNT).collect::<Vec<_>>(), "each once, in order");
        }
        // Some pings and pongs are lost, too, on these few connections.
        let pinged = "SELECT count(*) FROM recado.session WHERE last_activity_at > connected_at + interval '3 seconds'";
        eventually("they have been pinged for a while", PATIENCE, async || (db.number(pinged).await == 6).then_some(())).await;
        assert_eq!(db.number("SELECT count(*) FROM recado.session WHERE ended_at IS NOT NULL").await, 0, "nobody was cut off");
        assert_eq!(db.number("SELECT count(*) FROM recado.session").await, 6);
        assert!(net.dropped() >= 10, "{} packets were lost", net.dropped());
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_client_is_closed_within_ping_and_pong_deadline_and_confirms_nothing_more() {
    let Some(net) = given("F42", Net::make()) else { return };
    let db = TestDb::new().await;
    net.near(|| async {
        let hub = hub_on(&db).with("WS_HEARTBEAT_INTERVAL", "1s").with("RECADO_PONG_DEADLINE", "1s").start().await;
        let mut gone = Client::of("ann").device("gone").connect_over(net.connect(&hub.address), &hub).await;
        let mut here = Client::of("ann").device("here").connect(&hub).await;
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
        // A second to the next ping, a second for its pong, and a machine that may be busy.
        eventually("it is closed", Duration::from_secs(10), async || (db.number(closed).await == 1).then_some(())).await;
        eprintln!("closed after {:?}", cut.elapsed());
        assert_eq!(hub.stats().await["totalConnections"], 1, "the hub holds nothing for it");
        assert_eq!(db.place("ann", "gone").await, Some(1), "what it never got, it has not confirmed");
        assert_eq!(here.until_seq(8).await.len(), 8, "the other one noticed nothing");
        assert!(net.dropped() > 0);
        // Nobody told the client: its own side is still open. It comes back, and goes on where it was.
        net.heal();
        let mut back = Client::of("ann").device("gone").connect_over(net.connect(&hub.address), &hub).await;
        assert_eq!(back.resume_status(), "ok");
        assert_eq!(back.until_caught_up().await.iter().map(|n| n.seq).collect::<Vec<_>>(), (2..=8).collect::<Vec<_>>());
    });
}

/// What went wrong: a page of the log's end that did not come within the tailer's three seconds was asked for again, as large
/// as before, for as long as the link was slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_link_to_the_database_delays_and_neither_loses_nor_stalls() {
    let Some(net) = given("F40", Net::make()) else { return };
    let db = TestDb::new().await;
    let wish = |n: i64| note(&n.to_string()).to_user("ann").data(&format!("\"{}\"", "x".repeat(8000)));
    net.near(|| async {
        let proxy = Proxy::at(net.listen(), &db.url()).await;
        let url = db.url_at(proxy.port).replace("127.0.0.1", FAR);
        let slow = hub_on(&db).with("DATABASE_URL", &url).start().await;
        let mut ann = Client::of("ann").connect(&slow).await;
        net.slow_down_to("256kbit");
        // Its own: up the link, and not down again.
        let begun = Instant::now();
        for n in 1..=3 {
            let answer = slow.try_post(&wish(n).key(&n.to_string())).await.unwrap();
            assert!(answer.is_receipt(), "{}", answer.body);
        }
        assert_eq!(ann.until_seq(3).await.len(), 3);
        // Another's, at once: more than comes in one look's time.
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
                Frame::Notification(n) => got.push(n),
                Frame::CaughtUp { .. } | Frame::Heartbeat { .. } => {}
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
