//! Tests that the hub's own tables are bounded.
//!
//! The queries of every minute, second and connect cost the same however long the tables are.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use recado::config::{Config, MachineEnvironment, Values};
use recado::domain::{ClientId, InstanceId, ProviderName, SessionId, UserId};
use recado::log::retention::{self, RetentionPolicy};
use recado::store::acked_positions;
use recado::store::device_expiry::ExpiryReach;
use recado::store::providers::commands::{self, ArrivedDevice};
use recado::store::providers::{chores, leases, sessions as upstream_sessions};
use recado::store::{Database, instances, tickets};

use super::support::*;

const DAY: Duration = Duration::from_secs(86_400);

/// Tables as after a long life: so many sessions, facts, commands, provider sessions, tickets and hubs, none of them
/// expired. The number of live ones is the same whatever the size: 20 sessions, 40 free provider sessions and 40 held
/// ones.
async fn lived(rows: i64) -> TestDb {
    let db = TestDb::new().await;
    db.run(&format!(
        "ALTER TABLE recado.upstream_command DISABLE TRIGGER command_goes_forward;
         INSERT INTO recado.instance (instance_id, address, version, seen_at, ended_at)
         SELECT gen_random_uuid(), 'x', '1', now() + interval '1 hour', CASE WHEN n > 3 THEN now() END FROM generate_series(1, {rows} / 10) n;
         INSERT INTO recado.session (session_id, instance_id, user_id, account_ids, client_id, transport, log_id, from_seq, sent_seq, acked_seq,
                                     connected_at, last_activity_at, ended_at, end_reason)
         SELECT md5('s' || n)::uuid, gen_random_uuid(), 'u' || n, '{{}}', 'd', 'websocket', log_id, 0, 0, 0, now(), now(),
                CASE WHEN n > 20 THEN now() - n * interval '1 second' END, CASE WHEN n > 20 THEN 'left' END
           FROM recado.meta, generate_series(1, {rows}) n;
         INSERT INTO recado.progress (session_id, user_id, client_id, log_id, acked_seq, acked_at)
         SELECT CASE n % 2 WHEN 0 THEN md5('s' || n)::uuid END, 'u' || n, 'd', log_id, n, now() - n * interval '1 second'
           FROM recado.meta, generate_series(1, {rows}) n;
         INSERT INTO recado.upstream_session (provider, user_id, state, owner, lease_until, next_try_at, wanted_until, version)
         SELECT 'game', 'u' || lpad(n::text, 9, '0'), CASE WHEN n <= 40 THEN 'waiting' WHEN n <= 80 THEN 'live' ELSE 'idle' END,
                CASE WHEN n BETWEEN 41 AND 80 THEN gen_random_uuid() END, CASE WHEN n BETWEEN 41 AND 80 THEN now() + interval '1 day' END,
                now() - interval '1 hour', CASE WHEN n <= 80 THEN now() + interval '1 day' ELSE now() - interval '1 day' END, n
           FROM generate_series(1, {rows}) n;
         INSERT INTO recado.upstream_command (command_id, provider, user_id, client_id, session_id, id, type, state, term, accepted_at, reject_at, taken_at, settled_at)
         SELECT gen_random_uuid(), 'game', 'u' || lpad((CASE n % 10 WHEN 0 THEN 1 ELSE n END)::text, 9, '0'), 'd', gen_random_uuid(), n::text, 'bet', 'sent', 1,
                now() - n * interval '1 minute', now(), now(), now() - n * interval '1 second'
           FROM generate_series(1, {rows}) n;
         INSERT INTO recado.ticket (hash, user_id, account_ids, token_expires_at, expires_at)
         SELECT sha256(n::text::bytea), 'u', '{{}}', now() + interval '1 day', now() + interval '1 day' FROM generate_series(1, {rows}) n;
         INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq) SELECT 'v' || n, 'd', log_id, 0 FROM recado.meta, generate_series(1, 100) n"
    ))
    .await;
    db.run("VACUUM ANALYZE").await;
    db
}

