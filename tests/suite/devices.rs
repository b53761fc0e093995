//! Tests device expiry: unused devices expire, used ones do not, returning ones get `gap`.

use std::time::Duration;

use recado::domain::{ClientId, LogId, Seq, UserId};
use recado::log::retention::{self, RetentionPolicy};
use recado::store::acked_positions::{self, Ack};
use recado::store::device_expiry::ExpiryReach;
use recado::store::{Database, read};

use super::retention::retain;
use super::support::*;

const WEEK: RetentionPolicy =
    RetentionPolicy { age: None, bytes: None, sessions: None, devices: Some(Duration::from_secs(7 * 86_400)), upstream: None, audit: None };

/// Makes the stored devices of a user look unused for a month.
async fn a_month_passes(db: &TestDb, user: &str) {
    db.run(&format!(
        "UPDATE recado.cursor SET acked_at = acked_at - interval '30 days', seen_at = seen_at - interval '30 days' WHERE user_id = '{user}'"
    ))
    .await;
}

/// Waits until the ends of so many sessions of a user are stored. Their devices' last use is stored with them.
async fn have_ended(db: &TestDb, user: &str, sessions: i64) {
    let ended = format!("SELECT count(*) FROM recado.session WHERE user_id = '{user}' AND ended_at IS NOT NULL");
    eventually("the session ends are stored", PATIENCE, async || (db.number(&ended).await == sessions).then_some(())).await;
}

