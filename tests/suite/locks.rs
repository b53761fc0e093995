//! Tests that neither unprivileged logins nor single rows can block the hub.
//!
//! A hub whose work fails says so.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::Instant;

use super::support::*;

/// A login of the database without grants.
async fn stranger(db: &TestDb) -> PgConnection {
    let role = format!("stranger_{}", db.name);
    db.run(&format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'p'")).await;
    PgConnection::connect(&db.url_of(&role, "p")).await.unwrap()
}

async fn gone(db: &TestDb, stranger: PgConnection) {
    let _ = stranger.close().await;
    db.run(&format!("DROP ROLE stranger_{}", db.name)).await;
}

async fn metric(hub: &TestHub, db: &TestDb, name: &str) -> f64 {
    let (_, page) = hub.get("/metrics", Some(&db.admin_key())).await.unwrap();
    // NaN means not known.
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map_or(f64::NAN, |value| value.parse().unwrap())
}

/// A notification of SQL with nothing but a title.
async fn notify(db: &TestDb, title: &str) {
    db.run(&format!("SELECT recado.notify('n', '{title}', 'm', user_id => 'ann')")).await;
}

/// Regression: appends and the outbox relay waited for advisory locks, which any login may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_without_rights_can_take_no_lock_that_anybody_waits_for() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    let mut stranger = stranger(&db).await;
    for table in ["log", "partition", "outbox_tick"] {
        for n in [1, 2] {
            let oid = db.number(&format!("SELECT 'recado.{table}'::regclass::integer::bigint")).await;
            sqlx::raw_sql(AssertSqlSafe(format!("SELECT pg_advisory_lock({oid}, {n})"))).execute(&mut stranger).await.unwrap();
        }
    }
    for table in ["append_lock", "partition_lock", "outbox_lock", "lease"] {
        let sql = AssertSqlSafe(format!("BEGIN; LOCK TABLE recado.{table} IN ACCESS SHARE MODE"));
        let refused = sqlx::raw_sql(sql).execute(&mut stranger).await.unwrap_err();
        assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("42501"), "{table}");
        sqlx::raw_sql("ROLLBACK").execute(&mut stranger).await.unwrap();
    }
    let answer = hub.try_post(&note("posted").to_user("ann")).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
    notify(&db, "called").await;
    ann.until("called").await;
    assert_eq!(db.number("SELECT recado.ensure_partitions()::bigint").await, 0);
    gone(&db, stranger).await;
}

/// Regression: the hub believed the head in a NOTIFY payload, so the lag stayed that large until it was restarted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_notification_is_a_reason_to_look_and_nothing_else() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    let mut stranger = stranger(&db).await;
    sqlx::raw_sql("NOTIFY recado, '9223372036854775807 x'").execute(&mut stranger).await.unwrap();
    for n in 1..=3 {
        hub.post(&note(&n.to_string()).to_user("ann")).await;
    }
    ann.until("3").await;
    assert!(metric(&hub, &db, "recado_lag").await < 4.0);
    gone(&db, stranger).await;
}

/// Regression: such a row failed its page again and again, or came into the log, where no hub could read it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_log_does_not_take_is_set_aside_alone_with_its_reason() {
    let db = TestDb::new().await;
    let odd = |title: &str, topic: &str, user: &str, data: &str, bytes: i64| {
        format!(
            "INSERT INTO recado.outbox (place, slot, xid, at, id, type, title, message, data, topic, user_id, replay, source, body, bytes)
             SELECT p, (p / 16384) % 4, pg_current_xact_id(), clock_timestamp(), gen_random_uuid(), 'n', '{title}', 'm', {data}, '{topic}', '{user}',
                    true, 'test', 0, {bytes} FROM nextval('recado.outbox_place') p"
        )
    };
    // One transaction, so that all rows are in one page.
    let mut sql = db.connect().await;
    let rows = [
        "SELECT recado.notify('n', 'first', 'm', user_id => 'ann')".to_owned(),
        odd("odd id", "u/a b", "a b", "NULL", 1),
        odd("other topic", "u/bob", "ann", "NULL", 1),
        odd("deep", "u/ann", "ann", "repeat('[', 100000) || repeat(']', 100000)", 1),
        odd("no JSON", "u/ann", "ann", "'{'", 1),
        odd("nul", "u/ann", "ann", r#"'"a\u0000"'"#, 1),
        odd("large", "u/ann", "ann", "to_json(repeat('x', 300000))::text", -5),
        odd("lying size", "u/ann", "ann", "'1'", 2_000_000_000),
        "SELECT recado.notify('n', 'last', 'm', user_id => 'ann')".to_owned(),
    ];
    sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {}; COMMIT", rows.join(";")))).execute(&mut sql).await.unwrap();
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").since("earliest").connect(&hub).await;
    let titles: Vec<String> = ann.until("last").await.into_iter().map(|n| n.title).collect();
    assert_eq!(titles, ["first", "lying size", "last"]);
    let refused: Vec<(String, String)> = sqlx::query_as("SELECT notification->>'title', reason FROM recado.outbox_refused ORDER BY place")
        .fetch_all(&mut sql)
        .await
        .unwrap();
    let expected = [
        ("odd id", "user_id"),
        ("other topic", "topic_agrees"),
        ("deep", "stack depth"),
        ("no JSON", "json"),
        ("nul", "u0000"),
        ("large", "262144"),
    ];
    assert_eq!(refused.len(), expected.len(), "{refused:?}");
    for ((title, reason), (row, word)) in refused.iter().zip(expected) {
        assert!(title == row && reason.contains(word), "{title}: {reason}");
    }
    notify(&db, "after").await;
    ann.until("after").await;
    assert!(hub.is_ready().await);
}

