//! Tests that a tenant sees its accounts, and learns nothing of others.

use std::collections::BTreeMap;

use recado::domain::AccountId;
use recado::store::analysts::{self, AnalystError};
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use super::analysts::{attempt, code_of, names, recado};
use super::support::*;

/// How a view of `recado_views` is shown to a tenant.
enum Rule {
    /// No twin in `recado_tenant`.
    Hidden,
    /// The rows `v` of `recado_views` with this condition, unchanged. `{a}` stands for the accounts.
    Where(&'static str),
    /// What this query returns as owner is what `recado_tenant` shows.
    Is(&'static str),
    /// These keys, for accounts 7, 8-secret, and both.
    Keys(&'static str, [&'static [&'static str]; 3]),
}

/// The rule of every view. A new view fails the test until it stands here.
fn rules() -> BTreeMap<&'static str, Rule> {
    const ROW: &str = "v.account_id = ANY ({a}) OR v.audience = 'everyone'";
    let mut rules = BTreeMap::from([
        ("log", Rule::Where("true")),
        ("notifications", Rule::Where(ROW)),
        ("recipients", Rule::Where("v.account_id = ANY ({a}) OR v.recipient = 'everyone'")),
        (
            "inbox",
            Rule::Where("v.address = '*' OR v.address LIKE 'a/%' AND substr(v.address, 3) = ANY ({a}) OR split_part(v.address, '/', 3) = ANY ({a})"),
        ),
        ("members", Rule::Where("v.account_id = ANY ({a})")),
        ("audit", Rule::Hidden),
        ("upstream_sessions", Rule::Hidden),
        // An inbox belongs to a user in all accounts.
        ("inbox_states", Rule::Hidden),
        ("inbox_counts", Rule::Hidden),
        (
            "daily_counts",
            Rule::Is(
                "SELECT (created_at AT TIME ZONE 'UTC')::date AS day, type, audience, count(*) AS notifications, sum(bytes)::bigint AS bytes,
                        min(seq) AS first_seq, max(seq) AS last_seq
                   FROM recado_views.notifications v WHERE v.account_id = ANY ({a}) OR v.audience = 'everyone' GROUP BY 1, 2, 3",
            ),
        ),
        // A session shows the tenant's own accounts alone. `dan` was a member of account 7 for a while.
        (
            "sessions",
            Rule::Keys(
                "concat_ws(' ', user_id, client_id, account_ids)",
                [
                    &["ann web {7}", "cat web {}", "dan old {}", "two web {7}"],
                    &["bob-secret web {8-secret}", "dan new {8-secret}", "two web {8-secret}"],
                    &["ann web {7}", "bob-secret web {8-secret}", "cat web {}", "dan new {8-secret}", "dan old {}", "two web {7,8-secret}"],
                ],
            ),
        ),
        // A device counts by its last connection. `dan old` is not a member's device any more.
        (
            "devices",
            Rule::Keys(
                "concat_ws(' ', user_id, client_id)",
                [
                    &["ann web", "cat web", "two web"],
                    &["bob-secret web", "dan new", "two web"],
                    &["ann web", "bob-secret web", "cat web", "dan new", "two web"],
                ],
            ),
        ),
        (
            "unacked",
            Rule::Keys(
                "concat_ws(' ', user_id, client_id, unacked, oldest_seq)",
                [
                    &["ann web 26 1", "cat web 23 1", "two web 26 1"],
                    &["bob-secret web 26 1", "dan new 24 1", "two web 26 1"],
                    &["ann web 26 1", "bob-secret web 26 1", "cat web 23 1", "dan new 24 1", "two web 40 1"],
                ],
            ),
        ),
        // The sessions were sent the numbers up to 16.
        (
            "deliveries",
            Rule::Keys(
                "concat_ws(' ', seq, user_id, client_id)",
                [
                    &["1 ann web", "1 two web", "15 ann web", "15 cat web", "15 two web", "2 ann web", "2 two web", "4 ann web", "6 two web", "9 ann web", "9 two web"],
                    &["1 bob-secret web", "1 dan new", "1 two web", "10 bob-secret web", "10 two web", "3 bob-secret web", "3 dan new", "3 two web", "5 bob-secret web", "7 two web"],
                    &[
                        "1 ann web", "1 bob-secret web", "1 dan new", "1 two web", "10 bob-secret web", "10 two web", "15 ann web", "15 cat web",
                        "15 two web", "2 ann web", "2 two web", "3 bob-secret web", "3 dan new", "3 two web", "4 ann web", "5 bob-secret web",
                        "6 two web", "7 two web", "9 ann web", "9 two web",
                    ],
                ],
            ),
        ),
        (
            "time_to_ack",
            Rule::Keys("concat_ws(' ', type, devices)", [
                &["order_created 1", "order_updated 1", "payment_confirmed 2", "product_added 2", "stock_alert 2", "stock_alert 3"],
                &["order_created 1", "order_updated 1", "payment_confirmed 2", "product_added 3", "stock_alert 3"],
                &["order_created 2", "order_updated 2", "payment_confirmed 4", "product_added 4", "stock_alert 3", "stock_alert 5"],
            ]),
        ),
        // A command counts by the connection that it came on.
        (
            "upstream_commands",
            Rule::Keys("concat_ws(' ', user_id, client_id)", [
                &["ann web", "cat web", "dan old", "two web"],
                &["bob-secret web", "dan new", "two web"],
                &["ann web", "bob-secret web", "cat web", "dan new", "dan old", "two web"],
            ]),
        ),
    ]);
    rules.extend(TYPES.map(|kind| (kind, Rule::Where(ROW))));
    rules
}

const TYPES: [&str; 11] = [
    "connection_established",
    "order_created",
    "payment_confirmed",
    "order_updated",
    "stock_alert",
    "cart_updated",
    "product_added",
    "product_updated",
    "product_deleted",
    "transaction_created",
    "profile_updated",
];

/// Two accounts. Every value of account `8-secret` holds the word, so that a leak is found by it.
async fn told() -> TestDb {
    let db = TestDb::new().await;
    let types = TYPES.map(|kind| format!("'{kind}'")).join(", ");
    db.run(&format!(
        "INSERT INTO recado.log (seq, id, created_at, type, title, message, data, topic, user_id, account_id, user_ids, replay, source, bytes)
         SELECT seq, gen_random_uuid(), '2026-03-01 09:00+00'::timestamptz + seq * interval '1 hour', type,
                CASE WHEN account_id = '8-secret' OR topic = 'u/-' OR account_id IS NULL AND topic <> '*' THEN 'secret' ELSE 'open' END || ' title ' || seq,
                CASE WHEN account_id = '8-secret' OR account_id IS NULL AND topic <> '*' THEN 'secret' ELSE 'open' END || ' message',
                CASE WHEN type = 'recado_member' THEN data::json
                     ELSE json_build_object('order_id', CASE WHEN account_id = '8-secret' THEN 'secret' ELSE 'open' END, 'total', seq) END,
                topic, user_id, account_id, user_ids::text[], replay, 'shop', 10
           FROM (VALUES
                ( 1, 'product_added',     '*',               NULL,         NULL,       NULL,               true,  NULL),
                ( 2, 'stock_alert',       'a/7',             NULL,         '7',        NULL,               true,  NULL),
                ( 3, 'stock_alert',       'a/8-secret',      NULL,         '8-secret', NULL,               true,  NULL),
                ( 4, 'order_created',     'u/ann/7',         'ann',        '7',        NULL,               true,  NULL),
                ( 5, 'order_created',     'u/bob-secret/8-secret', 'bob-secret', '8-secret', NULL,         true,  NULL),
                ( 6, 'order_updated',     'u/two/7',         'two',        '7',        NULL,               true,  NULL),
                ( 7, 'order_updated',     'u/two/8-secret',  'two',        '8-secret', NULL,               true,  NULL),
                ( 8, 'cart_updated',      'u/ann',           'ann',        NULL,       NULL,               true,  NULL),
                ( 9, 'payment_confirmed', 'l',               NULL,         '7',        '{{ann,two}}',        true,  NULL),
                (10, 'payment_confirmed', 'l',               NULL,         '8-secret', '{{bob-secret,two}}', true,  NULL),
                (11, 'payment_confirmed', 'l',               NULL,         NULL,       '{{ann,bob-secret}}', true,  NULL),
                (12, 'recado_member',     'u/-',             '-',          NULL,       NULL,               false, '{{\"op\":\"add\",\"user_id\":\"cat\",\"account_id\":\"7\"}}'),
                (13, 'recado_member',     'u/-',             '-',          NULL,       NULL,               false, '{{\"op\":\"add\",\"user_id\":\"dan\",\"account_id\":\"7\"}}'),
                (14, 'recado_member',     'u/-',             '-',          NULL,       NULL,               false, '{{\"op\":\"remove\",\"user_id\":\"dan\",\"account_id\":\"7\"}}'),
                (15, 'stock_alert',       'a/7',             NULL,         '7',        NULL,               false, NULL),
                (16, 'recado_member',     'u/-',             '-',          NULL,       NULL,               false, '{{\"op\":\"add\",\"user_id\":\"eve-secret\",\"account_id\":\"8-secret\"}}'))
                AS r (seq, type, topic, user_id, account_id, user_ids, replay, data);
         INSERT INTO recado.log (seq, id, created_at, type, title, message, data, topic, account_id, replay, source, bytes)
         SELECT 16 + 3 * (k - 1) + n, gen_random_uuid(), '2026-03-03'::timestamptz + (3 * k + n) * interval '1 minute', (ARRAY[{types}])[k],
                a || ' title', 'message', json_build_object('order_id', a, 'total', k), CASE WHEN a = '' THEN '*' ELSE 'a/' || a END, nullif(a, ''), true, 'shop', 10
           FROM generate_series(1, 11) k, unnest(ARRAY['7', '8-secret', '']) WITH ORDINALITY u (a, n);
         INSERT INTO recado.log_member (topic, seq) SELECT concat_ws('/', 'u', m, account_id), seq FROM recado.log, unnest(user_ids) m;
         INSERT INTO recado.session (session_id, instance_id, user_id, account_ids, client_id, transport, log_id, from_seq, sent_seq, acked_seq,
                                     connected_at, last_activity_at, ended_at, end_reason, follows_members)
         SELECT gen_random_uuid(), gen_random_uuid(), user_id, account_ids::text[], client_id, 'websocket', m.log_id, from_seq, 16, 0,
                '2026-03-01 08:00+00', '2026-03-02 08:00+00', '2026-03-02 08:00+00', 'lost', follows
           FROM recado.meta m, (VALUES
                ('ann',        'web', '{{7}}',          0,  false),
                ('bob-secret', 'web', '{{8-secret}}',   0,  false),
                ('two',        'web', '{{7,8-secret}}', 0,  false),
                ('cat',        'web', '{{}}',           12, true),
                ('dan',        'old', '{{}}',           12, true),
                ('dan',        'new', '{{8-secret}}',   0,  false),
                ('eve-secret', 'web', '{{9}}',          0,  false)) AS s (user_id, client_id, account_ids, from_seq, follows);
         INSERT INTO recado.progress (session_id, user_id, client_id, log_id, sent_seq, sent_at, acked_seq, acked_at)
         SELECT session_id, user_id, client_id, log_id, 16, '2026-03-02 02:00+00', 16, '2026-03-02 02:00:01+00' FROM recado.session;
         INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq) SELECT user_id, client_id, log_id, 0 FROM recado.session;
         INSERT INTO recado.upstream_session (provider, user_id, state, wanted_until) SELECT DISTINCT 'games', user_id, 'idle', now() FROM recado.session;
         INSERT INTO recado.upstream_command (command_id, provider, user_id, client_id, session_id, id, type, payload, state, accepted_at, reject_at, settled_at)
         SELECT gen_random_uuid(), 'games', user_id, client_id, session_id, client_id || user_id, CASE WHEN user_id LIKE '%secret' THEN 'secret' ELSE 'bet' END,
                '{{}}', 'rejected', '2026-03-01 09:00+00', now(), now() FROM recado.session;
         ANALYZE"
    ))
    .await;
    db
}

fn accounts(of: &[&str]) -> Vec<AccountId> {
    of.iter().map(|id| AccountId::parse(id).unwrap()).collect()
}

/// Creates the login of a tenant, and connects. The login goes with the cluster, or with [`dropped`].
async fn tenant(db: &TestDb, name: &str, of: &[&str]) -> PgConnection {
    let name = format!("{name}-{}", db.name);
    analysts::create_limited(&mut db.connect().await, &name, "secret", &accounts(of)).await.unwrap();
    PgConnection::connect(&db.url_of(&name, "secret")).await.unwrap()
}

async fn dropped(db: &TestDb, logins: &[&str]) {
    for name in logins {
        assert!(analysts::drop(&mut db.connect().await, &format!("{name}-{}", db.name)).await.unwrap());
    }
}

async fn rows_of(connection: &mut PgConnection, sql: &str) -> Vec<String> {
    let mut rows = names(connection, sql).await;
    rows.sort_unstable();
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_shows_a_tenant_what_belongs_to_its_accounts() {
    let db = told().await;
    let mut owner = db.connect().await;
    attempt(&mut owner, "SET TimeZone = 'UTC'").await.unwrap();
    let rules = rules();
    let views = |schema: &str| {
        format!(
            "SELECT relname::text FROM pg_class WHERE relnamespace = '{schema}'::regnamespace AND relkind IN ('v', 'm', 'r') ORDER BY 1"
        )
    };
    for view in names(&mut owner, &views("recado_views")).await {
        assert!(
            rules.contains_key(view.as_str()),
            "recado_views.{view} has no rule for tenants: add a twin to recado_tenant in a migration (call recado.equip_tenants() there) and its \
             rule to this test and to docs/reference/sql-views.md, or add it as Rule::Hidden"
        );
    }
    let shown: Vec<&str> = rules.iter().filter(|(_, rule)| !matches!(rule, Rule::Hidden)).map(|(view, _)| *view).collect();
    assert_eq!(names(&mut owner, &views("recado_tenant")).await, shown);
    let differs = "SELECT concat_ws('.', t.relname, a.attname)
                     FROM pg_class t JOIN pg_class o ON o.relname = t.relname AND o.relnamespace = 'recado_views'::regnamespace
                     JOIN pg_attribute a ON a.attrelid IN (t.oid, o.oid) AND a.attnum > 0
                    WHERE t.relnamespace = 'recado_tenant'::regnamespace
                    GROUP BY t.relname, a.attname, a.attnum, a.atttypid HAVING count(*) <> 2";
    assert_eq!(names(&mut owner, differs).await, Vec::<String>::new(), "the twins have the same columns");

    let everyone: [&[&str]; 4] = [&["7"], &["8-secret"], &["7", "8-secret"], &[]];
    for (at, of) in everyone.into_iter().enumerate() {
        let mut tenant = tenant(&db, &format!("t{at}"), of).await;
        let list = format!("'{{{}}}'::text[]", of.join(","));
        for (view, rule) in &rules {
            let asked = format!("SELECT v::text FROM recado_tenant.{view} v");
            let (found, expected) = match rule {
                Rule::Hidden => {
                    for schema in ["recado_tenant", "recado_views"] {
                        let code = code_of(&mut tenant, &format!("SELECT * FROM {schema}.{view}")).await;
                        assert!(["42501", "42P01"].contains(&code.as_str()), "{schema}.{view}: {code}");
                    }
                    continue;
                }
                Rule::Where(condition) => {
                    let oracle = format!("SELECT v::text FROM recado_views.{view} v WHERE {condition}").replace("{a}", &list);
                    (rows_of(&mut tenant, &asked).await, rows_of(&mut owner, &oracle).await)
                }
                Rule::Is(sql) => {
                    let oracle = format!("SELECT v::text FROM ({sql}) v").replace("{a}", &list);
                    (rows_of(&mut tenant, &asked).await, rows_of(&mut owner, &oracle).await)
                }
                Rule::Keys(key, expected) => {
                    let expected: Vec<String> = expected.get(at).copied().unwrap_or_default().iter().map(|&key| key.to_owned()).collect();
                    (rows_of(&mut tenant, &format!("SELECT {key} FROM recado_tenant.{view}")).await, expected)
                }
            };
            if of.is_empty() {
                assert_eq!(found, Vec::<String>::new(), "{view}: a tenant without an account sees nothing");
                continue;
            }
            assert_eq!(found, expected, "{view} of {of:?}");
            assert!(!found.is_empty(), "{view} of {of:?}: nothing is compared");
            let secret = of.contains(&"8-secret") || found.iter().all(|row| !row.contains("secret"));
            assert!(secret, "{view}: {found:?}");
        }
    }
    dropped(&db, &["t0", "t1", "t2", "t3"]).await;
    assert_eq!(db.number("SELECT count(*) FROM recado.analyst_account").await, 0, "the lists go with the logins");
}

/// A list without an account has the topic `l`. An account may have that name.
#[tokio::test]
async fn an_account_with_the_name_of_an_address_sees_no_rows_of_that_address() {
    let db = told().await;
    let mut tenant = tenant(&db, "odd", &["l", "u", "-", "ann"]).await;
    let found = names(
        &mut tenant,
        "SELECT DISTINCT address FROM recado_tenant.notifications UNION SELECT DISTINCT address FROM recado_tenant.inbox",
    )
    .await;
    assert_eq!(found, ["*"]);
    assert_eq!(names(&mut tenant, "SELECT DISTINCT address FROM recado_tenant.inbox_of('{*,l,u/ann,u/-,a/7,u/ann/7}')").await, ["*"]);
    dropped(&db, &["odd"]).await;
}

#[tokio::test]
async fn the_fast_inbox_has_the_rows_of_the_view() {
    let db = told().await;
    let mut tenant = tenant(&db, "t7", &["7"]).await;
    let all = names(&mut tenant, "SELECT concat_ws(' ', address, seq, id, title) FROM recado_tenant.inbox ORDER BY address, seq").await;
    let asked = "'{*,a/7,u/ann/7,u/two/7,u/ann,a/8-secret,u/two/8-secret,u/bob-secret/8-secret,u//7,u/x/7/8-secret}'";
    let fast = format!("SELECT concat_ws(' ', address, seq, id, title) FROM recado_tenant.inbox_of({asked}) ORDER BY address, seq");
    assert_eq!(names(&mut tenant, &fast).await, all);
    let since = format!("SELECT seq::text FROM recado_tenant.inbox_of({asked}, '2026-03-01 13:00+00', '2026-03-01 19:00+00') ORDER BY seq");
    assert_eq!(names(&mut tenant, &since).await, ["4", "6", "9", "9"]);
    dropped(&db, &["t7"]).await;
}

/// Rights are compared as a whole: what a tenant may read, and what it may call.
#[tokio::test]
async fn a_tenant_has_rights_to_its_views_and_four_functions_alone() {
    let db = told().await;
    let mut tenant = tenant(&db, "t7", &["7"]).await;
    let rest = "SELECT format('%s.%s', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname LIKE 'recado%' AND NOT (n.nspname = 'recado_tenant' AND c.relkind = 'v') AND c.relkind NOT IN ('i', 'I')
                   AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'USAGE, SELECT, UPDATE')
                            ELSE has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
                              OR has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE, REFERENCES') END";
    assert_eq!(names(&mut tenant, rest).await, Vec::<String>::new());
    let more = "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'recado_tenant'::regnamespace
                   AND has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')";
    assert_eq!(names(&mut tenant, more).await, Vec::<String>::new());
    let functions = "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace::regnamespace::text LIKE 'recado%' AND has_function_privilege(p.oid, 'EXECUTE') ORDER BY 1";
    attempt(&mut tenant, "SET search_path = pg_catalog").await.unwrap();
    assert_eq!(
        names(&mut tenant, functions).await,
        [
            "recado_tenant.inbox_of(text[],timestamp with time zone,timestamp with time zone)",
            "recado_views.integer_of(jsonb,text)",
            "recado_views.jsonb_of(json)",
            "recado_views.number_of(jsonb,text)",
            "recado_views.takes(text,text)",
            "recado_views.text_of(jsonb,text)",
        ]
    );
    assert_eq!(
        names(
            &mut tenant,
            "SELECT count(*)::text FROM pg_auth_members WHERE member = (SELECT oid FROM pg_roles WHERE rolname = session_user)"
        )
        .await,
        ["0"]
    );
    assert_eq!(names(&mut tenant, "SELECT tablename::text FROM pg_stats WHERE schemaname LIKE 'recado%'").await, Vec::<String>::new());
    attempt(&mut tenant, "SET default_transaction_read_only = off").await.unwrap();
    for refused in [
        "SELECT * FROM recado_views.notifications",
        "SELECT * FROM recado.log",
        "SELECT * FROM recado.log_p000000000000",
        "SELECT * FROM recado.analyst_account",
        "INSERT INTO recado.analyst_account VALUES (session_user, '8-secret')",
        "SELECT last_value FROM recado.upstream_term",
        "COPY recado.log TO STDOUT",
        "COPY recado_tenant.notifications FROM STDIN",
        "SET ROLE recado_analyst",
        "SET SESSION AUTHORIZATION recado_analyst",
        "SELECT recado.limit_to_accounts('x', '{8-secret}')",
        "SELECT recado.create_analyst('eve', 'x', '{8-secret}')",
        "SELECT recado.end_sessions_of('x')",
        "SELECT * FROM recado.tenants()",
        "ALTER VIEW recado_tenant.notifications RESET (security_barrier)",
        "CREATE VIEW recado_tenant.mine AS SELECT 1",
        "CREATE FUNCTION recado_tenant.f() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "SELECT lo_export(1, '/tmp/x')",
        "SELECT pg_read_file('postgresql.conf')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ] {
        assert_eq!(code_of(&mut tenant, refused).await, "42501", "{refused}");
    }
    let silent = "SELECT concat_ws('.', c.relname, a.attname)
                    FROM pg_class c
                    LEFT JOIN LATERAL (SELECT attnum, attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0
                                       UNION ALL SELECT 0, NULL) a ON true
                   WHERE c.relnamespace = 'recado_tenant'::regnamespace
                     AND coalesce(CASE a.attnum WHEN 0 THEN obj_description(c.oid) ELSE col_description(c.oid, a.attnum) END, '') = ''";
    assert_eq!(names(&mut db.connect().await, silent).await, Vec::<String>::new());
    dropped(&db, &["t7"]).await;
}

/// Gives a tenant a schema, as an operator may, with functions that write down what they are called with.
const SPY: &str = "CREATE TABLE own.seen (value text);
    CREATE FUNCTION own.note(value text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN INSERT INTO own.seen VALUES (value); RETURN true; END $$;
    -- IMMUTABLE, so that the planner moves it wherever it likes.
    CREATE FUNCTION own.spy(value text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE COST 0.0001 AS $$ BEGIN RETURN own.note(value); END $$;
    CREATE FUNCTION own.same(a text, b text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE COST 0.0001 AS $$ BEGIN PERFORM own.note(a); PERFORM own.note(b); RETURN true; END $$;
    CREATE OPERATOR own.=== (FUNCTION = own.same, LEFTARG = text, RIGHTARG = text, RESTRICT = eqsel, JOIN = eqjoinsel);
    CREATE FUNCTION own.later(a timestamptz, b timestamptz) RETURNS boolean LANGUAGE plpgsql IMMUTABLE COST 0.0001 AS $$ BEGIN PERFORM own.note(a::text); RETURN true; END $$;
    CREATE OPERATOR own.>>> (FUNCTION = own.later, LEFTARG = timestamptz, RIGHTARG = timestamptz, RESTRICT = scalargtsel);
    CREATE TABLE own.list (value text);
    INSERT INTO own.list VALUES ('ann'), ('bob-secret'), ('7'), ('8-secret');
    ANALYZE own.list";

/// What went wrong elsewhere: PostgreSQL calls a cheap function of the reader before the condition of a view.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_and_operators_of_a_tenant_are_called_with_nothing_of_other_accounts() {
    let db = told().await;
    let login = format!("t7-{}", db.name);
    let mut tenant = tenant(&db, "t7", &["7"]).await;
    db.run(&format!(
        "CREATE SCHEMA own AUTHORIZATION \"{login}\";
         CREATE VIEW public.naive AS SELECT * FROM recado.log WHERE account_id = '7';
         GRANT SELECT ON public.naive TO \"{login}\""
    ))
    .await;
    attempt(&mut tenant, "SET default_transaction_read_only = off").await.unwrap();
    attempt(&mut tenant, SPY).await.unwrap();
    attempt(&mut tenant, "SELECT count(*) FROM public.naive WHERE own.spy(title)").await.unwrap();
    let secrets = "SELECT count(*)::text FROM own.seen WHERE value LIKE '%secret%'";
    assert_ne!(names(&mut tenant, secrets).await, ["0"], "the attack works on a view without protection");
    attempt(&mut tenant, "TRUNCATE own.seen").await.unwrap();

    let listed: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns WHERE table_schema = 'recado_tenant' ORDER BY 1, 2",
    )
    .fetch_all(&mut db.connect().await)
    .await
    .unwrap();
    let mut columns: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for (view, column, kind) in listed {
        columns.entry(view).or_default().push((column, kind));
    }
    for settings in [
        "RESET ALL",
        "SET enable_nestloop = off; SET enable_indexscan = off; SET enable_bitmapscan = off",
        "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off; SET join_collapse_limit = 1",
    ] {
        attempt(&mut tenant, &format!("{settings}; SET default_transaction_read_only = off; SET statement_timeout = '60s'")).await.unwrap();
        for (view, columns) in &columns {
            let of = format!("recado_tenant.{view} v");
            // Each condition is true, so all of them are tried, each as early as the planner can.
            let each = |condition: &str| {
                columns.iter().map(|(column, _)| condition.replace("COLUMN", &format!("v.{column}::text"))).collect::<Vec<_>>()
            };
            let mut attacks = vec![
                format!("SELECT count(*) FROM {of} WHERE {}", each("own.spy(COLUMN)").join(" AND ")),
                format!("SELECT count(*) FROM {of} WHERE {}", each("COLUMN OPERATOR(own.===) '8-secret'").join(" AND ")),
                format!("SELECT count(*) FROM {of} JOIN own.list o ON {}", each("o.value OPERATOR(own.===) COLUMN").join(" AND ")),
                format!("SELECT count(*) FROM {of} JOIN own.list o ON {}", each("COLUMN OPERATOR(own.===) o.value").join(" AND ")),
                format!("SELECT count(*) FROM {of} GROUP BY {}", each("own.spy(COLUMN)").join(", ")),
                format!("SELECT 1 FROM {of} ORDER BY {} LIMIT 1", each("own.spy(COLUMN)").join(", ")),
                format!(
                    "SELECT count(*) FROM own.list o, LATERAL (SELECT * FROM {of} WHERE {} LIMIT 3) x",
                    each("own.spy(COLUMN || o.value)").join(" AND ")
                ),
                format!("SELECT count(*) FROM {of} WHERE own.spy(v::text)"),
                format!("SELECT count(*) FROM {of}, recado_tenant.{view} w WHERE own.spy(v::text || w::text)"),
            ];
            for (column, _) in columns.iter().filter(|(_, kind)| kind == "timestamp with time zone") {
                attacks.push(format!("SELECT count(*) FROM {of} WHERE v.{column} OPERATOR(own.>>>) '2026-01-01'"));
            }
            for attack in attacks {
                attempt(&mut tenant, &attack).await.unwrap_or_else(|error| panic!("{attack}: {error}"));
            }
            let leaked = names(
                &mut tenant,
                "SELECT value FROM own.seen WHERE regexp_replace(value, '(8-secret|bob-secret|7|ann)$', '') LIKE '%secret%' LIMIT 3",
            )
            .await;
            assert_eq!(leaked, Vec::<String>::new(), "{view}");
        }
        assert_ne!(names(&mut tenant, "SELECT count(*)::text FROM own.seen WHERE value LIKE '%open%'").await, ["0"], "own rows are seen");
        attempt(&mut tenant, "TRUNCATE own.seen").await.unwrap();
    }
    dropped(&db, &["t7"]).await;
    assert_eq!(db.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'own'").await, 0, "its schema goes with the login");
}

/// A condition that names a value of another account fails, and counts, as one that names no value at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_and_plans_are_the_same_for_values_of_other_accounts_and_for_no_values() {
    let db = told().await;
    let mut tenant = tenant(&db, "t7", &["7"]).await;
    let texts: Vec<(String, String)> = sqlx::query_as(
        "SELECT table_name::text, column_name::text FROM information_schema.columns
          WHERE table_schema = 'recado_tenant' AND data_type = 'text' ORDER BY 1, 2",
    )
    .fetch_all(&mut db.connect().await)
    .await
    .unwrap();
    assert!(texts.len() > 50, "{}", texts.len());
    let mut differ = 0;
    for (view, column) in &texts {
        // Error messages of casts name a value.
        for cast in ["integer", "uuid", "timestamptz", "boolean", "inet"] {
            if let Err(error) =
                attempt(&mut tenant, &format!("SELECT count(*) FROM recado_tenant.{view} WHERE ({column}::{cast}) IS NULL")).await
            {
                assert!(!error.to_string().contains("secret"), "{view}.{column}: {error}");
            }
        }
        let divide =
            format!("SELECT count(*) FROM recado_tenant.{view} WHERE 1 / (CASE WHEN {column} LIKE '%secret%' THEN 0 ELSE 1 END) = 1");
        assert_eq!(code_of(&mut tenant, &divide).await, "done", "{view}.{column}");
        let plan = async |tenant: &mut PgConnection, value: &str| {
            let sql =
                format!("EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) SELECT count(*) FROM recado_tenant.{view} WHERE {column} = '{value}'");
            names(tenant, &sql).await.join("\n").replace(value, "VALUE")
        };
        for (there, not) in [
            ("bob-secret", "bob-nobody"),
            ("8-secret", "8-nobody"),
            ("secret", "nobody"),
            ("u/two/8-secret", "u/two/8-nobody"),
            ("u/ann", "u/xxx"),
        ] {
            let (there, not) = (plan(&mut tenant, there).await, plan(&mut tenant, not).await);
            assert_eq!(there, not, "{view}.{column}");
            differ += usize::from(there != plan(&mut tenant, "7").await);
        }
    }
    assert!(differ > 0, "the plans show no difference for own values either: nothing is compared");
    dropped(&db, &["t7"]).await;
}

/// The questions of the guide are joined with tables of the analyst's own.
#[tokio::test]
async fn a_tenant_joins_with_values_tables_and_temporary_tables_of_its_own() {
    let db = told().await;
    let login = format!("t7-{}", db.name);
    let mut tenant = tenant(&db, "t7", &["7"]).await;
    let joined = "SELECT n.seq::text FROM notifications n JOIN (VALUES (4::bigint), (5)) AS o (seq) USING (seq) ORDER BY 1";
    assert_eq!(names(&mut tenant, joined).await, ["4"]);
    assert_eq!(
        code_of(&mut tenant, "CREATE TEMP TABLE orders (seq bigint)").await,
        "25006",
        "as for every analyst: read only, unless lifted"
    );
    attempt(&mut tenant, "SET default_transaction_read_only = off").await.unwrap();
    attempt(&mut tenant, "CREATE TEMP TABLE orders AS SELECT * FROM (VALUES (4::bigint), (5)) AS o (seq)").await.unwrap();
    assert_eq!(names(&mut tenant, "SELECT n.seq::text FROM notifications n JOIN orders USING (seq)").await, ["4"]);
    assert_eq!(code_of(&mut tenant, "CREATE SCHEMA own").await, "42501");
    db.run(&format!("CREATE SCHEMA own AUTHORIZATION \"{login}\"")).await;
    attempt(&mut tenant, "CREATE TABLE own.copy AS SELECT * FROM notifications; CREATE VIEW own.mine AS SELECT * FROM notifications")
        .await
        .unwrap();
    let both = "SELECT count(*)::text FROM own.copy JOIN own.mine USING (seq, title, data)";
    assert_ne!(names(&mut tenant, both).await, ["0"]);
    let foreign = "CREATE TABLE own.probe (seq bigint REFERENCES recado.log (seq))";
    assert_eq!(code_of(&mut tenant, foreign).await, "42501", "a foreign key would tell which values exist");
    // Another tenant who may read that view sees rows of its own accounts in it.
    let mut other = self::tenant(&db, "t8", &["8-secret"]).await;
    attempt(&mut tenant, "GRANT USAGE ON SCHEMA own TO PUBLIC; GRANT SELECT ON own.mine TO PUBLIC").await.unwrap();
    let theirs = "SELECT DISTINCT coalesce(account_id, audience) FROM own.mine ORDER BY 1";
    assert_eq!(names(&mut other, theirs).await, ["8-secret", "everyone"]);
    drop((tenant, other));
    dropped(&db, &["t7", "t8"]).await;
}

/// PostgreSQL lets every login listen. The numbers of the log are all that the hub's channel tells.
#[tokio::test]
async fn a_tenant_that_listens_hears_numbers_alone() {
    let db = told().await;
    let login = format!("t7-{}", db.name);
    drop(tenant(&db, "t7", &["7"]).await);
    let mut listener = sqlx::postgres::PgListener::connect(&db.url_of(&login, "secret")).await.unwrap();
    listener.listen("recado").await.unwrap();
    let hub = TestHub::on(&db).start().await;
    let seq = hub.post(&note("secret").to_user("bob-secret").account("8-secret")).await.seq;
    let heard = tokio::time::timeout(PATIENCE, listener.recv()).await.expect("the hub notifies").unwrap();
    assert!(heard.payload().starts_with(&format!("{seq} ")) && !heard.payload().contains("secret"), "{}", heard.payload());
    drop(listener);
    dropped(&db, &["t7"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_creates_limits_lists_and_drops_tenants() {
    let db = told().await;
    let url = db.url();
    let settings = [("DATABASE_URL", url.as_str())];
    let (all, one) = (format!("all-{}", db.name), format!("one-{}", db.name));
    let run = async |args: &[&str]| {
        let output = recado(&settings, args).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), said)
    };
    let (code, made, said) = run(&["analyst", "create", &one, "--account", "7", "--account", "9", "-o", "json"]).await;
    assert_eq!(code, Some(0), "{said}");
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(run(&["analyst", "create", &all]).await.0, Some(0));
    let listed = async || -> Vec<(String, Value)> {
        let rows: Vec<Value> = serde_json::from_str(&run(&["analyst", "list", "-o", "json"]).await.1).unwrap();
        // The databases of the tests share the analysts' role.
        let rows = rows.into_iter().map(|row| (row["name"].as_str().unwrap().to_owned(), row["accounts"].clone()));
        rows.filter(|(name, _)| name.ends_with(&format!("-{}", db.name))).collect()
    };
    assert_eq!(listed().await, [(all.clone(), Value::Null), (one.clone(), serde_json::json!(["7", "9"]))]);
    for (wrong, expected, says) in [
        (&["analyst", "create", "none", "--account", "a/b"][..], 2, "--account"),
        (&["analyst", "limit", &one], 2, "--account"),
        (&["analyst", "limit", &one, "--none", "--account", "7"], 2, "--none"),
        (&["analyst", "limit", "nobody", "--account", "7"], 1, "recado analyst ls"),
        (&["analyst", "limit", "recado_hub", "--account", "7"], 1, "recado analyst ls"),
    ] {
        let (code, _, said) = run(wrong).await;
        assert!(code == Some(expected) && said.contains(says), "{wrong:?}: {code:?} {said}");
    }

    // A tenant's login is no login for the hub's own commands.
    let own = made["url"].as_str().unwrap();
    let exported = recado(&[("DATABASE_URL", own)], &["export"]).await;
    let said = String::from_utf8_lossy(&exported.stderr).into_owned();
    assert!(!exported.status.success() && exported.stdout.is_empty(), "{said}");
    assert!(said.contains(&format!("{one} is the login of an analyst")) && said.contains("copy"), "{said}");

    // The list counts from the next statement on, also for a prepared one.
    let mut tenant = PgConnection::connect(own).await.unwrap();
    let accounts = "SELECT DISTINCT account_id FROM notifications WHERE account_id IS NOT NULL ORDER BY 1";
    attempt(&mut tenant, &format!("PREPARE asked AS {accounts}")).await.unwrap();
    assert_eq!(names(&mut tenant, "EXECUTE asked").await, ["7"]);
    db.run(&format!("INSERT INTO recado.analyst_account VALUES ('{one}', '8-secret')")).await;
    assert_eq!(names(&mut tenant, "EXECUTE asked").await, ["7", "8-secret"]);
    assert_eq!(run(&["analyst", "limit", &one, "--none"]).await.0, Some(0));
    assert!(attempt(&mut tenant, "SELECT 1").await.is_err(), "its sessions were ended");
    let mut tenant = PgConnection::connect(own).await.unwrap();
    assert_eq!(
        names(&mut tenant, "SELECT seq::text FROM notifications UNION ALL SELECT log_id::text FROM log").await,
        Vec::<String>::new()
    );
    drop(tenant);
    assert_eq!(run(&["analyst", "drop", &one]).await.0, Some(0));

    // A login that reads everything becomes a tenant. A cursor that it opened before would go on.
    db.run(&format!("ALTER ROLE \"{all}\" PASSWORD 'secret'")).await;
    let mut before = PgConnection::connect(&db.url_of(&all, "secret")).await.unwrap();
    attempt(&mut before, "BEGIN; DECLARE c CURSOR FOR SELECT * FROM recado_views.notifications; FETCH 1 FROM c").await.unwrap();
    let (code, _, said) = run(&["analyst", "limit", &all, "--account", "7"]).await;
    assert!(code == Some(0) && said.contains("account 7"), "{said}");
    assert!(attempt(&mut before, "FETCH ALL FROM c").await.is_err(), "the cursor is gone with its session");
    let mut after = PgConnection::connect(&db.url_of(&all, "secret")).await.unwrap();
    assert_eq!(code_of(&mut after, "SELECT * FROM recado_views.notifications").await, "42501");
    assert_eq!(names(&mut after, accounts).await, ["7"]);
    assert_eq!(listed().await, [(all.clone(), serde_json::json!(["7"]))]);
    drop(after);
    assert_eq!(run(&["analyst", "drop", &all]).await.0, Some(0));
    assert_eq!(db.number("SELECT count(*) FROM recado.analyst_account").await, 0);
}

/// A grant from elsewhere would undo the limit without a word.
#[tokio::test]
async fn a_login_that_would_still_read_more_is_not_limited() {
    let db = told().await;
    let name = format!("more-{}", db.name);
    let mut owner = db.connect().await;
    analysts::create(&mut owner, &name, "secret").await.unwrap();
    for (grant, revoke) in [
        (format!("GRANT SELECT ON recado_views.inbox TO \"{name}\""), format!("REVOKE SELECT ON recado_views.inbox FROM \"{name}\"")),
        (format!("GRANT SELECT (title) ON recado.log TO \"{name}\""), format!("REVOKE SELECT (title) ON recado.log FROM \"{name}\"")),
        (
            format!("CREATE ROLE \"team-{name}\" IN ROLE recado_analyst; GRANT \"team-{name}\" TO \"{name}\""),
            format!("DROP ROLE \"team-{name}\""),
        ),
    ] {
        db.run(&grant).await;
        let refused = analysts::limit_to_accounts(&mut owner, &name, &accounts(&["7"])).await.unwrap_err();
        assert!(matches!(&refused, AnalystError::ReadsMore(what) if what.contains(&name)), "{grant}: {refused}");
        assert_eq!(db.number("SELECT count(*) FROM recado.analyst_account").await, 0, "nothing was changed");
        let listed = analysts::list(&mut owner).await.unwrap().into_iter().find(|analyst| analyst.name == name).unwrap();
        assert_eq!(listed.accounts, None, "it reads everything, as before");
        db.run(&revoke).await;
    }
    assert!(analysts::limit_to_accounts(&mut owner, &name, &accounts(&["7"])).await.unwrap());
    assert!(analysts::drop(&mut owner, &name).await.unwrap());
}

/// Roles belong to the cluster; the rights of a tenant belong to its database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_of_one_database_is_nobody_in_another() {
    let (first, second) = (told().await, told().await);
    let login = format!("t7-{}", first.name);
    drop(tenant(&first, "t7", &["7"]).await);
    let mut there = PgConnection::connect(&second.url_of(&login, "secret")).await.unwrap();
    for view in ["recado_tenant.notifications", "recado_views.notifications", "recado.log"] {
        assert_eq!(code_of(&mut there, &format!("SELECT * FROM {view}")).await, "42501", "{view}");
    }
    let mut owner = second.connect().await;
    assert!(!analysts::limit_to_accounts(&mut owner, &login, &accounts(&["7"])).await.unwrap(), "it is no analyst of this database");
    assert!(analysts::list(&mut owner).await.unwrap().iter().all(|analyst| analyst.name != login));
    assert_eq!(analysts::list(&mut first.connect().await).await.unwrap().iter().filter(|analyst| analyst.name == login).count(), 1);
    drop(there);
    dropped(&first, &["t7"]).await;
}

/// An analyst from before the migration reads what it read, and can be limited.
#[tokio::test]
async fn analysts_from_before_tenants_stay_as_they_are() {
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
    let name = format!("old-{}", db.name);
    let definitions = "SELECT relname || pg_get_viewdef(oid) || coalesce(relacl::text, '') || coalesce(reloptions::text, '')
                         FROM pg_class WHERE relnamespace = 'recado_views'::regnamespace AND relkind = 'v' ORDER BY 1";
    let mut before = Vec::new();
    for (version, sql) in &migrations {
        if *version == 22 {
            before = names(&mut db.connect().await, definitions).await;
        }
        db.run(sql).await;
        if *version == 19 {
            let made: Vec<String> = sqlx::query_scalar("SELECT recado.create_analyst($1, 'secret')")
                .bind(&name)
                .fetch_one(&mut db.connect().await)
                .await
                .unwrap();
            assert_eq!(made, Vec::<String>::new());
        }
        if *version == 22 {
            assert_eq!(names(&mut db.connect().await, definitions).await, before, "the views of unlimited analysts are not touched");
        }
    }
    db.run(
        "INSERT INTO recado.log (seq, id, created_at, type, title, message, topic, account_id, replay, source, bytes)
         VALUES (1, gen_random_uuid(), now(), 't', 'seven', '', 'a/7', '7', true, '', 0), (2, gen_random_uuid(), now(), 't', 'eight', '', 'a/8', '8', true, '', 0)",
    )
    .await;
    let mut analyst = PgConnection::connect(&db.url_of(&name, "secret")).await.unwrap();
    assert_eq!(names(&mut analyst, "SELECT title FROM notifications ORDER BY seq").await, ["seven", "eight"]);
    assert_eq!(code_of(&mut analyst, "SELECT * FROM recado_tenant.notifications").await, "42501");
    let mut owner = db.connect().await;
    assert_eq!(analysts::list(&mut owner).await.unwrap().iter().find(|analyst| analyst.name == name).unwrap().accounts, None);
    assert!(analysts::limit_to_accounts(&mut owner, &name, &accounts(&["8"])).await.unwrap());
    let mut analyst = PgConnection::connect(&db.url_of(&name, "secret")).await.unwrap();
    assert_eq!(names(&mut analyst, "SELECT title FROM notifications ORDER BY seq").await, ["eight"]);
    drop(analyst);
    assert!(analysts::drop(&mut owner, &name).await.unwrap());
}

/// An old hub drops a tenant as it drops every analyst.
#[tokio::test]
async fn a_login_of_a_former_name_gets_nothing_of_the_former_tenant() {
    let db = told().await;
    drop(tenant(&db, "t7", &["7", "8-secret"]).await);
    dropped(&db, &["t7"]).await;
    let mut again = tenant(&db, "t7", &["7"]).await;
    assert_eq!(names(&mut again, "SELECT DISTINCT account_id FROM notifications WHERE account_id IS NOT NULL").await, ["7"]);
    drop(again);
    dropped(&db, &["t7"]).await;
}

/// The planner can use the conditions on numbers and times, as for an unlimited analyst.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_of_a_tenant_reach_the_partitions_and_the_indexes() {
    let db = super::retention::log_of(5000).await;
    let insert = |from: i64, to: i64| {
        format!(
            "INSERT INTO recado.log (seq, id, created_at, type, title, message, data, topic, user_id, account_id, replay, source, bytes)
             SELECT n, gen_random_uuid(), '2026-03-01'::timestamptz + n * interval '1 minute', 'order_created', 't', 'm', '{{}}',
                    'u/' || n % 100 || '/' || n % 5, n % 100, n % 5, true, 's', 10 FROM generate_series({from}, {to}) n;"
        )
    };
    db.run(&format!(
        "{} SELECT recado.ensure_partitions(); {}
         INSERT INTO recado.session (session_id, instance_id, user_id, account_ids, client_id, transport, log_id, from_seq, sent_seq, acked_seq,
                                     connected_at, last_activity_at)
         SELECT gen_random_uuid(), gen_random_uuid(), n % 100, '{{3}}', 'web', 'websocket', m.log_id, n * 6, n * 6 + 300, n * 6 + 300, now(), now()
           FROM recado.meta m, generate_series(1, 3000) n;
         ANALYZE",
        insert(1, 9000),
        insert(9001, 19_000)
    ))
    .await;
    let mut tenant = tenant(&db, "t3", &["3"]).await;
    // The tables are small and would be scanned whole. The test asks whether an index can be used.
    attempt(&mut tenant, "SET enable_seqscan = off").await.unwrap();
    let one = "log_p000000005000";
    let plan = async |tenant: &mut PgConnection, sql: &str| names(tenant, &format!("EXPLAIN (COSTS OFF) {sql}")).await.join("\n");
    for by_number in [
        "SELECT * FROM notifications WHERE seq BETWEEN 6000 AND 6010",
        "SELECT * FROM order_created WHERE seq BETWEEN 6000 AND 6010",
        "SELECT * FROM inbox WHERE seq BETWEEN 6000 AND 6010",
        "SELECT * FROM recipients WHERE seq = 6000",
        "SELECT * FROM deliveries WHERE seq = 6000",
    ] {
        let plan = plan(&mut tenant, by_number).await;
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
        let plan = plan(&mut tenant, by_time).await;
        assert!(plan.contains("Index Cond: ((created_at >= ") && plan.contains(&format!("{one}_created_at_idx")), "{by_time}\n{plan}");
    }
    // A copy that is kept up to date, and a join with numbers of the tenant's own, read no whole partition.
    let copy = plan(&mut tenant, "SELECT * FROM notifications WHERE seq > 6000 ORDER BY seq LIMIT 100").await;
    assert!(copy.starts_with("Limit") && !copy.contains("Sort") && copy.contains(&format!("using {one}_pkey")), "{copy}");
    let join = plan(&mut tenant, "SELECT * FROM (VALUES (6000::bigint), (6005)) o (seq) JOIN notifications USING (seq)").await;
    assert!(join.contains("(seq = \"*VALUES*\".column1)"), "{join}");
    dropped(&db, &["t3"]).await;
}

/// Rows of the log that the questions are asked on.
const ROWS: i64 = 200_000;

/// 10,000 users and devices, 30,000 connections, 101 accounts: account 1 has half of the users, account 7 one in 200.
async fn large() -> TestDb {
    let db = TestDb::new().await;
    db.with_partitions(&format!(
        "UPDATE recado.meta SET partition_rows = {0} / 4;
         INSERT INTO recado.partition (lo, hi) SELECT lo, lo + {0} / 4 FROM generate_series(0, {0}, {0} / 4) lo;
         SELECT recado.add_partition(t, lo, hi) FROM recado.partition, unnest(ARRAY['log', 'log_member']) t;",
        ROWS
    ))
    .await;
    db.run(&format!(
        "INSERT INTO recado.log (seq, id, created_at, type, title, message, data, topic, user_id, account_id, user_ids, replay, source, bytes)
         SELECT n, gen_random_uuid(), '2026-03-01'::timestamptz + n * interval '60 days' / {ROWS},
                (ARRAY['order_created', 'payment_confirmed', 'order_updated', 'stock_alert', 'cart_updated'])[1 + n % 5], 'title ' || n, 'message ' || n,
                json_build_object('order_id', (n / 5)::text, 'amount', n % 1000, 'total', n % 500, 'status', 'shipped', 'text', repeat('x', 100)),
                CASE k WHEN 0 THEN '*' WHEN 1 THEN 'a/' || a WHEN 2 THEN 'u/' || u WHEN 3 THEN 'l' ELSE 'u/' || u || '/' || a END,
                CASE WHEN k IN (2, 4) THEN u END, CASE WHEN k IN (1, 3, 4) THEN a END, CASE WHEN k = 3 THEN ARRAY[u, 'u' || (n * 7) % 5000 * 2] END,
                true, 'shop', 150
           FROM (SELECT n, 'u' || (n * 7919 % 10000) AS u, CASE WHEN n * 7919 % 2 = 0 THEN '1' ELSE (n * 7919 % 10000 / 2 % 100 + 2)::text END AS a,
                        CASE WHEN n % 200 = 0 THEN 0 WHEN n % 100 < 4 THEN 1 WHEN n % 100 < 20 THEN 2 WHEN n % 100 < 25 THEN 3 ELSE 4 END AS k
                   FROM generate_series(1::bigint, {ROWS}) n) x;
         INSERT INTO recado.log_member (topic, seq)
         SELECT DISTINCT concat_ws('/', 'u', m, account_id), seq FROM recado.log, unnest(user_ids) m WHERE topic = 'l';
         INSERT INTO recado.session (session_id, instance_id, user_id, account_ids, client_id, transport, log_id, from_seq, sent_seq, acked_seq,
                                     connected_at, last_activity_at, ended_at, end_reason)
         SELECT gen_random_uuid(), gen_random_uuid(), 'u' || n % 10000,
                CASE WHEN n % 20 = 0 THEN '{{1,7}}'::text[] WHEN n % 2 = 0 THEN '{{1}}' ELSE ARRAY[(n % 10000 / 2 % 100 + 2)::text] END,
                'web', 'websocket', m.log_id, f, f + {ROWS} / 40, f + {ROWS} / 40 - n % 1000, t, t + interval '36 hours', t + interval '36 hours', 'lost'
           FROM recado.meta m, generate_series(1::bigint, 30000) n, LATERAL (SELECT n * 104729 % ({ROWS} * 39 / 40) AS f) q,
                LATERAL (SELECT '2026-03-01'::timestamptz + f * interval '60 days' / {ROWS} AS t) c;
         INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq, acked_at, created_at)
         SELECT 'u' || n, 'web', log_id, {ROWS} * 19 / 20 + n, '2026-05-01', '2026-03-01' FROM recado.meta, generate_series(0, 9999) n;
         INSERT INTO recado.progress (session_id, user_id, client_id, log_id, sent_seq, sent_at, acked_seq, acked_at)
         SELECT s.session_id, s.user_id, s.client_id, s.log_id, q, t, q, t + interval '1 second'
           FROM recado.session s, generate_series(1, 10) k,
                LATERAL (SELECT s.from_seq + k * (s.sent_seq - s.from_seq) / 10 AS q, s.connected_at + k * (s.ended_at - s.connected_at) / 10 AS t) x;
         INSERT INTO recado.upstream_command (command_id, provider, user_id, client_id, session_id, id, type, payload, state, term, accepted_at,
                                              reject_at, taken_at, settled_at)
         SELECT gen_random_uuid(), 'games', s.user_id, s.client_id, s.session_id, row_number() OVER ()::text, 'bet', '{{}}', 'sent', 1, s.connected_at,
                s.connected_at, s.connected_at, s.connected_at + interval '20 milliseconds' FROM recado.session s, generate_series(1, 2)"
    ))
    .await;
    db.run("VACUUM ANALYZE").await;
    db
}

/// A question of the guide, on the values of [`large`].
fn on_large(question: &str) -> String {
    let values = [
        ("'u/42', 'u/42/7'", "'u/u40', 'u/u40/1'"),
        ("'a/7'", "'a/1'"),
        ("seq > 18", "seq > 20000"),
        ("seq = 12", "seq = 100000"),
        ("'1001'", "'40001'"),
    ];
    values.iter().fold(question.to_owned(), |question, (small, large)| question.replace(small, large))
}

/// The same question as a tenant asks it, as the guide says.
fn of_tenant(question: &str) -> String {
    let of_inbox = "FROM recado_views.inbox\n WHERE address IN (";
    let question = match question.split_once(of_inbox) {
        None => question.to_owned(),
        Some((head, rest)) => {
            let (addresses, rest) = rest.split_once(") AND created_at >= ").unwrap();
            let (since, rest) = rest.split_once('\n').unwrap();
            format!("{head}FROM recado_tenant.inbox_of(ARRAY[{addresses}], {since})\n{rest}")
        }
    };
    let functions = ["text_of", "number_of", "integer_of"];
    let question = question.replace("recado_views.", "recado_tenant.");
    functions.iter().fold(question, |question, name| question.replace(&format!("recado_tenant.{name}"), &format!("recado_views.{name}")))
}

fn questions() -> Vec<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guides/analysts.md")).unwrap();
    let blocks = page.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned());
    // Provider sessions and inboxes have no tenant.
    let hidden = ["upstream_sessions", "inbox_states", "inbox_counts"];
    blocks.filter(|question| !hidden.iter().any(|view| question.contains(view)) && question.contains("recado_views.")).collect()
}

