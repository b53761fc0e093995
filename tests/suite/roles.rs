//! Promise: two hubs' databases in one cluster share no rights.

use recado::store::{Database, analysts, migrate};
use reqwest::Url;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::process::Command;

use super::support::*;

/// Creates a login for this test.
async fn login(db: &TestDb, name: &str, attributes: &str) -> String {
    let name = format!("{}_{name}", db.name);
    db.run(&format!("CREATE ROLE {name} LOGIN PASSWORD 'secret' {attributes}")).await;
    name
}

async fn owned(attributes: &str) -> (TestDb, String) {
    let db = TestDb::bare().await;
    let owner = login(&db, "owner", attributes).await;
    db.run(&format!("ALTER DATABASE {} OWNER TO {owner}", db.name)).await;
    (db, owner)
}

async fn role_of(db: &TestDb, purpose: &str) -> Option<String> {
    sqlx::query_scalar("SELECT recado.role_name($1)").bind(purpose).fetch_one(&mut db.connect().await).await.unwrap()
}

/// Returns the SQLSTATE of a refused statement, or "done".
async fn code_of(connection: &mut PgConnection, sql: &str) -> String {
    match sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await {
        Ok(_) => "done".to_owned(),
        Err(error) => error.as_database_error().and_then(|e| e.code()).map_or_else(|| error.to_string(), Into::into),
    }
}

async fn connects(url: &str) -> bool {
    PgConnection::connect(url).await.is_ok()
}

/// Statements that a hub's login could try in the database of another hub.
const ATTACKS: [&str; 6] = [
    "SELECT name, hash FROM recado.service_key",
    "DELETE FROM recado.ticket",
    "SELECT * FROM recado.append(0, NULL, NULL, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', false)",
    "SELECT count(*) FROM recado.log",
    "SELECT recado.notify('order_created', 'forged', 'm', user_ids => '{ann}')",
    "SELECT count(*) FROM recado_views.notifications",
];

/// A second hub's database in the cluster gets roles and grants of its own, and no membership in the first one's roles.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_login_of_one_hub_can_do_nothing_in_the_database_of_another() {
    // The suite's template has the plain names, and this database is a copy of it.
    let first = TestDb::new().await;
    let mine = login(&first, "hub", "").await;
    first.run(&format!("GRANT recado_hub, recado_producer, recado_analyst TO {mine}")).await;
    let (second, owner) = owned("CREATEROLE").await;
    let shop = service_token("shop", recado::domain::Role::Service);
    let hubs = (
        TestHub::on(&first).with("DATABASE_URL", &first.url_of(&mine, "secret")).start().await,
        TestHub::on(&second).with("DATABASE_URL", &second.url_of(&owner, "secret")).publishing_with(&shop).start().await,
    );
    hubs.0.post(&note("one").to_user("ann")).await;
    hubs.1.post(&note("one").to_user("ann")).await;
    assert_eq!(role_of(&first, "hub").await.unwrap(), "recado_hub");
    let own = format!("recado_hub_{}", second.name);
    assert_eq!(role_of(&second, "hub").await.unwrap(), own);
    let under = second.number(&format!("SELECT pg_has_role('{owner}', '{own}', 'MEMBER')::integer::bigint")).await;
    assert_eq!(under, 1, "the hub can act under its role");
    assert!(!hubs.1.said().contains("with its user's own rights"), "{}", hubs.1.said());
    assert!(!hubs.1.said().contains("use the same roles"), "{}", hubs.1.said());

    let (into_second, into_first) = (second.url_of(&mine, "secret"), first.url_of(&owner, "secret"));
    assert!(!connects(&into_second).await, "the database is closed to other logins");
    second.run(&format!("GRANT CONNECT ON DATABASE {} TO {mine}", second.name)).await;
    for (whose, url) in [("the first hub's", into_second), ("the second hub's", into_first)] {
        let mut other = PgConnection::connect(&url).await.unwrap();
        for attack in ATTACKS {
            assert_eq!(code_of(&mut other, attack).await, "42501", "{whose} login: {attack}");
        }
    }

    // Producers and analysts of each database can use their own.
    let (producers, analysts_of) = (role_of(&second, "producer").await.unwrap(), role_of(&second, "analyst").await.unwrap());
    let (program, reader) = (login(&second, "program", "").await, format!("ana-{}", second.name));
    second.run(&format!("GRANT {producers} TO {program}")).await;
    analysts::create(&mut PgConnection::connect(&second.url_of(&owner, "secret")).await.unwrap(), &reader, "secret").await.unwrap();
    let mut program_here = PgConnection::connect(&second.url_of(&program, "secret")).await.unwrap();
    let notify = "SELECT recado.notify('order_created', 'two', 'm', user_ids => '{ann}')";
    assert_eq!(code_of(&mut program_here, notify).await, "done");
    hubs.1.has_published(2).await;
    let mut reader_here = PgConnection::connect(&second.url_of(&reader, "secret")).await.unwrap();
    assert_eq!(code_of(&mut reader_here, "SELECT * FROM notifications").await, "done");
    let mut program_there = PgConnection::connect(&first.url_of(&program, "secret")).await.unwrap();
    assert_eq!(code_of(&mut program_there, notify).await, "42501");
    let mut reader_there = PgConnection::connect(&first.url_of(&reader, "secret")).await.unwrap();
    assert_eq!(code_of(&mut reader_there, "SELECT * FROM recado_views.notifications").await, "42501");
    let mut mine_here = PgConnection::connect(&first.url_of(&mine, "secret")).await.unwrap();
    assert_eq!(code_of(&mut mine_here, notify).await, "done");
    hubs.0.has_published(2).await;

    let listed = analysts::list(&mut second.connect().await).await.unwrap();
    assert_eq!(listed.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), [reader.as_str()], "{analysts_of}");
    drop((program_there, reader_there, reader_here, mine_here, program_here));
    assert!(analysts::drop(&mut second.connect().await, &reader).await.unwrap());
}

