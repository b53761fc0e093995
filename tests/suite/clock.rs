//! Tests that a hub with a wrong or jumping wall clock works as before.
//!
//! Numbering, delivery, back-off, leases and retention do not depend on the wall clock. Only the expiry of a token
//! follows it.

use std::path::PathBuf;
use std::time::Duration;

use super::retention::log_of;
use super::support::host::given;
use super::support::*;
use super::upstream::holding;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// A wall clock for one hub, which the test sets while the hub runs. Its other clocks are the machine's.
struct Clock {
    library: PathBuf,
    offset: tempfile::NamedTempFile,
}

impl Clock {
    fn make() -> Result<Self, String> {
        let folders = std::fs::read_dir("/usr/lib").map_err(|error| error.to_string())?;
        let mut all = folders.flatten().map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
        let library = all.find(|library| library.exists()).ok_or("libfaketime is not installed")?;
        let clock = Self { library, offset: tempfile::NamedTempFile::new().unwrap() };
        clock.turn(0);
        Ok(clock)
    }

    /// Seconds before or after the machine's clock.
    fn turn(&self, seconds: i64) {
        // One write, so that a reader never sees half of it.
        std::fs::write(self.offset.path(), format!("{seconds:+}\n")).unwrap();
    }

    fn of(&self, builder: HubBuilder) -> HubBuilder {
        let vars = [
            ("LD_PRELOAD", self.library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", self.offset.path().to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        vars.into_iter().fold(builder, |builder, (name, value)| builder.with(name, value))
    }
}

/// The hub's own report of how far its clock is from the machine's, in seconds.
async fn off_by(hub: &TestHub) -> i64 {
    let (_, body) = hub.get("/health", None).await.unwrap();
    let health: serde_json::Value = serde_json::from_str(&body).unwrap();
    let theirs = chrono::DateTime::parse_from_rfc3339(health["timestamp"].as_str().unwrap()).unwrap();
    (theirs.to_utc() - chrono::Utc::now()).num_seconds()
}

async fn turn(clock: &Clock, hub: &TestHub, seconds: i64) {
    clock.turn(seconds);
    eventually("its clock jumps", PATIENCE, async || ((off_by(hub).await - seconds).abs() < 60).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: needs the machine"]
async fn a_hub_whose_clock_jumps_numbers_delivers_and_reconnects_as_before() {
    let _turn = heavy().await;
    let Some(clock) = given("F48 log", Clock::make()) else { return };
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    let wrong = clock.of(TestHub::on(&db)).with("DATABASE_URL", &db.url_at(proxy.port)).start().await;
    let right = TestHub::on(&db).start().await;
    let of_both = Addresses::of([&wrong, &right]);
    let fan = Fan::start(&["ann", "bob"], 2, &of_both).await;
    let writers = Writers::start(3, &of_both, &db.key(), Duration::from_millis(5), mixed);
    for seconds in [-HOUR, DAY, 0, DAY, -HOUR] {
        turn(&clock, &wrong, seconds).await;
        writers.until_count(writers.count() + 20, PATIENCE * 3).await;
        // Waits on the wall clock would now end at once, or never.
        proxy.cut(Cut::Rst);
        let recovered = async || {
            let answer = wrong.try_post(&note("after the cut").to_user("eve")).await.unwrap();
            answer.is_receipt().then_some(())
        };
        eventually("it is back", PATIENCE, recovered).await;
    }
    let diary = writers.stop().await;
    assert!(diary.slowest < Duration::from_secs(7), "{:?}", diary.slowest);
    let end = wrong.post(&note("end").to_everyone()).await;
    fan.until_everyone_has(end.seq, PATIENCE * 2).await;
    nothing_is_lost(&log_rows(&db.url()).await, &diary, &fan);
    assert!(fan.devices.iter().all(|device| device.stretches().len() == 1), "no client was disconnected");
    let earlier = "SELECT count(*) FROM (SELECT created_at < lag(created_at) OVER (ORDER BY seq) AS is_so FROM recado.log) l WHERE is_so";
    assert_eq!(db.number(earlier).await, 0, "times rise with the numbers");

    // The hub dates its sessions by the database's clock, as it does the log; otherwise the two could not be compared.
    TestClient::of("eve").device("brief").since("live").connect(&wrong).await.close().await;
    let ended = "SELECT count(*) FROM recado.session WHERE client_id = 'brief' AND ended_at IS NOT NULL";
    eventually("the session is stored", PATIENCE, async || (db.number(ended).await == 1).then_some(())).await;
    let far_off = "SELECT count(*) FROM recado.session, unnest(ARRAY[connected_at, last_activity_at, ended_at]) t
                    WHERE abs(extract(epoch FROM clock_timestamp() - t)) > 600";
    assert_eq!(db.number(far_off).await, 0, "sessions are dated by the hub's clock");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: needs the machine"]
async fn tokens_end_by_the_hubs_wall_clock_and_streams_that_are_open_stay() {
    let Some(clock) = given("F48 tokens", Clock::make()) else { return };
    let db = TestDb::new().await;
    let hub = clock.of(TestHub::on(&db)).start().await;
    let mut open = TestClient::of("ann").connect(&hub).await;
    let (user, service) = (token("ann", &[]), service_token("shop", recado::domain::Role::Service));
    let asked = async || hub.get("/api/whoami", Some(&user)).await.unwrap().0;
    for (seconds, status) in [(0, 200), (DAY, 401), (-HOUR, 200), (2 * HOUR, 401), (0, 200)] {
        turn(&clock, &hub, seconds).await;
        assert_eq!(asked().await, status, "{seconds} s");
        let posted = hub.post_as(&service, &note("by token").to_user("bob")).await.unwrap();
        assert_eq!(posted.status, if status == 200 { 201 } else { 401 }, "{seconds} s: {}", posted.body);
        // A key does not expire.
        let seq = hub.post(&note("by key").to_user("ann")).await.seq;
        open.until_seq(seq).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: needs the machine"]
async fn leases_are_kept_and_taken_over_whatever_the_wall_clocks_say() {
    let Some(clock) = given("F48 leases", Clock::make()) else { return };
    let (db, fake) = (TestDb::new().await, FakeProvider::start().await);
    let file = ProviderFile::of(&fake.toml(""));
    let wrong = clock.of(holding(TestHub::on(&db), &file)).start().await;
    db.run(
        "INSERT INTO recado.upstream_session (provider, user_id, wanted_until) VALUES ('fake', 'ann', clock_timestamp() + interval '1 hour');
         SELECT recado.upstream_hint('want')",
    )
    .await;
    fake.connected("ann").await;
    let right = holding(TestHub::on(&db), &file).start().await;
    let term = async || db.number("SELECT max(term) FROM recado.upstream_session").await;
    let first = term().await;
    for seconds in [-HOUR, DAY] {
        turn(&clock, &wrong, seconds).await;
        // Longer than a lease: the owner renews it, and no other hub takes it.
        let left = "SELECT count(*) FROM recado.upstream_session WHERE lease_until > clock_timestamp()";
        let end = tokio::time::Instant::now() + Duration::from_secs(4);
        eventually("a lease has passed", PATIENCE, async || (tokio::time::Instant::now() > end).then_some(())).await;
        assert_eq!((db.number(left).await, term().await), (1, first), "{seconds} s");
        assert_eq!((fake.record().open(), fake.record().connections.len()), (1, 1), "{seconds} s: nobody noticed");
    }
    wrong.kill().await;
    let again = |record: &ProviderRecord| (record.open() == 1 && record.connections.len() == 2).then_some(());
    fake.until_within(PATIENCE, "the other one takes it over", again).await;
    assert_eq!(term().await, first + 1);
    drop(right);
}

/// Regression: the age of a partition was computed with the hub's clock, while its time came from the database. A hub
/// whose clock was a day ahead dropped everything that was to be kept for a day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: needs the machine"]
async fn a_hub_that_is_a_day_ahead_drops_nothing_that_is_to_be_kept_and_one_that_is_behind_keeps_nothing_longer() {
    let Some(clock) = given("F48 retention", Clock::make()) else { return };
    let db = log_of(10).await;
    let hub = TestHub::on(&db).start().await;
    for n in 1..=35 {
        hub.post(&note(&n.to_string()).to_user("ann")).await;
    }
    TestClient::of("ann").connect(&hub).await.close().await;
    let ended = "SELECT count(*) FROM recado.session WHERE ended_at IS NOT NULL";
    eventually("the session has ended", PATIENCE, async || (db.number(ended).await == 1).then_some(())).await;
    let retain = async |seconds: i64, age: &str| -> (i64, i64) {
        clock.turn(seconds);
        let output = clock.of(TestHub::on(&db)).run(&["log", "retain", "--age", age, "--sessions", age, "-o", "json"]).await;
        let done: serde_json::Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
        (done["partitions_dropped"].as_i64().unwrap(), done["sessions_deleted"].as_i64().unwrap())
    };
    assert_eq!(retain(DAY, "12h").await, (0, 0), "a day ahead");
    assert_eq!(retain(-HOUR, "12h").await, (0, 0), "an hour behind");
    assert_eq!(db.number("SELECT count(*) FROM recado.log").await, 35);
    // They get older than a second one after the other.
    let dropped = std::cell::Cell::new(0);
    eventually("all but the last partition are older than a second", PATIENCE, async || {
        dropped.set(dropped.get() + retain(-HOUR, "1s").await.0);
        (dropped.get() >= 3).then_some(())
    })
    .await;
    assert_eq!(dropped.get(), 3, "expired rows go, though this hub's clock is behind their expiry");
}
