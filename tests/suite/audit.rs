//! Promise: every administrative act leaves a row that says who, from where, what and with which outcome.
//!
//! There is no act without its row, and no row of an act that did not happen.

use std::collections::BTreeSet;
use std::process::Output;
use std::time::Duration;

use recado::domain::Role;
use recado::domain::audit::{Act, Outcome};
use recado::store::audit;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::process::Command;
use tokio::time::timeout;

use super::support::*;

/// Runs `recado`, as an operator does on the machine of the hub.
async fn recado(db: &TestDb, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
    command.args(args).env_clear().kill_on_drop(true);
    command.env("DATABASE_URL", db.url()).env("RECADO_ALLOW_UNSAFE_DURABILITY", "on").env("RECADO_UPSTREAM_KEY", "7".repeat(64));
    timeout(Duration::from_secs(60), command.output()).await.expect("the command ends").unwrap()
}

async fn does(db: &TestDb, args: &[&str]) -> String {
    let output = recado(db, args).await;
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn fails(db: &TestDb, args: &[&str]) {
    let output = recado(db, args).await;
    assert!(!output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
}

/// The acts, the oldest first.
async fn acts(db: &TestDb) -> Vec<Value> {
    let mut rows: Vec<Value> = serde_json::from_str(&does(db, &["audit", "--limit", "100000", "-o", "json"]).await).unwrap();
    rows.reverse();
    rows
}

/// The acts of one kind, as `object outcome`.
fn of<'a>(acts: &'a [Value], what: &str) -> Vec<(&'a str, &'a str)> {
    let text = |act: &'a Value, name: &str| act[name].as_str().unwrap_or("-");
    acts.iter().filter(|act| act["what"] == what).map(|act| (text(act, "object"), text(act, "outcome"))).collect()
}

/// A member over REST. Returns the status.
async fn member(hub: &TestHub, method: &str, user: &str, bearer: &str) -> u16 {
    let url = format!("http://{}/api/internal/accounts/7/members/{user}", hub.address);
    http_client().request(method.parse().unwrap(), url).bearer_auth(bearer).send().await.unwrap().status().as_u16()
}

/// Drains the hub; returns the object of the act.
async fn drain(hub: &TestHub, admin: &str) -> String {
    let (_, health) = hub.get("/health", None).await.unwrap();
    let instance = serde_json::from_str::<Value>(&health).unwrap()["instance"].as_str().unwrap().to_owned();
    let url = format!("http://{}/api/admin/instances/{instance}/drain", hub.address);
    eventually("the hub has told its first sample", PATIENCE, async || {
        let answer = http_client().post(&url).bearer_auth(admin).json(&json!({ "window_seconds": 0 })).send().await.unwrap();
        (answer.status() == 202).then_some(())
    })
    .await;
    format!("instance/{instance}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_act_is_recorded_whichever_way_it_takes() {
    let db = TestDb::new().await;
    want(&db, &["ann"]).await;
    does(&db, &["key", "create", "till", "--role", "admin"]).await;
    fails(&db, &["key", "create", "till"]).await;
    does(&db, &["key", "revoke", "till"]).await;
    fails(&db, &["key", "revoke", "till"]).await;
    fails(&db, &["key", "limit", "till", "--type", "order_*"]).await;
    let producer = format!("{}_prod", db.name);
    db.run(&format!("CREATE ROLE {producer} LOGIN")).await;
    does(&db, &["producer", "grant", &producer]).await;
    does(&db, &["producer", "limit", &producer, "--type", "order_*"]).await;
    does(&db, &["producer", "limit", &producer, "--unlimited"]).await;
    does(&db, &["producer", "revoke", &producer]).await;
    does(&db, &["consumer", "create", "billing", "--type", "order_*"]).await;
    does(&db, &["consumer", "grant", "billing", &producer]).await;
    does(&db, &["consumer", "revoke", "billing", &producer]).await;
    does(&db, &["consumer", "seek", "billing", "now"]).await;
    does(&db, &["consumer", "delete", "billing"]).await;
    fails(&db, &["consumer", "delete", "billing"]).await;
    does(&db, &["webhook", "create", "sms", "https://sms.example.com/hook?token=x", "--user", "ann"]).await;
    does(&db, &["webhook", "pause", "sms"]).await;
    does(&db, &["webhook", "resume", "sms"]).await;
    does(&db, &["webhook", "rotate", "sms"]).await;
    db.run(
        "INSERT INTO recado.webhook_post (webhook, seq, queued_at, due_at, is_dead) VALUES ('sms', 1, now(), now(), true);
         UPDATE recado.webhook SET owner = gen_random_uuid(), lease_until = now()",
    )
    .await;
    does(&db, &["webhook", "retry", "sms", "--all"]).await;
    db.run("SELECT recado.disable_webhook('sms', term) FROM recado.webhook").await;
    does(&db, &["webhook", "delete", "sms"]).await;
    fails(&db, &["webhook", "delete", "sms"]).await;
    db.run(&format!("DROP OWNED BY {producer}; DROP ROLE {producer}")).await;
    let analyst = format!("{}_ana", db.name);
    does(&db, &["analyst", "create", &analyst, "--connections", "2"]).await;
    fails(&db, &["analyst", "create", &analyst]).await;
    does(&db, &["analyst", "drop", &analyst]).await;
    fails(&db, &["analyst", "drop", &analyst]).await;
    does(&db, &["log", "new-id"]).await;
    does(&db, &["log", "retain", "--sessions", "30d"]).await;
    does(&db, &["upstream", "reconnect", "ann"]).await;
    does(&db, &["upstream", "release", "ann", "--provider", "p"]).await;
    fails(&db, &["upstream", "release", "bob"]).await;
    // A database administrator, by hand.
    db.run("UPDATE recado.service_key SET role = 'service' WHERE name = 'till'; DELETE FROM recado.service_key WHERE name = 'till'").await;

    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    does(&db, &["secret", "rotate", "jwt", "--data-dir", data]).await;
    does(&db, &["secret", "forget", "jwt", "--data-dir", data]).await;
    let hub = TestHub::on(&db).without("RECADO_JWT_SECRET").with("RECADO_DATA_DIR", data).with("RECADO_POLL_INTERVAL", "2s").start().await;
    assert!(!folder.path().join("audit-pending").exists(), "the hub has recorded the notes");
    assert_eq!((member(&hub, "PUT", "ann", hub.key()).await, member(&hub, "DELETE", "ann", hub.key()).await), (200, 200));
    assert_eq!(member(&hub, "PUT", "ann", "rck_no").await, 401);
    let admin = db.admin_key();
    db.run("INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq) SELECT 'bob', 'web', log_id, 0 FROM recado.meta").await;
    for (path, body) in [
        ("/api/admin/revocations", json!({ "user_id": "bob", "reason": "lost a laptop" })),
        ("/api/admin/sessions/close", json!({ "account_id": "7" })),
        ("/api/admin/users/bob/ack", json!({ "client_id": "web", "seq": 1 })),
    ] {
        let url = format!("http://{}{path}", hub.address);
        assert_eq!(http_client().post(url).bearer_auth(&admin).json(&body).send().await.unwrap().status(), 200, "{path}");
    }
    let url = format!("http://{}/api/admin/tokens", hub.address);
    let minted = http_client().post(url).bearer_auth(&admin).json(&json!({ "user_id": "carl" })).send().await.unwrap();
    assert_eq!(minted.status(), 200);
    let link = TestHub::on(&db).without("RECADO_JWT_SECRET").with("RECADO_DATA_DIR", data).run(&["admin"]).await;
    let link = link.trim().split_once("#token=").unwrap().1;
    let url = format!("http://{}/api/admin/sign-in", hub.address);
    assert_eq!(http_client().post(url).json(&json!({ "link": link })).send().await.unwrap().status(), 200);
    let instance = drain(&hub, &admin).await;
    let url = format!("http://{}/api/admin/revocations/bob", hub.address);
    assert_eq!(http_client().delete(url).bearer_auth(&admin).send().await.unwrap().status(), 200);
    let post = hub.post(&note("to be erased").to_user("ann")).await;
    does(&db, &["erase", "--seq", &post.seq.to_string(), "--reason", "case 1"]).await;
    does(&db, &["erase", "--user", "ann", "--reason", "case 2"]).await;
    eventually("the refusal is recorded", PATIENCE, async || {
        (db.number("SELECT count(*) FROM recado.audit WHERE what = 'admin.request'").await == 1).then_some(())
    })
    .await;

    let found = acts(&db).await;
    for (what, expected) in [
        ("key.create", vec![("shop", "done"), ("boss", "done"), ("till", "done"), ("till", "failed")]),
        ("key.revoke", vec![("till", "done"), ("till", "failed")]),
        ("key.change", vec![("till", "failed"), ("till", "done")]),
        ("producer.grant", vec![(producer.as_str(), "done")]),
        ("producer.limit", vec![(producer.as_str(), "done")]),
        ("producer.unlimit", vec![(producer.as_str(), "done")]),
        ("producer.revoke", vec![(producer.as_str(), "done")]),
        ("consumer.create", vec![("billing", "done")]),
        ("consumer.grant", vec![("billing", "done")]),
        ("consumer.revoke", vec![("billing", "done")]),
        ("consumer.seek", vec![("billing", "done")]),
        ("consumer.delete", vec![("billing", "done"), ("billing", "failed")]),
        ("webhook.create", vec![("sms", "done")]),
        ("webhook.pause", vec![("sms", "done")]),
        ("webhook.resume", vec![("sms", "done")]),
        ("webhook.rotate", vec![("sms", "done")]),
        ("webhook.retry", vec![("sms", "done")]),
        ("webhook.disable", vec![("sms", "done")]),
        ("webhook.delete", vec![("sms", "done"), ("sms", "failed")]),
        ("key.delete", vec![("till", "done")]),
        ("analyst.create", vec![(analyst.as_str(), "done"), (&analyst, "failed")]),
        ("analyst.limit", vec![(analyst.as_str(), "done")]),
        ("analyst.bar", vec![(analyst.as_str(), "done")]),
        ("analyst.drop", vec![(analyst.as_str(), "done"), (&analyst, "failed")]),
        ("log.retain", vec![("log", "started"), ("log", "done")]),
        ("upstream.reconnect", vec![("*", "done")]),
        ("upstream.release", vec![("p", "done"), ("*", "failed")]),
        ("secret.rotate", vec![("jwt", "started"), ("jwt", "done")]),
        ("secret.forget", vec![("jwt", "started"), ("jwt", "done")]),
        ("secret.change", vec![("jwt", "done")]),
        ("session.close", vec![("account/7", "done")]),
        ("token.mint", vec![("-", "done")]),
        ("admin.sign_in", vec![("-", "done")]),
        ("instance.drain", vec![(instance.as_str(), "done")]),
        ("device.ack", vec![("device/web", "done")]),
        ("member.add", vec![("account/7", "done")]),
        ("member.remove", vec![("account/7", "done")]),
        ("notification.erase", vec![("erasure/1", "started"), ("erasure/1", "done")]),
        ("user.erase", vec![("erasure/2", "started"), ("erasure/2", "done")]),
        ("admin.request", vec![("PUT /api/internal/accounts/{account}/members/{user}", "refused")]),
    ] {
        assert_eq!(of(&found, what), expected, "{what}");
    }
    assert_eq!((of(&found, "log.new_id").len(), of(&found, "hub.start").len()), (1, 1));

    let first = |what: &str| found.iter().find(|act| act["what"] == what).unwrap();
    let by_hand = found.iter().find(|act| act["what"] == "key.delete").unwrap();
    assert_eq!(
        (&by_hand["via"], by_hand["who"].as_str().unwrap()),
        (&json!("sql"), &*format!("login:{}", by_hand["login"].as_str().unwrap()))
    );
    for what in ["analyst.create", "log.new_id", "log.retain", "upstream.reconnect", "secret.rotate", "user.erase"] {
        let act = first(what);
        assert!(act["via"] == "cli" && act["who"].as_str().unwrap().starts_with("os:") && act["address"].is_string(), "{act}");
        assert!(!act["login"].as_str().unwrap().is_empty(), "{act}");
    }
    let added = first("member.add");
    assert_eq!((&added["who"], &added["via"], &added["address"]), (&json!("key:shop"), &json!("rest"), &json!("127.0.0.1")));
    for what in ["user.revoke", "user.lift"] {
        let act = first(what);
        assert_eq!((&act["who"], &act["via"], &act["user_id"]), (&json!("key:boss"), &json!("rest"), &json!("bob")), "{act}");
    }
    assert_eq!(first("user.revoke")["reason"], "lost a laptop");
    assert!(first("secret.rotate")["details"]["acted_at"].is_string());
    let start = &first("hub.start")["details"];
    assert_eq!((&start["version"], &start["settings"]["RECADO_POLL_INTERVAL"]), (&json!(env!("CARGO_PKG_VERSION")), &json!("2s")));
    assert_eq!(start["settings"]["DATABASE_URL"], "(set)");

    // Old rows go, and one stays that says so.
    does(&db, &["log", "retain", "--audit", "0s"]).await;
    let found = acts(&db).await;
    assert_eq!(of(&found, "audit.retain").len(), 1);
    let kept: BTreeSet<&str> = found.iter().map(|act| act["what"].as_str().unwrap()).collect();
    assert!(kept.iter().all(|what| ["audit.retain", "log.retain", "admin.request"].contains(what)), "{kept:?}");
    does(&db, &["audit", "--verify"]).await;

    // The list above is the list of the program.
    let tested = [
        "key.create",
        "key.revoke",
        "key.change",
        "key.delete",
        "producer.grant",
        "producer.limit",
        "producer.unlimit",
        "producer.revoke",
        "consumer.create",
        "consumer.grant",
        "consumer.revoke",
        "consumer.seek",
        "consumer.delete",
        "webhook.create",
        "webhook.pause",
        "webhook.resume",
        "webhook.rotate",
        "webhook.retry",
        "webhook.disable",
        "webhook.delete",
        "analyst.create",
        "analyst.limit",
        "analyst.bar",
        "analyst.drop",
        "log.retain",
        "log.new_id",
        "upstream.reconnect",
        "upstream.release",
        "secret.rotate",
        "secret.forget",
        "secret.change",
        "member.add",
        "member.remove",
        "notification.erase",
        "user.erase",
        "user.lift",
        "user.revoke",
        "session.close",
        "token.mint",
        "admin.sign_in",
        "instance.drain",
        "device.ack",
        "admin.request",
        "hub.start",
        "audit.retain",
    ];
    assert_eq!(tested.iter().copied().collect::<BTreeSet<_>>(), Act::ALL.iter().map(|act| act.as_str()).collect());
}

/// A hub that ends between the record and the removal of the file leaves the notes to the next one.
#[tokio::test]
async fn a_noted_act_is_recorded_once_and_a_broken_note_stops_no_hub() {
    let db = TestDb::new().await;
    let notes = format!(
        "{}\nnot a note\n{}\n",
        audit::note(Act::SecretRotate, "jwt", Outcome::Started),
        audit::note(Act::SecretRotate, "jwt", Outcome::Done)
    );
    let mut connection = db.connect().await;
    for _ in 0..2 {
        assert_eq!(audit::record_noted(&mut connection, &notes).await.unwrap(), 1, "one line is no note");
    }
    assert_eq!(of(&acts(&db).await, "secret.rotate"), [("jwt", "started"), ("jwt", "done")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_role_can_change_or_remove_a_row() {
    let db = TestDb::new().await;
    let changes = [
        "UPDATE recado.audit SET who = 'os:eve'",
        "UPDATE recado.audit SET outcome = 'failed' WHERE false",
        "DELETE FROM recado.audit",
        "TRUNCATE recado.audit",
        "UPDATE recado.audit_chain SET hash = ''",
        "DELETE FROM recado.audit_chain",
        "TRUNCATE recado.audit_chain",
        "DELETE FROM recado.audit_unchained WHERE set_config('recado.x', 'y', true) IS NULL OR NULL",
        "SELECT set_config('recado.audit_change', 'erase', true); UPDATE recado.audit SET who = 'os:eve'",
        "SELECT set_config('recado.audit_change', 'retain', true); TRUNCATE recado.audit",
        "SELECT recado.audit('audit.retain')",
        "SELECT recado.audit('Not an act')",
        "SELECT recado.audit('hub.start', p_outcome => 'perhaps')",
    ];
    for (role, expected) in [("recado_hub", changes.len()), ("current_user", changes.len() - 1)] {
        let mut refused = 0;
        for change in changes {
            let sql = format!(
                "BEGIN; {}; {change}; ROLLBACK",
                if role == "current_user" { "SELECT 1".into() } else { format!("SET ROLE {role}") }
            );
            refused += usize::from(sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut db.connect().await).await.is_err());
        }
        // The owner may touch the list of rows that wait for the chain: verification shows it.
        assert_eq!(refused, expected, "{role}");
    }
    for call in ["recado.retain_audit(0, 0, 1)", "recado.erase_audit('ann')", "recado.verify_audit()", "recado.audit_anchor()"] {
        for role in ["recado_hub", "recado_producer", "recado_analyst"] {
            let sql = format!("SET ROLE {role}; SELECT {call}");
            let error = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut db.connect().await).await.expect_err(call);
            assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("42501"), "{role}: {call}");
        }
    }
    for role in ["recado_producer", "recado_analyst"] {
        for sql in ["SELECT recado.audit('hub.start')", "SELECT * FROM recado_views.audit", "SELECT * FROM recado.audit"] {
            let sql = format!("SET ROLE {role}; {sql}");
            assert!(sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut db.connect().await).await.is_err(), "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_act_and_its_row_are_one_transaction() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    db.run(
        "BEGIN; INSERT INTO recado.service_key (name, role, hash) VALUES ('till', 'admin', 'x');
         SELECT recado.create_analyst('never_made', 'x'); ROLLBACK",
    )
    .await;
    assert_eq!(db.number("SELECT count(*) FROM recado.audit WHERE object IN ('till', 'never_made')").await, 0);
    // Now no row can be written: then nothing is done either.
    db.run("ALTER TABLE recado.audit ADD CONSTRAINT full_disk CHECK (audit_id < 0) NOT VALID").await;
    let head = db.head().await;
    let analyst = format!("{}_ana", db.name);
    fails(&db, &["key", "create", "till"]).await;
    fails(&db, &["key", "revoke", "shop"]).await;
    fails(&db, &["analyst", "create", &analyst]).await;
    fails(&db, &["log", "new-id"]).await;
    fails(&db, &["log", "retain", "--age", "1s"]).await;
    fails(&db, &["erase", "--user", "ann", "--reason", "case 1"]).await;
    let status = member(&hub, "PUT", "ann", hub.key()).await;
    assert!(status >= 500, "{status}");
    for nothing in [
        "SELECT count(*) FROM recado.service_key WHERE name = 'till' OR revoked_at IS NOT NULL",
        "SELECT count(*) FROM recado.erasure",
        "SELECT count(*) FROM recado.member",
        &format!("SELECT count(*) FROM pg_roles WHERE rolname = '{analyst}'"),
    ] {
        assert_eq!(db.number(nothing).await, 0, "{nothing}");
    }
    assert_eq!(db.head().await, head);
    db.run("ALTER TABLE recado.audit DROP CONSTRAINT full_disk").await;
    assert_eq!(member(&hub, "PUT", "ann", hub.key()).await, 200);
    hub.post(&note("and the hub goes on").to_user("ann")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_refused_attempts_becomes_a_few_rows_with_counts() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_TRUSTED_PROXIES", "127.0.0.1").start().await;
    let client = http_client();
    let ask = async |path: &str, bearer: &str, from: &str| {
        let request = client.get(format!("http://{}{path}", hub.address)).bearer_auth(bearer).header("x-forwarded-for", from);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask("/api/admin/audit", &token("ann", &[]), "192.0.2.1").await, 403);
    assert_eq!(ask("/stats", hub.key(), "192.0.2.1").await, 403);
    assert_eq!(ask("/stats", &service_token("cron", Role::Service), "192.0.2.1").await, 403);
    for n in 0..300 {
        assert_eq!(ask("/api/admin/why", "guess", &format!("198.51.100.{}", n % 250)).await, 401);
    }
    let rows = || db.number("SELECT count(*) FROM recado.audit WHERE what = 'admin.request'");
    eventually("the first are recorded", PATIENCE, async || (rows().await > 0).then_some(())).await;
    hub.signal("-TERM").await;
    let mut hub = hub;
    assert!(hub.ended(Duration::from_secs(20)).await.success());
    // At most eleven in a second after the first, and eleven when the hub stops.
    let rows = rows().await;
    assert!((4..=22).contains(&rows), "{rows} rows");
    assert_eq!(db.number("SELECT sum(count)::bigint FROM recado.audit WHERE what = 'admin.request'").await, 303);
    let found = acts(&db).await;
    let refused = |who: &str| found.iter().find(|act| act["who"] == who && act["outcome"] == "refused").unwrap_or_else(|| panic!("{who}"));
    assert_eq!((&refused("user")["user_id"], &refused("user")["address"]), (&json!("ann"), &json!("192.0.2.1")));
    assert_eq!(refused("key:shop")["object"], "GET /stats");
    assert!(refused("token:cron")["reason"].as_str().unwrap().contains("an admin key is required"));
    assert!(refused("unknown")["object"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admins_list_acts_page_by_page_with_filters() {
    let db = TestDb::new().await;
    for n in 0..5 {
        does(&db, &["key", "create", &format!("till-{n}")]).await;
    }
    let hub = TestHub::on(&db).start().await;
    let list = async |query: &str, bearer: &str| {
        let path = format!("/api/admin/audit{query}");
        let url = format!("http://{}{path}", hub.address);
        let answer = http_client().get(url).bearer_auth(bearer).send().await.unwrap();
        let (status, media) = (answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap().to_owned());
        let body = answer.text().await.unwrap();
        matches_document("GET", &path, status, Some(&media), &body);
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    let (mut names, mut before) = (Vec::new(), String::new());
    loop {
        let (status, page) = list(&format!("?what=key.*&since=1h&limit=2{before}"), &db.admin_key()).await;
        assert_eq!(status, 200, "{page}");
        names.extend(page["acts"].as_array().unwrap().iter().map(|act| act["object"].as_str().unwrap().to_owned()));
        match page["next"].as_i64() {
            Some(next) => before = format!("&before={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["till-4", "till-3", "till-2", "till-1", "till-0", "boss", "shop"]);
    let count = async |query: &str| list(query, &db.admin_key()).await.1["acts"].as_array().unwrap().len();
    assert_eq!(
        (count("?who=os:*").await, count("?who=hub").await, count("?who=os").await),
        (5, 2, 0),
        "a hub starts, with the first secret"
    );
    assert_eq!((count("?what=hub.start").await, count("?since=2999-01-01T00:00:00Z").await), (1, 0));
    for (query, bearer, status) in [
        ("", hub.key(), 403),
        ("", &token("ann", &[]), 403),
        ("", "no", 401),
        ("?what=*.create", &db.admin_key(), 422),
        ("?limit=1001", &db.admin_key(), 422),
        ("?user=ann", &db.admin_key(), 422),
    ] {
        assert_eq!(list(query, bearer).await.0, status, "{query}");
    }
    // The command line has the same filters, and a table for people.
    let table = does(&db, &["audit", "--what", "key.create", "--who", "os:*", "--since", "1h", "--limit", "3"]).await;
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.contains("till-4") && table.contains("role=service") && table.contains("s ago"), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_or_removed_row_shows_in_the_hash_chain() {
    let db = TestDb::new().await;
    for name in ["a", "b", "c"] {
        does(&db, &["key", "create", name]).await;
    }
    let clean = does(&db, &["audit", "--verify", "-o", "json"]).await;
    let clean: Value = serde_json::from_str(&clean).unwrap();
    assert_eq!((&clean["link"], &clean["faults"]), (&json!(5), &json!([])));
    for (fault, says) in [
        ("DELETE FROM recado.audit WHERE audit_id = 3", "the row was removed: row 3, link 3"),
        ("UPDATE recado.audit SET who = 'os:eve' WHERE audit_id = 3", "the row was changed: row 3, link 3"),
        ("UPDATE recado.audit SET at = at - interval '1 day' WHERE audit_id = 3", "the row was changed: row 3, link 3"),
        (
            "DELETE FROM recado.audit WHERE audit_id = 3; DELETE FROM recado.audit_chain WHERE link = 3",
            "links before this one were removed",
        ),
        (
            "DELETE FROM recado.audit WHERE audit_id < 3; DELETE FROM recado.audit_chain WHERE link < 3",
            "links before this one were removed",
        ),
    ] {
        let broken = db.copy().await;
        broken.run(&format!("SET session_replication_role = replica; {fault}")).await;
        let output = recado(&broken, &["audit", "--verify"]).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success() && said.contains(says), "{fault}: {said}");
    }
    // Rows that are removed by retention are no fault, and the chain goes on.
    db.run("SET session_replication_role = replica; UPDATE recado.audit SET at = at - interval '500 days' WHERE audit_id <= 3").await;
    db.run(
        "SET session_replication_role = replica; DELETE FROM recado.audit_chain;
         INSERT INTO recado.audit_unchained SELECT audit_id FROM recado.audit",
    )
    .await;
    does(&db, &["audit", "--verify"]).await;
    assert_eq!(
        db.number("SELECT recado.retain_audit(400 * 86400, 200 * 86400, 5000)::bigint").await,
        0,
        "a day's worth has not come together"
    );
    does(&db, &["log", "retain", "--audit", "400d"]).await;
    let found = acts(&db).await;
    let retained = found.iter().find(|act| act["what"] == "audit.retain").unwrap();
    assert_eq!((&retained["object"], &retained["details"]["removed"]), (&json!("link/3"), &json!(3)));
    assert!(retained["who"].as_str().unwrap().starts_with("os:"), "{retained}");
    assert_eq!(db.number("SELECT min(link) FROM recado.audit_chain").await, 4);
    does(&db, &["audit", "--verify"]).await;
    let log = TestHub::on(&db).with("RECADO_RETENTION_AUDIT", "forever").start().await;
    eventually("the hub logs the end of the chain", PATIENCE, async || log.said().contains("chained rows of the audit").then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_users_id_leaves_the_audit_and_the_chain_stays_valid() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    want(&db, &["ann-to-erase"]).await;
    assert_eq!(member(&hub, "PUT", "ann-to-erase", hub.key()).await, 200);
    assert_eq!(member(&hub, "PUT", "bob", hub.key()).await, 200);
    does(&db, &["upstream", "release", "ann-to-erase"]).await;
    assert_eq!(hub.get("/stats", Some(&token("ann-to-erase", &[]))).await.unwrap().0, 403);
    let with_id = || db.number("SELECT count(*) FROM recado.audit a WHERE strpos(a::text, 'ann-to-erase') > 0");
    eventually("all three are recorded", PATIENCE, async || (with_id().await == 3).then_some(())).await;
    does(&db, &["audit", "--verify"]).await;
    let rows = db.number("SELECT count(*) FROM recado.audit").await;
    does(&db, &["erase", "--user", "ann-to-erase", "--reason", "case 7"]).await;
    assert_eq!(with_id().await, 0);
    assert_eq!(db.number("SELECT count(*) FROM recado.audit").await, rows + 2, "the acts stay, and the erasure is two more");
    assert_eq!(db.number("SELECT count(*) FROM recado.audit WHERE user_hash IS NOT NULL AND user_id IS NULL").await, 3);
    assert_eq!(db.number("SELECT count(*) FROM recado.audit WHERE user_id = 'bob'").await, 1);
    does(&db, &["audit", "--verify"]).await;
    // By hand, without a record of the erasure, each step records itself.
    hub.post(&note("for bob").to_user("bob")).await;
    db.run("SELECT recado.erase_rows('bob', 0, 1000), recado.erase_traces('bob')").await;
    let by_hand = "SELECT count(*) FROM recado.audit WHERE what = 'user.erase' AND via = 'sql' AND object IS NULL";
    assert_eq!(db.number(by_hand).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_hub_works_on_the_schema_and_its_acts_are_recorded() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_ACCOUNTS", "table").start().await;
    // A command line of an earlier version writes a key, without an actor.
    db.run("INSERT INTO recado.service_key (name, role, hash) VALUES ('old', 'service', 'old')").await;
    assert_eq!(db.number("SELECT count(*) FROM recado.audit WHERE object = 'old' AND who = 'login:' || session_user").await, 1);
    // The data of its membership changes, and of those in SQL, names no caller. They work, and are in the log.
    db.run("SELECT recado.add_member('ann', '7')").await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    eventually("she is a member", PATIENCE, async || (db.number("SELECT count(*) FROM recado.member").await == 1).then_some(())).await;
    hub.post(&note("to the account").account("7")).await;
    ann.until("to the account").await;
    assert_eq!(db.number("SELECT count(*) FROM recado.audit WHERE what = 'member.add'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_auditor_reads_the_view() {
    let db = TestDb::new().await;
    let analyst = format!("{}_ana", db.name);
    let created = does(&db, &["analyst", "create", &analyst, "-o", "json"]).await;
    let password = serde_json::from_str::<Value>(&created).unwrap()["password"].as_str().unwrap().to_owned();
    let read = async || {
        let mut connection = PgConnection::connect(&db.url_of(&analyst, &password)).await.unwrap();
        sqlx::query("SELECT what, object FROM recado_views.audit WHERE what = 'analyst.create'").fetch_all(&mut connection).await
    };
    assert!(read().await.unwrap_err().to_string().contains("permission denied"));
    db.run(&format!("GRANT SELECT ON recado_views.audit TO {analyst}")).await;
    let rows = read().await.unwrap();
    assert_eq!((rows.len(), rows[0].get::<String, _>("object")), (1, analyst.clone()));
    assert!(!acts(&db).await.iter().any(|act| act.to_string().contains(&password)));
    db.run(&format!("REVOKE ALL ON recado_views.audit FROM {analyst}")).await;
    does(&db, &["analyst", "drop", &analyst]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_sign_ins_are_counted_by_reason_at_every_door() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_JWT_AUDIENCE", "hub").with("RECADO_JWT_ISSUER", "us").start().await;
    let now = chrono::Utc::now().timestamp();
    let signed = |secret: &str, exp: i64, iss: &str, aud: &str| {
        let claims = json!({ "sub": "ann", "exp": exp, "iss": iss, "aud": aud });
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key.unwrap()).unwrap()
    };
    let good = signed(SECRET, now + 600, "us", "hub");
    let bad = [
        ("expired", signed(SECRET, now - 600, "us", "hub")),
        ("bad_signature", signed("another-secret-of-thirty-two-bytes!!!", now + 600, "us", "hub")),
        ("wrong_issuer", signed(SECRET, now + 600, "them", "hub")),
        ("wrong_audience", signed(SECRET, now + 600, "us", "other")),
        ("invalid_token", "no-token".to_owned()),
    ];
    let metric = async |reason: &str| hub.metric(&format!("recado_sign_ins_refused_total{{reason=\"{reason}\"}}")).await;
    let notify = async |bearer: Option<&str>| {
        let request = http_client().post(format!("http://{}/api/internal/notify", hub.address));
        let request = if let Some(bearer) = bearer { request.bearer_auth(bearer) } else { request };
        request.send().await.unwrap().status().as_u16()
    };
    // WebSocket, SSE, follow, REST, and the door of services.
    for (reason, token) in &bad {
        let before = metric(reason).await;
        let socket = TestClient::of("nobody").without_header().query("token", token).open(&hub).await.unwrap();
        TestClient::over(socket).ended(PATIENCE).await;
        for path in ["/api/notifications/stream", "/api/notifications/ndjson?follow=true", "/api/notifications", "/api/whoami"] {
            assert_eq!(hub.get(path, Some(token)).await.unwrap().0, 401, "{path}");
        }
        assert_eq!(notify(Some(token)).await, 401);
        assert_eq!(metric(reason).await, before + 6.0, "{reason}");
    }
    let unknown = format!("rck_{:0>64}", "abc");
    for (reason, status, bearer) in
        [("no_credential", 401, None), ("unknown_service_key", 401, Some(unknown.as_str())), ("wrong_role", 403, Some(good.as_str()))]
    {
        let before = metric(reason).await;
        assert_eq!(notify(bearer).await, status);
        assert_eq!(metric(reason).await, before + 1.0, "{reason}");
    }
    let foreign = http_client().get(format!("http://{}/api/whoami", hub.address)).header("origin", "https://evil.example").send();
    assert_eq!((foreign.await.unwrap().status().as_u16(), metric("foreign_origin").await), (403, 1.0));

    // Tickets: forged, used.
    let made = http_client().post(format!("http://{}/api/ws-ticket", hub.address)).bearer_auth(&good).send().await.unwrap();
    let made: Value = made.json().await.unwrap();
    let ticket = made["ticket"].as_str().unwrap();
    let forged = format!("{}{}", &ticket[..ticket.len() - 4], if ticket.ends_with("0000") { "1111" } else { "0000" });
    TestClient::of("nobody").without_header().query("ticket", ticket).connect(&hub).await;
    for refused in [ticket, &forged, "rct_no"] {
        let socket = TestClient::of("nobody").without_header().query("ticket", refused).open(&hub).await.unwrap();
        TestClient::over(socket).ended(PATIENCE).await;
    }
    assert_eq!((metric("ticket_used").await, metric("ticket_forged").await), (1.0, 2.0));
}

/// The answer to a missing scope names the user of the request. An erasure could not remove that id from the audit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_for_a_missing_scope_names_no_user() {
    let db = TestDb::new().await;
    let key = does(&db, &["key", "create", "crm", "--user", "42", "--members"]).await;
    let hub = TestHub::on(&db).start().await;
    assert_eq!(member(&hub, "PUT", "secret-43", key.trim()).await, 403);
    eventually("the refusal is recorded", PATIENCE, async || {
        (db.number("SELECT count(*) FROM recado.audit WHERE what = 'admin.request' AND reason = 'scope_missing'").await == 1).then_some(())
    })
    .await;
    assert_eq!(db.number("SELECT count(*) FROM recado.audit a WHERE a::text LIKE '%secret-43%'").await, 0);
}
