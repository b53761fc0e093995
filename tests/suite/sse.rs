//! Tests that an `EventSource` gets the same stream as a WebSocket, and resumes without code.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_resumes_exactly_what_it_missed_across_the_death_of_its_hub() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let page = EventSourcePage::of("ann").device("tab");
    let mut source = page.open(&hub).await;
    assert_eq!((source.hello["resume"]["status"].as_str(), source.retry), (Some("live"), Some(1000)));
    for n in 0..3 {
        hub.post(&note(&format!("seen {n}")).to_user("ann")).await;
    }
    for n in 0..3 {
        assert_eq!(source.message().await.title(), format!("seen {n}"));
    }
    let place = source.last_event_id.clone();
    assert_eq!(place, "3");
    hub.kill().await;
    assert!(source.next_event().await.is_none(), "the stream broke off");

    let hub = TestHub::on(&db).start().await;
    hub.post(&note("of bob").to_user("bob")).await;
    for n in 0..3 {
        hub.post(&note(&format!("missed {n}")).to_user("ann")).await;
    }
    hub.post(&note("of bob").to_user("bob")).await;
    hub.settled(&db).await;
    let mut source = page.open_again(&hub, &place).await;
    assert_eq!((source.hello["resume"]["status"].as_str(), source.hello["resume"]["from"].as_i64()), (Some("ok"), Some(3)));
    assert_eq!(source.replayed().await, ["missed 0", "missed 1", "missed 2"]);
    assert_eq!(source.last_event_id, "8", "caught_up carries a position");
    let seq = hub.post(&note("live").to_user("ann")).await.seq;
    let live = source.message().await;
    assert_eq!((live.title().as_str(), live.frame()["prev"].as_i64()), ("live", Some(8)));
    assert_eq!(live.id, Some(seq.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn naming_the_last_event_acknowledges_it_for_the_device() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let page = EventSourcePage::of("ann").device("tab");
    let mut source = page.open(&hub).await;
    source.named("caught_up").await;
    assert_eq!(db.place("ann", "tab").await, Some(0), "a new device's start is its position");
    hub.post(&note("one").to_user("ann")).await;
    hub.post(&note("two").to_user("ann")).await;
    source.message().await;
    source.message().await;
    drop(source);
    // A page that was opened anew has no last event: it gets every row that is not acknowledged.
    assert_eq!(page.open(&hub).await.replayed().await, ["one", "two"]);
    for (how, again) in [
        ("the header", page.clone().header("last-event-id", "1")),
        ("the query", page.clone().query("last_event_id", "2")),
        ("the other spelling", page.clone().query("lastEventId", "2")),
        ("the header above the query", page.clone().query("last_event_id", "0").header("last-event-id", "2")),
        ("the query above the header", page.clone().query("last_event_id", "2").header("last-event-id", "1")),
        ("the higher one of the query, which a polyfill adds", page.clone().query("last_event_id", "1").query("lastEventId", "2")),
        ("the higher one of the query, the other way", page.clone().query("last_event_id", "2").query("lastEventId", "0")),
        ("one above since", page.clone().query("since", "1").query("lastEventId", "2")),
        ("the header before a word", page.clone().query("since", "earliest").header("last-event-id", "2")),
    ] {
        let expected: &[&str] = if how == "the header" { &["two"] } else { &[] };
        let mut source = again.open(&hub).await;
        assert_eq!(source.replayed().await, expected, "{how}");
        let place = if how == "the header" { 1 } else { 2 };
        eventually(how, PATIENCE, async || (db.place("ann", "tab").await == Some(place)).then_some(())).await;
    }
    assert_eq!(page.open(&hub).await.replayed().await, [""; 0]);
    // No device has acknowledged rows beyond the head.
    let mut beyond = page.open_again(&hub, "99").await;
    assert_eq!(beyond.hello["resume"]["status"], "reset");
    assert_eq!(beyond.replayed().await, ["one", "two"]);
    assert_eq!(db.place("ann", "tab").await, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_transports_carry_the_same_frames_to_those_they_concern() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut socket = TestClient::of("ann").account("7").device("ws").connect(&hub).await;
    let mut source = EventSourcePage::with_token(&token("ann", &["7"])).device("sse").open(&hub).await;
    let mut stranger = EventSourcePage::of("bob").open(&hub).await;
    let data = "{ \"a\":\t1.0,\n  \"b\": [1e2,\n\n null],\n\"c\":\"x\\n\\u00e9\u{2028}\" }";
    hub.post(&note("lines \u{1f600}").to_user("ann").data(data)).await;
    hub.post(&note("in 7").account("7").data("[]")).await;
    hub.post(&note("in 8").account("8")).await;
    hub.post(&note("to all").to_everyone()).await;
    for _ in 0..3 {
        let (by_socket, by_event) = (socket.expect_notification().await, source.message().await);
        assert_eq!(by_event.data.as_deref(), Some(by_socket.text.as_str()), "byte for byte");
        assert_eq!(by_event.id, Some(by_socket.seq.to_string()));
    }
    assert_eq!(stranger.message().await.title(), "to all", "no row of ann's came before it");

    // A carriage return ends a line in an EventSource: it gets the same JSON with a line feed in its place.
    hub.post(&note("returns").to_user("ann").data("[1,\r\n2,\r3]")).await;
    let (by_socket, by_event) = (socket.expect_notification().await, source.message().await);
    assert_eq!(by_event.data, Some(by_socket.text.replace("\r\n", "\n").replace('\r', "\n")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_page_keeps_up_by_heartbeats_that_have_a_name() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("WS_HEARTBEAT_INTERVAL", "1s").start().await;
    let mut source = EventSourcePage::of("ann").open(&hub).await;
    source.named("caught_up").await;
    for _ in 0..4 {
        hub.post(&note("of bob").to_user("bob")).await;
    }
    let mut prev = 0;
    let block = loop {
        let block = source.next_block().await.expect("the stream goes on");
        assert_eq!(block.name.as_deref(), Some("heartbeat"), "onmessage does not get it");
        let frame = block.frame();
        assert_eq!((frame["type"].as_str(), frame["prev"].as_i64()), (Some("heartbeat"), Some(prev)));
        prev = frame["seq"].as_i64().unwrap();
        if prev == 4 {
            break block;
        }
    };
    assert_eq!(block.id.as_deref(), Some("4"), "the browser's last event id moves");
    let seq = hub.post(&note("of ann").to_user("ann")).await.seq;
    let frame = source.message().await.frame();
    assert_eq!((frame["seq"].as_i64(), frame["prev"].as_i64()), (Some(seq), Some(4)), "a page can prove that nothing is missing");
    // The page has received everything up to 4, so a resume after it replays only later rows.
    let mut again = EventSourcePage::of("ann").open_again(&hub, "4").await;
    assert_eq!(again.replayed().await, ["of ann"]);
}

/// Whether the side of a connection that has port `near` still holds it open (proc(5), tcp(7): state 1 is established).
fn is_open(near: u16, far: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let mut ends = |port: u16| fields.next().is_some_and(|field| field.ends_with(&format!(":{port:04X}")));
        ends(near) && ends(far) && fields.next() == Some("01")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_page_that_reads_nothing_is_ended_and_costs_the_others_nothing() {
    const COUNT: usize = 200;
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_SEND_DEADLINE", "2s").start().await;
    let deaf = TcpSocket::new_v4().unwrap();
    deaf.set_recv_buffer_size(4096).unwrap();
    let mut deaf = deaf.connect(hub.address.parse().unwrap()).await.unwrap();
    let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", EventSourcePage::of("ann").device("deaf").target());
    deaf.write_all(request.as_bytes()).await.unwrap();
    let place = "SELECT count(*) FROM recado.cursor WHERE client_id = 'deaf'";
    eventually("the device has a position", PATIENCE, async || (db.number(place).await == 1).then_some(())).await;
    let (far, near) = (deaf.local_addr().unwrap().port(), deaf.peer_addr().unwrap().port());
    assert!(is_open(near, far));
    let mut fast = EventSourcePage::of("ann").device("fast").open(&hub).await;
    for n in 0..COUNT {
        let large = note(&n.to_string()).to_user("ann").data(&format!("\"{}\"", "x".repeat(16_000)));
        let seq = hub.post(&large).await.seq;
        assert_eq!(fast.message().await.id, Some(seq.to_string()));
    }
    let ended = "SELECT count(*) FROM recado.session WHERE client_id = 'deaf' AND transport = 'sse' AND end_reason = 'slow_consumer'";
    eventually("it is ended", PATIENCE, async || (db.number(ended).await == 1).then_some(())).await;
    // Not only the session: the hub has closed the connection, though the client took nothing of what was written.
    eventually("the connection is closed", PATIENCE, async || (!is_open(near, far)).then_some(())).await;
    let mut taken = Vec::new();
    let all = tokio::time::timeout(PATIENCE, deaf.read_to_end(&mut taken)).await.expect("the connection ends");
    assert!(taken.len() < COUNT * 16_000 / 2, "{all:?}: {} bytes", taken.len());
    let mut back = EventSourcePage::of("ann").device("deaf").open(&hub).await;
    assert_eq!(back.replayed().await.len(), COUNT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn the_end_is_said_before_it_comes() {
    let db = TestDb::new().await;
    let mut hub = TestHub::on(&db).start().await;
    let brief = brief_token("ann", &[], Duration::from_secs(3));
    let mut expiring = EventSourcePage::with_token(&brief).device("brief").open(&hub).await;
    assert!(expiring.named("auth_expiring").await["expires_at"].is_string());
    assert_eq!(expiring.named("goodbye").await["reason"], "token_expired");
    assert!(expiring.next_block().await.is_none());
    assert_eq!(EventSourcePage::with_token(&brief).refused(&hub).await, (401, "token_expired".into()));

    let mut first = EventSourcePage::of("ann").device("first").open(&hub).await;
    let mut second = EventSourcePage::of("ann").device("second").open(&hub).await;
    hub.signal("-TERM").await;
    let mut waits = Vec::new();
    for source in [&mut first, &mut second] {
        let goodbye = source.named("goodbye").await;
        assert_eq!(goodbye["reason"], "draining");
        waits.push(goodbye["after_ms"].as_u64().unwrap());
        assert!(source.next_block().await.is_none(), "no event follows the goodbye");
    }
    assert_ne!(waits[0], waits[1], "they come back at different times");
    let later = if waits[0] > waits[1] { &first } else { &second };
    assert_eq!(later.retry, waits.iter().copied().max(), "the browser waits by itself");
    let status = hub.ended(Duration::from_secs(10)).await;
    assert!(status.success() && !hub.said().contains("still ran"), "{}", hub.said());
    let reasons = "SELECT count(*) FROM recado.session WHERE transport = 'sse' AND end_reason IN ('draining', 'token_expired')";
    assert_eq!(db.number(reasons).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_goes_away_leaves_its_seat() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_MAX_CONNECTIONS_PER_USER", "1").start().await;
    let source = EventSourcePage::of("ann").open(&hub).await;
    assert_eq!(hub.stats().await["connections"][0]["transport"], "sse");
    assert_eq!(EventSourcePage::of("ann").device("other").refused(&hub).await, (429, "too_many_connections".into()));
    drop(source);
    let ended = "SELECT count(*) FROM recado.session WHERE end_reason = 'lost'";
    eventually("its session ends", PATIENCE, async || (db.number(ended).await == 1).then_some(())).await;
    EventSourcePage::of("ann").open(&hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_come_is_told_by_a_status() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let service = service_token("shop", recado::domain::Role::Service);
    let ann = || EventSourcePage::of("ann");
    for (what, page, status, code) in [
        ("no token", EventSourcePage::without_token(), 401, "unauthorized"),
        ("no JWT", EventSourcePage::with_token("x.y.z"), 401, "unauthorized"),
        ("a service's token", EventSourcePage::with_token(&service), 403, "forbidden"),
        ("a foreign page", ann().header("origin", "https://evil.example"), 403, "foreign_origin"),
        ("no device", ann().device("a/b"), 400, "bad_query"),
        ("no place", ann().query("since", "soon"), 400, "bad_query"),
        ("a place with a sign", ann().query("since", "+1"), 400, "bad_query"),
        ("no number", ann().header("last-event-id", "abc"), 400, "bad_query"),
        ("a negative number", ann().query("last_event_id", "-1"), 400, "bad_query"),
        ("too large a number", ann().header("last-event-id", "9223372036854775808"), 400, "bad_query"),
        ("twice the same", ann().device("a").device("b"), 400, "bad_query"),
    ] {
        assert_eq!(page.refused(&hub).await, (status, code.to_owned()), "{what}");
    }
    let near = ann().header("origin", "http://localhost:3000").header("last-event-id", "").open(&hub).await;
    assert_eq!(near.hello["user_id"], "ann");
    assert_eq!(hub.stats().await["totalConnections"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_that_cannot_be_taken_now_is_told_when_to_come_back() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_MAX_CONNECTIONS_PER_USER", "1").with("WS_MAX_CONNECTIONS", "2").start().await;
    let first = EventSourcePage::of("ann").open(&hub).await;
    // A program, which reads statuses.
    assert_eq!(EventSourcePage::of("ann").device("other").refused(&hub).await, (429, "too_many_connections".into()));
    let (goodbye, retry) = EventSourcePage::of("ann").device("other").put_off(&hub).await;
    assert_eq!((goodbye["type"].as_str(), goodbye["reason"].as_str()), (Some("goodbye"), Some("too_many_connections")));
    assert_eq!(goodbye["after_ms"].as_u64(), retry);
    assert!(retry.is_some_and(|ms| ms >= 1000), "{retry:?}");

    let second = EventSourcePage::of("bob").open(&hub).await;
    assert_eq!(EventSourcePage::of("cid").refused(&hub).await, (503, "full".into()));
    assert_eq!(EventSourcePage::of("cid").put_off(&hub).await.0["reason"], "full");
    // A refusal that reconnecting cannot heal stays a status, which ends an EventSource.
    let page = EventSourcePage::with_token("x.y.z").header("accept", "text/event-stream");
    drop((first, second));
    eventually("there is room again", PATIENCE, async || (hub.stats().await["totalConnections"] == 0).then_some(())).await;
    assert_eq!(page.refused(&hub).await, (401, "unauthorized".into()));
    assert_eq!(EventSourcePage::of("ann").query("since", "soon").header("accept", "text/event-stream").refused(&hub).await.0, 400);
    assert_eq!(
        EventSourcePage::of("ann").header("origin", "https://evil.example").header("accept", "text/event-stream").refused(&hub).await.0,
        403
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_resumes_although_its_hub_refused_it_for_a_while() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_MAX_CONNECTIONS_PER_USER", "1").start().await;
    let page = EventSourcePage::of("ann").device("tab");
    let mut source = page.open(&hub).await;
    let seen = hub.post(&note("seen").to_user("ann")).await.seq;
    source.message().await;
    let in_the_way = {
        drop(source);
        eventually("there is room for another device", PATIENCE, async || (hub.stats().await["totalConnections"] == 0).then_some(())).await;
        EventSourcePage::of("ann").device("other").open(&hub).await
    };
    let again = page.clone().header("last-event-id", &seen.to_string());
    assert_eq!(again.put_off(&hub).await.0["reason"], "too_many_connections");
    hub.post(&note("missed").to_user("ann")).await;
    drop(in_the_way);
    eventually("the other device is gone", PATIENCE, async || (hub.stats().await["totalConnections"] == 0).then_some(())).await;
    assert_eq!(again.open(&hub).await.replayed().await, ["missed"]);
}
