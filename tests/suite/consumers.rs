//! Promise: a consumer receives each row that it wants, in order, until it has acknowledged it.
//!
//! Of several processes under one name one works at a time, and another takes over within the lease.

use std::process::Stdio;
use std::time::Duration;

use recado::domain::{Role, Scopes};
use recado::store::keys;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use super::support::*;

const JSON: (&str, &str) = ("content-type", "application/json");

/// Sends a request about a consumer; the hub's own document must allow the answer.
async fn ask_as(hub: &TestHub, bearer: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let path = format!("/api/internal/consumers/{path}");
    let url = format!("http://{}{path}", hub.address);
    let client = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
    let request = client.request(method.parse().unwrap(), url).bearer_auth(bearer).header(JSON.0, JSON.1).body(body.to_string());
    let response = request.send().await.unwrap();
    let (status, media) = (response.status().as_u16(), response.headers()["content-type"].to_str().unwrap().to_owned());
    let body = response.text().await.unwrap();
    matches_document(method, &path, status, Some(&media), &body);
    (status, serde_json::from_str(&body).unwrap())
}

/// A consumer, as an admin uses it.
struct Consumer<'a> {
    hub: &'a TestHub,
    key: String,
    name: &'a str,
    owner: &'a str,
}

fn consumer<'a>(db: &TestDb, hub: &'a TestHub, name: &'a str, owner: &'a str) -> Consumer<'a> {
    Consumer { hub, key: db.admin_key(), name, owner }
}

impl Consumer<'_> {
    async fn ask(&self, verb: &str, body: Value) -> (u16, Value) {
        ask_as(self.hub, &self.key, "POST", &format!("{}/{verb}", self.name), body).await
    }

    async fn create(&self, definition: Value) -> bool {
        let (status, body) = ask_as(self.hub, &self.key, "PUT", self.name, definition).await;
        assert!(matches!(status, 200 | 201), "{body}");
        assert_eq!(body["created"], status == 201);
        status == 201
    }

    async fn fetch(&self, more: Value) -> Value {
        let mut body = json!({ "owner": self.owner });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, body) = self.ask("fetch", body).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    async fn ack(&self, batch: &Value) -> (u16, Value) {
        self.ask("ack", json!({ "term": batch["term"], "seq": batch["through"] })).await
    }

    async fn ack_well(&self, batch: &Value) {
        assert_eq!(self.ack(batch).await, (200, json!({ "success": true, "acked": batch["through"] })));
    }

    async fn refusal(&self, verb: &str, body: Value) -> (u16, String) {
        let (status, body) = self.ask(verb, body).await;
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    }
}

fn titles(batch: &Value) -> Vec<&str> {
    batch["records"].as_array().unwrap().iter().map(|record| record["title"].as_str().unwrap()).collect()
}

async fn place(db: &TestDb, name: &str) -> i64 {
    db.number(&format!("SELECT acked_seq FROM recado.consumer WHERE name = '{name}'")).await
}