/// For each question the pages that it looked at, and whether it read a whole table. Of its second and third run the
/// lesser counts: the server's own work, such as autovacuum, adds pages now and then.
async fn ask_all(db: &TestDb, faults: &mut Vec<String>) -> BTreeMap<&'static str, (i64, String)> {
    tell_plans(db).await;
    let listening = PlanListener::start();
    let database = Database::parse(&db.url(), None).unwrap();
    let mut connection = database.connect("test").await.unwrap();
    let mut asked = BTreeMap::new();
    let month = RetentionPolicy {
        age: None,
        bytes: None,
        sessions: Some(30 * DAY),
        devices: Some(30 * DAY),
        upstream: Some(30 * DAY),
        audit: None,
    };
    let provider = ProviderName::parse("game").unwrap();
    let beats = InstanceId::new();
    let user = UserId::parse("u000000001").unwrap();
    let device = ArrivedDevice { user: user.clone(), client: ClientId::parse("d").unwrap(), session: SessionId::new() };
    for run in 0..3 {
        // Each round begins its walk anew: in the short table the second walk would reach the end.
        db.run("UPDATE recado.upstream_walk SET provider = '', user_id = ''").await;
        listening.take();
        let mut told = |name| {
            let plans = listening.take();
            assert!(!plans.is_empty(), "{name}: the server told no plan");
            for (kind, table, _) in plans.iter().flat_map(ExecutedPlan::scans) {
                let grows = ["session", "progress", "upstream_session", "upstream_command", "ticket"].contains(&table.as_str());
                if kind == "Seq Scan" && grows {
                    faults.push(format!("{name} reads the whole of {table}"));
                }
            }
            // A function's statements are reported on their own. A call on a new connection reads the catalogue, a
            // varying number of pages.
            let own: Vec<&ExecutedPlan> = plans
                .iter()
                .filter(|plan| {
                    !["SELECT looked AS", "SELECT p.lo", "SELECT recado.erase_expired"].iter().any(|call| plan.begins().starts_with(call))
                })
                .collect();
            let each: Vec<String> = own.iter().map(|plan| format!("{:6} {}", plan.pages(), plan.begins())).collect();
            let pages = own.iter().map(|plan| plan.pages()).sum();
            if run < 2 || asked.get(name).is_none_or(|(known, _)| pages < *known) {
                asked.insert(name, (pages, each.join("\n")));
            }
        };
        let done = retention::round_of(&database, month, ExpiryReach::Part).await.unwrap();
        assert_eq!(done, retention::RetentionOutcome::default());
        told("a round of retention");
        chores::round(&mut connection).await.unwrap();
        told("a round of chores");
        let mut transaction = sqlx::Connection::begin(&mut connection).await.unwrap();
        let claimed = leases::claim(&mut transaction, InstanceId::new(), DAY, 10, std::slice::from_ref(&provider)).await.unwrap();
        assert_eq!(claimed.len(), 10);
        transaction.rollback().await.unwrap();
        told("a claim");
        assert_eq!(commands::recent_of_devices(&mut connection, std::slice::from_ref(&device)).await.unwrap().len(), 0);
        told("what became of a device's commands");
        upstream_sessions::of_users(&mut connection, std::slice::from_ref(&user)).await.unwrap();
        told("a user's sessions");
        upstream_sessions::last_version(&mut connection).await.unwrap();
        told("the last version");
        tickets::sweep(&mut connection).await.unwrap();
        told("old tickets");
        instances::bury_the_dead(&mut connection).await.unwrap();
        told("the dead");
        instances::beat(&mut connection, beats, "127.0.0.1:1", &serde_json::json!({})).await.unwrap();
        told("a heartbeat");
        acked_positions::trim(&mut connection, &[UserId::parse("v1").unwrap()], 200).await.unwrap();
        told("a user's devices");
    }
    asked
}

