//! Tests that `recado doctor` finds what is wrong, names the fix, and changes nothing.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::reaching::Pooler;
use super::support::cluster::TestCluster;
use super::support::host::given;
use super::support::*;

/// Runs it; returns the exit code and the checks.
async fn doctor(builder: &HubBuilder, more: &[&str]) -> (i32, Vec<Value>) {
    let arguments: Vec<&str> = ["doctor", "-o", "json"].iter().chain(more).copied().collect();
    let (code, output, messages) = builder.try_run(&arguments).await;
    let checks = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}{messages}"));
    (code.unwrap(), checks)
}

fn outcome<'c>(checks: &'c [Value], name: &str) -> Vec<&'c str> {
    checks.iter().filter(|check| check["check"] == name).map(|check| check["outcome"].as_str().unwrap()).collect()
}

/// The check has a fix that contains this.
fn assert_fix(checks: &[Value], name: &str, fix: &str) {
    let is_named = |check: &&Value| check["check"] == name && check["outcome"] == "fix";
    let fixes: Vec<&str> = checks.iter().filter(is_named).filter_map(|check| check["fix"].as_str()).collect();
    assert!(fixes.iter().any(|text| text.contains(fix)), "{name}: {fix} is not in {fixes:?}\n{checks:#?}");
}