fn typed(title: &str, kind: &str) -> Note {
    note(title).raw("type", &format!("\"{kind}\"")).to_user("42")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_receives_what_it_wants_in_order_until_it_acknowledges() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let billing = consumer(&db, &hub, "billing", "a");
    for (at, kind) in ["order_created", "cart", "order_paid", "orders", "order-x", "stock.low", "order_paid"].into_iter().enumerate() {
        hub.post(&typed(&format!("n{}", at + 1), kind)).await;
    }
    assert!(billing.create(json!({ "types": ["order_*", "stock.low"] })).await);
    assert!(!billing.create(json!({ "types": ["stock.low", "order_*"], "start": "now" })).await, "the same conditions");
    assert_eq!(ask_as(&hub, &billing.key, "PUT", "billing", json!({})).await.1["code"], "other_conditions");
    let first = billing.fetch(json!({ "limit": 2 })).await;
    assert_eq!((titles(&first), &first["through"], &first["head"]), (vec!["n1", "n3"], &json!(3), &json!(7)));
    assert_eq!(billing.fetch(json!({ "limit": 2 })).await, first, "what is not acknowledged comes again, under the same term");
    assert_eq!(billing.ask("ack", json!({ "term": first["term"], "seq": 4 })).await.1["code"], "ack_ahead", "it was not given that");
    billing.ack_well(&first).await;
    let second = billing.fetch(json!({})).await;
    assert_eq!((titles(&second), &second["through"], &second["term"]), (vec!["n6", "n7"], &json!(7), &first["term"]));
    assert_eq!(place(&db, "billing").await, 5, "what it does not want needs no acknowledgement");
    billing.ack_well(&second).await;
    assert_eq!(billing.ask("ack", json!({ "term": first["term"], "seq": 3 })).await.1["acked"], 7, "a place never moves back");
    let nothing = billing.fetch(json!({})).await;
    assert_eq!((titles(&nothing), &nothing["through"]), (vec![], &json!(7)));

    // Conditions on the audience, whole rows, and rows that are for no service.
    hub.post(&note("of an account").account("7").data(r#"{"n": 1.50}"#)).await;
    hub.post(&note("in a list").to_users(&["42", "43"]).account("7").never_replayed()).await;
    hub.post(&note("of another").to_user("43").account("8")).await;
    hub.post(&note("to all").to_everyone()).await;
    let of_account = consumer(&db, &hub, "of-account", "a");
    of_account.create(json!({ "account_id": "7", "start": "7" })).await;
    let rows = of_account.fetch(json!({})).await;
    assert_eq!(titles(&rows), ["of an account", "in a list"]);
    let record = &rows["records"][1];
    assert_eq!((&record["user_ids"], &record["replay"], &record["source"]), (&json!(["42", "43"]), &json!(false), &json!("shop")));
    assert!(rows["records"][0].to_string().contains("1.5"));
    let of_user = consumer(&db, &hub, "of-user", "a");
    of_user.create(json!({ "user_id": "42", "account_id": "7" })).await;
    assert_eq!(titles(&of_user.fetch(json!({})).await), ["in a list"]);
    let everything = consumer(&db, &hub, "everything", "a");
    everything.create(json!({ "start": "now" })).await;
    assert_eq!(everything.fetch(json!({})).await["records"], json!([]));
    hub.post(&note("short").to_user("42").ttl(1)).await;
    db.run("SELECT recado.add_member('42', '7')").await;
    eventually("the change is in the log", PATIENCE, async || (db.head().await == 13).then_some(())).await;
    let erased = hub.post(&note("erased").to_user("42")).await.seq;
    TestHub::on(&db).run(&["erase", "--seq", &erased.to_string(), "--reason", "a test"]).await;
    hub.post(&note("kept").to_user("42")).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(titles(&everything.fetch(json!({})).await), ["kept"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_owner_waits_and_takes_over_when_the_lease_ends() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let (a, b) = (consumer(&db, &here, "billing", "a"), consumer(&db, &there, "billing", "b"));
    a.create(json!({})).await;
    for n in 1..=3 {
        here.post(&typed(&n.to_string(), "order_created")).await;
    }
    let of_a = a.fetch(json!({ "lease": 2, "limit": 2 })).await;
    assert_eq!(titles(&of_a), ["1", "2"]);
    let held = b.fetch(json!({ "lease": 2 })).await;
    assert_eq!((&held["term"], &held["records"], &held["through"]), (&json!(null), &json!([]), &json!(null)));
    let begun = Instant::now();
    let of_b = b.fetch(json!({ "lease": 2, "wait": 20 })).await;
    assert_eq!(titles(&of_b), ["1", "2", "3"], "rows that were not acknowledged come again");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(of_b["term"].as_i64() > of_a["term"].as_i64());
    // The fence: the first owner wakes and changes nothing.
    for (verb, body) in [("ack", json!({ "term": of_a["term"], "seq": 2 })), ("renew", json!({ "term": of_a["term"] }))] {
        assert_eq!(a.refusal(verb, body).await, (409, "stale_term".to_owned()), "{verb}");
    }
    assert_eq!(a.ask("release", json!({ "owner": "a" })).await.1["released"], false);
    assert_eq!(place(&db, "billing").await, 0);
    b.ack_well(&of_b).await;
    assert_eq!(b.ask("renew", json!({ "term": of_b["term"] })).await.0, 200);
    assert_eq!(b.ask("release", json!({ "owner": "b" })).await.1["released"], true);
    assert_eq!(b.ack(&of_b).await.1["code"], "stale_term", "a term ends with its lease");
    let again = a.fetch(json!({})).await;
    assert!(again["term"].as_i64() > of_b["term"].as_i64(), "the next owner need not wait");
    // Slow, but no other owner has taken over: nothing is lost.
    here.post(&typed("4", "order_created")).await;
    let slow = a.fetch(json!({ "lease": 1 })).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    a.ack_well(&slow).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_fetch_is_woken_by_a_commit_of_any_hub_and_keeps_its_lease() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let (a, b) = (consumer(&db, &here, "billing", "a"), consumer(&db, &there, "billing", "b"));
    a.create(json!({ "types": ["order_*"] })).await;
    let waits = async {
        let begun = Instant::now();
        (a.fetch(json!({ "wait": 30, "lease": 1 })).await, begun.elapsed())
    };
    let posts = async {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(b.fetch(json!({ "lease": 1 })).await["term"], json!(null), "the lease is renewed while the fetch waits");
        there.post(&typed("not wanted", "cart")).await;
        there.post(&typed("wanted", "order_paid")).await;
    };
    let ((batch, took), ()) = tokio::join!(waits, posts);
    assert_eq!(titles(&batch), ["wanted"]);
    assert!(took < Duration::from_secs(20), "it was woken: {took:?}");
    a.ack_well(&batch).await;
    // A wait ends when its time is over, and at once when the hub stops.
    let begun = Instant::now();
    assert_eq!(titles(&a.fetch(json!({ "wait": 1 })).await), [""; 0]);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let stops = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        here.signal("-TERM").await;
    };
    let begun = Instant::now();
    let (batch, ()) = tokio::join!(a.fetch(json!({ "wait": 30 })), stops);
    assert!(titles(&batch).is_empty() && begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retention_dropped_is_told_and_passed_only_on_demand() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let a = consumer(&db, &hub, "billing", "a");
    a.create(json!({})).await;
    for n in 1..=6 {
        hub.post(&typed(&n.to_string(), "order_created")).await;
    }
    let batch = a.fetch(json!({ "limit": 2 })).await;
    db.run("SELECT recado.drop_old_rows(0.0, 4)").await;
    assert_eq!(db.number("SELECT floor_seq FROM recado.meta").await, 4);
    a.ack_well(&batch).await;
    let (status, body) = a.ask("fetch", json!({ "owner": "a" })).await;
    assert_eq!((status, &body["code"], &body["earliest"], &body["head"]), (410, &json!("expired"), &json!(5), &json!(6)));
    assert_eq!(a.refusal("seek", json!({ "start": "3" })).await, (410, "expired".to_owned()));
    assert_eq!(a.refusal("seek", json!({ "start": "7" })).await, (409, "ack_ahead".to_owned()));
    let listed: Value = serde_json::from_str(&TestHub::on(&db).run(&["consumer", "list", "-o", "json"]).await).unwrap();
    assert_eq!((&listed[0]["state"], &listed[0]["acked"], &listed[0]["lag"]), (&json!("expired"), &json!(2), &json!(4)));
    assert_eq!(a.ask("seek", json!({ "start": "earliest" })).await, (200, json!({ "success": true, "acked": 4 })));
    assert_eq!(titles(&a.fetch(json!({})).await), ["5", "6"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_log_is_told_and_no_old_term_counts_in_it() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let a = consumer(&db, &hub, "billing", "a");
    a.create(json!({})).await;
    hub.post(&typed("before", "order_created")).await;
    let batch = a.fetch(json!({})).await;
    hub.kill().await;
    // The backup has a term that was given. Its owner goes on meanwhile.
    let backup = db.copy().await;
    let hub = TestHub::on(&db).start().await;
    let a = consumer(&db, &hub, "billing", "a");
    let later = a.fetch(json!({})).await;
    a.ack_well(&later).await;
    hub.kill().await;
    TestHub::on(&backup).run(&["log", "new-id"]).await;
    let hub = TestHub::on(&backup).start().await;
    // The keys are those of the original.
    let (restored, other) = (consumer(&db, &hub, "billing", "a"), consumer(&db, &hub, "billing", "b"));
    for (verb, body) in [
        ("fetch", json!({ "owner": "a" })),
        ("ack", json!({ "term": batch["term"], "seq": 1 })),
        ("renew", json!({ "term": batch["term"] })),
    ] {
        let (status, said) = restored.ask(verb, body).await;
        assert_eq!((status, &said["code"], said["log_id"] == batch["log_id"]), (409, &json!("reset"), false), "{verb}: {said}");
    }
    assert_eq!(place(&backup, "billing").await, 0);
    assert_eq!(other.ask("seek", json!({ "start": "earliest" })).await.0, 200);
    let new = other.fetch(json!({})).await;
    assert_eq!(titles(&new), ["before"]);
    assert!(new["term"].as_i64() > later["term"].as_i64(), "a term never comes again");
}

/// The SQLSTATE of a statement that is refused.
async fn state_of(sql: &mut PgConnection, statement: &str) -> String {
    let error = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(sql).await.expect_err(statement);
    error.as_database_error().and_then(|e| e.code()).map(|code| code.into_owned()).unwrap_or_else(|| panic!("{statement}: {error}"))
}

async fn fetched(sql: &mut PgConnection, owner: &str) -> Vec<(i64, i64, String)> {
    let rows = sqlx::query("SELECT term, seq, title FROM recado.consumer_fetch('billing', $1)").bind(owner).fetch_all(sql).await.unwrap();
    rows.iter().map(|row| (row.get("term"), row.get("seq"), row.get("title"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_consumes_in_its_own_transaction_and_may_do_nothing_else() {
    let db = TestDb::new().await;
    let builder = TestHub::on(&db);
    let hub = builder.start().await;
    let login = format!("till_{}", db.name);
    db.run(&format!(
        "CREATE ROLE {login} LOGIN PASSWORD 'secret'; CREATE SCHEMA app; CREATE TABLE app.invoice (seq bigint PRIMARY KEY);
         GRANT USAGE ON SCHEMA app TO {login}; GRANT ALL ON app.invoice TO {login}"
    ))
    .await;
    builder.run(&["consumer", "create", "billing", "--type", "order_*"]).await;
    builder.run(&["consumer", "create", "other"]).await;
    let (code, _, said) = builder.try_run(&["consumer", "grant", "billing", "no_such_login"]).await;
    assert!(code == Some(1) && said.contains("CREATE ROLE"), "{said}");
    builder.run(&["consumer", "grant", "billing", &login]).await;
    for n in 1..=2 {
        hub.post(&typed(&n.to_string(), "order_created")).await;
    }
    let mut sql = PgConnection::connect(&db.url_of(&login, "secret")).await.unwrap();
    let mut other = PgConnection::connect(&db.url_of(&login, "secret")).await.unwrap();
    for end in ["ROLLBACK", "COMMIT"] {
        sqlx::raw_sql("BEGIN").execute(&mut sql).await.unwrap();
        let rows = fetched(&mut sql, "one").await;
        assert_eq!(rows.iter().map(|(_, seq, title)| (*seq, title.as_str())).collect::<Vec<_>>(), [(1, "1"), (2, "2")], "{end}");
        assert!(fetched(&mut other, "two").await.is_empty(), "another transaction does not wait, and gets nothing");
        sqlx::raw_sql("INSERT INTO app.invoice VALUES (1), (2)").execute(&mut sql).await.unwrap();
        let acked: i64 =
            sqlx::query_scalar("SELECT recado.consumer_ack('billing', $1, 2)").bind(rows[0].0).fetch_one(&mut sql).await.unwrap();
        assert_eq!(acked, 2);
        sqlx::raw_sql(AssertSqlSafe(end)).execute(&mut sql).await.unwrap();
        assert_eq!(place(&db, "billing").await, if end == "COMMIT" { 2 } else { 0 }, "{end}");
    }
    assert_eq!(db.number("SELECT count(*) FROM app.invoice").await, 2, "each row was handled once");
    // A lease, a renewal, a release, and a stale term.
    hub.post(&typed("3", "order_created")).await;
    let rows = fetched(&mut sql, "one").await;
    assert!(fetched(&mut other, "two").await.is_empty(), "the first one has the lease");
    let renew = format!("SELECT recado.consumer_renew('billing', {})", rows[0].0);
    sqlx::raw_sql(AssertSqlSafe(renew.clone())).execute(&mut sql).await.unwrap();
    sqlx::raw_sql("SELECT recado.consumer_release('billing', 'one')").execute(&mut sql).await.unwrap();
    let taken = fetched(&mut other, "two").await;
    assert!(taken[0].0 > rows[0].0 && taken[0].1 == 3, "{taken:?}");
    assert_eq!(state_of(&mut sql, &renew).await, "RC023");
    assert_eq!(state_of(&mut sql, &format!("SELECT recado.consumer_ack('billing', {}, 3)", rows[0].0)).await, "RC023");
    assert_eq!(state_of(&mut sql, &format!("SELECT recado.consumer_ack('billing', {}, 4)", taken[0].0)).await, "RC024");
    // A hub sees the same lease.
    assert_eq!(consumer(&db, &hub, "billing", "three").fetch(json!({})).await["term"], json!(null));
    for (statement, state) in [
        ("SELECT recado.consumer_fetch('other', 'x')", "42501"),
        ("SELECT recado.consumer_fetch('missing', 'x')", "42501"),
        ("SELECT recado.consumer_ack('other', 1, 1)", "42501"),
        ("SELECT recado.consumer_release('other', 'x')", "42501"),
        ("SELECT recado.consumer_fetch('billing', 'x', 0)", "RC010"),
        ("SELECT recado.consumer_fetch('billing', '')", "RC010"),
        ("SELECT recado.consumer_fetch('billing', 'x', lease => '2 h')", "RC010"),
        ("SELECT recado.consumer_fetch('billing', NULL)", "RC010"),
        ("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT recado.consumer_fetch('billing', 'x')", "RC002"),
        ("ROLLBACK; SELECT recado.fetch_batch('billing', 'x', 1, 30)", "42501"),
        ("SELECT recado.seek_consumer('billing', 'now')", "42501"),
        ("SELECT recado.create_consumer('mine')", "42501"),
        ("SELECT recado.delete_consumer('billing')", "42501"),
        ("SELECT FROM recado.log", "42501"),
        ("SELECT FROM recado.consumer", "42501"),
        ("SELECT recado.notify('n', 't', 'm', user_id => '42')", "42501"),
        ("UPDATE recado.consumer SET acked_seq = 0", "42501"),
    ] {
        assert_eq!(state_of(&mut sql, statement).await, state, "{statement}");
    }
    let listed: Value = serde_json::from_str(&builder.run(&["consumer", "list", "-o", "json"]).await).unwrap();
    assert_eq!(listed[0]["logins"], json!([login]));
    builder.run(&["consumer", "revoke", "billing", &login]).await;
    assert_eq!(state_of(&mut sql, "SELECT recado.consumer_fetch('billing', 'x')").await, "42501");
    drop((sql, other));
    db.run(&format!("DROP OWNED BY {login}; DROP ROLE {login}")).await;
    // Who did what is in the audit.
    builder.run(&["consumer", "seek", "billing", "1"]).await;
    builder.run(&["consumer", "delete", "billing"]).await;
    let (code, _, said) = builder.try_run(&["consumer", "delete", "billing"]).await;
    assert!(code == Some(1) && said.contains("no consumer has this name"), "{said}");
    for (what, outcome, count) in [
        ("create", "done", 2),
        ("grant", "done", 1),
        ("revoke", "done", 1),
        ("seek", "done", 1),
        ("delete", "done", 1),
        ("delete", "failed", 1),
    ] {
        let sql = format!("SELECT count(*) FROM recado.audit WHERE what = 'consumer.{what}' AND outcome = '{outcome}' AND via = 'cli'");
        assert_eq!(db.number(&sql).await, count, "{what} {outcome}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_uses_the_consumers_that_it_names_within_its_accounts() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let list = |entries: &[&str]| entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>();
    let make = async |name: &str, role: Role, scopes: Scopes| {
        let key = keys::mint();
        keys::create_scoped(&mut db.connect().await, name, role, &key, &scopes).await.unwrap();
        key
    };
    let narrow = || Scopes { broadcast: false, members: false, read: false, ..Scopes::everything() };
    let plain = make("plain", Role::Service, Scopes::everything()).await;
    let reader = make("reader", Role::Admin, Scopes { types: Some(list(&["none"])), read: true, ..narrow() }).await;
    let one = make("one", Role::Service, Scopes { types: Some(list(&["none"])), consumers: list(&["billing"]), ..narrow() }).await;
    let many = make("many", Role::Service, Scopes { consumers: list(&["bill*"]), ..Scopes::everything() }).await;
    let tenant = make("tenant", Role::Service, Scopes { accounts: Some(list(&["7"])), consumers: list(&["*"]), ..narrow() }).await;
    let refused = async |bearer: &str, method: &str, path: &str, body: Value| {
        let (status, body) = ask_as(&hub, bearer, method, path, body).await;
        assert_eq!(status, 403, "{body}");
        body["errors"][0]["detail"].as_str().unwrap_or_default().to_owned()
    };
    let fetch = || json!({ "owner": "x" });
    for bearer in [&plain, &reader, &service_token("shop", Role::Service)] {
        assert_eq!(refused(bearer, "PUT", "billing", json!({})).await, "needs the scope consumer:billing");
        assert_eq!(refused(bearer, "POST", "billing/fetch", fetch()).await, "needs the scope consumer:billing");
    }
    assert_eq!(ask_as(&hub, &token("42", &[]), "POST", "billing/fetch", fetch()).await.0, 403);
    assert_eq!(ask_as(&hub, "rck_wrong", "POST", "billing/fetch", fetch()).await.0, 401);
    let (status, body) = ask_as(&hub, &one, "POST", "billing/fetch", fetch()).await;
    assert_eq!((status, &body["code"]), (404, &json!("unknown_consumer")));
    assert_eq!(ask_as(&hub, &one, "PUT", "billing", json!({})).await.0, 201, "at its first use");
    assert_eq!(refused(&one, "POST", "billing2/fetch", fetch()).await, "needs the scope consumer:billing2");
    for bearer in [&one, &many, &db.admin_key(), &service_token("boss", Role::Admin)] {
        assert_eq!(ask_as(&hub, bearer, "POST", "billing/fetch", fetch()).await.0, 200);
    }
    assert_eq!(hub.post_as(&one, &note("t").to_user("42")).await.unwrap().code(), "scope_missing", "it posts nothing");
    // A tenant's key reads its account only, whoever made the consumer.
    assert_eq!(refused(&tenant, "PUT", "theirs", json!({})).await, "needs the scope account:* (it names no account)");
    assert_eq!(refused(&tenant, "PUT", "theirs", json!({ "account_id": "8" })).await, "needs the scope account:8");
    for verb in ["fetch", "seek", "ack", "renew", "release"] {
        assert_eq!(refused(&tenant, "POST", &format!("billing/{verb}"), fetch()).await, "needs the scope account:* (it names no account)");
    }
    assert_eq!(ask_as(&hub, &tenant, "PUT", "theirs", json!({ "account_id": "7" })).await.0, 201);
    assert_eq!(ask_as(&hub, &tenant, "POST", "theirs/fetch", fetch()).await.0, 200);
    // A key that is revoked while its fetch waits.
    let waits = ask_as(&hub, &one, "POST", "billing/fetch", json!({ "owner": "x", "wait": 30, "lease": 1 }));
    let revokes = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(keys::revoke(&mut db.connect().await, "one").await.unwrap());
    };
    let begun = Instant::now();
    let ((status, _), ()) = tokio::join!(waits, revokes);
    assert!(status == 401 && begun.elapsed() < Duration::from_secs(20), "{status}");
    for (path, body) in [("a%2Fb/fetch", fetch()), ("billing/fetch", json!({ "owner": "" })), ("billing/ack", json!({ "term": 1 }))] {
        assert_eq!(ask_as(&hub, &many, "POST", path, body).await.0, 422, "{path}");
    }
    // Refusals and acts name the key.
    let created = "SELECT count(*) FROM recado.audit WHERE what = 'consumer.create' AND via = 'rest' AND who IN ('key:one', 'key:tenant')";
    assert_eq!(db.number(created).await, 2);
}

/// `recado consume` with the settings of a hub.
fn consume(db: &TestDb, hub: &TestHub, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
    command.args(["consume", "--name", "billing"]).args(args).env_clear().kill_on_drop(true);
    command.env("PATH", std::env::var("PATH").unwrap_or_default());
    command.env("RECADO_URL", format!("http://{}", hub.address)).env("RECADO_KEY", db.admin_key());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Its next line, as a title.
async fn title_of(lines: &mut tokio::io::Lines<BufReader<tokio::process::ChildStdout>>) -> String {
    let line = timeout(PATIENCE, lines.next_line()).await.expect("a line comes").unwrap().expect("it runs");
    serde_json::from_str::<Value>(&line).unwrap()["title"].as_str().unwrap().to_owned()
}

fn lines(child: &mut Child) -> tokio::io::Lines<BufReader<tokio::process::ChildStdout>> {
    BufReader::new(child.stdout.take().unwrap()).lines()
}

async fn terminated(mut child: Child) {
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let status = timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}");
}

async fn owner(db: &TestDb) -> i64 {
    db.number("SELECT count(*) FROM recado.consumer WHERE owner IS NOT NULL").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_consumer_loses_nothing_and_another_process_takes_over() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    for n in 1..=4 {
        here.post(&typed(&n.to_string(), if n == 2 { "cart" } else { "order_created" })).await;
    }
    // It handles a batch, and is killed before it can acknowledge.
    let stuck = format!("cat > {}; exec sleep 20", seen.display());
    let filter = ["--type", "order_*", "--lease", "2s"];
    let mut first = consume(&db, &here, &[&filter[..], &["--exec", &stuck]].concat()).spawn().unwrap();
    eventually("the command has its lines", PATIENCE, async || (std::fs::read_to_string(&seen).ok()?.lines().count() == 3).then_some(()))
        .await;
    let mut second = consume(&db, &there, &filter).spawn().unwrap();
    let mut printed = lines(&mut second);
    // Longer than the lease: it is renewed while the command runs.
    assert!(timeout(Duration::from_secs(4), printed.next_line()).await.is_err(), "the second one waits");
    first.kill().await.unwrap();
    let begun = Instant::now();
    for title in ["1", "3", "4"] {
        assert_eq!(title_of(&mut printed).await, title);
    }
    assert!(begun.elapsed() < Duration::from_secs(12), "within the lease: {:?}", begun.elapsed());
    eventually("it acknowledges what it printed", PATIENCE, async || (place(&db, "billing").await == 4).then_some(())).await;
    here.post(&typed("5", "order_paid")).await;
    assert_eq!(title_of(&mut printed).await, "5");
    eventually("it acknowledges", PATIENCE, async || (place(&db, "billing").await == 5).then_some(())).await;
    terminated(second).await;
    assert_eq!(owner(&db).await, 0, "the lease was given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_continues_when_its_hub_is_killed_and_another_runs_in_its_place() {
    let db = TestDb::new().await;
    let first = TestHub::on(&db).start().await;
    let port = first.address.rsplit_once(':').unwrap().1.to_owned();
    first.post(&typed("1", "order_created")).await;
    let mut child = consume(&db, &first, &["--start", "earliest"]).spawn().unwrap();
    let mut printed = lines(&mut child);
    assert_eq!(title_of(&mut printed).await, "1");
    first.kill().await;
    let second = TestHub::on(&db).with("PORT", &port).start().await;
    second.post(&typed("2", "order_created")).await;
    // The acknowledgement of the first row may have been lost with its hub.
    let next = title_of(&mut printed).await;
    let next = if next == "1" { title_of(&mut printed).await } else { next };
    assert_eq!(next, "2");
    eventually("it acknowledges", PATIENCE, async || (place(&db, "billing").await == 2).then_some(())).await;
    terminated(child).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_killed_in_its_transaction_leaves_the_position() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    consumer(&db, &hub, "billing", "a").create(json!({})).await;
    hub.post(&typed("1", "order_created")).await;
    let mut sql = db.connect().await;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut sql).await.unwrap();
    sqlx::raw_sql("BEGIN").execute(&mut sql).await.unwrap();
    let rows = fetched(&mut sql, "one").await;
    sqlx::query("SELECT recado.consumer_ack('billing', $1, 1)").bind(rows[0].0).execute(&mut sql).await.unwrap();
    assert_eq!(consumer(&db, &hub, "billing", "b").fetch(json!({})).await["term"], json!(null), "the row is in use");
    db.run(&format!("SELECT pg_terminate_backend({pid}, 5000)")).await;
    assert_eq!(place(&db, "billing").await, 0);
    let next = consumer(&db, &hub, "billing", "b").fetch(json!({})).await;
    assert_eq!(titles(&next), ["1"], "its lease was rolled back as well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_command_fails_comes_again_and_a_gap_ends_the_process() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let folder = tempfile::tempdir().unwrap();
    let (tried, seen) = (folder.path().join("tried"), folder.path().join("seen"));
    for n in 1..=5 {
        hub.post(&typed(&n.to_string(), "order_created")).await;
    }
    // The second batch fails once.
    let script = format!(
        "lines=$(cat); case $lines in *'\"seq\":3,'*) [ -e {0} ] || {{ touch {0}; exit 1; }};; esac; printf '%s\\n' \"$lines\" >> {1}",
        tried.display(),
        seen.display()
    );
    let output = consume(&db, &hub, &["--start", "earliest", "--batch", "2", "--exec", &script, "--until-caught-up"]).output();
    let output = timeout(Duration::from_secs(60), output).await.expect("it ends").unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("exit status: 1; its rows come again"), "{said}");
    let numbers: Vec<i64> = std::fs::read_to_string(&seen)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_i64().unwrap())
        .collect();
    assert_eq!((numbers, place(&db, "billing").await, owner(&db).await), (vec![1, 2, 3, 4, 5], 5, 0));
    // What it prints is acknowledged after it was written: nothing reads this pipe.
    hub.post(&typed("6", "order_created")).await;
    let mut child = consume(&db, &hub, &["--until-caught-up"]).spawn().unwrap();
    drop(child.stdout.take());
    timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap();
    assert_eq!(place(&db, "billing").await, 5);

    hub.post(&typed("7", "order_created")).await;
    db.run("SELECT recado.drop_old_rows(0.0, 6)").await;
    let output = consume(&db, &hub, &["--until-caught-up"]).output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("410 expired"), "{said}");
    let output = consume(&db, &hub, &["--until-caught-up", "--on-gap", "earliest"]).output().await.unwrap();
    assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().contains("\"title\":\"7\""));
    assert_eq!(place(&db, "billing").await, 7);
    for (args, code, words) in
        [(&["--type", "cart"][..], 1, "other_conditions"), (&["--lease", "2h"][..], 2, "1s to 1h"), (&["--batch", "0"][..], 2, "1..=1000")]
    {
        let output = consume(&db, &hub, args).output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && said.contains(words), "{args:?}: {said}");
    }
    let mut strange = consume(&db, &hub, &["--until-caught-up"]);
    strange.env("RECADO_KEY", db.key());
    let output = strange.output().await.unwrap();
    assert_eq!(output.status.code(), Some(77), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_leaves_no_id_in_a_consumer() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let a = consumer(&db, &hub, "follower", "a");
    a.create(json!({ "user_id": "ann" })).await;
    hub.post(&note("t").to_user("ann")).await;
    TestHub::on(&db).run(&["erase", "--user", "ann", "--reason", "a test"]).await;
    assert_eq!(db.number("SELECT count(*) FROM recado.consumer WHERE user_id = 'ann'").await, 0);
    assert_eq!(db.number("SELECT count(*) FROM recado.audit a WHERE a::text LIKE '%ann%' AND what = 'consumer.create'").await, 0);
    hub.post(&note("later").to_user("ann")).await;
    assert_eq!(titles(&a.fetch(json!({})).await), [""; 0]);
}

/// While the database holds up calls of consumers, none of them occupies a connection of the readers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_take_no_connection_from_users() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    consumer(&db, &hub, "busy", "a").create(json!({})).await;
    let (mut locker, mut witness) = (db.connect().await, db.connect().await);
    sqlx::raw_sql("BEGIN; LOCK TABLE recado.consumer IN ACCESS EXCLUSIVE MODE").execute(&mut locker).await.unwrap();
    let mut held = async |name: &str| {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND application_name = 'recado ' || $1 AND wait_event_type = 'Lock'";
        sqlx::query_scalar::<_, i64>(waiting).bind(name).fetch_one(&mut witness).await.unwrap()
    };
    let calls = async {
        let owned = consumer(&db, &hub, "busy", "a");
        let batches = futures_util::future::join_all((0..12).map(|_| owned.fetch(json!({})))).await;
        assert!(batches.iter().any(|batch| batch["term"].is_i64()), "all are answered, also those that found the row locked");
    };
    let watch = async {
        eventually("four calls wait for the lock", PATIENCE, async || (held("consumers").await == 4).then_some(())).await;
        assert_eq!(held("reader").await, 0);
        let (status, _) = hub.get("/api/notifications/head", Some(&token("42", &[]))).await.unwrap();
        assert_eq!(status, 200);
        sqlx::raw_sql("ROLLBACK").execute(&mut locker).await.unwrap();
    };
    tokio::join!(calls, watch);
}

/// Each hub measures how far the consumers are behind, with its chores of every 15 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_consumer_that_is_behind_or_stopped_shows_in_the_metrics() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let (lag, stopped) = ("recado_consumers_lag_seconds", "recado_consumers_stopped");
    let read = async |series: &str| super::fair::figure(&hub, series).await;
    let (reader, late) = (consumer(&db, &hub, "reader", "a"), consumer(&db, &hub, "late", "a"));
    reader.create(json!({})).await;
    late.create(json!({})).await;
    hub.post(&note("1").to_user("ann")).await;
    reader.ack_well(&reader.fetch(json!({})).await).await;
    eventually("the late one is behind", PATIENCE * 2, async || (read(lag).await > 5.0).then_some(())).await;
    assert_eq!(read(stopped).await, 0.0);
    late.ack_well(&late.fetch(json!({})).await).await;
    eventually("none is behind", PATIENCE * 2, async || (read(lag).await == 0.0).then_some(())).await;
    db.run("UPDATE recado.consumer SET log_id = gen_random_uuid() WHERE name = 'late'").await;
    eventually("one is stopped", PATIENCE * 2, async || (read(stopped).await == 1.0).then_some(())).await;
}