/// Regression: the relay's owner held a session lock, which a pooler kept after its hub had died. No other hub then
/// knew that rows were waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_mover_that_is_gone_is_followed_within_its_lease_and_every_hub_sees_what_waits() {
    let db = TestDb::new().await;
    db.run("SELECT recado.take_lease('outbox', gen_random_uuid(), 590)").await;
    notify(&db, "waits").await;
    let hubs = [TestHub::on(&db).start().await, TestHub::on(&db).start().await];
    for hub in &hubs {
        eventually("the lag is visible", PATIENCE, async || (metric(hub, &db, "recado_outbox_lag_seconds").await > 1.0).then_some(()))
            .await;
        assert!(metric(hub, &db, "recado_outbox_moves").await < 1.0);
        eventually("it is not ready", PATIENCE * 2, async || (!hub.is_ready().await).then_some(())).await;
    }
    let mut ann = TestClient::of("ann").since("earliest").connect(&hubs[0]).await;
    // The state that a killed outbox relay leaves.
    db.run("UPDATE recado.lease SET until = clock_timestamp() + interval '5 seconds'").await;
    let begun = Instant::now();
    ann.until("waits").await;
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    for hub in &hubs {
        eventually("it is ready", PATIENCE, async || hub.is_ready().await.then_some(())).await;
    }
    assert_eq!(db.number("SELECT count(*) FROM recado.lease WHERE name = 'outbox'").await, 1);
}

/// Regression: the hub answered every unclassified database error with 500 as its own fault, without asking the client
/// to retry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn an_append_that_fails_for_an_unknown_reason_is_503_and_readiness_follows() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let broken = [
        (
            "CREATE FUNCTION raises() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
             CREATE TRIGGER t BEFORE INSERT ON recado.idempotency FOR EACH ROW EXECUTE FUNCTION raises()",
            "DROP TRIGGER t ON recado.idempotency; DROP FUNCTION raises",
        ),
        ("ALTER SCHEMA recado RENAME TO away", "ALTER SCHEMA away RENAME TO recado"),
    ];
    for (n, (break_it, mend)) in broken.into_iter().enumerate() {
        let draft = note("n").to_user("ann").key(&n.to_string());
        hub.post(&note("before").to_user("ann")).await;
        db.run(break_it).await;
        let answer = hub.try_post(&draft).await.unwrap();
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert!(answer.took < Duration::from_secs(6), "{:?}", answer.took);
        assert!(!hub.is_ready().await, "{break_it}");
        let (_, checks) = hub.get("/readyz?verbose", None).await.unwrap();
        let checks: serde_json::Value = serde_json::from_str(&checks).unwrap();
        assert_eq!(checks["checks"]["appends"]["ok"], false, "{checks}");
        db.run(mend).await;
        eventually("the repeat is taken", PATIENCE, async || (hub.try_post(&draft).await.unwrap().status == 201).then_some(())).await;
        eventually("it is ready", PATIENCE, async || hub.is_ready().await.then_some(())).await;
    }
}

/// Regression: changes of a table without a key are refused while a publication publishes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_publication_of_all_tables_stops_nothing() {
    let db = TestDb::new().await;
    let without = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = 'recado' AND c.relkind IN ('r', 'p') AND c.relreplident IN ('d', 'n')
                      AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)";
    assert_eq!(db.number(without).await, 0, "each table has a primary key, or says what else identifies a row");
    db.run("CREATE PUBLICATION p FOR ALL TABLES").await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").device("d").connect(&hub).await;
    hub.post(&note("1").to_user("ann")).await;
    notify(&db, "2").await;
    ann.until("2").await;
    ann.ack(2).await;
    eventually("a fact is there", PATIENCE, async || (db.number("SELECT count(*) FROM recado.progress").await > 0).then_some(())).await;
    ann.close().await;
    db.run("DELETE FROM recado.progress").await;
    // A dump that was loaded elsewhere: the outbox relay takes over the rows that the outbox still held.
    notify(&db, "3").await;
    db.run("UPDATE recado.outbox SET at = at; UPDATE recado.outbox_tick SET cluster = 1").await;
    hub.kill().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").device("d").connect(&hub).await;
    notify(&db, "4").await;
    ann.until("4").await;
}

/// Regression: a nested list raised a PostgreSQL error that is not in the function's documentation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_lists_and_a_type_of_the_hubs_own_are_refused_by_their_states() {
    let db = TestDb::new().await;
    let mut sql = db.connect().await;
    for (arguments, state) in [
        ("'n', 't', 'm', user_ids => '{{a,b},{c,d}}'", "RC010"),
        ("'upstream_gap', 't', 'm', user_id => 'a'", "RC011"),
        ("'upstream_x', 't', 'm', user_ids => '{a}'", "RC011"),
        ("'inbox', 't', 'm', user_id => 'a'", "RC011"),
        ("'preferences', 't', 'm', user_ids => '{a}'", "RC011"),
    ] {
        let refused = sqlx::raw_sql(AssertSqlSafe(format!("SELECT recado.notify({arguments})"))).execute(&mut sql).await.unwrap_err();
        assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some(state), "{arguments}");
    }
    assert_eq!(db.number("SELECT count(*) FROM recado.outbox").await, 0);
}
