//! Tests that a user with many requests slows down only that user.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::support::*;

/// Rows of 4 KiB for "greedy", 20 MB in all, and fifty small ones for "ann".
async fn fill(db: &TestDb) {
    for _ in 0..5 {
        db.run(&rows("greedy", 1000, 4000)).await;
    }
    db.run(&rows("ann", 50, 100)).await;
}

fn rows(user: &str, count: usize, bytes: usize) -> String {
    format!(
        "SELECT recado.append(0, NULL, 'test', array_agg(gen_random_uuid()), array_agg('t'::text), array_agg('bulk'::text),
                array_agg(repeat('m', {bytes})), array_agg(NULL::text), array_agg('u/{user}'::text), array_agg('{user}'::text),
                array_agg(NULL::text), array_agg(NULL::text), array_agg(NULL::integer), array_agg(true), array_agg('test'::text),
                array_agg(NULL::uuid), array_agg(0::bigint))
           FROM generate_series(1, {count})"
    )
}

/// Runs the loops of "greedy" while it is switched on, until the end of the test.
struct Greedy {
    is_on: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Greedy {
    fn new() -> Self {
        Self { is_on: Arc::default(), done: Arc::default(), tasks: JoinSet::new() }
    }

    /// Adds a loop. `once` returns after one round.
    fn looping<F: Future<Output = ()> + Send>(&mut self, once: impl Fn(Arc<AtomicBool>) -> F + Send + Sync + 'static) {
        let (is_on, done) = (Arc::clone(&self.is_on), Arc::clone(&self.done));
        self.tasks.spawn(async move {
            loop {
                if is_on.load(Ordering::Relaxed) {
                    once(Arc::clone(&is_on)).await;
                    done.fetch_add(1, Ordering::Relaxed);
                } else {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
    }

    fn switch(&self, on: bool) {
        self.is_on.store(on, Ordering::Relaxed);
    }
}

/// Replays everything to the end and discards it unread, as cheaply as possible.
async fn replay(address: String, is_on: Arc<AtomicBool>) {
    let hub = TestClient::of("greedy").since("earliest").query("ack", "client");
    let Ok(mut socket) = hub.open_at(&address).await else { return tokio::time::sleep(Duration::from_millis(50)).await };
    while is_on.load(Ordering::Relaxed) {
        match socket.next().await {
            Some(Ok(message)) if !message.to_text().is_ok_and(|text| text.contains("\"caught_up\"")) => {}
            _ => return,
        }
    }
}

/// Time until "ann" is connected and has received all her rows.
async fn connect_and_catch_up(address: &str) -> Duration {
    let begun = Instant::now();
    let mut ann = TestClient::of("ann").since("earliest").try_connect(address).await.expect("ann is let in");
    assert_eq!(ann.until_caught_up().await.len(), 50);
    let took = begun.elapsed();
    ann.close().await;
    took
}

fn median(samples: &mut [Duration]) -> Duration {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

/// Medians of `sample` without and with the load. The samples alternate, so that a busy machine slows both.
async fn medians(greedy: &Greedy, mut sample: impl AsyncFnMut() -> Duration) -> (Duration, Duration) {
    let (mut idle, mut loaded) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        for on in [false, true] {
            greedy.switch(on);
            tokio::time::sleep(Duration::from_millis(700)).await;
            for _ in 0..8 {
                let took = sample().await;
                if on { loaded.push(took) } else { idle.push(took) }
            }
        }
    }
    let found = (median(&mut idle), median(&mut loaded));
    println!(
        "idle {:?}, beside the load {:?}; slowest {:?}; {} rounds of the load",
        found.0,
        found.1,
        loaded.last(),
        greedy.done.load(Ordering::Relaxed)
    );
    found
}

/// A generous limit: the machine is busy, and the load's own clients use a part of it.
fn is_fair((idle, loaded): (Duration, Duration)) -> bool {
    loaded <= idle * 4 + Duration::from_millis(40)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_user_who_replays_everything_over_and_over_slows_nobody_else() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    fill(&db).await;
    let hub = TestHub::on(&db).start().await;
    let mut greedy = Greedy::new();
    for _ in 0..19 {
        let address = hub.address.clone();
        greedy.looping(move |is_on| replay(address.clone(), is_on));
    }
    let found = medians(&greedy, async || connect_and_catch_up(&hub.address).await).await;
    assert!(is_fair(found), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_user_who_reads_deep_pages_over_and_over_slows_nobody_else() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    fill(&db).await;
    let hub = TestHub::on(&db).start().await;
    let mut greedy = Greedy::new();
    let client = http_client();
    for n in 0..30 {
        let (address, client) = (hub.address.clone(), client.clone());
        greedy.looping(move |_| {
            let path = format!("http://{address}/api/notifications?limit=1000&type=none&after={}", n * 100);
            let request = client.get(path).bearer_auth(token("greedy", &[]));
            async move {
                if let Ok(response) = request.send().await {
                    let _ = response.bytes().await;
                }
            }
        });
    }
    let found = medians(&greedy, async || connect_and_catch_up(&hub.address).await).await;
    assert!(is_fair(found), "{found:?}");
}

/// Each request for the history asks where the log begins and ends, before it reads a page. While the database holds
/// such questions up, one user's occupy one connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_for_the_history_of_one_user_occupy_one_connection() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let client = http_client();
    let (mut locker, mut witness) = (db.connect().await, db.connect().await);
    sqlx::raw_sql("BEGIN; LOCK TABLE recado.meta IN ACCESS EXCLUSIVE MODE").execute(&mut locker).await.unwrap();
    let mut asking = JoinSet::new();
    for n in 0..70 {
        let path = ["/api/notifications", "/api/notifications/head"][n % 2];
        let request = client.get(format!("http://{}{path}", hub.address)).bearer_auth(token("greedy", &[]));
        asking.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    // Those beyond the limit are refused without the database.
    for _ in 0..70 - 64 {
        assert_eq!(asking.join_next().await.unwrap().unwrap(), 429);
    }
    let waiting = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'recado reader' AND wait_event_type = 'Lock'";
    let mut held = async || sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut witness).await.unwrap();
    eventually("a question waits for the lock", PATIENCE, async || (held().await > 0).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(held().await, 1);
    sqlx::raw_sql("ROLLBACK").execute(&mut locker).await.unwrap();
    let mut answered = 0;
    while let Some(status) = asking.join_next().await {
        answered += usize::from(status.unwrap() == 200);
    }
    assert_eq!(answered, 64);
}

/// One figure of `GET /metrics`.
pub async fn figure(hub: &TestHub, series: &str) -> f64 {
    // The budget of this address may be used up for a moment.
    let read = async || {
        let (_, page) = hub.get("/metrics", None).await.ok()?;
        page.lines().find_map(|line| line.strip_prefix(series))?.trim().parse().ok()
    };
    eventually(&format!("the hub shows {series}"), PATIENCE, read).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_count_per_user_over_all_connections() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut tabs = Vec::new();
    for n in 0..8 {
        tabs.push(TestClient::of("ann").device(&format!("tab-{n}")).connect(&hub).await);
    }
    let mut bob = TestClient::of("bob").connect(&hub).await;
    // Each tab stays within the limit of one connection.
    for tab in &tabs {
        for _ in 0..55 {
            tab.try_say(r#"{"type":"ping"}"#);
        }
    }
    let mut closed = 0;
    hub.post(&note("end").to_everyone()).await;
    for tab in &mut tabs {
        let mut answered = 0;
        while answered < 55 {
            match tab.next_frame().await {
                ClientSawFrame::Ended(why) => {
                    assert_eq!(why, ClientEnd::Code(4029, "rate_limited".into()));
                    closed += 1;
                    break;
                }
                ClientSawFrame::Other(frame) if frame["type"] == "goodbye" => assert!(frame["after_ms"].as_u64() > Some(0), "{frame}"),
                ClientSawFrame::Other(frame) if frame["type"] == "pong" => answered += 1,
                _ => {}
            }
        }
        if closed > 0 {
            break;
        }
    }
    assert_eq!(closed, 1, "440 messages at once exceed the limit of one user");
    bob.until("end").await;
    bob.say(r#"{"type":"ping"}"#).await;
    while !matches!(bob.next_frame().await, ClientSawFrame::Other(frame) if frame["type"] == "pong") {}
    assert!(figure(&hub, "recado_over_budget_total{what=\"message\"}").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_over_and_over_is_told_to_come_back_later() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut told = None;
    for _ in 0..400 {
        if let Err(why) = TestClient::of("ann").try_connect(&hub.address).await.map(TestClient::kill) {
            told = Some(why);
            break;
        }
    }
    let told = told.expect("a limit");
    assert!(told.contains("goodbye") && told.contains("rate_limited") && told.contains("after_ms"), "{told}");
    let (status, problem) = hub.get("/api/notifications/stream", Some(&token("ann", &[]))).await.unwrap();
    assert!(status == 429 && problem.contains("rate_limited"), "{status} {problem}");
    TestClient::of("bob").connect(&hub).await.close().await;
    assert!(figure(&hub, "recado_over_budget_total{what=\"connect\"}").await >= 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_acknowledgements_ends_nothing_and_leaves_nothing_out() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut flood = TestClient::of("ann").query("ack", "client").connect(&hub).await;
    for _ in 0..30_000 {
        flood.try_say(r#"{"type":"ack","seq":0}"#);
    }
    flood.say(r#"{"type":"ping","id":"after"}"#).await;
    assert_eq!(flood.expect_other("pong").await["id"], "after", "nothing is refused or left out");
    hub.post(&note("still").to_everyone()).await;
    flood.until("still").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn guessed_tickets_and_keys_cost_the_database_next_to_nothing() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let begun = Instant::now();
    let client = http_client();
    let mut guesses = JoinSet::new();
    for n in 0..8 {
        let (address, client) = (hub.address.clone(), client.clone());
        guesses.spawn(async move {
            for guess in 0..100_u64 {
                let ticket = format!("rct_{:010x}{:048x}", 1_900_000_000, n * 1000 + guess);
                let url = format!("http://{address}/api/notifications/stream?ticket={ticket}");
                let status = client.get(url).send().await.unwrap().status().as_u16();
                assert!([401, 429].contains(&status), "{status}");
                // One key of the old length, and one whose checksum is wrong.
                for key in [format!("rck_{:064x}", n * 1000 + guess), format!("rck_{:072x}", n * 1000 + guess)] {
                    let url = format!("http://{address}/api/internal/notify");
                    let status = client.post(url).bearer_auth(key).body("{}").send().await.unwrap().status().as_u16();
                    assert_eq!(status, 401);
                }
            }
        });
    }
    while let Some(done) = guesses.join_next().await {
        done.unwrap();
    }
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(figure(&hub, "recado_credential_lookups_total{kind=\"ticket\"}").await, 0.0);
    let unknown = figure(&hub, "recado_credential_lookups_total{kind=\"unknown_ticket\"}").await;
    assert!(unknown <= 11.0 + 2.0 * seconds, "{unknown} of 800 guesses in {seconds} s");
    // At most one statement every 25 ms, whatever the number of guesses; never one for each guess.
    let keys = figure(&hub, "recado_credential_lookups_total{kind=\"key\"}").await;
    assert!(keys <= 40.0 * seconds + 2.0, "{keys} statements in {seconds} s");
    // The user's own connection is not affected.
    hub.post(&note("still").to_user("ann")).await;
    let made = client.post(format!("http://{}/api/ws-ticket", hub.address)).bearer_auth(token("ann", &[])).send().await.unwrap();
    let ticket = made.json::<serde_json::Value>().await.unwrap()["ticket"].as_str().unwrap().to_owned();
    let ann = TestClient::of("nobody").without_header().query("ticket", &ticket).query("since", "earliest").connect(&hub).await;
    assert_eq!(ann.hello["user_id"], "ann");
}
