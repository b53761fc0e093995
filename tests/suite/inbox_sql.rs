//! Promise: a service changes an inbox in its own transaction, and the analysts' views show what the user sees.

use sqlx::postgres::PgDatabaseError;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::analysts::{attempt, code_of, names};
use super::support::*;

/// Each function with good arguments.
const CALLS: [&str; 5] = [
    "recado.mark_read('ann', '{1}')",
    "recado.mark_unread('ann', '{1}')",
    "recado.archive_items('ann', up_to => 1)",
    "recado.unarchive_items('ann', '{1}')",
    "recado.mark_seen('ann', 1)",
];

/// The functions as GRANT names them.
const FUNCTIONS: &str = "recado.mark_read(text, bigint[], bigint), recado.mark_unread(text, bigint[]), \
                         recado.archive_items(text, bigint[], bigint), recado.unarchive_items(text, bigint[]), recado.mark_seen(text, bigint)";

/// Waits until the relay has appended what was committed, and the log ends there.
async fn moved(db: &TestDb, head: i64) {
    eventually("it is moved", PATIENCE, async || (db.head().await == head).then_some(())).await;
}

/// The items of a user: number, then the letters of its states (read, archived, seen, muted).
async fn states(db: &TestDb, user: &str) -> Vec<String> {
    let sql = format!(
        "SELECT concat_ws(' ', seq, concat(CASE WHEN is_read THEN 'r' END, CASE WHEN is_archived THEN 'a' END, CASE WHEN is_seen THEN 's' END,
                CASE WHEN is_muted THEN 'm' END))
           FROM recado_views.inbox_states WHERE user_id = '{user}' ORDER BY seq"
    );
    names(&mut db.connect().await, &sql).await
}

async fn counts(db: &TestDb, user: &str) -> String {
    let sql = format!("SELECT concat_ws(' ', unread, unseen, as_of) FROM recado_views.inbox_counts WHERE user_id = '{user}'");
    names(&mut db.connect().await, &sql).await.remove(0)
}

