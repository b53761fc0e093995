//! Tests the cost of a poll of ten thousand sessions.
//!
//! Its query looks at open sessions only.

use std::time::{Duration, Instant};

use recado::domain::device_lag::{DeviceFilter, DeviceSort, DeviceState};
use recado::domain::{InstanceId, UserId};
use recado::store::{Database, console};

use super::*;

/// Open sessions of another instance.
const OPEN: i64 = 10_000;
/// Most processor time of one poll, relative to reading and writing the answer once as JSON in this program, which is
/// built without optimisation like the hub. So a slow machine needs no other limit.
const MOST: u32 = 2;

/// Sessions with long ids, as an identity provider makes them.
fn many(count: i64) -> String {
    format!(
        "SELECT 'auth0|507f1f77bcf86cd7994390' || n, ARRAY['account-' || n % 500], 'web-' || md5(n::text), 'websocket', (n % 1000)::bigint,
                now() - n * interval '1 second'
           FROM generate_series(1, {count}) n"
    )
}

/// A month of ended sessions, of which none may be looked at.
async fn ended(db: &TestDb, count: i64) {
    let id = another_instance(db, &many(count)).await;
    db.run(&format!("UPDATE recado.session SET ended_at = now(), end_reason = 'lost' WHERE instance_id = '{id}'")).await;
    db.run("VACUUM recado.session").await;
}

#[tokio::test]
async fn a_poll_looks_at_open_sessions_only_and_gets_a_row_for_each_instance() {
    let db = TestDb::new().await;
    ended(&db, 20_000).await;
    for _ in 0..3 {
        another_instance(&db, &many(200)).await;
    }
    db.run("ANALYZE recado.session").await;
    tell_plans(&db).await;
    let listening = PlanListener::start();
    let reader = Database::parse(&db.url(), None).unwrap().reader("test", 1);
    console::sessions::open_elsewhere(&reader, InstanceId::new(), 100_000).await.unwrap();
    listening.take();
    let found = console::sessions::open_elsewhere(&reader, InstanceId::new(), 100_000).await.unwrap();
    let plan = listening.take().pop().expect("the server told a plan");
    assert_eq!((found.len(), found.iter().flat_map(|of_one| of_one.rows()).count()), (3, 600));
    let scans = plan.scans();
    assert!(scans.iter().any(|(_, _, index)| index.starts_with("session_live")), "{scans:?}: {}", plan.text());
    assert!(scans.iter().all(|(kind, table, _)| table != "session" || kind != "Seq Scan"), "{}", plan.text());
    assert!(plan.rows() <= 2 * 600, "{} rows: {}", plan.rows(), plan.text());
    let cut = console::sessions::open_elsewhere(&reader, InstanceId::new(), 50).await.unwrap();
    assert_eq!(cut.iter().flat_map(|of_one| of_one.rows()).count(), 50);
    reader.close().await;
}

/// A list of all devices reads each position once and sorts no more than it gives. With a user, it reads the user's.
#[tokio::test]
async fn a_list_of_devices_reads_each_position_once_or_those_of_its_user() {
    let db = TestDb::new().await;
    db.run(
        "INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq)
         SELECT 'u' || n / 4, 'd' || n % 4, log_id, n FROM recado.meta, generate_series(0, 19999) n",
    )
    .await;
    ended(&db, 20_000).await;
    db.run("VACUUM ANALYZE").await;
    tell_plans(&db).await;
    let listening = PlanListener::start();
    let reader = Database::parse(&db.url(), None).unwrap().reader("test", 1);
    let scans = async |filter: DeviceFilter| {
        // The statement may be planned for any condition after some executions, and is not.
        for _ in 0..7 {
            listening.take();
            console::device_list::list(&reader, &filter, DeviceSort::default(), 200).await.unwrap();
        }
        let plans = listening.take();
        let all: Vec<_> = plans.iter().flat_map(ExecutedPlan::scans).collect();
        let session = all.iter().filter(|(kind, table, _)| table == "session" && kind == "Seq Scan").count();
        assert_eq!(session, 0, "{all:?}");
        let cursor: Vec<String> = all.into_iter().filter(|(_, table, _)| table == "cursor").map(|(kind, ..)| kind).collect();
        (cursor, plans.iter().map(ExecutedPlan::rows).sum::<i64>())
    };
    for state in [None, Some(DeviceState::Connected), Some(DeviceState::Away)] {
        let (cursor, rows) = scans(DeviceFilter { state, ..DeviceFilter::default() }).await;
        assert_eq!(cursor, ["Seq Scan"], "{state:?}");
        assert!(rows <= 20_000 + 3000, "{rows} rows");
    }
    let (cursor, rows) = scans(DeviceFilter { user: UserId::parse("u7").ok(), ..DeviceFilter::default() }).await;
    assert!(cursor.len() == 1 && cursor[0] != "Seq Scan" && rows < 50, "{cursor:?}, {rows} rows");
    reader.close().await;
}

/// Processor time of the hub so far.
fn spent(hub: &TestHub) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", hub.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // Fields 14 and 15 of proc(5), in ticks of 10 ms.
    Duration::from_millis(10 * (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()))
}

/// Each poll asks for all rows; the answer is taken and not looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_poll_of_ten_thousand_sessions_costs_little() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    ended(&db, 50_000).await;
    another_instance(&db, &many(OPEN)).await;
    let hub = TestHub::on(&db).start().await;
    let first = shown(&db, &hub, "/api/admin/sessions?limit=10000").await;
    assert_eq!((first["total"].as_i64(), first["rows"].as_array().unwrap().len()), (Some(OPEN), 10_000));
    let text = first.to_string();
    let yardstick = (0..5).map(|_| {
        let begun = Instant::now();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap().to_string().len(), text.len());
        begun.elapsed()
    });
    let yardstick = yardstick.min().unwrap();
    let most = MOST * yardstick;
    for path in ["/api/admin/sessions?limit=10000", "/api/admin/sessions?limit=100"] {
        let (begun, polls) = (spent(&hub), 40);
        let mut bytes = 0;
        for _ in 0..polls {
            let url = format!("http://{}{path}", hub.address);
            bytes = http_client().get(url).bearer_auth(db.admin_key()).send().await.unwrap().bytes().await.unwrap().len();
        }
        let each = (spent(&hub) - begun) / polls;
        eprintln!("{path}: {} ms of processor time a poll, {bytes} bytes; yardstick {yardstick:?}", each.as_secs_f64() * 1000.0);
        assert!(each < most, "{path}: {each:?} of processor time a poll; to read and write the answer took {yardstick:?}");
    }
}
