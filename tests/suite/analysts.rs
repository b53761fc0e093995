//! Tests that analysts can read the views and nothing else, and block no other session.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use recado::log::retention;
use recado::store::{Database, analysts};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::process::Command;

use super::retention::{ALL_FULL, log_of};
use super::support::*;

/// The views of analysts. The view `audit` needs a grant of its own (`audit.rs`).
const VIEWS: &str = "SELECT c.relname::text FROM pg_class c
     WHERE c.relnamespace = 'recado_views'::regnamespace AND c.relkind = 'v' AND c.relname <> 'audit' ORDER BY 1";

pub(super) async fn recado(settings: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
    command.args(args).env_clear().kill_on_drop(true).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("RECADO_FETCH_POSTGRES", "off").env("RECADO_ALLOW_UNSAFE_DURABILITY", "on").envs(settings.iter().copied());
    tokio::time::timeout(Duration::from_secs(60), command.output()).await.expect("the command ends").unwrap()
}

pub(super) async fn names(connection: &mut PgConnection, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

pub(super) async fn attempt(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.map(drop)
}

pub(super) async fn code_of(connection: &mut PgConnection, sql: &str) -> String {
    match attempt(connection, sql).await {
        Ok(()) => "done".to_owned(),
        Err(error) => error.as_database_error().and_then(|e| e.code()).map_or_else(|| error.to_string(), Into::into),
    }
}

/// Creates a login in this database. It is dropped when the test passes; otherwise it goes with the cluster after the
/// run.
async fn login(db: &TestDb) -> (String, String) {
    let name = format!("ana-{}", db.name);
    analysts::create(&mut db.connect().await, &name, "secret").await.unwrap();
    let url = db.url_of(&name, "secret");
    (name, url)
}

async fn forget(db: &TestDb, name: &str) {
    assert!(analysts::drop(&mut db.connect().await, name).await.unwrap());
}

/// The server's logs, statistics and audit may hold statements with their arguments, so no secret may be in them.
#[tokio::test]
async fn the_database_never_sees_the_password() {
    let db = TestDb::new().await;
    db.run(
        "CREATE TABLE public.seen (password text);
         CREATE OR REPLACE FUNCTION recado.create_analyst(p_name text, p_password text) RETURNS text[] LANGUAGE sql
         AS $$ INSERT INTO public.seen VALUES (p_password); SELECT '{}'::text[] $$",
    )
    .await;
    analysts::create(&mut db.connect().await, "ana", "secret").await.unwrap();
    let seen = names(&mut db.connect().await, "SELECT password FROM public.seen").await.remove(0);
    assert!(seen.starts_with("SCRAM-SHA-256$4096:") && !seen.contains("secret"), "{seen}");
}

#[tokio::test]
async fn every_view_and_every_column_says_what_it_is() {
    let db = TestDb::new().await;
    let mut connection = db.connect().await;
    let silent = "SELECT concat_ws('.', c.relname, a.attname)
                    FROM pg_class c
                    LEFT JOIN LATERAL (SELECT attnum, attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0
                                       UNION ALL SELECT 0, NULL) a ON true
                   WHERE c.relnamespace = 'recado_views'::regnamespace
                     AND coalesce(CASE a.attnum WHEN 0 THEN obj_description(c.oid) ELSE col_description(c.oid, a.attnum) END, '') = ''";
    assert_eq!(names(&mut connection, silent).await, Vec::<String>::new());
    assert_eq!(names(&mut connection, VIEWS).await.len(), 26);
    let silent = "SELECT p.proname::text FROM pg_proc p WHERE p.pronamespace = 'recado_views'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL";
    assert_eq!(names(&mut connection, silent).await, Vec::<String>::new());
}

/// A tool with a pool of its own, such as Metabase with 15 connections, was refused at the sixth.
#[tokio::test]
async fn a_login_has_as_many_connections_as_it_was_made_with() {
    let db = TestDb::new().await;
    let url = db.url();
    let settings = [("DATABASE_URL", url.as_str())];
    for (login, option, expected) in [("few", &[][..], 5), ("seven", &["--connections", "7"][..], 7)] {
        let name = format!("{login}-{}", db.name);
        let made = recado(&settings, &[&["analyst", "create", &name, "-o", "json"], option].concat()).await;
        let made: Value = serde_json::from_slice(&made.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&made.stderr)));
        let mut open = Vec::new();
        let refused = loop {
            match PgConnection::connect(made["url"].as_str().unwrap()).await {
                Ok(connection) => open.push(connection),
                Err(error) => break error,
            }
        };
        assert_eq!(open.len(), expected, "{refused}");
        assert_eq!(refused.as_database_error().and_then(|e| e.code()).as_deref(), Some("53300"), "{refused}");
        forget(&db, &name).await;
    }
    for wrong in ["0", "1001", "many"] {
        let made = recado(&settings, &["analyst", "create", "none", "--connections", wrong]).await;
        assert_eq!(made.status.code(), Some(2), "{wrong}: {}", String::from_utf8_lossy(&made.stderr));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_reads_every_view_and_is_refused_everything_else() {
    let db = TestDb::new().await;
    let name = format!("ana-{}", db.name);
    let url = db.url();
    let settings = [("DATABASE_URL", url.as_str())];
    let made = recado(&settings, &["analyst", "create", &name, "-o", "json"]).await;
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success(), "{said}");
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(recado(&settings, &["analyst", "create", &name]).await.status.code(), Some(1), "the name is taken");
    assert_eq!(recado(&settings, &["analyst", "create", "pg_x"]).await.status.code(), Some(1), "not a valid login name");
    let listed = recado(&settings, &["analyst", "ls", "-o", "json"]).await;
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&name));

    let mut analyst = PgConnection::connect(made["url"].as_str().unwrap()).await.unwrap();
    for view in names(&mut db.connect().await, VIEWS).await {
        // The search path names the schema.
        attempt(&mut analyst, &format!("SELECT * FROM {view}")).await.unwrap_or_else(|error| panic!("{view}: {error}"));
    }
    attempt(&mut analyst, "SELECT text_of('{}', 'a'), number_of('{}', 'a'), integer_of('{}', 'a')").await.unwrap();
    for (setting, value) in [
        ("statement_timeout", "30s"),
        ("idle_in_transaction_session_timeout", "10s"),
        ("idle_session_timeout", "30min"),
        ("lock_timeout", "1s"),
        ("default_transaction_read_only", "on"),
        ("work_mem", "32MB"),
        ("temp_file_limit", "2GB"),
    ] {
        assert_eq!(names(&mut analyst, &format!("SHOW {setting}")).await, [value], "{setting}");
    }
    assert_eq!(code_of(&mut analyst, "CREATE TEMP SEQUENCE s").await, "25006", "read only, unless lifted");
    // Lifting the setting grants no rights.
    attempt(&mut analyst, "SET default_transaction_read_only = off").await.unwrap();
    for refused in [
        "SELECT * FROM recado.log",
        "SELECT hash FROM recado.service_key",
        "SELECT secret FROM recado.upstream_session",
        "SELECT payload FROM recado.upstream_command",
        "SELECT rolpassword FROM pg_authid",
        "INSERT INTO recado_views.notifications (seq) VALUES (1)",
        "UPDATE recado_views.notifications SET title = ''",
        "DELETE FROM recado_views.notifications",
        "TRUNCATE recado.log",
        "SELECT * FROM recado_views.notifications FOR UPDATE",
        "LOCK TABLE recado_views.notifications IN ACCESS EXCLUSIVE MODE",
        "LOCK TABLE recado_views.notifications IN SHARE MODE",
        "LOCK TABLE recado.log IN ACCESS SHARE MODE",
        "CREATE TABLE recado_views.mine (n integer)",
        "CREATE TABLE public.mine (n integer)",
        "SELECT recado.append(1)",
        "SELECT recado.notify('x')",
        "SELECT recado.ensure_partitions()",
        "SELECT recado.create_analyst('eve', 'x')",
        "SELECT recado.drop_analyst('eve')",
        "CREATE ROLE eve",
        "SET ROLE recado_hub",
        "SELECT pg_read_file('postgresql.conf')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SET temp_file_limit = -1",
    ] {
        // LOCK needs a transaction before rights are checked.
        let sql = if refused.starts_with("LOCK") { format!("BEGIN; {refused}") } else { refused.to_owned() };
        assert_eq!(code_of(&mut analyst, &sql).await, "42501", "{refused}");
        attempt(&mut analyst, "ROLLBACK").await.unwrap();
    }
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(PgConnection::connect(made["url"].as_str().unwrap()).await.unwrap());
    }
    let sixth = PgConnection::connect(made["url"].as_str().unwrap()).await.unwrap_err();
    assert_eq!(sixth.as_database_error().and_then(|e| e.code()).as_deref(), Some("53300"), "{sixth}");

    assert!(recado(&settings, &["analyst", "drop", &name]).await.status.success());
    assert!(attempt(&mut analyst, "SELECT 1").await.is_err(), "its sessions were ended");
    assert!(PgConnection::connect(made["url"].as_str().unwrap()).await.is_err());
    for nobody in [name.as_str(), "recado_hub", "recado_analyst", "recado"] {
        assert_eq!(recado(&settings, &["analyst", "drop", nobody]).await.status.code(), Some(1), "{nobody} was not made here");
    }
}