/// Asks in turns, on two connections. The best time of each counts, so a busy moment of the machine changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn the_questions_of_the_guide_take_a_tenant_at_most_twice_as_long() {
    const ROUNDS: usize = 3;
    let _turn = heavy().await;
    let db = large().await;
    let name = format!("all-{}", db.name);
    analysts::create(&mut db.connect().await, &name, "secret").await.unwrap();
    let mut all = PgConnection::connect(&db.url_of(&name, "secret")).await.unwrap();
    let mut slower = Vec::new();
    for (share, account) in [("half", "1"), ("1 in 200", "7")] {
        let login = format!("share{account}");
        let mut tenant = tenant(&db, &login, &[account]).await;
        for connection in [&mut all, &mut tenant] {
            // Compiling costs an unlimited analyst up to a second a question; without it the comparison is harder.
            attempt(connection, "SET jit = off; SET statement_timeout = '120s'").await.unwrap();
        }
        for question in questions() {
            let (mut open, narrow) = (on_large(&question), of_tenant(&on_large(&question)));
            if narrow.contains("LIMIT 1000") {
                // A step of a copy passes the rows of others. An unlimited analyst copies as many numbers.
                let rows = narrow.trim().trim_end_matches(';');
                let passed = names(&mut tenant, &format!("SELECT (max(seq) - 20000)::text FROM ({rows}) r")).await.remove(0);
                open = open.replace("LIMIT 1000", &format!("LIMIT {passed}"));
            }
            let mut best = [f64::INFINITY; 2];
            for round in 0..=ROUNDS {
                for (at, (connection, sql)) in [(&mut all, &open), (&mut tenant, &narrow)].into_iter().enumerate() {
                    let begun = std::time::Instant::now();
                    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone()))
                        .fetch_all(connection)
                        .await
                        .unwrap_or_else(|error| panic!("{sql}: {error}"));
                    // The first round fills the caches.
                    if round > 0 {
                        best[at] = best[at].min(begun.elapsed().as_secs_f64() * 1000.0);
                    }
                }
            }
            // A millisecond is added on both sides: the plan of a short question takes as long.
            let [open_ms, tenant_ms] = best;
            let ratio = (tenant_ms + 1.0) / (open_ms + 1.0);
            let first = question.lines().find(|line| line.contains("FROM")).unwrap_or_default().trim();
            eprintln!("| {share} | {first} | {open_ms:.1} | {tenant_ms:.1} | {ratio:.2} |");
            if ratio > 2.0 {
                slower.push(format!("{share}: {ratio:.2}: {narrow}"));
            }
        }
        drop(tenant);
        dropped(&db, &[&login]).await;
    }
    assert!(slower.is_empty(), "{}", slower.join("\n"));
}
