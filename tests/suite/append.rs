//! Tests that the log is dense, in commit order, unique by key and unchangeable.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection};

use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_writers_on_two_hubs_make_one_dense_log_with_one_row_a_key() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let hubs = [TestHub::on(&db).start().await, TestHub::on(&db).start().await];
    let hubs = &hubs;
    let writer = async |writer: usize| {
        let mut answers = Vec::new();
        for round in 0..30 {
            // Three in ten posts use keys that all writers share, at about the same time.
            let (key, text) = match round % 10 {
                shared @ 0..3 => (format!("shared-{}-{shared}", round / 10), "shared".to_owned()),
                _ => (format!("own-{writer}-{round}"), format!("of {writer}")),
            };
            let note = note(&key).to_user("ann").message(&text).key(&key);
            let answer = hubs[(writer + round) % 2].try_post(&note).await.unwrap();
            assert!(answer.is_receipt(), "{} {}", answer.status, answer.body);
            answers.push((key, answer));
        }
        answers
    };
    let answers: Vec<(String, PostAnswer)> = futures_util::future::join_all((0..16).map(writer)).await.into_iter().flatten().collect();

    let rows: Vec<(i64, String, String)> = rows(&db).await;
    assert_eq!(rows.len(), 9 + 16 * 21);
    assert!(rows.iter().enumerate().all(|(at, (seq, ..))| *seq == at as i64 + 1), "dense from 1");
    let by_key: HashMap<&str, (i64, &str)> = rows.iter().map(|(seq, id, title)| (title.as_str(), (*seq, id.as_str()))).collect();
    assert_eq!(by_key.len(), rows.len(), "one row a key");
    let mut firsts: HashMap<&str, usize> = HashMap::new();
    for (key, answer) in &answers {
        let receipt = answer.receipt();
        assert_eq!((receipt.seq, receipt.id.as_str()), by_key[key.as_str()], "{key}");
        assert_eq!(answer.status == 201, !receipt.duplicate, "{key}");
        *firsts.entry(key).or_default() += usize::from(!receipt.duplicate);
    }
    assert!(firsts.values().all(|firsts| *firsts == 1), "each key was new to exactly one caller: {firsts:?}");
    let out_of_order =
        "SELECT count(*) FROM (SELECT created_at < lag(created_at) OVER (ORDER BY seq) AS back FROM recado.log) l WHERE back";
    assert_eq!(db.number(out_of_order).await, 0);
    assert_eq!(db.number("SELECT count(*) FROM recado.idempotency").await, rows.len() as i64);
}