/// The login is asked for its password, which the private server does not do by default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_line_connects_as_it_stands() {
    let server = DurableServer::start().await;
    let state = server.state();
    let private = [("RECADO_DATA_DIR", state.to_str().unwrap()), ("HOME", "/")];
    let url = server.url();
    let given = [("DATABASE_URL", url.as_str())];
    for (name, settings) in [("ana", &private[..]), ("bia", &given[..])] {
        let made = recado(settings, &["analyst", "create", name]).await;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let line = String::from_utf8(made.stdout).unwrap();
        assert!(line.starts_with("psql '") && line.trim_end().lines().count() == 1, "{line}");
        assert_eq!(run_line(&line).await, "0");
        let hba = state.join("data/pg_hba.conf");
        let trusting = std::fs::read_to_string(&hba).unwrap();
        std::fs::write(&hba, format!("local all {name} scram-sha-256\n{trusting}")).unwrap();
        let mut admin = PgConnection::connect(&url).await.unwrap();
        attempt(&mut admin, "SELECT pg_reload_conf()").await.unwrap();
        eventually("a wrong password is refused", PATIENCE, async || {
            let wrong = line.replace(&line[line.find("password=").unwrap()..][..20], "password=wrong123456");
            (run_line(&wrong).await != "0").then_some(())
        })
        .await;
        assert_eq!(run_line(&line).await, "0", "{line}");
    }
}

