//! Tests that an idle hub is quiet, and that a sleeping relay delays no call.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};

use super::support::cluster::TestCluster;
use super::support::host::given;
use super::support::*;

/// The relay has announced its sleep, and its connection has been idle for longer than a relay that polls leaves it.
const SLEEPS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'recado outbox relay' AND state = 'idle'
      AND state_change < clock_timestamp() - interval '300 ms' AND (SELECT last_value FROM recado.outbox_sleep) > 1";
/// The value of the flag.
const FLAG: &str = "SELECT last_value FROM recado.outbox_sleep";
/// A call that wakes the relay takes milliseconds. Far below the two seconds after which a sleeping relay looks anyway,
/// and above what a busy machine takes.
const WOKEN: Duration = Duration::from_millis(900);

async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn call(title: &str) -> String {
    format!("SELECT recado.notify('n', '{title}', 'm', user_id => 'ann')")
}

async fn asleep(db: &TestDb) {
    eventually("the relay sleeps", PATIENCE, async || (db.number(SLEEPS).await > 0).then_some(())).await;
}

/// Commits a call, and returns how long its row took to be in the log.
async fn time_of(sql: &mut PgConnection, title: &str) -> Duration {
    run(sql, &call(title)).await;
    arrival(sql, title).await
}

/// How long the row takes to be in the log, by the database's clock: on a busy machine, looking for it takes longer
/// than the row.
async fn arrival(sql: &mut PgConnection, title: &str) -> Duration {
    let now = "SELECT extract(epoch FROM clock_timestamp())::double precision";
    let since: f64 = sqlx::query_scalar(now).fetch_one(&mut *sql).await.unwrap();
    let there = "SELECT max(extract(epoch FROM created_at)::double precision) FROM recado.log WHERE title = $1";
    let at = eventually("the row is in the log", PATIENCE, async || {
        sqlx::query_scalar::<_, Option<f64>>(there).bind(title).fetch_one(&mut *sql).await.unwrap()
    });
    Duration::from_secs_f64((at.await - since).max(0.0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn an_idle_hub_asks_its_database_at_most_three_times_a_second() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut clients = Vec::new();
    for n in 0..20 {
        clients.push(TestClient::of(&format!("user{n}")).connect(&hub).await);
    }
    asleep(&db).await;
    let mut sql = db.connect().await;
    // Each statement of an idle hub is a transaction. A ping is none.
    let mut counted = async || {
        run(&mut sql, "SELECT pg_stat_force_next_flush()").await;
        let count = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()";
        sqlx::query_scalar::<_, i64>(count).fetch_one(&mut sql).await.unwrap()
    };
    // Backends report what they did before with a delay of up to ten seconds, and the server vacuums after the start. A
    // round of retention makes 22 statements, once in 60 to 90 s. So not every time span has as few, but some have.
    let mut made = Vec::new();
    let is_quiet = |made: &[i64]| made.iter().any(|made| *made <= 60) && made.windows(2).any(|two| two[0] + two[1] <= 125);
    while made.len() < 6 && !is_quiet(&made) {
        let before = counted().await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        // The readings are two transactions as well.
        made.push(counted().await - before - 2);
    }
    println!("transactions in 20 s each: {made:?}");
    assert!(made.iter().all(|made| *made > 10), "the hub is alive: {made:?}");
    assert!(is_quiet(&made), "in 20 s each: {made:?}");
    assert!(db.number(FLAG).await > 1, "it still sleeps");
    assert!(hub.is_ready().await);
    drop(clients);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_wakes_a_sleeping_relay_and_the_next_ones_send_no_notify() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut sql = db.connect().await;
    for round in 0..2 {
        asleep(&db).await;
        let took = time_of(&mut sql, &format!("wakes {round}")).await;
        assert!(took < WOKEN, "{took:?}");
        eventually("callers need not wake it", PATIENCE, async || (db.number(FLAG).await == 1).then_some(())).await;
        let took = time_of(&mut sql, &format!("follows {round}")).await;
        assert!(took < WOKEN, "{took:?}");
    }
    drop(hub);
}

/// The transaction has read the flag, or has yet to, when the relay announces its sleep.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_began_before_the_sleep_keeps_the_relay_polling() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let (mut early, mut idle) = (db.connect().await, db.connect().await);
    let head = eventually("it relays", PATIENCE, async || (hub.metric("recado_outbox_moves").await == 1.0).then_some(())).await;
    run(&mut early, "BEGIN").await;
    run(&mut early, &call("early")).await;
    // It has a number, and calls only after the announcement.
    run(&mut idle, "BEGIN; SELECT pg_current_xact_id()").await;
    eventually("the sleep is announced", PATIENCE, async || (db.number(FLAG).await > 1).then_some(head)).await;
    run(&mut idle, &call("late")).await;
    assert_eq!(db.number(SLEEPS).await, 0, "it polls");
    run(&mut early, "COMMIT").await;
    let took = arrival(&mut early, "early").await;
    assert!(took < WOKEN, "no NOTIFY was sent, and the relay polled: {took:?}");
    run(&mut idle, "COMMIT").await;
    let took = arrival(&mut idle, "late").await;
    assert!(took < WOKEN, "{took:?}");
    asleep(&db).await;
}

/// Callers commit at each moment around the announcement, over transactions of different lengths.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn no_call_around_the_moment_of_sleep_waits_for_the_next_look() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    let mut slowest = Duration::ZERO;
    for round in 0..25_u64 {
        eventually("it is awake", PATIENCE, async || (db.number(FLAG).await == 1).then_some(())).await;
        let mut callers = Vec::new();
        for caller in 0..6_u64 {
            let mut sql = db.connect().await;
            let db = &db;
            callers.push(async move {
                let title = format!("{round}/{caller}");
                // Half of them are in a transaction with a number before the announcement, and half begin around it.
                if caller % 2 == 0 {
                    run(&mut sql, "BEGIN; SELECT pg_current_xact_id()").await;
                }
                eventually("the sleep is announced", PATIENCE, async || (db.number(FLAG).await > 1).then_some(())).await;
                tokio::time::sleep(Duration::from_millis((round * 17 + caller * 29) % 160)).await;
                run(&mut sql, &call(&title)).await;
                if caller % 2 == 0 {
                    tokio::time::sleep(Duration::from_millis(round * 7 % 50)).await;
                    run(&mut sql, "COMMIT").await;
                }
                arrival(&mut sql, &title).await
            });
        }
        let took = futures_util::future::join_all(callers).await;
        slowest = slowest.max(took.iter().copied().max().unwrap());
        assert!(took.iter().all(|took| *took < WOKEN), "round {round}: {took:?}");
    }
    assert_eq!(ann.until_seq(150).await.len(), 150);
    println!("slowest: {slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_hub_relays_when_the_one_that_sleeps_is_killed() {
    let db = TestDb::new().await;
    let sleeper = TestHub::on(&db).start().await;
    eventually("it relays", PATIENCE, async || (sleeper.metric("recado_outbox_moves").await == 1.0).then_some(())).await;
    let other = TestHub::on(&db).start().await;
    eventually("one sleeps, the other waits for the lease", PATIENCE, async || {
        let flag = db.number(FLAG).await;
        (flag > 1 && db.number(SLEEPS).await > 0).then_some(())
    })
    .await;
    sleeper.kill().await;
    let mut sql = db.connect().await;
    let took = time_of(&mut sql, "after").await;
    // The lease of five seconds, and the time to ask for it.
    assert!(took < Duration::from_secs(7), "{took:?}");
    assert_eq!(other.metric("recado_outbox_moves").await, 1.0);
    eventually("callers need not wake it", PATIENCE, async || (db.number(FLAG).await == 1).then_some(())).await;
    asleep(&db).await;
    let took = time_of(&mut sql, "woken").await;
    assert!(took < WOKEN, "{took:?}");
}

/// What went wrong: callers sent NOTIFY for as long as no hub ran, and committed one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_do_not_pay_for_a_hub_that_died_asleep() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    asleep(&db).await;
    hub.kill().await;
    let ended = "SELECT count(*) FROM recado.lease WHERE name = 'outbox' AND until < clock_timestamp()";
    eventually("the lease ends", PATIENCE, async || (db.number(ended).await == 1).then_some(())).await;
    let (mut sql, mut old) = (db.connect().await, db.connect().await);
    run(&mut old, &format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {}; COMMIT", call("judges nothing"))).await;
    assert!(db.number(FLAG).await > 1);
    run(&mut sql, &call("clears it")).await;
    assert_eq!(db.number(FLAG).await, 1);
    let _next = TestHub::on(&db).start().await;
    arrival(&mut sql, "clears it").await;
}

/// A hub of an earlier version takes the lease by the function that it knows, and polls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_flag_of_a_dead_hub_does_not_outlive_its_lease() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    asleep(&db).await;
    hub.kill().await;
    assert!(db.number(FLAG).await > 1, "callers still send NOTIFY, which is harmless");
    let take = "SELECT recado.take_lease('outbox', gen_random_uuid(), 5)::integer::bigint";
    eventually("the lease ends", PATIENCE, async || (db.number(take).await == 1).then_some(())).await;
    assert_eq!(db.number(FLAG).await, 1);
}

/// PostgreSQL refuses to prepare a transaction that has sent a NOTIFY.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_transactions_can_be_prepared_the_relay_stays_awake() {
    let Some(mut server) = given("X4", TestCluster::make()) else { return };
    server.set("max_prepared_transactions=4");
    server.start().await;
    let hub = TestHub::at(&server.url()).start().await;
    eventually("it relays", PATIENCE, async || (hub.metric("recado_outbox_moves").await == 1.0).then_some(())).await;
    let mut sql = server.try_connect().await.unwrap();
    let announced = "SELECT (recado.outbox_sleep(holder) IS NOT NULL)::integer::bigint FROM recado.lease WHERE name = 'outbox'";
    assert_eq!(server.number(announced).await, 0, "the database refuses the sleep");
    // As after a restart with another setting: the flag is left from before.
    run(&mut sql, "SELECT setval('recado.outbox_sleep', 7)").await;
    run(&mut sql, &format!("BEGIN; {}; PREPARE TRANSACTION 'two'", call("prepared"))).await;
    run(&mut sql, "COMMIT PREPARED 'two'").await;
    eventually("it is in the log", PATIENCE, async || (server.number("SELECT count(*) FROM recado.log").await == 1).then_some(())).await;
}