/// The refusal of a call: SQLSTATE, argument, message and hint.
async fn refusal(sql: &mut PgConnection, call: &str) -> (String, String, String, String) {
    let error = sqlx::raw_sql(AssertSqlSafe(format!("SELECT {call}"))).execute(sql).await.expect_err(call);
    let error: &PgDatabaseError = error.as_database_error().unwrap_or_else(|| panic!("{call}: {error}")).downcast_ref();
    let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
    (error.code().to_owned(), text(error.column()), error.message().to_owned(), text(error.hint()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_takes_effect_with_its_transaction_and_in_its_order() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    db.run("SELECT recado.inbox_open('ann', '{}')").await;
    for title in ["one", "two", "three"] {
        hub.post(&note(title).to_user("ann")).await;
    }
    assert_eq!((states(&db, "ann").await, counts(&db, "ann").await), (vec!["1 ".into(), "2 ".into(), "3 ".into()], "3 3 3".into()));
    db.run("BEGIN; SELECT recado.mark_read('ann', up_to => 3), recado.archive_items('ann', '{1}'); ROLLBACK").await;
    db.run(
        "BEGIN;
         SELECT recado.notify('shipped', 'four', 'm', user_id => 'ann');
         SELECT recado.mark_read(user_id => 'ann', seqs => ARRAY[3, 1, 3]);
         SAVEPOINT s; SELECT recado.archive_items('ann', '{2}'); ROLLBACK TO s;
         COMMIT",
    )
    .await;
    moved(&db, 5).await;
    assert_eq!(
        (states(&db, "ann").await, counts(&db, "ann").await),
        (vec!["1 r".into(), "2 ".into(), "3 r".into(), "4 ".into()], "2 4 5".into())
    );
    let row =
        "SELECT concat_ws(' ', type, topic, user_id, data, title || message, replay, inbox, expires_at) FROM recado.log WHERE seq = 5";
    assert_eq!(names(&mut db.connect().await, row).await, [r#"inbox u/ann ann {"op":"read","seqs":[1,3]}  t f"#]);

    // A number above the head stands for all items so far, with those of the same transaction, and not for later ones.
    db.run(
        "BEGIN;
         SELECT recado.notify('shipped', 'six', 'm', user_id => 'ann');
         SELECT recado.mark_read('ann', up_to => 9223372036854775807);
         SELECT recado.notify('shipped', 'eight', 'm', user_id => 'ann');
         COMMIT",
    )
    .await;
    moved(&db, 8).await;
    let seen = |seq: i64| format!("{seq} rs");
    assert_eq!(states(&db, "ann").await, [seen(1), seen(2), seen(3), seen(4), seen(6), "8 ".into()]);
    assert_eq!(counts(&db, "ann").await, "1 1 8");

    // The other functions, and numbers that are no items: of another user, of a change, of no row.
    db.run(
        "SELECT recado.notify('n', 'nine', 'm', user_id => 'bob');
         SELECT recado.mark_unread('ann', '{2}'), recado.archive_items('ann', '{4,5,9,1000000}'), recado.mark_seen('ann', 8), recado.mark_read('ann', '{8}');
         SELECT recado.archive_items('ann', up_to => 3), recado.unarchive_items('ann', '{2}')",
    )
    .await;
    moved(&db, 15).await;
    assert_eq!(states(&db, "ann").await, ["1 ras", "2 s", "3 ras", "4 ras", "6 rs", "8 rs"]);
    assert_eq!((counts(&db, "ann").await.as_str(), db.number("SELECT count(*) FROM recado.inbox_item WHERE seq > 8").await), ("1 0 15", 0));
    let read = "SELECT string_agg(concat(s.seq, ' ', l.seq), ', ' ORDER BY s.seq) FROM recado_views.inbox_states s LEFT JOIN recado.log l ON l.created_at = s.read_at";
    // Two rows of one page of the relay may have the same time, so compare with the change that it may be.
    let read = names(&mut db.connect().await, &format!("{read} WHERE l.type = 'inbox' AND l.data ->> 'op' = 'read'")).await.remove(0);
    assert_eq!(read, "1 5, 3 5, 4 7, 6 7, 8 13", "when each was read first; 2 is unread");
    assert_eq!(db.number("SELECT count(*) FROM recado.outbox_refused").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_argument_is_named_and_nothing_is_written() {
    let db = TestDb::new().await;
    let mut sql = db.connect().await;
    for (call, argument, says, advice) in [
        ("recado.mark_read('-', '{1}')", "user_id", "must be 1 to 128 characters", "Nothing was written."),
        ("recado.mark_read(NULL, '{1}')", "user_id", "must be 1 to 128 characters", "Nothing was written."),
        ("recado.mark_seen('a b', 1)", "user_id", "must be 1 to 128 characters", "Nothing was written."),
        ("recado.mark_read('ann')", "seqs", "seqs or up_to is required", "up_to to change all items"),
        ("recado.archive_items('ann', '{1}', 1)", "seqs", "seqs and up_to must not both be given", "up_to to change all items"),
        ("recado.mark_unread('ann', NULL)", "seqs", "seqs is required", "Nothing was written."),
        ("recado.unarchive_items('ann', NULL)", "seqs", "seqs is required", "Nothing was written."),
        ("recado.mark_seen('ann', NULL)", "up_to", "up_to is required", "Nothing was written."),
        ("recado.mark_read('ann', '{}')", "seqs", "must hold 1 to 1000 numbers, and holds 0", "Nothing was written."),
        ("recado.mark_read('ann', '{{1},{2}}')", "seqs", "must be a list, and has 2 dimensions", "Nothing was written."),
        ("recado.mark_read('ann', '{1,NULL}')", "seqs", "must hold sequence numbers", "Nothing was written."),
        ("recado.mark_read('ann', '{0}')", "seqs", "must hold sequence numbers", "Nothing was written."),
        ("recado.mark_read('ann', up_to => -1)", "up_to", "must be a sequence number", "Nothing was written."),
        ("recado.mark_read('ann', ARRAY(SELECT generate_series(1, 1001)))", "seqs", "and holds 1001", "Give up_to, or call"),
        ("recado.mark_unread('ann', ARRAY(SELECT generate_series(1, 1001)))", "seqs", "and holds 1001", "Call the function several times"),
    ] {
        let (code, column, message, hint) = refusal(&mut sql, call).await;
        assert_eq!((code.as_str(), column.as_str()), ("RC010", argument), "{call}: {message}");
        let function = call.split('(').next().unwrap();
        assert!(
            message.starts_with(&format!("{function}: ")) && message.contains(says) && hint.contains(advice),
            "{call}: {message} {hint}"
        );
    }
    for kind in ["inbox", "preferences"] {
        assert_eq!(refusal(&mut sql, &format!("recado.notify('{kind}', 't', 'm', user_id => 'ann')")).await.0, "RC011", "{kind}");
    }
    assert_eq!(db.number("SELECT count(*) FROM recado.outbox").await, 0);
    attempt(&mut sql, "SELECT recado.mark_read('ann', ARRAY(SELECT generate_series(1, 1000))), recado.mark_read('ann', up_to => 0)")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_login_that_is_granted_it_changes_inboxes_and_its_scopes_count() {
    let db = TestDb::new().await;
    for role in ["recado_producer", "recado_hub", "recado_analyst"] {
        for call in CALLS.into_iter().chain(["recado.change_inbox('mark_read', 'read', 'ann', '{1}', NULL)"]) {
            let mut sql = db.connect().await;
            attempt(&mut sql, &format!("SET ROLE {role}")).await.unwrap();
            assert_eq!(code_of(&mut sql, &format!("SELECT {call}")).await, "42501", "{role}: {call}");
        }
        for table in ["inbox", "inbox_item", "inbox_since"] {
            let mut sql = db.connect().await;
            attempt(&mut sql, &format!("SET ROLE {role}")).await.unwrap();
            assert_eq!(code_of(&mut sql, &format!("DELETE FROM recado.{table}")).await, "42501", "{role} cannot write {table}");
        }
    }
    let login = format!("desk_{}", db.name);
    db.run(&format!(
        "CREATE ROLE {login} LOGIN PASSWORD 'secret'; GRANT recado_producer TO {login}; GRANT EXECUTE ON FUNCTION {FUNCTIONS} TO {login}"
    ))
    .await;
    let mut sql = PgConnection::connect(&db.url_of(&login, "secret")).await.unwrap();
    for call in CALLS {
        attempt(&mut sql, &format!("SELECT {call}")).await.unwrap();
    }
    assert_eq!(db.number(&format!("SELECT count(*) FROM recado.outbox WHERE source = '{login}'")).await, 5);
    // A change is judged as a notification of the type `inbox` to the user, in any account.
    let scopes = async |columns: &str, values: &str| {
        db.run(&format!(
            "DELETE FROM recado.producer_scope; INSERT INTO recado.producer_scope (login, broadcast, members, {columns}) VALUES ('{login}', false, false, {values})"
        ))
        .await;
    };
    for (columns, values, scope) in
        [("types", "'{order_*}'", "type:inbox"), ("accounts", "'{7}'", "account:* (it names no account)"), ("users", "'{bob}'", "user:ann")]
    {
        scopes(columns, values).await;
        for call in CALLS {
            let (code, _, message, hint) = refusal(&mut sql, call).await;
            let says = format!("{}: this call needs the scope {scope}, which the login lacks", call.split('(').next().unwrap());
            assert!(code == "RC016" && message == says && hint.contains("recado producer limit"), "{call}: {code} {message}");
        }
    }
    scopes("types, users", "'{inbox}', '{ann}'").await;
    attempt(&mut sql, "SELECT recado.mark_read('ann', '{1}')").await.unwrap();
    scopes("expires_at", "now()").await;
    assert_eq!(refusal(&mut sql, CALLS[0]).await.0, "RC017");
    db.run(&format!("DELETE FROM recado.producer_scope; SELECT recado.revoke_producer('{login}')")).await;
    for call in CALLS {
        assert_eq!(code_of(&mut sql, &format!("SELECT {call}")).await, "42501", "{call} after the right was taken");
    }
    drop(sql);
    db.run(&format!("DROP OWNED BY {login}; DROP ROLE {login}")).await;
}

/// Posts and changes at random: to users, accounts, users in accounts, lists and everyone, with rows that are no items,
/// through the outbox and as a hub makes changes, with members that come and go.
const STORY: &str = "
    CREATE FUNCTION pg_temp.any_of(items text[]) RETURNS text LANGUAGE sql AS $$ SELECT items[1 + floor(random() * cardinality(items))::integer] $$;
    CREATE FUNCTION pg_temp.tell(steps integer) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        who  text;
        head bigint;
        places bigint[];
    BEGIN
        FOR step IN 1..steps LOOP
            who := pg_temp.any_of('{ann,bob,cy}');
            head := coalesce((SELECT max(seq) FROM recado.log), 0);
            places := ARRAY(SELECT 1 + floor(random() * (head + 3))::bigint FROM generate_series(1, 1 + floor(random() * 4)::integer));
            CASE floor(random() * 16)
                WHEN 0 THEN PERFORM recado.notify('news', '', '', broadcast => true);
                WHEN 1 THEN PERFORM recado.notify('shop', '', '', account_id => pg_temp.any_of('{7,8}'));
                WHEN 2 THEN PERFORM recado.notify('shop_late', '', '', user_id => who, account_id => pg_temp.any_of('{7,8,9}'));
                WHEN 3 THEN PERFORM recado.notify('shop', '', '', user_ids => ARRAY[who, 'bob', 'else'], account_id => pg_temp.any_of(ARRAY[NULL, '7', '9']));
                WHEN 4 THEN PERFORM recado.notify('no_item', '', '', user_id => who, ttl => 3600);
                WHEN 5 THEN PERFORM recado.notify(false, 'no_item', '', '', user_id => who);
                WHEN 6 THEN PERFORM recado.mark_read(who, places);
                WHEN 7 THEN PERFORM recado.mark_unread(who, places);
                WHEN 8 THEN PERFORM recado.archive_items(who, places);
                WHEN 9 THEN PERFORM recado.unarchive_items(who, places);
                WHEN 10 THEN PERFORM recado.mark_read(who, up_to => greatest(head - 20, 0));
                WHEN 11 THEN PERFORM recado.archive_items(who, up_to => greatest(head - 30, 0));
                WHEN 12 THEN PERFORM recado.mark_seen(who, up_to => greatest(head - 5, 0));
                WHEN 13 THEN
                    IF random() < 0.5 THEN PERFORM recado.add_member(who, '9'); ELSE PERFORM recado.remove_member(who, '9'); END IF;
                WHEN 14 THEN
                    PERFORM recado.change_inboxes(0, NULL, 'test', jsonb_build_array(jsonb_build_object(
                        'user', who, 'op', 'mute', 'muted', CASE WHEN random() < 0.5 THEN '[\"shop_*\"]'::jsonb ELSE '[\"news\"]'::jsonb END)));
                ELSE PERFORM recado.notify('order', '', '', user_id => who);
            END CASE;
        END LOOP;
    END $$;
    SELECT setseed(0.25);
    SELECT recado.inbox_open('ann', '{7}'), recado.inbox_open('bob', '{}');";

/// The views against the functions that the hub asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_views_show_what_the_users_see() {
    let db = TestDb::new().await;
    let mut sql = db.connect().await;
    attempt(&mut sql, STORY).await.unwrap();
    let relay = "DO $$ DECLARE m record; BEGIN LOOP SELECT * INTO m FROM recado.outbox_move(0, NULL, 'test', 1000); EXIT WHEN m.moved = 0; END LOOP; END $$";
    for round in 0..25 {
        attempt(&mut sql, "SELECT pg_temp.tell(20)").await.unwrap();
        attempt(&mut sql, relay).await.unwrap();
        if round == 5 {
            // The third user comes late, with an account whose items are then new or not.
            attempt(&mut sql, "SELECT recado.inbox_open('cy', '{8}'), recado.inbox_open('ann', '{8}')").await.unwrap();
        }
        for user in ["ann", "bob", "cy"] {
            let seen = format!(
                "SELECT concat_ws(' ', seq, is_read, is_archived, is_muted)
                   FROM unnest('{{all,archived}}'::text[]) f, recado.inbox_page('{user}', recado.inbox_accounts('{user}'), true, f, 1000000, 1000) ORDER BY seq"
            );
            let shown = format!(
                "SELECT concat_ws(' ', seq, is_read, is_archived, is_muted) FROM recado_views.inbox_states WHERE user_id = '{user}' ORDER BY seq"
            );
            assert_eq!(names(&mut sql, &shown).await, names(&mut sql, &seen).await, "{user} after round {round}");
            let counted = format!(
                "SELECT concat_ws(' ', c.unread, c.unseen, s.unread, s.unseen)
                   FROM recado_views.inbox_counts c
                  CROSS JOIN (SELECT count(*) FILTER (WHERE NOT is_read AND NOT is_archived AND NOT is_muted) AS unread,
                                     count(*) FILTER (WHERE NOT is_seen AND NOT is_archived AND NOT is_muted) AS unseen
                                FROM recado_views.inbox_states WHERE user_id = '{user}') s
                  WHERE c.user_id = '{user}' AND (c.unread, c.unseen) <> (s.unread, s.unseen)"
            );
            assert_eq!(names(&mut sql, &counted).await, Vec::<String>::new(), "{user} after round {round}");
        }
    }
    for (what, sql) in [
        ("items", "SELECT count(*) FROM recado_views.inbox_states"),
        ("muted items", "SELECT count(*) FROM recado_views.inbox_states WHERE is_muted"),
        ("read items with a time", "SELECT count(*) FROM recado_views.inbox_states WHERE is_read AND read_at > created_at"),
        ("members", "SELECT count(*) FROM recado.member"),
    ] {
        assert!(db.number(sql).await > 0, "the story has {what}");
    }
    assert_eq!(db.number("SELECT count(*) FROM recado_views.inbox_states WHERE NOT is_read AND read_at IS NOT NULL").await, 0);
    // Changes are rows of the log, and no notifications.
    let changes = "SELECT count(*) FROM recado_views.notifications WHERE type IN ('inbox', 'preferences')";
    assert!(db.number(changes).await > 100);
    for view in ["recipients", "inbox", "daily_counts", "deliveries"] {
        let sql = format!("SELECT count(*) FROM recado_views.{view} WHERE type IN ('inbox', 'preferences')");
        assert_eq!(db.number(&sql).await, 0, "{view}");
    }
}

/// A connection without `inbox` is sent no change, so none can wait for its device.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_device_owes_an_acknowledgement_for_a_change() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let ann = TestClient::of("ann").device("phone").query("ack", "client").connect(&hub).await;
    ann.close().await;
    hub.post(&note("one").to_user("ann")).await;
    db.run("SELECT recado.mark_read('ann', '{1}')").await;
    moved(&db, 2).await;
    assert_eq!(db.number("SELECT unacked FROM recado_views.unacked WHERE user_id = 'ann'").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_user_has_no_inbox_and_no_change_that_waits() {
    let db = TestDb::new().await;
    db.run("SELECT recado.inbox_open('MARKED', '{7}'), recado.inbox_open('ann', '{7}')").await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("one").to_user("MARKED")).await;
    hub.post(&note("two").account("7")).await;
    db.run("SELECT recado.mark_read('MARKED', '{1}'), recado.mark_read('ann', '{2}')").await;
    moved(&db, 4).await;
    hub.kill().await;
    db.run("SELECT recado.mark_read('MARKED', '{2}')").await;
    let target = recado::store::erase::EraseTarget::User(recado::domain::UserId::parse("MARKED").unwrap());
    recado::store::erase::erase(&mut db.connect().await, &target, "asked for").await.unwrap();
    for table in ["log", "outbox", "inbox", "inbox_item", "inbox_since"] {
        let sql = format!("SELECT count(*) FROM recado.{table} t WHERE strpos(t::text, 'MARKED') > 0");
        assert_eq!(db.number(&sql).await, 0, "{table}");
    }
    assert_eq!(db.number("SELECT count(*) FROM recado_views.inbox_states WHERE user_id <> 'ann'").await, 0);
    assert_eq!((states(&db, "ann").await, counts(&db, "ann").await.starts_with("0 1 ")), (vec!["2 r".to_owned()], true));
}

/// The planner thinks then that each topic has many rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_one_topic_is_not_read_for_each_account() {
    let db = TestDb::new().await;
    db.run(
        "SET session_replication_role = replica;
         INSERT INTO recado.log (seq, id, created_at, type, title, message, topic, replay, source, bytes)
         SELECT g, gen_random_uuid(), now(), 'stock_alert', 't', 'm', '*', true, 's', 2 FROM generate_series(1, 50000) g;
         INSERT INTO recado.inbox_since SELECT 'ann', t, 0 FROM unnest('{a/1,a/2,a/3,a/4,a/5}'::text[]) t;
         INSERT INTO recado.inbox_since VALUES ('ann', '*', 50000)",
    )
    .await;
    db.run("VACUUM ANALYZE recado.log").await;
    for call in [
        "recado.inbox_counts('ann', '{1,2,3,4,5}', true)",
        "recado.inbox_page('ann', '{1,2,3,4,5}', true, 'all', 9223372036854775807, 51)",
        "recado.fold_inbox('ann')",
    ] {
        let mut sql = db.connect().await;
        let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM {call}");
        let plan: serde_json::Value = sqlx::query_scalar(AssertSqlSafe(explain)).fetch_one(&mut sql).await.unwrap();
        let pages = ["Shared Hit Blocks", "Shared Read Blocks"].iter().filter_map(|name| plan[0]["Plan"][*name].as_i64()).sum::<i64>();
        assert!(pages < 2000, "{call}: {pages} pages");
    }
}

/// A pattern of LIKE has other signs than a pattern of types.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_muted_type_is_the_same_for_counts_and_for_each_row() {
    let db = TestDb::new().await;
    let differs = r"SELECT count(*) FROM unnest('{a_b,axb,a_,a,ab_c,a.b,a-b,a%,x\y}'::text[]) t,
                           unnest('{a_b,a_*,a*,*,a%,a.*,x\y,x\*,ab_}'::text[]) m
                     WHERE recado.is_muted(t, ARRAY[m]) <> (t LIKE ANY (recado.muted_like(ARRAY[m])))";
    assert_eq!(db.number(differs).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_views_of_one_user_read_no_whole_table() {
    let db = TestDb::new().await;
    db.with_partitions("UPDATE recado.meta SET partition_rows = 5000; SELECT recado.ensure_partitions();").await;
    for (first, last) in [(1, 9000), (9001, 19_000)] {
        db.run(&format!(
            "INSERT INTO recado.log (seq, id, created_at, type, title, message, topic, user_id, account_id, user_ids, replay, source, bytes)
             SELECT n, gen_random_uuid(), '2026-03-01'::timestamptz + n * interval '1 minute', 'order', 't', 'm',
                    CASE n % 50 WHEN 0 THEN '*' WHEN 1 THEN 'a/7' WHEN 2 THEN 'l' ELSE 'u/' || n % 200 END,
                    CASE WHEN n % 50 > 2 THEN n % 200 END, CASE n % 50 WHEN 1 THEN '7' END, CASE n % 50 WHEN 2 THEN ARRAY(SELECT u::text FROM generate_series(20, 59) u) END, true, 's', 10
               FROM generate_series({first}, {last}) n;
             INSERT INTO recado.log_member (topic, seq)
             SELECT 'u/' || u, l.seq FROM recado.log l, generate_series(20, 59) u WHERE l.topic = 'l' AND l.seq >= {first};
             SELECT recado.ensure_partitions();"
        ))
        .await;
    }
    db.run(
        "SELECT recado.inbox_open(n::text, '{7}') FROM generate_series(0, 199) n;
         UPDATE recado.inbox_since SET seq = 0;
         SELECT recado.mark_read(n::text, ARRAY(SELECT generate_series(11000, 15000, 50))), recado.mark_read(n::text, up_to => 10000) FROM generate_series(0, 199) n",
    )
    .await;
    db.run("SELECT recado.outbox_move(0, NULL, 'test', 10000)").await;
    // Vacuuming records that the partitions ahead are empty.
    db.run("VACUUM ANALYZE").await;
    let mut sql = db.connect().await;
    let plan = async |sql: &mut PgConnection, question: &str| names(sql, &format!("EXPLAIN (COSTS OFF) {question}")).await.join("\n");
    let of_user = plan(&mut sql, "SELECT * FROM recado_views.inbox_states WHERE user_id = '42'").await;
    // Either index of the marks finds one by its user and number.
    for index in ["log_p000000005000_topic_seq_inbox_idx", "log_member_p000000005000_pkey", "using inbox_item_"] {
        assert!(of_user.contains(index), "{index}\n{of_user}");
    }
    for whole in
        ["Seq Scan on log_p000000005000", "Seq Scan on log_member_p000000005000", "Seq Scan on inbox_since", "Seq Scan on inbox_item"]
    {
        assert!(!of_user.contains(whole), "{whole}\n{of_user}");
    }
    let above = plan(&mut sql, "SELECT seq, is_read FROM recado_views.inbox_states WHERE user_id = '42' AND seq > 12000").await;
    assert!(!above.contains("log_p000000005000_topic_seq_inbox_idx"), "a condition on seq leaves partitions out\n{above}");
    // Who does not ask for the time of the reading does not pay for it.
    let states = plan(&mut sql, "SELECT seq, is_read FROM recado_views.inbox_states WHERE user_id = '42'").await;
    assert!(of_user.contains("jsonb_of") && !states.contains("jsonb_of"), "{states}");
    let counted = plan(&mut sql, "SELECT * FROM recado_views.inbox_counts WHERE user_id = '42'").await;
    assert!(counted.contains("(user_id = '42'::text)") && !counted.contains("Seq Scan on inbox_since"), "{counted}");
}
