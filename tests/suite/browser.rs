//! Tests that a page in a real browser needs no code to resume.
//!
//! Skipped with a message where no Chromium is installed.

use super::support::*;

/// Posts through another hub of the same database, so that the log grows while the page's hub is down.
async fn post_through(hub: &TestHub, count: usize) -> Vec<i64> {
    let mut seqs = Vec::new();
    for n in 0..count {
        seqs.push(hub.post(&note(&format!("n {n}")).to_user("ann")).await.seq);
        hub.post(&note("of bob").to_user("bob")).await;
    }
    seqs
}

fn port(hub: &TestHub) -> String {
    hub.address.rsplit(':').next().unwrap().to_owned()
}

/// A page resumes after its position while its hub dies three times and the log grows.
async fn survives(html: impl Fn(&str) -> String, device: &str) {
    let db = TestDb::new().await;
    // Frequent heartbeats, so that a pong soon acknowledges.
    let page_hub = TestHub::on(&db).with("WS_HEARTBEAT_INTERVAL", "1s");
    let (mut hub, other) = (page_hub.start().await, TestHub::on(&db).start().await);
    let port = port(&hub);
    let Some(mut browser) = Browser::open(&html(&hub.address)).await else { return };
    eventually("the page is connected", PATIENCE, async || db.place("ann", device).await).await;
    let mut expected = Vec::new();
    for round in 0..3 {
        expected.extend(post_through(&hub, 5).await);
        assert_eq!(browser.collected(expected.len()).await, expected, "round {round}, live");
        let last = *expected.last().unwrap();
        if device == "socket" {
            // Delivery is at least once: unacknowledged rows come again, so the test waits for the pong.
            eventually("the pong has acknowledged it", PATIENCE, async || (db.place("ann", device).await? >= last).then_some(())).await;
        }
        hub.kill().await;
        expected.extend(post_through(&other, 20).await);
        hub = page_hub.clone().with("PORT", &port).start().await;
        expected.extend(post_through(&other, 20).await);
        assert_eq!(browser.collected(expected.len()).await, expected, "round {round}, after the death of the hub");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn an_event_source_gets_each_number_once_in_order_across_deaths_of_its_hub() {
    let html = |address: &str| {
        format!(
            r#"<!doctype html><title>page</title><script>
var got = [];
const source = new EventSource("http://{address}/api/notifications/stream?client_id=events&token={}");
source.onmessage = (event) => got.push(JSON.parse(event.data).seq);
</script>"#,
            token("ann", &[])
        )
    };
    survives(html, "events").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_web_socket_that_only_connects_again_is_resumed_by_its_pongs() {
    let html = |address: &str| {
        format!(
            r#"<!doctype html><title>page</title><script>
var got = [];
function connect() {{
    const socket = new WebSocket("ws://{address}/ws?client_id=socket&token={}");
    socket.onmessage = (event) => {{ const frame = JSON.parse(event.data); if (frame.title) got.push(frame.seq); }};
    socket.onclose = () => setTimeout(connect, 300);
}}
connect();
</script>"#,
            token("ann", &[])
        )
    };
    survives(html, "socket").await;
}

/// A page that exchanges its token for a ticket puts no token into any URL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_page_of_another_origin_asks_for_a_ticket_and_connects_with_it() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let html = format!(
        r#"<!doctype html><title>page</title><script>
var got = [];
fetch("http://{0}/api/ws-ticket", {{ method: "POST", headers: {{ authorization: "Bearer {1}" }} }})
    .then((answer) => answer.json())
    .then(({{ ticket }}) => {{
        const socket = new WebSocket("ws://{0}/ws?since=earliest&ticket=" + ticket);
        socket.onmessage = (event) => {{ const frame = JSON.parse(event.data); if (frame.title) got.push(frame.seq); }};
    }});
</script>"#,
        hub.address,
        token("ann", &[])
    );
    let expected = post_through(&hub, 3).await;
    let Some(mut browser) = Browser::open(&html).await else { return };
    assert_eq!(browser.collected(3).await, expected);
}

/// Any status but 200 would end an `EventSource` for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn an_event_source_comes_back_to_a_hub_that_had_no_place_for_it() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_MAX_CONNECTIONS_PER_USER", "1").start().await;
    let in_the_way = EventSourcePage::of("ann").device("other").open(&hub).await;
    let html = format!(
        r#"<!doctype html><title>page</title><script>
var got = [], refused = 0;
const source = new EventSource("http://{}/api/notifications/stream?client_id=tab&since=earliest&token={}");
source.onmessage = (event) => got.push(JSON.parse(event.data).seq);
source.addEventListener("goodbye", () => refused++);
</script>"#,
        hub.address,
        token("ann", &[])
    );
    let expected = post_through(&hub, 3).await;
    let Some(mut browser) = Browser::open(&html).await else { return };
    eventually("the page was put off", PATIENCE, async || browser.value("refused").await.as_i64().filter(|refused| *refused > 0)).await;
    drop(in_the_way);
    assert_eq!(browser.collected(3).await, expected);
}

/// The browser decides from the hub's headers what a page of another origin may send and read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_page_of_another_origin_sends_its_own_headers_and_credentials_and_reads_the_hubs() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let expected = post_through(&hub, 1).await;
    let html = format!(
        r#"<!doctype html><title>page</title><script>
var got = [];
fetch("http://{}/api/notifications", {{
    credentials: "include",
    headers: {{
        authorization: "Bearer {}", accept: "application/x-ndjson", traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-requested-with": "XMLHttpRequest",
    }},
}}).then((answer) => {{ if (answer.headers.get("x-request-id")) got.push(Number(answer.headers.get("recado-head")) - 1); }});
</script>"#,
        hub.address,
        token("ann", &[])
    );
    let Some(mut browser) = Browser::open(&html).await else { return };
    // A notification to bob follows it.
    assert_eq!(browser.collected(1).await, expected);
}