async fn run_line(line: &str) -> String {
    let folder = super::docs::psql().parent().map(Path::to_path_buf).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-c", &format!("{} -XwAtc 'SELECT count(*) FROM notifications'", line.trim_end())]).env_clear().env("PATH", path);
    let output = tokio::time::timeout(PATIENCE, bash.output()).await.expect("the command ends").unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_reader_who_forgets_his_transaction_holds_up_no_post_and_retention_only_for_seconds() {
    let _turn = heavy().await;
    let db = log_of(50).await;
    let (name, url) = login(&db).await;
    let hub = TestHub::on(&db).start().await;
    let writers = Writers::start(4, &Addresses::of([&hub]), &db.key(), Duration::from_millis(2), mixed);
    writers.until_count(200, PATIENCE).await;
    let mut analyst = PgConnection::connect(&url).await.unwrap();
    attempt(&mut analyst, "BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    for view in names(&mut db.connect().await, VIEWS).await {
        attempt(&mut analyst, &format!("SELECT * FROM {view}")).await.unwrap_or_else(|error| panic!("{view}: {error}"));
    }
    let (at, so_far) = (db.url(), writers.count());
    let round = tokio::spawn(async move { retention::round(&Database::parse(&at, None).unwrap(), ALL_FULL).await });
    // More than two partitions: some are created while the reader is open.
    writers.until_count(so_far + 300, PATIENCE).await;
    assert!(!round.is_finished(), "the round waits for the reader; the posts did not");
    // The round itself gives up after ten seconds, and a later one continues.
    let _ = tokio::time::timeout(PATIENCE * 2, round).await.expect("a round ends").unwrap();
    eventually("full partitions are dropped", PATIENCE * 2, async || {
        let _ = retention::round(&Database::parse(&db.url(), None).unwrap(), ALL_FULL).await;
        (db.number("SELECT count(*) FROM recado.partition WHERE lo < 150").await == 0).then_some(())
    })
    .await;
    assert!(attempt(&mut analyst, "SELECT 1").await.is_err(), "the analyst was disconnected");
    let diary = writers.stop().await;
    assert!(diary.refused.is_empty(), "{:?}", diary.refused);
    assert!(diary.slowest < Duration::from_secs(2), "{:?}", diary.slowest);
    forget(&db, &name).await;
}

/// Written in SQL, past the door's checks.
const ODD: [&str; 19] = [
    "null",
    "1",
    "\"x\"",
    "[]",
    "[1, {\"order_id\": 2}]",
    "{}",
    r#"{"total": {}, "items": [], "price": true, "amount": null, "order_id": {"a": 1}}"#,
    r#"{"total": "abc", "items": "1.5", "quantity": "many"}"#,
    r#"{"total": 1e99999, "items": 99999999999999999999, "price": -1e-99999}"#,
    r#"{"total": "12.50", "items": "3", "order_id": 1001}"#,
    r#"{"total": "", "items": " 3", "order_id": ""}"#,
    r#"{"order_id": "\u0000", "total": 1}"#,
    r#"{"order_id": "\ud83d", "total": 1}"#,
    r#"{"order_id": "\ude00\ud83d", "total": 1}"#,
    r#"{"order_id": "\ud83d\ude00", "total": 1}"#,
    r#"{"order_id": "\\u0000", "total": 1}"#,
    r#"{"order_id": "\\\u0000", "total": 1}"#,
    r#"{"order_id": "a", "order_id": "b", "total": 1.0}"#,
    r#"{"order_id": "1e99999", "total": 1e9}"#,
];

/// Order, total and items of a row.
type Read = (Option<String>, Option<String>, Option<i64>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_data_holds_every_view_answers() {
    let db = TestDb::new().await;
    let mut connection = db.connect().await;
    let types = "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'message'
                  WHERE c.relnamespace = 'recado_views'::regnamespace AND c.relname NOT IN ('notifications', 'inbox') ORDER BY 1";
    let types = names(&mut connection, types).await;
    assert_eq!(types.len(), 11, "{types:?}");
    let insert = "INSERT INTO recado.log (seq, id, created_at, type, title, message, data, topic, replay, source, bytes)
                  SELECT coalesce(max(seq), 0) + 1, gen_random_uuid(), now(), $1, '', '', $2::json, '*', true, '', 0 FROM recado.log";
    for data in [None].into_iter().chain(ODD.map(Some)) {
        for kind in &types {
            sqlx::query(insert).bind(kind).bind(data).execute(&mut connection).await.unwrap_or_else(|error| panic!("{data:?}: {error}"));
        }
    }
    for kind in &types {
        let rows = sqlx::query(AssertSqlSafe(format!("SELECT * FROM recado_views.{kind}"))).fetch_all(&mut connection).await;
        assert_eq!(rows.unwrap_or_else(|error| panic!("{kind}: {error}")).len(), ODD.len() + 1);
    }
    let found = "SELECT data::text, order_id, total::text, items FROM recado_views.order_created WHERE order_id IS NOT NULL OR total IS NOT NULL OR items IS NOT NULL";
    let found: BTreeMap<String, Read> =
        sqlx::query(found).fetch_all(&mut connection).await.unwrap().iter().map(|r| (r.get(0), (r.get(1), r.get(2), r.get(3)))).collect();
    let text = |text: &str| Some(text.to_owned());
    let expected = [
        (r#"{"items": [], "price": true, "total": {}, "amount": null, "order_id": {"a": 1}}"#, (text("{\"a\": 1}"), None, None)),
        (r#"{"items": "3", "total": "12.50", "order_id": 1001}"#, (text("1001"), text("12.50"), Some(3))),
        (r#"{"items": " 3", "total": "", "order_id": ""}"#, (text(""), None, None)),
        (r#"{"total": 1, "order_id": "😀"}"#, (text("😀"), text("1"), None)),
        (r#"{"total": 1, "order_id": "\\u0000"}"#, (text("\\u0000"), text("1"), None)),
        (r#"{"total": 1.0, "order_id": "b"}"#, (text("b"), text("1.0"), None)),
        (r#"{"total": 1000000000, "order_id": "1e99999"}"#, (text("1e99999"), text("1000000000"), None)),
    ];
    assert_eq!(found, expected.into_iter().map(|(data, values)| (data.to_owned(), values)).collect());
    // What went wrong: with json each of these failed with "could not identify an equality operator" (SQLSTATE 42883).
    for sql in [
        "SELECT DISTINCT data FROM recado_views.notifications",
        "SELECT data, count(*) FROM recado_views.inbox GROUP BY data",
        "SELECT data FROM recado_views.order_created UNION SELECT data FROM recado_views.notifications",
    ] {
        attempt(&mut connection, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let unreadable =
        "SELECT count(*) FROM recado_views.order_created v JOIN recado.log l USING (seq) WHERE l.data IS NOT NULL AND v.data IS NULL";
    assert_eq!(db.number(unreadable).await, 5, "NUL, half a surrogate pair, a number beyond numeric: NULL and no error");
}

/// The migration to jsonb replaces views on which other users may have built views. Those keep their rights and
/// answers.
#[tokio::test]
async fn views_that_others_built_on_ours_survive_the_change_to_jsonb() {
    let db = TestDb::bare().await;
    let mut migrations: Vec<(u32, String)> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"))
        .unwrap()
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name[1..name.find("__").unwrap()].parse().unwrap(), std::fs::read_to_string(path).unwrap())
        })
        .collect();
    migrations.sort_unstable();
    db.run("CREATE SCHEMA recado").await;
    for (version, sql) in migrations.iter().filter(|(version, _)| *version <= 18) {
        if *version == 18 {
            db.run(
                "INSERT INTO recado.log (seq, id, created_at, type, title, message, data, topic, replay, source, bytes)
                 VALUES (1, gen_random_uuid(), now(), 'order_created', '', '', '{\"order_id\":  \"7\", \"total\": 2}', '*', true, '', 0);
                 CREATE SCHEMA theirs;
                 CREATE VIEW theirs.orders AS SELECT data::text, recado_views.number_of(data, 'total') FROM recado_views.order_created;
                 CREATE VIEW theirs.days AS SELECT sum(notifications) FROM recado_views.daily_counts;
                 GRANT SELECT ON recado_views.inbox TO pg_monitor",
            )
            .await;
        }
        db.run(sql).await;
    }
    let mut connection = db.connect().await;
    let theirs = "SELECT concat_ws('|', o.*, d.*) FROM theirs.orders o, theirs.days d";
    assert_eq!(names(&mut connection, theirs).await, ["(\"{\"\"order_id\"\":  \"\"7\"\", \"\"total\"\": 2}\",2)|(1)"]);
    let kept =
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'recado_views'::regnamespace AND relname LIKE '%\\_json' ORDER BY 1";
    assert_eq!(names(&mut connection, kept).await, ["notifications_json", "order_created_json"]);
    let ours = "SELECT data::text FROM recado_views.order_created";
    assert_eq!(names(&mut connection, ours).await, ["{\"total\": 2, \"order_id\": \"7\"}"]);
    let rights = "SELECT has_table_privilege('pg_monitor', 'recado_views.inbox', 'SELECT')::text || has_table_privilege('pg_monitor', 'recado_views.notifications', 'SELECT')";
    assert_eq!(names(&mut connection, rights).await, ["truefalse"]);
}

async fn plan(connection: &mut PgConnection, sql: &str) -> String {
    names(connection, &format!("EXPLAIN (COSTS OFF) {sql}")).await.join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_reach_the_partitions_and_the_indexes() {
    let db = log_of(5000).await;
    db.run(
        "INSERT INTO recado.log (seq, id, created_at, type, title, message, data, topic, user_id, replay, source, bytes)
         SELECT n, gen_random_uuid(), '2026-03-01'::timestamptz + n * interval '1 minute', 'order_created', 't', 'm', '{}', 'u/' || n % 100, n % 100,
                true, 's', 10 FROM generate_series(1, 9000) n;
         SELECT recado.ensure_partitions();
         INSERT INTO recado.log (seq, id, created_at, type, title, message, data, topic, user_id, replay, source, bytes)
         SELECT n, gen_random_uuid(), '2026-03-01'::timestamptz + n * interval '1 minute', 'order_created', 't', 'm', '{}', 'u/' || n % 100, n % 100,
                true, 's', 10 FROM generate_series(9001, 19000) n;
         INSERT INTO recado.session (session_id, instance_id, user_id, account_ids, client_id, transport, log_id, from_seq, sent_seq, acked_seq,
                                     connected_at, last_activity_at)
         SELECT gen_random_uuid(), gen_random_uuid(), n % 100, '{}', 'web', 'websocket', m.log_id, n * 6, n * 6 + 300, n * 6 + 300, now(), now()
           FROM recado.meta m, generate_series(1, 3000) n;
         ANALYZE",
    )
    .await;
    let mut connection = db.connect().await;
    // The tables are small and would be scanned whole. The test asks whether an index can be used.
    attempt(&mut connection, "SET enable_seqscan = off; SET TimeZone = 'UTC'; SET search_path = recado_views").await.unwrap();
    let one = "log_p000000005000";
    for by_number in [
        "SELECT * FROM notifications WHERE seq BETWEEN 6000 AND 6010",
        "SELECT * FROM order_created WHERE seq BETWEEN 6000 AND 6010",
        "SELECT * FROM recipients WHERE seq = 6000",
        "SELECT * FROM deliveries WHERE seq = 6000",
    ] {
        let plan = plan(&mut connection, by_number).await;
        assert!(plan.contains(&format!("using {one}_pkey")), "{by_number}\n{plan}");
        for other in ["log_p000000000000", "log_p000000010000"] {
            assert!(!plan.contains(other), "{by_number}\n{plan}");
        }
    }
    for by_time in [
        "SELECT * FROM notifications WHERE created_at >= '2026-03-05' AND created_at < '2026-03-06'",
        "SELECT * FROM order_created WHERE created_at >= '2026-03-05' AND created_at < '2026-03-06'",
        "SELECT * FROM recipients WHERE created_at >= '2026-03-05' AND created_at < '2026-03-06'",
        "SELECT * FROM deliveries WHERE created_at >= '2026-03-05' AND created_at < '2026-03-06'",
        "SELECT * FROM daily_counts WHERE day = '2026-03-05'",
        "SELECT * FROM time_to_ack WHERE day = '2026-03-05'",
    ] {
        let plan = plan(&mut connection, by_time).await;
        assert!(plan.contains("Index Cond: ((created_at >= "), "{by_time}\n{plan}");
        assert!(plan.contains(&format!("{one}_created_at_idx")), "{by_time}\n{plan}");
        // The day is filtered before the log is read.
        assert!(!by_time.contains("day") || plan.contains("Filter: ((day)::date = '2026-03-05'::date)"), "{by_time}\n{plan}");
    }
    let inbox = plan(&mut connection, "SELECT * FROM inbox WHERE address = 'u/42' AND seq > 6000 ORDER BY seq LIMIT 50").await;
    assert!(
        inbox.contains(&format!("{one}_topic_seq_inbox_idx")) && inbox.contains("Index Cond: ((topic = 'u/42'::text) AND (seq > 6000))"),
        "{inbox}"
    );
    // Rows with several recipients are then fetched by their number, from the one partition that holds it.
    assert!(!inbox.contains("log_p000000000000_topic_seq_inbox_idx") && !inbox.contains("log_member_p000000000000"), "{inbox}");
    let unacked = plan(&mut connection, "SELECT * FROM unacked WHERE user_id = '42'").await;
    assert!(unacked.contains("cursor_pkey") && unacked.contains("(seq > c.acked_seq)"), "{unacked}");
}

/// One step of a load: copies the rows that the copy lacks, in one transaction of the copy.
async fn load_step(log: &mut PgConnection, copy: &mut PgConnection, break_off: bool) -> usize {
    let last: i64 = sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM copy").fetch_one(&mut *copy).await.unwrap();
    let rows = sqlx::query(
        "SELECT seq, id, created_at, type, title, message, data::text, address FROM recado_views.notifications WHERE seq > $1 ORDER BY seq LIMIT 40",
    );
    let rows = rows.bind(last).fetch_all(log).await.unwrap();
    let mut load = copy.begin().await.unwrap();
    for row in &rows {
        let insert = sqlx::query("INSERT INTO copy VALUES ($1, $2, $3, $4, $5, $6, $7, $8)");
        let insert =
            insert.bind(row.get::<i64, _>(0)).bind(row.get::<uuid::Uuid, _>(1)).bind(row.get::<chrono::DateTime<chrono::Utc>, _>(2));
        let insert = (3..8).fold(insert, |insert, at| insert.bind(row.get::<Option<String>, _>(at)));
        insert.execute(&mut *load).await.unwrap();
    }
    if break_off {
        load.rollback().await.unwrap()
    } else {
        load.commit().await.unwrap()
    }
    rows.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_loaded_by_number_under_load_and_kills_is_the_log() {
    let _turn = heavy().await;
    let (db, other) = (TestDb::new().await, TestDb::bare().await);
    let (name, url) = login(&db).await;
    other.run("CREATE TABLE copy (seq bigint PRIMARY KEY, id uuid, created_at timestamptz, type text, title text, message text, data text, address text)").await;
    let builder = TestHub::on(&db);
    let mut hubs = vec![builder.start().await, builder.start().await];
    let addresses = Addresses::of(&hubs);
    let writers = Writers::start(6, &addresses, &db.key(), Duration::from_millis(1), mixed);
    let (mut log, mut copy) = (PgConnection::connect(&url).await.unwrap(), other.connect().await);
    let mut steps = 0;
    let mut loaded_while_writing = 0;
    for round in 1..=3 {
        hubs.remove(0).kill().await;
        addresses.set(&hubs);
        hubs.push(builder.start().await);
        addresses.set(&hubs);
        let goal = writers.count() + 150;
        while writers.count() < goal {
            steps += 1;
            loaded_while_writing += load_step(&mut log, &mut copy, steps % 5 == 0).await;
            assert!(steps < 20_000, "round {round}: the writers do not come on");
        }
    }
    assert!(loaded_while_writing > 300, "{loaded_while_writing}");
    writers.stop().await;
    while load_step(&mut log, &mut copy, false).await > 0 {}
    let all = |table: &str| {
        format!(
            "SELECT md5(string_agg(concat_ws('|', seq, id, created_at, type, title, message, data, address), ',' ORDER BY seq)) FROM {table}"
        )
    };
    attempt(&mut copy, "SET TimeZone = 'UTC'").await.unwrap();
    let (in_copy, in_log) = (names(&mut copy, &all("copy")).await, names(&mut log, &all("recado_views.notifications")).await);
    assert_eq!(in_copy, in_log);
    assert_eq!(other.number("SELECT count(*) FROM copy").await, db.head().await, "dense, so this is all");
    forget(&db, &name).await;
}

/// The views show what clients did: sent, acknowledged, waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn what_devices_do_is_in_the_views() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut prompt = TestClient::of("ann").device("prompt").connect(&hub).await;
    let mut mute = TestClient::of("ann").device("mute").query("ack", "client").connect(&hub).await;
    let seq = hub.post(&note("n").to_user("ann")).await.seq;
    prompt.until_seq(seq).await;
    mute.until_seq(seq).await;
    let row = "SELECT count(*) FROM recado_views.deliveries WHERE seq = 1 AND user_id = 'ann' AND sent_at >= created_at AND time_to_send IS NOT NULL AND ";
    eventually("one has acknowledged it and one has not", Duration::from_secs(40), async || {
        let acked = db.number(&format!("{row} client_id = 'prompt' AND acked_at >= sent_at AND time_to_ack IS NOT NULL")).await;
        let not = db.number(&format!("{row} client_id = 'mute' AND acked_at IS NULL AND time_to_ack IS NULL")).await;
        ((acked, not) == (1, 1)).then_some(())
    })
    .await;
    let waiting = "SELECT count(*) FROM recado_views.unacked WHERE client_id = 'mute' AND unacked = 1 AND oldest_seq = 1";
    assert_eq!(db.number(waiting).await, 1);
    let counted =
        "SELECT count(*) FROM recado_views.time_to_ack WHERE notifications = 1 AND devices = 2 AND acked = 1 AND p50_seconds = max_seconds";
    assert_eq!(db.number(counted).await, 1);
    assert_eq!(db.number("SELECT sum(lag)::bigint FROM recado_views.devices WHERE is_connected").await, 1);
    assert_eq!(db.number("SELECT count(*) FROM recado_views.sessions WHERE is_live AND is_of_this_log").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_is_dropped_whatever_it_has_made() {
    let db = TestDb::new().await;
    let (name, url) = login(&db).await;
    let mut analyst = PgConnection::connect(&url).await.unwrap();
    attempt(&mut analyst, "SET default_transaction_read_only = off; SELECT lo_create(0)").await.unwrap();
    assert_eq!(db.number("SELECT count(*) FROM pg_largeobject_metadata").await, 1);
    // A pool that reconnects whenever it is cut off.
    let pool = tokio::spawn(async move {
        while let Ok(mut connection) = PgConnection::connect(&url).await {
            let _ = sqlx::raw_sql("SELECT pg_sleep(0.01)").execute(&mut connection).await;
        }
    });
    forget(&db, &name).await;
    assert_eq!(db.number(&format!("SELECT count(*) FROM pg_roles WHERE rolname = '{name}'")).await, 0);
    assert_eq!(db.number("SELECT count(*) FROM pg_largeobject_metadata").await, 0);
    tokio::time::timeout(PATIENCE, pool).await.expect("the analyst is refused").unwrap();
    assert!(!analysts::drop(&mut db.connect().await, &name).await.unwrap(), "the login is gone");
}