/// What went wrong: only a superuser could apply a migration, because its functions had a setting that PostgreSQL does
/// not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_without_any_attribute_migrates_serves_retains_and_erases() {
    let (db, owner) = owned("").await;
    let shop = service_token("shop", recado::domain::Role::Service);
    let at = |hub: HubBuilder| hub.with("DATABASE_URL", &db.url_of(&owner, "secret")).publishing_with(&shop);
    let hub = at(TestHub::on(&db)).start().await;
    for title in ["one", "two", "three"] {
        hub.post(&note(title).to_user("ann")).await;
    }
    at(TestHub::on(&db)).run(&["erase", "--seq", "2", "--reason", "a test"]).await;
    let mut sql = PgConnection::connect(&db.url_of(&owner, "secret")).await.unwrap();
    assert_eq!(code_of(&mut sql, "SELECT recado.erase_expired(1), recado.drop_old_rows(0, 1)").await, "done");
    assert_eq!(
        code_of(&mut sql, "BEGIN; SELECT recado.erase_expired(1); DELETE FROM recado.log").await,
        "RC004",
        "the log is closed again"
    );
    sql.close().await.unwrap();

    // A hub also serves databases that hold the migration's first text.
    db.run("UPDATE recado.schema_history SET checksum = '15092659870684576935' WHERE version = 13").await;
    at(TestHub::on(&db)).run(&["migrate"]).await;
}