fn range(client: &TestClient) -> (Option<i64>, Option<i64>, Option<i64>) {
    let resume = &client.hello["resume"];
    (resume["from"].as_i64(), resume["lost_from"].as_i64(), resume["lost_to"].as_i64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_device_is_told_the_gap_until_it_confirms_and_a_new_one_is_new() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("1").to_user("ann")).await;
    hub.settled(&db).await;
    let [phone, web] = ["phone", "web"].map(|device| TestClient::of("ann").device(device).query("ack", "client"));
    phone.connect(&hub).await.close().await;
    hub.post(&note("2").to_user("ann")).await;
    hub.settled(&db).await;
    web.connect(&hub).await.close().await;
    have_ended(&db, "ann", 2).await;
    assert_eq!(retain(&db, WEEK).await.devices_forgotten, 0, "both devices were just in use");
    a_month_passes(&db, "ann").await;
    assert_eq!(retain(&db, WEEK).await.devices_forgotten, 2);
    hub.post(&note("missed").to_user("ann")).await;
    hub.settled(&db).await;

    // The lower position of the two, so that no device misses a gap.
    for _ in 0..2 {
        let mut client = phone.connect(&hub).await;
        assert_eq!((client.resume_status(), range(&client)), ("gap", (Some(3), Some(2), Some(3))));
        assert_eq!(client.until_caught_up().await.len(), 0);
    }
    let mut client = phone.connect(&hub).await;
    client.until_caught_up().await;
    client.ack(3).await;
    eventually("the position is stored", PATIENCE, async || (db.place("ann", "phone").await == Some(3)).then_some(())).await;
    client.close().await;
    let mut client = phone.connect(&hub).await;
    assert_eq!(client.resume_status(), "ok");
    assert_eq!(client.until_caught_up().await.len(), 0);
    assert_eq!(TestClient::of("ann").device("never-seen").connect(&hub).await.resume_status(), "live");
    assert_eq!(TestClient::of("bob").device("phone").connect(&hub).await.resume_status(), "live");
    assert_eq!(web.connect(&hub).await.resume_status(), "gap", "acknowledgements of one device do not count for the other");

    retain(&db, WEEK).await;
    assert_eq!(db.number("SELECT cardinality(clients)::bigint FROM recado.forgotten_device").await, 1, "a returning device needs no mark");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pong_is_enough_to_confirm_that_the_gap_was_told() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("WS_HEARTBEAT_INTERVAL", "1s").start().await;
    let asked = TestClient::of("ann").device("phone");
    asked.connect(&hub).await.close().await;
    have_ended(&db, "ann", 1).await;
    a_month_passes(&db, "ann").await;
    assert_eq!(retain(&db, WEEK).await.devices_forgotten, 1);
    hub.post(&note("missed").to_user("ann")).await;
    hub.settled(&db).await;
    let mut client = asked.connect(&hub).await;
    assert_eq!(client.resume_status(), "gap");
    client.until_caught_up().await;
    eventually("the pong is stored", PATIENCE, async || {
        let _ = client.try_next(Duration::from_millis(100)).await;
        (db.place("ann", "phone").await == Some(1)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_here_or_comes_now_and_then_is_not_forgotten() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("1").to_user("ann")).await;
    hub.settled(&db).await;
    let stays = TestClient::of("ann").device("stays");
    let _stays = stays.connect(&hub).await;
    let comes = [
        TestClient::of("bob").device("comes"),
        TestClient::of("bob").device("explicit").since(1),
        TestClient::of("bob").device("live").since("live"),
    ];
    for asked in &comes {
        let client = asked.connect(&hub).await;
        client.ack(1).await;
        client.close().await;
    }
    db.run(
        "INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq)
            SELECT 'bob', d, m.log_id, 1 FROM recado.meta m, unnest('{explicit,live}'::text[]) d ON CONFLICT DO NOTHING",
    )
    .await;
    have_ended(&db, "bob", 3).await;
    let here = "SELECT count(*) FROM recado.session WHERE user_id = 'ann' AND ended_at IS NULL";
    eventually("the device's use is stored", PATIENCE, async || (db.number(here).await == 1).then_some(())).await;
    for user in ["ann", "bob"] {
        a_month_passes(&db, user).await;
    }
    // No notification comes, so nothing is acknowledged. Connecting is enough to count as used.
    for asked in &comes {
        asked.connect(&hub).await.close().await;
    }
    let seen = "SELECT count(*) FROM recado.cursor WHERE user_id = 'bob' AND seen_at > now() - interval '1 hour'";
    eventually("they were seen", PATIENCE, async || (db.number(seen).await == 3).then_some(())).await;
    have_ended(&db, "bob", 6).await;
    assert_eq!(retain(&db, WEEK).await.devices_forgotten, 0);
    assert_eq!(db.number("SELECT count(*) FROM recado.cursor").await, 4);
}

/// A device with its position at 1, unused for a month, in a log with head 2.
async fn idle_device(hub: &TestHub, db: &TestDb) -> ClientBuilder {
    hub.post(&note("1").to_user("ann")).await;
    hub.settled(db).await;
    let asked = TestClient::of("ann").device("phone").query("ack", "client");
    asked.connect(hub).await.close().await;
    hub.post(&note("2").to_user("ann")).await;
    hub.settled(db).await;
    have_ended(db, "ann", 1).await;
    a_month_passes(db, "ann").await;
    asked
}

const FORGET_ALL: &str = "SELECT forgotten FROM recado.forget_devices('', '', 1000, 604800)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_connects_while_it_is_forgotten_is_told_the_gap() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let asked = idle_device(&hub, &db).await;
    let mut forgetting = db.connect().await;
    sqlx::raw_sql("BEGIN").execute(&mut forgetting).await.unwrap();
    let forgotten: i32 = sqlx::query_scalar(FORGET_ALL).fetch_one(&mut forgetting).await.unwrap();
    assert_eq!(forgotten, 1);
    let coming = {
        let (asked, address) = (asked.clone(), hub.address.clone());
        tokio::spawn(async move { asked.try_connect(&address).await })
    };
    eventually("the connect waits for its row", PATIENCE, async || (db.waiting_connects().await == 1).then_some(())).await;
    sqlx::raw_sql("COMMIT").execute(&mut forgetting).await.unwrap();
    let client = coming.await.unwrap().unwrap();
    assert_eq!((client.resume_status(), range(&client)), ("gap", (Some(2), Some(2), Some(2))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_let_in_while_it_would_be_forgotten_stays() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let asked = idle_device(&hub, &db).await;
    let mut connecting = db.connect().await;
    sqlx::raw_sql("BEGIN; SELECT recado.device_place('ann', 'phone', log_id, 2) FROM recado.meta").execute(&mut connecting).await.unwrap();
    assert_eq!(retain(&db, WEEK).await.devices_forgotten, 0, "the locked device is skipped without a wait");
    sqlx::raw_sql("COMMIT").execute(&mut connecting).await.unwrap();
    assert_eq!(retain(&db, WEEK).await.devices_forgotten, 0);
    let mut client = asked.connect(&hub).await;
    assert_eq!(client.resume_status(), "ok");
    assert_eq!(client.until_caught_up().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_a_thousand_any_unknown_device_of_the_user_may_be_one_of_them() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let make = |from: u32, upto: u32| {
        format!(
            "INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq, acked_at, seen_at)
             SELECT 'kiosk', 'visit-' || n, log_id, 0, now() - interval '30 days', now() - interval '30 days'
               FROM recado.meta, generate_series({from}, {upto}) n"
        )
    };
    db.run(&make(1, 900)).await;
    assert_eq!(retain(&db, WEEK).await.devices_forgotten, 900);
    hub.post(&note("1").to_user("kiosk")).await;
    hub.settled(&db).await;
    let connect = async |user: &str, device: &str| TestClient::of(user).device(device).connect(&hub).await.resume_status().to_owned();
    assert_eq!(connect("kiosk", "visit-7").await, "gap");
    assert_eq!(connect("kiosk", "another").await, "live", "each device is known by its own mark");
    db.run(&make(1001, 4000)).await;
    assert_eq!(retain(&db, WEEK).await.devices_forgotten, 3000);
    assert_eq!(db.number("SELECT count(*) FROM recado.forgotten_device WHERE any_client AND clients = '{}'").await, 1);
    for device in ["visit-8", "visit-4000", "yet-another"] {
        assert_eq!(connect("kiosk", device).await, "gap", "{device}");
    }
    assert_eq!(connect("kiosk", "another").await, "ok");
    assert_eq!(connect("ann", "visit-8").await, "live");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_forgotten_in_another_history_is_reset() {
    let db = TestDb::new().await;
    let mut hub = TestHub::on(&db).start().await;
    let asked = idle_device(&hub, &db).await;
    assert_eq!(retain(&db, WEEK).await.devices_forgotten, 1);
    hub.signal("-TERM").await;
    hub.ended(PATIENCE).await;
    db.run("UPDATE recado.meta SET log_id = gen_random_uuid()").await;
    let hub = TestHub::on(&db).start().await;
    assert_eq!(asked.connect(&hub).await.resume_status(), "reset");
    // Another device expires in the new history. Of the old one's devices the hub knows only that they existed.
    db.run("INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq) SELECT 'ann', 'tablet', log_id, 2 FROM recado.meta").await;
    a_month_passes(&db, "ann").await;
    retain(&db, WEEK).await;
    let client = asked.connect(&hub).await;
    assert_eq!((client.resume_status(), range(&client)), ("gap", (Some(2), Some(1), Some(2))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_looks_at_some_thousand_and_the_next_goes_on_there() {
    let db = TestDb::new().await;
    db.run(
        "INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq, acked_at, seen_at)
         SELECT 'u' || n, 'd', log_id, 0, now() - interval '30 days', now() - interval '30 days'
           FROM recado.meta, generate_series(1, 25000) n",
    )
    .await;
    let database = Database::parse(&db.url(), None).unwrap();
    let round = async || retention::round_of(&database, WEEK, ExpiryReach::Part).await.unwrap().devices_forgotten;
    assert_eq!((round().await, round().await, round().await), (20_000, 5_000, 0));
    assert_eq!(
        db.number("SELECT count(*) FROM recado.device_walk WHERE (user_id, client_id) = ('', '')").await,
        1,
        "from the beginning again"
    );
    assert_eq!(db.number("SELECT count(*) FROM recado.forgotten_device").await, 25_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgetting_beside_acknowledgements_and_connects_neither_waits_nor_loses_a_place() {
    let db = TestDb::new().await;
    let database = Database::parse(&db.url(), None).unwrap();
    let mut connection = database.connect("test").await.unwrap();
    let state = read::state(&mut connection).await.unwrap();
    db.run(&super::resume::many_rows(500)).await;
    // Devices unused for a microsecond expire: every device, at any time.
    let at_once = RetentionPolicy { devices: Some(Duration::from_micros(1)), ..RetentionPolicy::default() };
    let forgetting = tokio::spawn({
        let database = database.clone();
        async move {
            let mut forgotten = 0;
            for _ in 0..40 {
                forgotten += retention::round(&database, at_once).await.unwrap().devices_forgotten;
            }
            forgotten
        }
    });
    let flushers: Vec<_> = (0..2).map(|_| tokio::spawn(flush_acks(database.clone(), state.log_id))).collect();
    let forgotten = tokio::time::timeout(PATIENCE * 2, forgetting).await.unwrap().unwrap();
    for flusher in flushers {
        tokio::time::timeout(PATIENCE, flusher).await.unwrap().unwrap();
    }
    assert!(forgotten > 200, "{forgotten}");
    // Every device that is no longer known has an expiry mark.
    let lost = "SELECT count(*) FROM generate_series(1, 200) n LEFT JOIN recado.forgotten_device f ON f.user_id = 'u' || n % 20
                 WHERE NOT EXISTS (SELECT FROM recado.cursor c WHERE c.user_id = 'u' || n % 20 AND c.client_id = 'd' || n)
                   AND (recado.device_hash('d' || n) = ANY (f.clients)) IS NOT TRUE";
    assert_eq!(db.number(lost).await, 0);
}

/// Acknowledges for 200 devices again and again, sorted as the hub's ack flusher does, and records that they are in
/// use.
async fn flush_acks(database: Database, log_id: LogId) {
    let mut connection = database.connect("test").await.unwrap();
    let reader = database.reader("test", 1);
    for round in 1..=100 {
        let ack = |n: i64| Ack {
            user: UserId::parse(&format!("u{}", n % 20)).unwrap(),
            client: ClientId::parse(&format!("d{n}")).unwrap(),
            acked: Seq::from_db(round),
        };
        let mut acks: Vec<Ack> = (1..=200).map(ack).collect();
        acks.sort_unstable();
        acked_positions::store(&mut connection, log_id, &acks).await.unwrap();
        let devices: Vec<_> = acks.iter().map(|ack| (ack.user.clone(), ack.client.clone())).collect();
        acked_positions::seen(&mut connection, &devices).await.unwrap();
        let one = &acks[usize::try_from(round).unwrap() % acks.len()];
        let start = acked_positions::DevicePosition { log_id, acked: Seq::from_db(500) };
        let known = acked_positions::place_or_start(&reader, &one.user, &one.client, start).await.unwrap();
        assert!(!matches!(known, acked_positions::KnownDevice::New(_)), "a device that was here is never new: {known:?}");
    }
    reader.close().await;
}
