//! Tests that no table holds expired or erased content.
//!
//! Sequence numbers stay dense, and other users are not affected.

use std::time::Duration;

use recado::domain::{Seq, UserId};
use recado::log::retention::{self, RetentionPolicy};
use recado::store::Database;
use recado::store::erase::{self, EraseTarget};
use sqlx::AssertSqlSafe;
use tokio::process::Command;

use super::retention::{log_of, retain};
use super::support::*;

/// Finds the hub's tables that contain a text in any column.
async fn where_is(db: &TestDb, text: &str) -> Vec<String> {
    let tables = "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'recado'::regnamespace AND relkind = 'r' ORDER BY 1";
    let mut connection = db.connect().await;
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut connection).await.unwrap();
    assert!(tables.len() > 15, "{tables:?}");
    let mut found = Vec::new();
    for table in tables {
        let holds = format!("SELECT count(*) FROM {table} t WHERE strpos(t::text, $1) > 0");
        let holds: i64 = sqlx::query_scalar(AssertSqlSafe(holds)).bind(text).fetch_one(&mut connection).await.unwrap();
        if holds > 0 {
            found.push(table);
        }
    }
    found
}

/// Backdates these rows.
async fn make_older(db: &TestDb, upto: i64, by: &str) {
    db.run(&format!(
        "SET session_replication_role = replica;
         UPDATE recado.log SET created_at = created_at - interval '{by}', expires_at = expires_at - interval '{by}' WHERE seq <= {upto}"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_rows_go_by_age_however_few_there_are_and_the_head_stays() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let sleeper = TestClient::of("ann").device("sleeper").query("ack", "client");
    sleeper.connect(&hub).await.kill();
    for n in 1..=10 {
        hub.post(&note(&format!("row-{n}-")).to_users(&["ann", "bob"]).key(&n.to_string())).await;
    }
    hub.settled(&db).await;
    let day = RetentionPolicy { age: Some(Duration::from_secs(86_400)), ..RetentionPolicy::default() };
    make_older(&db, 7, "26 hours").await;
    assert_eq!(
        retain(&db, day).await,
        retention::RetentionOutcome::default(),
        "a quarter of the age more, for whole partitions to go instead"
    );
    make_older(&db, 7, "6 hours").await;
    let done = retain(&db, day).await;
    assert_eq!((done.rows_dropped, done.partitions_dropped), (7, 0));
    assert_eq!(where_is(&db, "row-7-").await, Vec::<String>::new());
    assert_eq!(db.number("SELECT min(seq) FROM recado.log_member").await, 8);
    assert_eq!(db.number("SELECT min(seq) FROM recado.idempotency").await, 8);
    eventually("the hub knows", PATIENCE, async || {
        let fresh = TestClient::of("eve").since("live").connect(&hub).await;
        (fresh.hello["earliest"] == 8).then_some(())
    })
    .await;
    let mut client = sleeper.connect(&hub).await;
    let resume = client.hello["resume"].clone();
    assert_eq!((client.resume_status(), resume["lost_from"].as_i64(), resume["lost_to"].as_i64()), ("gap", Some(1), Some(7)));
    assert_eq!(client.until_caught_up().await.iter().map(|n| n.seq).collect::<Vec<_>>(), [8, 9, 10]);

    make_older(&db, 10, "30 days").await;
    assert_eq!(retain(&db, day).await.rows_dropped, 2);
    assert_eq!(db.number("SELECT count(*) FROM recado.log").await, 1, "the next number comes from the head");
    assert_eq!(hub.post(&note("next").to_user("ann")).await.seq, 11);
    assert_eq!(retain(&db, day).await.rows_dropped, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_became_full_goes_as_a_whole() {
    let db = log_of(10).await;
    let hub = TestHub::on(&db).start().await;
    for n in 1..=8 {
        hub.post(&note(&n.to_string()).to_user("ann")).await;
    }
    let day = RetentionPolicy { age: Some(Duration::from_secs(86_400)), ..RetentionPolicy::default() };
    make_older(&db, 8, "3 days").await;
    assert_eq!(retain(&db, day).await.rows_dropped, 7);
    for n in 9..=25 {
        hub.post(&note(&n.to_string()).to_user("ann")).await;
    }
    make_older(&db, 12, "3 days").await;
    let done = retain(&db, day).await;
    assert_eq!((done.rows_dropped, done.partitions_dropped), (3, 1), "0 to 9 as a whole, 10 to 12 one by one");
    assert_eq!(db.number("SELECT min(lo) FROM recado.partition").await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_its_ttl_loses_its_text_and_keeps_its_number() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("gone-MARK").to_user("ann").ttl(3600).data(r#"{"a":"MARK"}"#)).await;
    hub.post(&note("stays-MARK").to_user("ann").ttl(3600)).await;
    hub.post(&note("for ever").to_user("ann")).await;
    hub.settled(&db).await;
    make_older(&db, 1, "2 hours").await;
    assert_eq!(retain(&db, RetentionPolicy::default()).await.texts_erased, 1, "with any policy");
    assert_eq!(where_is(&db, "gone-MARK").await, Vec::<String>::new());
    assert_eq!(
        db.number("SELECT count(*) FROM recado.log WHERE seq = 1 AND title = '' AND data IS NULL AND bytes = 0 AND topic = 'u/ann'").await,
        1
    );
    assert_eq!(retain(&db, RetentionPolicy::default()).await.texts_erased, 0);
    let mut client = TestClient::of("ann").since(0).connect(&hub).await;
    assert_eq!(client.until_caught_up().await.iter().map(|n| n.title.as_str()).collect::<Vec<_>>(), ["stays-MARK", "for ever"]);
}

async fn erased(db: &TestDb, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
    command.arg("erase").args(args).args(["-o", "json"]).env_clear().kill_on_drop(true);
    command.env("DATABASE_URL", db.url()).env("RECADO_ALLOW_UNSAFE_DURABILITY", "on");
    tokio::time::timeout(Duration::from_secs(60), command.output()).await.expect("the command ends").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_user_stands_in_no_table_and_others_keep_what_is_theirs() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let user = "MARKED-user";
    let mut device = TestClient::of(user).device("phone").connect(&hub).await;
    hub.post(&note("to the user").to_user(user).key("a")).await;
    hub.post(&note("in the account MARK").to_user(user).account("acme").data(r#"{"for":"MARKED-user"}"#)).await;
    hub.post(&note("to several").to_users(&[user, "bob"])).await;
    hub.post(&note("to everyone").to_everyone()).await;
    hub.post(&note("MARK alone in a list").to_users(&[user])).await;
    device.until_seq(5).await;
    device.ack(5).await;
    eventually("the position is stored", PATIENCE, async || (db.place(user, "phone").await == Some(5)).then_some(())).await;
    device.close().await;
    let ended = format!("SELECT count(*) FROM recado.session WHERE user_id = '{user}' AND ended_at IS NOT NULL");
    eventually("the session is stored", PATIENCE, async || (db.number(&ended).await == 1).then_some(())).await;
    db.run(&format!(
        "SELECT recado.notify('n', 'MARK', 'm', user_id => '{user}');
         INSERT INTO recado.outbox_refused (place, called_at, source, id, reason, notification)
         VALUES (1, now(), 's', gen_random_uuid(), 'r', '{{\"user_id\":\"{user}\",\"title\":\"MARK\"}}');
         INSERT INTO recado.forgotten_device SELECT '{user}', log_id, 0, '{{}}', true FROM recado.meta;
         INSERT INTO recado.ticket VALUES ('x', '{user}', '{{}}', now(), now());
         INSERT INTO recado.upstream_session (provider, user_id, wanted_until, message) VALUES ('game', '{user}', now(), 'MARK');
         INSERT INTO recado.upstream_command (command_id, provider, user_id, client_id, session_id, id, type, payload, state, reject_at)
         VALUES (gen_random_uuid(), 'game', '{user}', 'c', gen_random_uuid(), 'i', 'bet', '\"MARK\"', 'accepted', now() + interval '1 hour')"
    ))
    .await;
    let moved = "SELECT count(*) FROM recado.log WHERE seq = 6";
    eventually("it is moved", PATIENCE, async || (db.number(moved).await == 1).then_some(())).await;
    assert!(where_is(&db, "MARK").await.len() >= 8, "{:?}", where_is(&db, "MARK").await);

    let output = erased(&db, &["--user", user, "--reason", "asked for"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let done: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((done["erased"].as_i64(), done["unlisted"].as_i64()), (Some(4), Some(1)), "{done}");
    assert_eq!(where_is(&db, "MARK").await, Vec::<String>::new());
    assert_eq!(db.number("SELECT count(*) FROM recado.log").await, 6, "every number is there");
    assert_eq!(
        db.number("SELECT count(*) FROM recado.erasure WHERE what = 'user' AND reason = 'asked for' AND finished_at IS NOT NULL").await,
        1
    );

    // A returning user counts as new, and gets only the earlier rows for everyone.
    let mut again = TestClient::of(user).device("phone").since(0).connect(&hub).await;
    assert_eq!(again.until_caught_up().await.iter().map(|n| n.seq).collect::<Vec<_>>(), [4]);
    let mut bob = TestClient::of("bob").since(0).connect(&hub).await;
    assert_eq!(bob.until_caught_up().await.iter().map(|n| n.title.as_str()).collect::<Vec<_>>(), ["to several", "to everyone"]);
    assert_eq!(hub.post(&note("next").to_user("bob")).await.seq, 7);
    assert_eq!(bob.expect_notification().await.seq, 7);
    let repeated = hub.try_post(&note("to the user").to_user(user).key("a")).await.unwrap();
    assert_eq!((repeated.status, repeated.receipt().seq), (200, 1), "its key is known still");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_number_is_given_to_nobody_and_what_follows_names_the_one_before() {
    let db = TestDb::new().await;
    let hubs = [TestHub::on(&db).start().await, TestHub::on(&db).start().await];
    for title in ["1", "MARK", "3"] {
        hubs[0].post(&note(title).to_everyone()).await;
    }
    hubs[1].settled(&db).await;
    let mut connection = Database::parse(&db.url(), None).unwrap().connect("test").await.unwrap();
    let done = erase::erase(&mut connection, &EraseTarget::Seq(Seq::from_db(2)), "a slip").await.unwrap();
    assert_eq!((done.erased, done.unlisted), (1, 0));
    assert_eq!(erase::erase(&mut connection, &EraseTarget::Seq(Seq::from_db(2)), "again").await.unwrap().erased, 0);
    assert_eq!(where_is(&db, "MARK").await, Vec::<String>::new());
    for hub in &hubs {
        let mut client = TestClient::of("ann").since(0).connect(hub).await;
        assert_eq!(client.resume_status(), "ok");
        let got = client.until_caught_up().await;
        assert_eq!(got.iter().map(|n| n.title.as_str()).collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(got[1].prev, 1, "a client that counts misses nothing");
    }
    for (args, says) in [
        (&["--seq", "9", "--reason", "r"][..], "no notification 9"),
        (&["--seq", "1", "--reason", " "], "--reason must say why"),
        (&["--user", "a b/", "--reason", "r"], "is not a valid user id"),
    ] {
        let output = erased(&db, args).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(says), "{said}");
    }
}

/// The setting under which the owner's functions act permits only the changes that they make.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_stays_append_only_but_for_these_changes() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("stays").to_users(&["ann", "bob"]).ttl(3600)).await;
    let mut root = db.connect().await;
    sqlx::raw_sql("SET recado.forgetting = 'on'").execute(&mut root).await.unwrap();
    for change in [
        "UPDATE recado.log SET title = 'other'",
        "UPDATE recado.log SET title = '', message = '', data = NULL, bytes = 0",
        "UPDATE recado.log SET user_ids = '{ann,bob,eve}'",
        "UPDATE recado.log SET user_ids = '{ann}', title = 'other'",
        "UPDATE recado.log SET seq = 7",
        "UPDATE recado.log SET id = gen_random_uuid(), type = 'erased', title = '', message = '', data = NULL, topic = 'u/-', user_id = '-', user_ids = NULL, expires_at = NULL, replay = false, bytes = 0",
        "DELETE FROM recado.log",
        "TRUNCATE recado.log",
        "UPDATE recado.log_member SET seq = seq",
        "DELETE FROM recado.log_p000000000000",
        "UPDATE recado.log_p000000000000 SET title = ''",
    ] {
        let error = sqlx::raw_sql(change).execute(&mut root).await.expect_err(change);
        assert_eq!(error.as_database_error().and_then(|e| e.code()).as_deref(), Some("RC004"), "{change}: {error}");
    }
    // The hub's role may call none of them.
    for call in ["recado.erase_expired(1)", "recado.drop_old_rows(1, 1)", "recado.erase_rows('ann', 0, 1)", "recado.erase_traces('ann')"] {
        let sql = format!("SET ROLE recado_hub; SELECT {call}");
        let error = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut db.connect().await).await.expect_err(call);
        assert_eq!(error.as_database_error().and_then(|e| e.code()).as_deref(), Some("42501"), "{call}: {error}");
    }
    let ann = UserId::parse("ann").unwrap();
    let mut connection = Database::parse(&db.url(), None).unwrap().connect("test").await.unwrap();
    assert_eq!(erase::erase(&mut connection, &EraseTarget::User(ann), "r").await.unwrap().unlisted, 1);
}