fn strong(builder: HubBuilder) -> HubBuilder {
    builder.with("RECADO_JWT_SECRET", "6f1d0c5be29a48377de1f05c2b9a64836f1d0c5be29a48377de1f05c2b9a6483")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_hub_has_nothing_to_fix_and_is_not_changed() {
    let Some(mut server) = given("X4", TestCluster::make()) else { return };
    server.start().await;
    let builder = strong(TestHub::at(&server.url()));
    let hub = builder.start().await;
    let rows = "SELECT (SELECT count(*) FROM recado.session) + (SELECT count(*) FROM recado.log) + (SELECT count(*) FROM recado.cursor)
                     + (SELECT count(*) FROM recado.audit) * 1000";
    let before = server.number(rows).await;
    let (code, checks) = doctor(&builder, &["--url", &format!("http://{}", hub.address)]).await;
    assert!(checks.iter().all(|check| check["outcome"] != "fix"), "{checks:#?}");
    assert_eq!(code, 0);
    for name in ["database", "server", "durability", "pooler", "listen", "clock", "schema", "role", "connections", "instances"]
        .iter()
        .chain(&["partitions", "holdbacks", "outbox", "service keys", "secret", "origins", "hub", "hub clock", "websocket", "body"])
    {
        assert!(outcome(&checks, name).contains(&"ok"), "{name}: {checks:#?}");
    }
    assert_eq!(server.number(rows).await, before, "it left nothing");
    // People get a line for each check.
    let text = builder.run(&["doctor"]).await;
    assert!(text.contains("ok   database") && text.contains("-    hub"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsafe_settings_an_old_schema_and_a_weak_secret_are_named_with_their_fix() {
    let Some(mut server) = given("X4", TestCluster::make()) else { return };
    server.set("fsync=off");
    server.set("max_connections=12");
    server.start().await;
    let builder = TestHub::at(&server.url()).with("RECADO_JWT_SECRET", &"changeme".repeat(5));
    let (code, checks) = doctor(&builder, &[]).await;
    assert_eq!(code, 1);
    assert_fix(&checks, "durability", "set fsync = on");
    assert_fix(&checks, "secret", "openssl rand -hex 32");
    assert_fix(&checks, "schema", "recado migrate");
    assert_eq!(server.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'recado'").await, 0, "it migrates nothing");
    let allowed = builder.clone().with("RECADO_ALLOW_UNSAFE_DURABILITY", "on");
    allowed.run(&["migrate"]).await;
    let (_, checks) = doctor(&allowed, &["--hubs", "2"]).await;
    assert_eq!(outcome(&checks, "schema"), ["ok"]);
    assert_fix(&checks, "connections", "max_connections");
    assert_fix(&checks, "durability", "RECADO_ALLOW_UNSAFE_DURABILITY");
    server.execute("DELETE FROM recado.schema_history WHERE version = (SELECT max(version) FROM recado.schema_history)").await;
    let (code, checks) = doctor(&allowed, &[]).await;
    assert_eq!(code, 1);
    assert_fix(&checks, "schema", "recado migrate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_in_transaction_mode_is_found_on_either_address() {
    let db = TestDb::new().await;
    let Some(pooler) = Pooler::before(&db, "transaction").await else { return };
    let pooled = db.url_at(pooler.port);
    let (code, checks) = doctor(&TestHub::on(&db).with("DATABASE_URL", &pooled), &[]).await;
    assert_eq!(code, 1);
    assert_fix(&checks, "pooler", "pool_mode = session");
    let (_, checks) = doctor(&TestHub::on(&db).with("RECADO_LISTEN_DATABASE_URL", &pooled), &[]).await;
    assert_eq!(outcome(&checks, "pooler"), ["ok"]);
    assert_fix(&checks, "listen", "RECADO_LISTEN_DATABASE_URL");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_holds_back_the_database_is_named_with_the_statement_that_ends_it() {
    let db = TestDb::new().await;
    TestHub::on(&db).run(&["migrate"]).await;
    db.run("SELECT recado.notify('n', 'late', 'm', user_id => 'ann'); UPDATE recado.outbox SET at = at - interval '1 hour'").await;
    db.run(
        "INSERT INTO recado.instance (instance_id, address, version, backend_pid, seen_at)
         VALUES (gen_random_uuid(), 'gone', '0', 1, now() - interval '1 hour')",
    )
    .await;
    let (code, checks) = doctor(&TestHub::on(&db), &[]).await;
    assert_eq!(code, 1);
    assert_fix(&checks, "outbox", "recado serve");
    assert_fix(&checks, "instances", "recado serve");
}

/// Answers as a hub would whose clock is wrong, and as a proxy that passes no upgrade and no large body.
async fn broken_hub() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = vec![0; 2048];
                let read = socket.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let (status, body) = match head.split(' ').nth(1).unwrap_or_default() {
                    "/readyz?verbose" => {
                        ("503 Service Unavailable", r#"{"ready":false,"checks":{"appends":{"ok":false},"durable":{"ok":true}}}"#)
                    }
                    path if path.starts_with("/ws") => ("426 Upgrade Required", "{}"),
                    _ => ("413 Payload Too Large", "<html>"),
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = socket.write_all(answer.as_bytes()).await;
                // The rest of a large body, so that the answer is not lost with a reset.
                let mut rest = vec![0; 1 << 16];
                while socket.read(&mut rest).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_clock_and_a_proxy_that_stops_upgrades_and_bodies_are_found_by_url() {
    let db = TestDb::new().await;
    let url = broken_hub().await;
    let (code, checks) = doctor(&TestHub::on(&db), &["--url", &url]).await;
    assert_eq!(code, 1);
    assert_fix(&checks, "hub", "runbook");
    assert_fix(&checks, "hub clock", "NTP");
    assert_fix(&checks, "websocket", "Upgrade");
    assert_fix(&checks, "body", "client_max_body_size");
}

/// What went wrong: the public listener has no `/readyz` then, and the checks of the proxy were left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_with_an_internal_listener_is_checked_at_its_public_address() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_INTERNAL_BIND", "127.0.0.1:0").start().await;
    let (_, checks) = doctor(&TestHub::on(&db), &["--url", &format!("http://{}", hub.address)]).await;
    assert_eq!(outcome(&checks, "hub"), ["skipped"], "{checks:#?}");
    assert_eq!(outcome(&checks, "websocket"), ["ok"], "{checks:#?}");
    assert_eq!(outcome(&checks, "body"), ["skipped"], "posts are not served there: {checks:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_out_of_reach_is_a_finding_and_wrong_settings_are_not_checked_at_all() {
    let builder = TestHub::at("postgres://nobody@127.0.0.1:1/none");
    let (code, checks) = doctor(&builder, &[]).await;
    assert_eq!(code, 1);
    assert_fix(&checks, "database", "psql");
    let (code, output, messages) = builder.with("RECADO_HEARTBEAT", "soon").try_run(&["doctor"]).await;
    assert_eq!((code, output.as_str()), (Some(2), ""), "{messages}");
    assert!(messages.contains("RECADO_HEARTBEAT"), "{messages}");
}
