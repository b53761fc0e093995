//! Tests what each hub tells of all hubs: samples, their stream, and draining one hub from another.

use std::time::Duration;

use recado::domain::{InstanceId, Role};
use recado::store::{Database, instances};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::console_live::{admin, ask};
use super::support::cluster::TestCluster;
use super::support::*;

async fn instances(hub: &TestHub) -> Vec<Value> {
    let (status, listed) = eventually("the first heartbeat", PATIENCE, async || {
        let answer = ask(hub, "GET", "/api/admin/instances", Some(&admin()), None).await;
        (answer.0 != 503).then_some(answer)
    })
    .await;
    assert_eq!(status, 200, "{listed}");
    listed["instances"].as_array().unwrap().clone()
}

async fn id_of(hub: &TestHub) -> String {
    let (_, health) = hub.get("/health", None).await.unwrap();
    serde_json::from_str::<Value>(&health).unwrap()["instance"].as_str().unwrap().to_owned()
}

/// The instance of `of`, as `hub` shows it.
async fn seen(hub: &TestHub, of: &str) -> Option<Value> {
    instances(hub).await.into_iter().find(|instance| instance["instance"] == of)
}

/// Reads events of the stream of samples.
struct Samples {
    answer: reqwest::Response,
    text: String,
}

impl Samples {
    async fn of(hub: &TestHub, query: &str, bearer: &str) -> Self {
        let url = format!("http://{}/api/admin/live{query}", hub.address);
        let client = reqwest::Client::new();
        let answer = client.get(url).bearer_auth(bearer).send().await.unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!((answer.status().as_u16(), header("content-type").as_str()), (200, "text/event-stream"));
        assert!(header("cache-control").contains("no-store"));
        Self { answer, text: String::new() }
    }

    /// The next sample; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                if let Some(data) = event.strip_prefix("event: sample\ndata: ") {
                    let sample = serde_json::from_str(data).unwrap();
                    fits("/components/schemas/InstanceSample", &sample).unwrap();
                    return Some(sample);
                }
                assert!(event.starts_with(':'), "{event}");
            }
            let piece = timeout(PATIENCE, self.answer.chunk()).await.expect("the stream goes on").ok()??;
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_hub_tells_of_all_hubs_and_every_number_moves() {
    let db = TestDb::new().await;
    let (first, second) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let (a, b) = (id_of(&first).await, id_of(&second).await);
    let mut ann = TestClient::of("ann").connect(&second).await;
    ann.until_caught_up().await;
    hub_posts(&second, 3).await;
    ann.until("note 2").await;
    TestClient::of("ann").connect(&second).await.until_caught_up().await;
    assert_eq!(second.get("/api/whoami", None).await.unwrap().0, 401);
    let told = eventually("the second hub has told it", PATIENCE, async || {
        let told = seen(&first, &b).await?;
        (told["counters"]["disconnected"].as_u64()? >= 1 && told["counters"]["acked"].as_u64()? >= 1).then_some(told)
    })
    .await;
    let number = |pointer: &str| told.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer} in {told}"));
    assert_eq!(number("/counters/appended"), 3);
    assert_eq!(number("/counters/delivered_live"), 3);
    assert!(number("/counters/connected") >= 2 && number("/counters/refused") >= 1);
    assert_eq!((number("/gauges/connections"), number("/gauges/head"), number("/gauges/floor")), (1, 3, 0));
    assert!(number("/gauges/rss_bytes") > 1 << 20);
    assert_eq!((number("/append_buckets/count"), told["append_buckets"]["counts"].as_array().unwrap().len()), (3, 12));
    assert_eq!((&told["ready"], &told["reasons"], &told["draining"]), (&json!(true), &json!([]), &json!(false)));
    assert_eq!((&told["address"], &told["version"]), (&json!(second.address), &json!(env!("CARGO_PKG_VERSION"))));
    assert_eq!((&told["upstream"]["live"], &told["listen_reconnects"]), (&json!(0), &json!(0)));
    assert!(told["started_at"].as_str().unwrap() <= told["seen_at"].as_str().unwrap());
    let stored = db.number("SELECT max(pg_column_size(sample))::bigint FROM recado.instance").await;
    assert!(stored < 1500, "a sample of {stored} bytes would be stored outside its row soon");
    let ids: Vec<Value> = instances(&second).await.into_iter().map(|instance| instance["instance"].clone()).collect();
    assert_eq!(ids, [json!(a), json!(b)], "the oldest first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hubs_that_ended_are_listed_for_an_hour_with_how_they_ended() {
    let db = TestDb::new().await;
    let (hub, mut stops) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let stopped = id_of(&stops).await;
    stops.signal("-TERM").await;
    stops.ended(PATIENCE).await;
    // One that another hub buried, one of an earlier version that stopped, and one that is too long ago.
    db.run(
        "INSERT INTO recado.instance (instance_id, address, version, started_at, seen_at, ended_at)
         SELECT gen_random_uuid(), 'h' || r.n, 'test', now() - interval '1 day', now() - r.age, now() - r.age + r.more
           FROM (VALUES (1, interval '10 min', interval '0'), (2, interval '20 min', interval '1 ms'), (3, interval '2 h', interval '0'))
                AS r (n, age, more)",
    )
    .await;
    let ended = eventually("they are listed", PATIENCE, async || {
        let (_, answer) = ask(&hub, "GET", "/api/admin/instances", Some(&admin()), None).await;
        let ended = answer["stopped"].as_array()?.clone();
        (ended.len() == 3).then_some(ended)
    })
    .await;
    assert_eq!((&ended[0]["instance"], &ended[0]["clean"]), (&json!(stopped), &json!(true)));
    let rest: Vec<_> = ended[1..].iter().map(|one| (one["address"].clone(), one["clean"].clone())).collect();
    assert_eq!(rest, [(json!("h1"), json!(false)), (json!("h2"), json!(true))]);
    assert_eq!(instances(&hub).await.len(), 1, "the list of live hubs has none of them");
}