async fn rows(db: &TestDb) -> Vec<(i64, String, String)> {
    let sql = "SELECT seq, id::text, title FROM recado.log ORDER BY seq";
    sqlx::query_as(sql).fetch_all(&mut db.connect().await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_before_a_post_began_has_the_lower_number() {
    let db = TestDb::new().await;
    let hubs = [TestHub::on(&db).start().await, TestHub::on(&db).start().await];
    let mut last = 0;
    for n in 0..20 {
        let seq = hubs[n % 2].post(&note("n").to_user("ann")).await.seq;
        assert_eq!(seq, last + 1);
        last = seq;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_means_one_body_of_one_service_for_ever() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let draft = note("one").to_user("ann");
    let first = here.post(&draft.clone().key("k")).await;
    let repeats = [
        draft.clone().key("k"),
        draft.clone().key("\"k\""),
        draft.clone().body_key("k"),
        draft.clone().body_key("k").key("k"),
        // The same body, with other white space between the fields.
        draft.clone().raw("title", "  \"one\" ").key("k"),
    ];
    for (at, repeat) in repeats.iter().enumerate() {
        let answer = [&here, &there][at % 2].try_post(repeat).await.unwrap();
        assert_eq!((answer.status, answer.receipt()), (200, PostReceipt { duplicate: true, ..first.clone() }), "{}", repeat.body());
    }
    let others = [
        note("two").to_user("ann"),
        note("one").to_user("bob"),
        draft.clone().data("1"),
        draft.clone().ttl(9),
        draft.clone().never_replayed(),
    ];
    for other in others {
        let answer = there.try_post(&other.clone().key("k")).await.unwrap();
        assert_eq!((answer.status, answer.code()), (422, "idempotency_conflict"), "{}", other.body());
    }
    let two_keys = here.try_post(&draft.clone().body_key("k").key("l")).await.unwrap();
    assert_eq!(two_keys.status, 422);
    for bad in ["", "\"\"", &"x".repeat(256)] {
        let answer = here.try_post(&draft.clone().key(bad)).await.unwrap();
        assert_eq!((answer.status, answer.code()), (400, "idempotency_key"), "{bad:?}");
    }
    assert_eq!(db.head().await, 1, "no refused post was appended");

    let other_service = service_token("warehouse", recado::domain::Role::Service);
    let theirs = here.post_as(&other_service, &note("theirs").to_user("ann").key("k")).await.unwrap();
    assert_eq!((theirs.status, theirs.receipt().seq), (201, 2), "a key of another service is another key");
    let again = there.post(&note("no key").to_user("ann")).await;
    let and_again = there.post(&note("no key").to_user("ann")).await;
    assert_eq!((again.seq, and_again.seq), (3, 4), "without a key every post is a new row");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_repeats_at_once_make_one_row() {
    let db = TestDb::new().await;
    let hubs = [TestHub::on(&db).start().await, TestHub::on(&db).start().await];
    let draft = note("one").to_user("ann").key("k");
    let answers = futures_util::future::join_all((0..32).map(|n| hubs[n % 2].try_post(&draft))).await;
    let answers: Vec<PostAnswer> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|a| a.status == 201).count(), 1);
    assert_eq!(answers.iter().map(|a| (a.receipt().seq, a.receipt().id)).collect::<HashSet<_>>().len(), 1);
    assert_eq!(db.head().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_even_the_superuser_changes_a_row() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("stays").to_users(&["ann", "bob"])).await;
    let mut root = db.connect().await;
    for table in ["log", "log_p000000000000", "log_member", "log_member_p000000000000"] {
        for change in ["UPDATE recado.@ SET seq = seq", "DELETE FROM recado.@", "TRUNCATE recado.@", "DELETE FROM recado.@ WHERE false"] {
            let sql = change.replace('@', table);
            let error = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut root).await.expect_err(&sql);
            assert_eq!(error.as_database_error().and_then(|e| e.code()).as_deref(), Some("RC004"), "{sql}: {error}");
        }
    }
    assert_eq!(db.head().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hubs_role_can_append_and_nothing_else() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("stays").to_users(&["ann", "bob"])).await;
    let roles = "SELECT count(DISTINCT pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'recado %'";
    assert!(db.number(roles).await >= 3, "the hub's connections use its role names");
    let mut role = db.connect().await;
    sqlx::raw_sql("SET ROLE recado_hub").execute(&mut role).await.unwrap();
    let forbidden = [
        "UPDATE recado.log SET title = 'x'",
        "DELETE FROM recado.log",
        "TRUNCATE recado.log",
        "DELETE FROM recado.log_p000000000000",
        "INSERT INTO recado.log SELECT * FROM recado.log",
        "INSERT INTO recado.log_member VALUES ('u/eve', 1)",
        "DELETE FROM recado.idempotency",
        "UPDATE recado.meta SET floor_seq = 1",
        "UPDATE recado.service_key SET role = 'admin'",
        "INSERT INTO recado.service_key (name, role, hash) VALUES ('x', 'admin', '\\x00')",
        "ALTER TABLE recado.log DISABLE TRIGGER ALL",
        "DROP TABLE recado.log_p000000000000",
        "DELETE FROM recado.cursor",
        "CREATE TABLE recado.mine (n int)",
    ];
    for sql in forbidden {
        let error = sqlx::raw_sql(sql).execute(&mut role).await.expect_err(sql);
        assert_eq!(error.as_database_error().and_then(|e| e.code()).as_deref(), Some("42501"), "{sql}: {error}");
    }
    assert_eq!(db.head().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_under_an_old_snapshot_is_refused() {
    let db = TestDb::new().await;
    let append = "SELECT recado.append(0, NULL, 'test', ARRAY[gen_random_uuid()], ARRAY['t'], ARRAY['t'], ARRAY['m'], ARRAY[NULL], ARRAY['*'],
                         ARRAY[NULL], ARRAY[NULL], ARRAY[NULL], ARRAY[NULL]::integer[], ARRAY[true], ARRAY['test'], ARRAY[NULL]::uuid[], ARRAY[0])";
    let mut connection = db.connect().await;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let begin = format!("BEGIN ISOLATION LEVEL {level}");
        sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut connection).await.unwrap();
        let error = sqlx::raw_sql(append).execute(&mut connection).await.expect_err(level);
        assert_eq!(error.as_database_error().and_then(|e| e.code()).as_deref(), Some("RC002"), "{error}");
        sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
    }
    sqlx::raw_sql(append).execute(&mut connection).await.unwrap();
    assert_eq!(db.head().await, 1);
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolled_back_append_leaves_no_hole_and_a_stalled_one_holds_nobody_up_for_long() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("1").to_user("ann")).await;
    let mut stalled = db.connect().await;
    // The state that a hub would leave when stopped in the middle of an append, if an append were several statements in
    // a transaction.
    sqlx::raw_sql("SET idle_in_transaction_session_timeout = '1s'; BEGIN").execute(&mut stalled).await.unwrap();
    sqlx::raw_sql("LOCK TABLE recado.append_lock IN SHARE UPDATE EXCLUSIVE MODE").execute(&mut stalled).await.unwrap();
    let answer = hub.try_post(&note("2").to_user("ann")).await.unwrap();
    assert_eq!((answer.status, answer.receipt().seq), (201, 2));
    assert!(answer.took < Duration::from_secs(4), "{:?}", answer.took);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_locked_log_is_answered_with_503_and_nothing_is_lost_or_doubled_afterwards() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    let mut locker = db.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE recado.log IN ACCESS EXCLUSIVE MODE").execute(&mut locker).await.unwrap();
    let drafts: Vec<Note> = (0..8).map(|n| note(&n.to_string()).to_user("ann").key(&n.to_string())).collect();
    let answers = futures_util::future::join_all(drafts.iter().map(|draft| hub.try_post(draft))).await;
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert!(answer.took < Duration::from_secs(6), "the contract gives five seconds: {:?}", answer.took);
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut locker).await.unwrap();
    let ids: HashSet<String> = futures_util::future::join_all(drafts.iter().map(|draft| hub.try_post(draft)))
        .await
        .into_iter()
        .map(|answer| answer.unwrap().receipt().id)
        .collect();
    assert_eq!((ids.len(), db.head().await), (8, 8));
    let got: HashSet<String> = ann.until_seq(8).await.into_iter().map(|n| n.id).collect();
    assert_eq!(got, ids);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_past_the_last_partition_makes_a_new_one() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    // As if the partitions ahead had never been created: the log has room for the numbers 1 to 4.
    db.with_partitions(
        "UPDATE recado.meta SET partition_rows = 20;
         SELECT recado.add_partition('log', 0, 5), recado.add_partition('log_member', 0, 5);
         INSERT INTO recado.partition (lo, hi) VALUES (0, 5);",
    )
    .await;
    let drafts: Vec<Note> = (0..20).map(|n| note(&n.to_string()).to_users(&["ann", "bob"])).collect();
    let answers = futures_util::future::join_all(drafts.iter().map(|draft| hub.post(draft))).await;
    let seqs: HashSet<i64> = answers.into_iter().map(|receipt| receipt.seq).collect();
    assert_eq!(seqs, (1..=20).collect());
}