#[tokio::test]
#[ignore = "slow"]
async fn what_is_asked_again_and_again_looks_at_the_same_pages_in_tables_ten_times_as_long() {
    let _turn = heavy().await;
    let mut faults = Vec::new();
    // In the order of their keys, because a step of a walk costs a page a row at most. A round looks at 5,000 provider
    // sessions of however many.
    let short = ask_all(&lived(6_000).await, &mut faults).await;
    let long = ask_all(&lived(60_000).await, &mut faults).await;
    for (name, (many, each)) in &long {
        let (few, before) = &short[name];
        eprintln!("{name}: {few} → {many} pages");
        // An index that is ten times as large is a level deeper.
        if *many as f64 > *few as f64 * 1.3 + 20.0 {
            faults.push(format!("{name}: {few} pages in short tables, {many} in long ones\n{before}\n–\n{each}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A volatile time has another value for each row, so it cannot be an index condition. Only the end of a lease is
/// compared with it, by a statement that may have waited for the row; and values that are merely returned, which are no
/// condition.
fn volatile_conditions(source: &str) -> Vec<&str> {
    let compared = |line: &str| {
        line.match_indices("clock_timestamp()").any(|(at, _)| {
            let before = line[..at].trim_end();
            before.ends_with(['<', '>']) || before.ends_with("<=") || before.ends_with(">=")
        })
    };
    let is_allowed = |line: &str| {
        ["lease_until > clock", "l.until "].iter().any(|end| line.contains(end)) || line.contains(" AS ") || line.contains(" INTO ")
    };
    source.lines().filter(|line| compared(line) && !is_allowed(line)).collect()
}

#[tokio::test]
async fn no_condition_compares_a_column_with_a_volatile_time() {
    fn files(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, found);
            } else {
                let source = std::fs::read_to_string(&path).unwrap();
                found.extend(volatile_conditions(&source).into_iter().map(|line| format!("{}: {}", path.display(), line.trim())));
            }
        }
    }
    let mut found = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store"), &mut found);
    let db = TestDb::new().await;
    let functions =
        "SELECT proname::text, prosrc FROM pg_proc WHERE pronamespace::regnamespace::text IN ('recado', 'recado_views', 'recado_tenant')";
    let functions: Vec<(String, String)> = sqlx::query_as(functions).fetch_all(&mut db.connect().await).await.unwrap();
    assert!(functions.len() > 20);
    for (name, source) in &functions {
        found.extend(volatile_conditions(source).into_iter().map(|line| format!("recado.{name}: {}", line.trim())));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn bookkeeping_has_a_default_retention_and_forever_is_a_word() {
    let of = |pairs: &[(&str, &str)]| {
        let values: Values = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::from_values(&values, MachineEnvironment::default()).unwrap().retention
    };
    let kept = of(&[]);
    assert_eq!((kept.sessions, kept.devices, kept.upstream), (Some(30 * DAY), Some(180 * DAY), Some(30 * DAY)));
    assert_eq!((kept.age, kept.bytes), (None, None), "the log itself is kept");
    let kept =
        of(&[("RECADO_RETENTION_SESSIONS", "forever"), ("RECADO_RETENTION_DEVICES", "forever"), ("RECADO_RETENTION_UPSTREAM", "forever")]);
    assert_eq!((kept.sessions, kept.devices, kept.upstream), (None, None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_beside_a_serving_hub_deletes_a_bounded_number_of_rows() {
    let db = TestDb::new().await;
    db.run(
        "INSERT INTO recado.session (session_id, instance_id, user_id, account_ids, client_id, transport, log_id, from_seq, sent_seq, acked_seq,
                                     connected_at, last_activity_at, ended_at, end_reason)
         SELECT gen_random_uuid(), gen_random_uuid(), 'u' || n, '{}', 'd', 'websocket', log_id, 0, 0, 0, now(), now(), now() - interval '31 days', 'left'
           FROM recado.meta, generate_series(1, 25000) n;
         INSERT INTO recado.instance (instance_id, address, version, ended_at)
         SELECT gen_random_uuid(), 'x', '1', now() - n * interval '1 day' FROM generate_series(1, 20) n",
    )
    .await;
    let database = Database::parse(&db.url(), None).unwrap();
    let policy = RetentionPolicy { sessions: Some(30 * DAY), ..RetentionPolicy::default() };
    let round = async || retention::round_of(&database, policy, ExpiryReach::Part).await.unwrap();
    let done = round().await;
    assert_eq!((done.sessions_deleted, done.instances_deleted), (20_000, 14), "hubs that ended more than a week ago go with any policy");
    assert_eq!((round().await.sessions_deleted, round().await.sessions_deleted), (5_000, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_user_has_a_bounded_number_of_devices_and_the_longest_unused_is_told_the_gap() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_MAX_DEVICES_PER_USER", "5").start().await;
    hub.post(&note("1").to_user("ann")).await;
    hub.settled(&db).await;
    let asked = |n: u32| TestClient::of("ann").device(&format!("d{n}")).query("ack", "client");
    let mut stays = asked(0).connect(&hub).await;
    for n in 1..=9 {
        asked(n).connect(&hub).await.close().await;
        let ended = format!("SELECT count(*) FROM recado.session WHERE user_id = 'ann' AND ended_at IS NOT NULL AND client_id = 'd{n}'");
        eventually("its end is stored", PATIENCE, async || (db.number(&ended).await == 1).then_some(())).await;
    }
    let devices = "SELECT count(*) FROM recado.cursor WHERE user_id = 'ann'";
    assert_eq!(db.number(devices).await, 5);
    assert_eq!(db.place("ann", "d0").await, Some(1), "a connected device stays, however old");
    assert_eq!(db.place("ann", "d4").await, None);
    hub.post(&note("2").to_user("ann")).await;
    assert_eq!(stays.expect_notification().await.title, "2");
    hub.settled(&db).await;
    assert_eq!(asked(4).connect(&hub).await.resume_status(), "gap", "the device expired and gets a gap");
    assert_eq!(asked(9).connect(&hub).await.resume_status(), "ok");
    assert_eq!(TestClient::of("bob").device("d4").connect(&hub).await.resume_status(), "live", "other devices are not affected");

    // The same by acknowledgements made during a stream.
    for n in 0..30 {
        let body = format!(r#"{{"client_id":"made-up-{n}","seq":2}}"#);
        let request = reqwest::Client::new().post(format!("http://{}/api/notifications/ack", hub.address)).bearer_auth(token("ann", &[]));
        let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert!(db.number(devices).await <= 5, "{}", db.number(devices).await);
    assert_eq!(db.place("ann", "made-up-29").await, Some(2), "the newest is kept");
}

/// Many at once, of few users: each user keeps its bound except for those in flight, no connect waits for ever, and
/// devices that are not known have a mark.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_devices_at_once_neither_deadlock_nor_lose_a_mark() {
    let db = TestDb::new().await;
    let database = Database::parse(&db.url(), None).unwrap();
    let log_id = recado::store::read::state(&mut database.connect("test").await.unwrap()).await.unwrap().log_id;
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let database = database.clone();
            tokio::spawn(async move {
                let reader = database.reader("test", 1);
                for n in 0..60 {
                    let user = UserId::parse(&format!("u{}", n % 3)).unwrap();
                    let ack = acked_positions::Ack {
                        user,
                        client: ClientId::parse(&format!("d{task}-{n}")).unwrap(),
                        acked: recado::domain::Seq::ZERO,
                    };
                    acked_positions::store_one(&reader, log_id, &ack, 10).await.unwrap();
                }
            })
        })
        .collect();
    let forgetting = tokio::spawn({
        let database = database.clone();
        async move {
            for _ in 0..20 {
                let at_once = RetentionPolicy { devices: Some(Duration::from_micros(1)), ..RetentionPolicy::default() };
                retention::round(&database, at_once).await.unwrap();
            }
        }
    });
    for task in tasks.into_iter().chain([forgetting]) {
        tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
    }
    let most = db.number("SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM recado.cursor GROUP BY user_id) d").await;
    assert!(most <= 14, "{most}");
    let lost = "SELECT count(*) FROM generate_series(0, 3) t, generate_series(0, 59) n LEFT JOIN recado.forgotten_device f ON f.user_id = 'u' || n % 3
                 WHERE NOT EXISTS (SELECT FROM recado.cursor c WHERE c.user_id = 'u' || n % 3 AND c.client_id = format('d%s-%s', t, n))
                   AND (recado.device_hash(format('d%s-%s', t, n)) = ANY (f.clients)) IS NOT TRUE";
    assert_eq!(db.number(lost).await, 0);
}
