//! Promise: a page in a real browser needs no code to resume. Skipped, aloud, where no Chromium is installed.

use super::support::*;

/// Through which another hub of the same database the log goes on while the page's own is dead.
async fn post_through(hub: &Hub, count: usize) -> Vec<i64> {
    let mut seqs = Vec::new();
    for n in 0..count {
        seqs.push(hub.post(&note(&format!("n {n}")).to_user("ann")).await.seq);
        hub.post(&note("of bob").to_user("bob")).await;
    }
    seqs
}

fn port(hub: &Hub) -> String {
    hub.address.rsplit(':').next().unwrap().to_owned()
}

/// A page whose hub dies three times, and the log goes on.
async fn survives(html: impl Fn(&str) -> String, device: &str) {
    let db = TestDb::new().await;
    // Often, so that a pong soon acknowledges.
    let page_hub = Hub::on(&db).with("WS_HEARTBEAT_INTERVAL", "1s");
    let (mut hub, other) = (page_hub.start().await, Hub::on(&db).start().await);
    let port = port(&hub);
    let Some(mut browser) = Browser::open(&html(&hub.address)).await else { return };
    eventually("the page is connected", PATIENCE, async || db.place("ann", device).await).await;
    let mut expected = Vec::new();
    for round in 0..3 {
        expected.extend(post_through(&hub, 5).await);
        assert_eq!(browser.collected(expected.len()).await, expected, "round {round}, live");
        let last = *expected.last().unwrap();
        if device == "socket" {
            // At least once: what was not acknowledged comes again, so the pong is waited for.
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

/// A page that changes its token for a ticket shows no token in any address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_asks_for_a_ticket_and_connects_with_it() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).start().await;
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