/// Connecting clients use every reader connection; a new service still gets its sequence number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_connect_do_not_keep_a_service_waiting() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_READ_CONNECTIONS", "1").start().await;
    let mut slow = db.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE recado.cursor IN ACCESS EXCLUSIVE MODE").execute(&mut slow).await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..4 {
        waiting.push(TestClient::of("ann").device(&n.to_string()).open(&hub).await.unwrap());
    }
    let answer = hub.try_post(&note("n").to_user("ann")).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
}

/// Regression: each row of the batch was committed by itself, up to a thousand commits for one bad row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_row_in_a_full_batch_is_found_in_some_commits() {
    const POSTS: usize = 200;
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    // A database constraint that the hub does not know.
    db.run("ALTER TABLE recado.log ADD CONSTRAINT no_poison CHECK (title <> 'poison')").await;
    let mut lock = db.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE recado.log IN ACCESS EXCLUSIVE MODE").execute(&mut lock).await.unwrap();
    let notes: Vec<Note> = (0..POSTS).map(|n| note(if n == POSTS / 2 { "poison" } else { "good" }).to_user("ann")).collect();
    let posts = futures_util::future::join_all(notes.iter().map(|note| hub.try_post(note)));
    let release = async {
        eventually("all posts are on their way", PATIENCE, async || (connections_to(&hub.address) >= POSTS).then_some(())).await;
        sqlx::raw_sql("COMMIT").execute(&mut lock).await.unwrap();
    };
    let (answers, ()) = tokio::join!(posts, release);
    let refused = answers.iter().filter(|answer| answer.as_ref().unwrap().status != 201).count();
    assert_eq!((refused, db.head().await), (1, POSTS as i64 - 1), "the bad row fails alone");
    let (_, metrics) = hub.get("/metrics", None).await.unwrap();
    let commits = metrics.lines().find_map(|line| line.strip_prefix("recado_commit_rows_count ")).unwrap().parse::<f64>().unwrap();
    assert!(commits <= 60.0, "{commits} commits");
}

/// Established TCP connections to a port of this machine, counted by the system at that end.
fn connections_to(address: &str) -> usize {
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    let local = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|f| f.get(1).is_some_and(|at| at.ends_with(&local)) && f.get(3) == Some(&"01")).count()
}
