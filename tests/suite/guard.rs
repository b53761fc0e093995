//! Tests that preflight stops a hub that could not keep its promises, with the reason.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sqlx::{Connection, PgConnection};

use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_durable_is_refused_by_name() {
    let db = TestDb::bare().await;
    // The cluster of the run has all three off. A given cluster may have them on, but this one can be set for the
    // database.
    db.run(&format!("ALTER DATABASE {} SET synchronous_commit = off", db.name)).await;
    let (code, said) = run_to_the_end(&TestHub::on(&db).without("RECADO_ALLOW_UNSAFE_DURABILITY")).await;
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("RECADO_ALLOW_UNSAFE_DURABILITY"), "{said}");
    for name in ["fsync", "full_page_writes", "synchronous_commit"] {
        let is_off = db.number(&format!("SELECT (current_setting('{name}') = 'off')::integer::bigint")).await == 1;
        assert_eq!(said.contains(&format!("{name} is off")), is_off, "{name}: {said}");
    }
    assert_eq!(db.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'recado'").await, 0, "and nothing was written to it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_the_wrong_kind_is_refused_by_name() {
    for (setting, value) in [("default_transaction_read_only", "on"), ("default_transaction_isolation", "repeatable read")] {
        let db = TestDb::bare().await;
        db.run(&format!("ALTER DATABASE {} SET {setting} = '{value}'", db.name)).await;
        let (code, said) = run_to_the_end(&TestHub::on(&db)).await;
        assert_eq!(code, Some(78), "{setting}: {said}");
        assert!(said.contains(setting), "{setting}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_there_is_said_soon() {
    let (code, said) = run_to_the_end(&TestHub::at("postgres://nobody@127.0.0.1:1/nowhere").with("RECADO_DATABASE_WAIT", "0s")).await;
    assert_eq!(code, Some(69), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_is_wrong_with_the_settings_is_said_at_once() {
    let db = TestDb::bare().await;
    let wrong = TestHub::on(&db)
        .with("PORT", "70000")
        .with("RECADO_BNID", "::1")
        .with("WS_HEARTBEAT_INTERVAL", "soon")
        .with("RECADO_JWT_SECRET", "short")
        .with("RECADO_SESSION_POLICY", "maybe");
    let (code, said) = run_to_the_end(&wrong).await;
    assert_eq!(code, Some(78), "{said}");
    for part in ["PORT", "did you mean RECADO_BIND?", "WS_HEARTBEAT_INTERVAL", "RECADO_JWT_SECRET", "RECADO_SESSION_POLICY"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("short"), "a secret is not repeated: {said}");
}

async fn start_together(count: usize) {
    let db = TestDb::bare().await;
    let builder = TestHub::on(&db).publishing_with(&service_token("shop", recado::domain::Role::Service));
    let hubs = futures_util::future::join_all((0..count).map(|_| builder.start())).await;
    let applied = db.number("SELECT count(*) FROM recado.schema_history").await;
    let versions = db.number("SELECT count(DISTINCT version) FROM recado.schema_history").await;
    assert!(applied > 0 && applied == versions, "each migration once: {applied} of {versions}");
    assert_eq!(db.number("SELECT count(*) FROM recado.meta").await, 1);
    let mut clients = Vec::new();
    for hub in &hubs {
        assert!(hub.is_ready().await);
        clients.push(TestClient::of("ann").connect(hub).await);
    }
    for hub in &hubs {
        hub.post(&note("n").to_user("ann")).await;
    }
    for client in &mut clients {
        assert_eq!(client.until_seq(count as i64).await.len(), count);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hubs_may_start_on_an_empty_database_at_once() {
    start_together(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_hubs_may_start_on_an_empty_database_at_once() {
    let _turn = heavy().await;
    start_together(6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_key_or_body_reaches_the_log_of_a_hub() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_LOG", "debug,recado=trace").start().await;
    let user = token("ann", &[]);
    let mut by_query = TestClient::of("ann").without_header().query("token", &user).connect(&hub).await;
    let subprotocols = format!("recado.v1, recado.bearer.{user}");
    let mut by_protocol =
        TestClient::of("ann").without_header().device("2").header("sec-websocket-protocol", &subprotocols).connect(&hub).await;
    hub.post(&note("a secret title").to_user("ann").data("\"a secret datum\"")).await;
    hub.try_post(&note("a secret title").raw("type", "\"Bad secret type\"")).await.unwrap();
    by_query.until("a secret title").await;
    by_protocol.until("a secret title").await;
    hub.get(&format!("/ws?token={user}"), None).await.unwrap();
    hub.get(&format!("/nowhere?token={user}"), Some(&user)).await.unwrap();
    by_query.close().await;
    let said = hub.said();
    assert!(said.contains("/api/internal/notify"), "the log is at work");
    let signature = user.rsplit('.').next().unwrap();
    for secret in [signature, &db.key()[4..], "a secret", "Bad secret"] {
        let line = said.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret:?} stands in the log: {line:?}");
    }
}

/// A role with no right but to connect.
async fn role(db: &TestDb, name: &str) -> String {
    let name = format!("{}_{name}", db.name);
    db.run(&format!("CREATE ROLE {name} LOGIN PASSWORD 'secret'")).await;
    name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_another_role_made_before_the_first_migration_is_refused() {
    let db = TestDb::bare().await;
    let stranger = role(&db, "stranger").await;
    db.run(&format!("CREATE SCHEMA recado AUTHORIZATION {stranger}")).await;
    let (code, said) = run_to_the_end(&TestHub::on(&db)).await;
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains(&stranger) && said.contains("REASSIGN OWNED BY"), "{said}");
    assert_eq!(db.number("SELECT count(*) FROM pg_class WHERE relnamespace = 'recado'::regnamespace").await, 0, "nothing was made in it");

    // Part of the schema is enough to be refused: one function, or the right to create one.
    db.run(&format!("ALTER SCHEMA recado OWNER TO CURRENT_USER; GRANT CREATE ON SCHEMA recado TO {stranger}")).await;
    let (code, said) = run_to_the_end(&TestHub::on(&db)).await;
    assert!(code == Some(78) && said.contains("REVOKE CREATE ON SCHEMA recado"), "{said}");
    db.run(&format!(
        "CREATE FUNCTION recado.helper() RETURNS integer LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION recado.helper() OWNER TO {stranger};
         REVOKE CREATE ON SCHEMA recado FROM {stranger}"
    ))
    .await;
    let (code, said) = run_to_the_end(&TestHub::on(&db)).await;
    assert!(code == Some(78) && said.contains("recado.helper()"), "{said}");
    db.run(&format!("DROP FUNCTION recado.helper(); DROP ROLE {stranger}")).await;
    TestHub::on(&db).publishing_with(&service_token("shop", recado::domain::Role::Service)).start().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_an_administrator_migrated_is_served_by_a_member_of_the_hubs_role() {
    let db = TestDb::new().await;
    let server = role(&db, "server").await;
    db.run(&format!("GRANT recado_hub TO {server}")).await;
    let hub = TestHub::on(&db).with("DATABASE_URL", &db.url_of(&server, "secret")).start().await;
    hub.post(&note("one").to_user("ann")).await;

    let bare = TestDb::bare().await;
    let url = bare.url_of(&server, "secret");
    let (code, said) = run_to_the_end(&TestHub::on(&bare).with("DATABASE_URL", &url)).await;
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains(&format!("GRANT CREATE ON DATABASE {} TO {server}", bare.name)), "{said}");
    drop(hub);
    db.run(&format!("REVOKE recado_hub FROM {server}; DROP ROLE {server}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_the_role_do_not_change_what_the_migrations_mean() {
    let db = TestDb::bare().await;
    for setting in ["standard_conforming_strings = off", "array_nulls = off", "transform_null_equals = on", "datestyle = 'SQL, DMY'"] {
        db.run(&format!("ALTER DATABASE {} SET {setting}", db.name)).await;
    }
    let hub = TestHub::on(&db).publishing_with(&service_token("shop", recado::domain::Role::Service)).start().await;
    hub.post(&note("one").to_user("ann")).await;
}

fn put(file: &Path, text: &str, mode: u32) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_none_or_that_others_can_read_is_refused_wherever_it_comes_from() {
    let db = TestDb::bare().await;
    let folder = tempfile::tempdir().unwrap();
    let refused = async |hub: HubBuilder, expected: &[&str]| {
        let (code, said) = run_to_the_end(&hub).await;
        assert_eq!(code, Some(78), "{said}");
        for part in expected {
            assert!(said.contains(part), "{part}: {said}");
        }
    };
    let hub = TestHub::on(&db).without("RECADO_JWT_SECRET").with("RECADO_DATA_DIR", folder.path().to_str().unwrap());
    refused(hub.clone().with("RECADO_JWT_SECRET", &"a".repeat(40)), &["RECADO_JWT_SECRET repeats one character"]).await;

    let file = folder.path().join("given");
    for (text, mode, expected) in
        [("", 0o600, "the file is empty"), (SECRET, 0o644, "chmod 600"), (SECRET, 0o620, "chmod 600"), ("x", 0o600, "1 bytes")]
    {
        put(&file, text, mode);
        refused(hub.clone().with("RECADO_JWT_SECRET_FILE", file.to_str().unwrap()), &["RECADO_JWT_SECRET", expected]).await;
    }
    fs::create_dir(folder.path().join("secrets")).unwrap();
    fs::set_permissions(folder.path().join("secrets"), fs::Permissions::from_mode(0o700)).unwrap();
    let kept = folder.path().join("secrets/jwt-secret");
    for (text, mode, expected) in [("", 0o600, "0 bytes"), ("\n", 0o600, "0 bytes"), ("x", 0o600, "1 bytes"), (SECRET, 0o644, "chmod 600")]
    {
        put(&kept, text, mode);
        refused(hub.clone(), &["secrets/jwt-secret", expected]).await;
        assert_eq!(fs::read_to_string(&kept).unwrap(), text, "no new secret is made over it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_says_when_another_database_uses_the_same_roles() {
    let (db, _other) = (TestDb::new().await, TestDb::new().await);
    let hub = TestHub::on(&db).start().await;
    eventually("it is logged", PATIENCE, async || hub.said().contains("other databases of this cluster use the same roles").then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_among_the_arguments_is_refused_with_the_other_way_named() {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_recado"));
    command.args(["migrate", "--database-url", "postgres://ann:geheim@127.0.0.1:1/nowhere"]).env_clear();
    let ended = command.output().await.unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(78), "{said}");
    assert!(said.contains("DATABASE_URL_FILE") && !said.contains("geheim"), "{said}");
}

/// A dump leaves roles behind: they belong to the cluster that it was taken from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_dump_restored_into_another_cluster_has_its_roles_again_after_the_first_start() {
    let server = DurableServer::start().await;
    let shop = service_token("shop", recado::domain::Role::Service);
    TestHub::at(&server.url()).publishing_with(&shop).start().await.post(&note("one").to_user("ann")).await;
    let mut admin = PgConnection::connect(&server.url()).await.unwrap();
    let grants = "SELECT string_agg(format('%s %s', c.oid::regclass, a), ', ' ORDER BY c.oid::regclass::text, a) FROM (
                      SELECT c.oid, a::text COLLATE \"C\" AS a FROM pg_class c, unnest(c.relacl) a
                       WHERE c.relnamespace IN ('recado'::regnamespace, 'recado_views'::regnamespace) AND NOT c.relispartition) c (oid, a)";
    let before: String = sqlx::query_scalar(grants).fetch_one(&mut admin).await.unwrap();
    sqlx::raw_sql(
        "DROP OWNED BY recado_hub, recado_producer, recado_analyst; DROP ROLE recado_hub; DROP ROLE recado_producer; DROP ROLE recado_analyst",
    )
    .execute(&mut admin)
    .await
    .unwrap();

    let hub = TestHub::at(&server.url()).publishing_with(&shop).start().await;
    hub.post(&note("two").to_user("ann")).await;
    assert!(hub.said().contains("recado_producer"), "{}", hub.said());
    let after: String = sqlx::query_scalar(grants).fetch_one(&mut admin).await.unwrap();
    assert_eq!(after, before);
    sqlx::raw_sql("CREATE ROLE shop LOGIN; GRANT recado_producer TO shop; SET SESSION AUTHORIZATION shop")
        .execute(&mut admin)
        .await
        .unwrap();
    let notify = "SELECT recado.notify('order_created', 'three', 'm', user_ids => '{ann}')";
    sqlx::raw_sql(notify).execute(&mut admin).await.unwrap();
    hub.has_published(3).await;
}