/// Compares the whole list, so that the grants of later migrations to the plain names are covered as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_of_a_databases_own_are_granted_what_the_plain_ones_are() {
    let (plain, own) = (TestDb::new().await, TestDb::bare().await);
    migrate::run(&Database::parse(&own.url(), None).unwrap()).await.unwrap();
    // The migration runner creates its history itself, before migration 3 grants rights on existing tables.
    let granted = async |db: &TestDb, purpose: &str, name: &str| -> Vec<String> {
        let sql = "SELECT g FROM recado.grants_of($1, $2) g ORDER BY 1";
        sqlx::query_scalar(sql).bind(name).bind(format!("recado_{purpose}")).fetch_all(&mut db.connect().await).await.unwrap()
    };
    for purpose in ["hub", "producer", "analyst"] {
        let names = (format!("recado_{purpose}"), role_of(&own, purpose).await.unwrap());
        assert_ne!(names.0, names.1);
        let expected = granted(&plain, purpose, &names.0).await;
        assert!(expected.len() > 3, "{expected:?}");
        assert_eq!(granted(&own, purpose, &names.1).await, expected);
        assert_eq!(granted(&own, purpose, &names.0).await, Vec::<String>::new(), "nothing is left to the shared name");
    }
    own.run("GRANT SELECT ON recado.erasure TO recado_hub; SELECT recado.settle_roles(true)").await;
    let moved = granted(&own, "hub", &role_of(&own, "hub").await.unwrap()).await;
    assert!(moved.contains(&"GRANT SELECT ON TABLE recado.erasure TO recado_hub".to_owned()), "{moved:?}");
    assert_eq!(granted(&own, "hub", "recado_hub").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_make_no_roles_serves_without_and_an_administrator_makes_them_later() {
    let (db, owner) = owned("").await;
    let shop = service_token("shop", recado::domain::Role::Service);
    let builder = TestHub::on(&db).with("DATABASE_URL", &db.url_of(&owner, "secret")).publishing_with(&shop);
    let hub = builder.start().await;
    hub.post(&note("one").to_user("ann")).await;
    assert!(hub.said().contains("(not made yet)"), "{}", hub.said());
    assert_eq!(role_of(&db, "hub").await, None);
    assert_eq!(db.number("SELECT count(*) FROM recado.grants_of('recado_hub', 'x')").await, 0, "the shared role has no right");
    let mut sql = PgConnection::connect(&db.url_of(&owner, "secret")).await.unwrap();
    let refused = analysts::create(&mut sql, &format!("ana-{}", db.name), "secret").await.unwrap_err();
    assert!(refused.to_string().contains("CREATEROLE"), "{refused}");
    drop(hub);

    let said = TestHub::on(&db).run(&["migrate", "-o", "json"]).await;
    assert!(said.contains(&format!("\"producer_role\":\"recado_producer_{}\"", db.name)), "{said}");
    let hub = builder.start().await;
    hub.post(&note("two").to_user("ann")).await;
    assert!(!hub.said().contains("with its user's own rights"), "{}", hub.said());
}

/// What went wrong: the error said "needs CREATEROLE" to a user who has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_createrole_who_is_refused_is_told_another_reason() {
    let db = TestDb::new().await;
    let maker = login(&db, "maker", "CREATEROLE").await;
    let mut sql = PgConnection::connect(&db.url_of(&maker, "secret")).await.unwrap();
    let refused = analysts::create(&mut sql, &format!("ana-{}", db.name), "secret").await.unwrap_err().to_string();
    assert!(refused.contains("has CREATEROLE") && refused.contains("permission denied for schema recado"), "{refused}");
    assert!(refused.contains("as the owner of the schema") || refused.contains("WITH ADMIN OPTION"), "{refused}");
    sql.close().await.unwrap();
    db.run(&format!("DROP ROLE {maker}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_shares_roles_is_separated_by_a_command_while_no_hub_runs() {
    let db = TestDb::new().await;
    let program = login(&db, "program", "").await;
    db.run(&format!("GRANT recado_producer TO {program}")).await;
    let mut hub = TestHub::on(&db).start().await;
    hub.post(&note("one").to_user("ann")).await;
    eventually("the way out is named", PATIENCE, async || hub.said().contains("recado migrate --own-roles").then_some(())).await;
    let separate = async || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
        command.args(["migrate", "--own-roles"]).env_clear().env("DATABASE_URL", db.url()).env("RECADO_ALLOW_UNSAFE_DURABILITY", "on");
        let ended = command.output().await.unwrap();
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let (code, said) = separate().await;
    assert!(code == Some(78) && said.contains("a hub runs on this database"), "{code:?} {said}");
    hub.post(&note("two").to_user("ann")).await;
    hub.signal("-TERM").await;
    hub.ended(PATIENCE).await;

    let (code, said) = separate().await;
    assert_eq!(code, Some(0), "{said}");
    let own = role_of(&db, "producer").await.unwrap();
    assert_eq!(own, format!("recado_producer_{}", db.name));
    assert!(said.contains(&format!("GRANT {own} TO {program}")), "{said}");
    assert!(!connects(&db.url_of(&program, "secret")).await, "until it is granted the role");
    db.run(&format!("GRANT {own} TO {program}")).await;
    let mut sql = PgConnection::connect(&db.url_of(&program, "secret")).await.unwrap();
    let hub = TestHub::on(&db).start().await;
    assert_eq!(code_of(&mut sql, "SELECT recado.notify('order_created', 'three', 'm', user_ids => '{ann}')").await, "done");
    hub.has_published(3).await;
    assert!(!hub.said().contains("use the same roles"), "{}", hub.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_roles_fit_and_differ_whatever_the_databases_are_called() {
    let db = TestDb::new().await;
    // Names of 62 bytes that share the whole prefix that fits into a role's name.
    let databases = [format!("{}ä{}", db.name, "ö".repeat(24)), format!("{}ä{}", db.name, "ö".repeat(23) + "x")];
    let mut names = Vec::new();
    for database in &databases {
        db.run(&format!("CREATE DATABASE \"{database}\" TEMPLATE template0")).await;
        let mut url = Url::parse(&db.url()).unwrap();
        url.set_path(database);
        migrate::run(&Database::parse(url.as_str(), None).unwrap()).await.unwrap();
        let mut sql = PgConnection::connect(url.as_str()).await.unwrap();
        let found: Vec<String> = sqlx::query_scalar("SELECT name FROM recado.role").fetch_all(&mut sql).await.unwrap();
        names.extend(found);
        sql.close().await.unwrap();
    }
    let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
    assert_eq!(distinct.len(), 6, "{names:?}");
    assert!(names.iter().all(|name| name.len() <= 63), "{names:?}");
    for database in &databases {
        db.run(&format!("DROP DATABASE \"{database}\"")).await;
    }
    for name in &names {
        db.run(&format!("DROP ROLE \"{name}\"")).await;
    }
}

/// Another user of the cluster, or a former database of this name, may have left a role with members.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_was_there_before_is_not_taken_for_the_databases_own() {
    let db = TestDb::bare().await;
    db.run(&format!("CREATE ROLE recado_hub_{0}; CREATE ROLE recado_producer_{0}_2", db.name)).await;
    migrate::run(&Database::parse(&db.url(), None).unwrap()).await.unwrap();
    assert_eq!(role_of(&db, "hub").await.unwrap(), format!("recado_hub_{}_3", db.name));
    db.run(&format!("DROP ROLE recado_hub_{0}; DROP ROLE recado_producer_{0}_2", db.name)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_with_tables_of_others_stays_open() {
    let open =
        async |db: &TestDb| db.number("SELECT has_database_privilege('pg_monitor', current_database(), 'CONNECT')::integer::bigint").await;
    let (shared, alone) = (TestDb::bare().await, TestDb::bare().await);
    shared.run("CREATE TABLE public.orders (n integer)").await;
    for db in [&shared, &alone] {
        migrate::run(&Database::parse(&db.url(), None).unwrap()).await.unwrap();
    }
    assert_eq!((open(&shared).await, open(&alone).await), (1, 0));
}

/// What went wrong: with the login that the guide recommends, no text over its `ttl` was erased, and nothing said so
/// but a line in the log that named a function.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_whose_login_owns_nothing_serves_and_says_that_retention_does_not_run() {
    let (db, owner) = owned("CREATEROLE").await;
    let of_owner = TestHub::on(&db).with("DATABASE_URL", &db.url_of(&owner, "secret"));
    of_owner.run(&["migrate"]).await;
    let member = login(&db, "member", "").await;
    let hub_role = role_of(&db, "hub").await.expect("recado migrate has made the role");
    db.run(&format!("GRANT {hub_role} TO {member}; GRANT CONNECT ON DATABASE {} TO {member}", db.name)).await;

    let shop = service_token("shop", recado::domain::Role::Service);
    let of_member = || TestHub::on(&db).with("DATABASE_URL", &db.url_of(&member, "secret"));
    let hub = of_member().publishing_with(&shop).start().await;
    hub.post(&note("one").to_user("ann")).await;

    for (arguments, wanted) in [
        (&["log", "retain"][..], "does not own the tables"),
        (&["key", "create", "shop"], "may not do that (permission denied for table service_key)"),
        (&["erase", "--seq", "1", "--reason", "a test"], "may not do that"),
    ] {
        let (code, _, said) = of_member().try_run(arguments).await;
        assert!(said.contains(wanted) && said.contains("use the DATABASE_URL of the user who migrated"), "{arguments:?}: {said}");
        assert_eq!(code, Some(77), "{arguments:?}: {said}");
    }
    let retention = async || {
        let (_, said, _) = of_member().try_run(&["doctor", "-o", "json"]).await;
        let checks: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap();
        checks.into_iter().find(|check| check["check"] == "retention").expect("a line about retention")
    };
    assert_eq!(retention().await["outcome"], "fix");
    of_owner.run(&["log", "retain"]).await;
    assert_eq!(retention().await["outcome"], "ok");
}
