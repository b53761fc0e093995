//! A hub that could not keep its promises does not start, and says why.

use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_durable_is_refused_by_name() {
    let db = TestDb::bare().await;
    // The cluster of the run has all three off; one that was given may have them on, but this one can be set here.
    db.run(&format!("ALTER DATABASE {} SET synchronous_commit = off", db.name)).await;
    let (code, said) = run_to_the_end(&Hub::on(&db).without("RECADO_ALLOW_UNSAFE_DURABILITY")).await;
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
        let (code, said) = run_to_the_end(&Hub::on(&db)).await;
        assert_eq!(code, Some(78), "{setting}: {said}");
        assert!(said.contains(setting), "{setting}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_there_is_said_soon() {
    let (code, said) = run_to_the_end(&Hub::at("postgres://nobody@127.0.0.1:1/nowhere")).await;
    assert_eq!(code, Some(69), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_is_wrong_with_the_settings_is_said_at_once() {
    let db = TestDb::bare().await;
    let wrong = Hub::on(&db)
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
    let builder = Hub::on(&db).publishing_with(&service_token("shop", recado::domain::Role::Service));
    let hubs = futures_util::future::join_all((0..count).map(|_| builder.start())).await;
    let applied = db.number("SELECT count(*) FROM recado.schema_history").await;
    let versions = db.number("SELECT count(DISTINCT version) FROM recado.schema_history").await;
    assert!(applied > 0 && applied == versions, "each migration once: {applied} of {versions}");
    assert_eq!(db.number("SELECT count(*) FROM recado.meta").await, 1);
    let mut clients = Vec::new();
    for hub in &hubs {
        assert!(hub.is_ready().await);
        clients.push(Client::of("ann").connect(hub).await);
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
    let hub = Hub::on(&db).with("RECADO_LOG", "debug,recado=trace").start().await;
    let user = token("ann", &[]);
    let mut by_query = Client::of("ann").without_header().query("token", &user).connect(&hub).await;
    let subprotocols = format!("recado.v1, recado.bearer.{user}");
    let mut by_protocol =
        Client::of("ann").without_header().device("2").header("sec-websocket-protocol", &subprotocols).connect(&hub).await;
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