async fn hub_posts(hub: &TestHub, count: u32) {
    for n in 0..count {
        hub.post(&note(&format!("note {n}")).to_user("ann")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_begins_with_the_past_and_ends_with_its_credential_or_the_hub() {
    let db = TestDb::new().await;
    let mut hub = TestHub::on(&db).start().await;
    instances(&hub).await;
    let mut now = Samples::of(&hub, "", &admin()).await;
    let first = now.next().await.unwrap();
    let second = now.next().await.unwrap();
    let at = |sample: &Value| chrono::DateTime::parse_from_rfc3339(sample["at"].as_str().unwrap()).unwrap();
    let apart = (at(&second) - at(&first)).num_milliseconds();
    assert!((4900..9000).contains(&apart), "a sample each five seconds, not {apart} ms");
    let mut past = Samples::of(&hub, "?window=15m", &admin()).await;
    assert_eq!((past.next().await.unwrap(), past.next().await.unwrap()), (first, second));

    let brief = {
        let now = chrono::Utc::now().timestamp();
        let claims = json!({ "sub": "brief", "exp": now + 1, "recado_role": "admin" });
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes()).unwrap();
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    };
    let mut ends = Samples::of(&hub, "", &brief).await;
    let begun = Instant::now();
    while ends.next().await.is_some() {
        assert!(begun.elapsed() < PATIENCE, "an expired token reads on");
    }
    assert_eq!(ask(&hub, "GET", "/api/admin/live?window=5m", Some(&admin()), None).await.0, 422);

    hub.signal("-TERM").await;
    let begun = Instant::now();
    while past.next().await.is_some() {}
    assert!(hub.ended(PATIENCE).await.success());
    assert!(begun.elapsed() < Duration::from_secs(4), "the streams delayed the stop by {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_hub_stays_in_the_samples_and_leaves_the_list_and_an_old_hub_is_shown_without() {
    let db = TestDb::new().await;
    let (hub, dies) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let dead = id_of(&dies).await;
    eventually("both are seen", PATIENCE, async || seen(&hub, &dead).await).await;
    // What a hub of an earlier version writes: no sample.
    db.run(
        "INSERT INTO recado.instance (instance_id, address, version, seen_at)
         VALUES ('00000000-0000-7000-8000-000000000001', '10.0.0.9:8080', '0.0.9', now() + interval '1 hour')",
    )
    .await;
    dies.kill().await;
    // Faster than 15 s without a heartbeat.
    db.run(&format!("UPDATE recado.instance SET seen_at = now() - interval '1 minute' WHERE instance_id = '{dead}'")).await;
    let listed = eventually("it has left the list", PATIENCE, async || {
        let listed = instances(&hub).await;
        listed.iter().all(|instance| instance["instance"] != dead.as_str()).then_some(listed)
    })
    .await;
    let old = listed.iter().find(|instance| instance["version"] == "0.0.9").expect("the old hub is listed");
    for nothing in ["ready", "reasons", "draining", "counters", "gauges", "append_buckets", "upstream", "listen_reconnects"] {
        assert_eq!(old[nothing], Value::Null, "{nothing}");
    }
    let mut past = Samples::of(&hub, "?window=60m", &admin()).await;
    let in_it = |sample: &Value| sample["instances"].as_array().unwrap().iter().find(|i| i["instance"] == dead.as_str()).cloned();
    // The first samples are from before it started.
    let kept = loop {
        if let Some(instance) = in_it(&past.next().await.unwrap()).filter(|instance| instance["counters"].is_object()) {
            break instance;
        }
    };
    assert_eq!(kept["ready"], true, "its samples are kept");
    while in_it(&past.next().await.unwrap()).is_some() {}
    let (status, refused) = drain(&hub, "00000000-0000-7000-8000-000000000001", json!({})).await;
    assert_eq!((status, refused["code"].as_str()), (404, Some("not_found")), "an old hub would pass over the order");
}

async fn drain(hub: &TestHub, instance: &str, body: Value) -> (u16, Value) {
    ask(hub, "POST", &format!("/api/admin/instances/{instance}/drain"), Some(&admin()), Some(&body)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_hub_is_drained_over_the_window_and_serves_again() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let target = id_of(&there).await;
    eventually("it has told a sample", PATIENCE, async || seen(&here, &target).await?["counters"].is_object().then_some(())).await;
    let mut stays = TestClient::of("stays").connect(&here).await;
    stays.until_caught_up().await;
    let mut moved = Vec::new();
    for n in 0..6 {
        let mut client = TestClient::of(&format!("user{n}")).connect(&there).await;
        client.until_caught_up().await;
        moved.push(client);
    }
    eventually("the sessions are stored", PATIENCE, async || {
        (db.number("SELECT count(*) FROM recado.session WHERE ended_at IS NULL").await == 7).then_some(())
    })
    .await;
    let begun = Instant::now();
    let (status, answer) = drain(&here, &target, json!({ "window_seconds": 3 })).await;
    assert_eq!((status, answer), (202, json!({ "success": true, "connections": 6 })));
    eventually("it is not ready", PATIENCE, async || (!there.is_ready().await).then_some(())).await;
    let (status, checks) = there.get("/readyz?verbose", None).await.unwrap();
    let checks: Value = serde_json::from_str(&checks).unwrap();
    assert_eq!((status, &checks["checks"]["not_draining"]["ok"]), (503, &json!(false)));
    // It still serves a client that connects.
    let mut newcomer = TestClient::of("newcomer").connect(&there).await;
    newcomer.until_caught_up().await;
    let ends = moved.into_iter().map(|mut client| async move { (client.ended(PATIENCE).await, Instant::now()) });
    let mut ends = futures_util::future::join_all(ends).await;
    ends.sort_by_key(|(_, at)| *at);
    assert!(ends.iter().all(|(end, _)| *end == ClientEnd::Code(4000, "draining".into())), "{ends:?}");
    let spread = ends[5].1 - ends[0].1;
    assert!(spread > Duration::from_millis(1500), "closed within {spread:?}, not spread over 3 s");
    eventually("it serves again", PATIENCE, async || there.is_ready().await.then_some(())).await;
    assert!(begun.elapsed() >= Duration::from_secs(3));
    let seq = there.post(&note("after").to_users(&["stays", "newcomer"])).await.seq;
    for client in [&mut stays, &mut newcomer] {
        assert_eq!(client.expect_notification().await.seq, seq);
    }
    let acts = format!(
        "SELECT count(*) FROM recado.audit WHERE what = 'instance.drain' AND object = 'instance/{target}' AND who = 'token:operator'"
    );
    assert_eq!(db.number(&acts).await, 1);
    assert!(here.is_ready().await);
    for (instance, body, expected) in [
        ("nothing", json!({}), 404),
        ("00000000-0000-7000-8000-000000000002", json!({}), 404),
        (target.as_str(), json!({ "window_seconds": 601 }), 422),
        (&target, json!({ "window": 1 }), 422),
    ] {
        assert_eq!(drain(&here, instance, body.clone()).await.0, expected, "{instance} {body}");
    }
}

/// A hub that stops while it drains stops as fast as any other, and a newer order replaces an older one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_drain_replaces_an_older_one_and_a_stop_does_not_wait_for_it() {
    let db = TestDb::new().await;
    let mut hub = TestHub::on(&db).start().await;
    let id = id_of(&hub).await;
    eventually("it has told a sample", PATIENCE, async || seen(&hub, &id).await).await;
    assert_eq!(drain(&hub, &id, json!({ "window_seconds": 600 })).await.0, 202);
    eventually("it is not ready", PATIENCE, async || (!hub.is_ready().await).then_some(())).await;
    assert_eq!(drain(&hub, &id, json!({ "window_seconds": 0 })).await.0, 202);
    eventually("the older drain has ended", PATIENCE, async || hub.is_ready().await.then_some(())).await;
    assert_eq!(drain(&hub, &id, json!({ "window_seconds": 600 })).await.0, 202);
    eventually("it is not ready", PATIENCE, async || (!hub.is_ready().await).then_some(())).await;
    let begun = Instant::now();
    hub.signal("-TERM").await;
    assert!(hub.ended(PATIENCE).await.success());
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_admins_see_instances_and_drain() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let id = id_of(&hub).await;
    eventually("it has told a sample", PATIENCE, async || seen(&hub, &id).await).await;
    let path = format!("/api/admin/instances/{id}/drain");
    let body = json!({ "window_seconds": 0 });
    for (method, path, body) in
        [("GET", "/api/admin/instances", None), ("GET", "/api/admin/live", None), ("POST", path.as_str(), Some(&body))]
    {
        assert_eq!(ask(&hub, method, path, None, body).await.0, 401, "{path}");
        for bearer in [token("ann", &[]), service_token("shop", Role::Service), hub.key().to_owned()] {
            assert_eq!(ask(&hub, method, path, Some(&bearer), body).await.0, 403, "{path}");
        }
    }
    assert_eq!(db.number("SELECT count(*) FROM recado.access_change").await, 0);
}

/// The heartbeats of a day are 17,280 updates of one row: without HOT each would write the indexes, and leave rows that
/// only a vacuum removes. A server of its own: an open transaction in any database of a server keeps old rows, and
/// other tests have such.
#[tokio::test]
async fn heartbeats_stay_hot_and_the_table_does_not_grow() {
    let mut server = TestCluster::make().unwrap();
    server.start().await;
    TestHub::at(&server.url()).run(&["migrate"]).await;
    let database = Database::parse(&server.url(), None).unwrap().under_role(Some("recado_hub".into()));
    let mut connection = database.connect("test").await.unwrap();
    let sample = json!({ "counters": { "appended": 1_234_567 }, "reasons": ["x".repeat(700)] });
    let hubs: Vec<InstanceId> = (0..5).map(|_| InstanceId::new()).collect();
    for hub in &hubs {
        instances::beat(&mut connection, *hub, "127.0.0.1:1", &sample).await.unwrap();
    }
    let pages = "SELECT pg_relation_size('recado.instance') / 8192";
    let before = server.number(pages).await;
    for _ in 0..100 {
        for hub in &hubs {
            assert_eq!(instances::beat(&mut connection, *hub, "127.0.0.1:1", &sample).await.unwrap().seen.len(), 5);
        }
    }
    drop(connection);
    let numbers = "SELECT n_tup_upd * 10000 + n_tup_upd - n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'recado.instance'::regclass";
    let numbers = eventually("the statistics are written", PATIENCE, async || {
        let numbers = server.number(numbers).await;
        (numbers / 10_000 >= 500).then_some(numbers)
    })
    .await;
    assert!(numbers % 10_000 <= 25, "{} of {} updates were not HOT", numbers % 10_000, numbers / 10_000);
    let after = server.number(pages).await;
    assert!(after <= before + 2, "the table grew from {before} to {after} pages");
}
