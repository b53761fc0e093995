//! Promise: a service key, and a login that posts in SQL, does what its scopes name and nothing else.

use std::time::Duration;

use recado::domain::{Role, Scopes};
use recado::store::keys;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::process::Command;

use super::ndjson::Sender;
use super::support::*;

const NOTIFY: &str = "/api/internal/notify";
const JSON: (&str, &str) = ("content-type", "application/json");

fn list(entries: &[&str]) -> Option<Vec<String>> {
    Some(entries.iter().map(|entry| (*entry).to_owned()).collect())
}

/// Scopes without any right.
fn narrow() -> Scopes {
    Scopes { broadcast: false, members: false, read: false, ..Scopes::everything() }
}

async fn key(db: &TestDb, name: &str, role: Role, scopes: &Scopes) -> String {
    let key = keys::mint();
    keys::create_scoped(&mut db.connect().await, name, role, &key, scopes).await.unwrap();
    key
}

async fn service(db: &TestDb, name: &str, scopes: &Scopes) -> String {
    key(db, name, Role::Service, scopes).await
}

/// Sends any request; the hub's own document must allow the answer.
async fn ask(hub: &TestHub, method: &str, path: &str, bearer: &str, headers: &[(&str, &str)], body: String) -> (u16, String) {
    let url = format!("http://{}{path}", hub.address);
    let mut request = http_client().request(method.parse().unwrap(), url).bearer_auth(bearer).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let (status, media) = (response.status().as_u16(), response.headers()["content-type"].to_str().unwrap().to_owned());
    let body = response.text().await.unwrap();
    matches_document(method, path, status, Some(&media), &body);
    (status, body)
}

async fn problem(hub: &TestHub, method: &str, path: &str, bearer: &str, headers: &[(&str, &str)], body: String) -> (u16, Value) {
    let (status, body) = ask(hub, method, path, bearer, headers, body).await;
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
}

/// The pointers and details of a refusal for lack of a scope.
fn missing(status: u16, body: &Value) -> Vec<(String, String)> {
    assert_eq!((status, body["code"].as_str()), (403, Some("scope_missing")), "{body}");
    let text = |error: &Value, name: &str| error[name].as_str().unwrap().to_owned();
    body["errors"].as_array().unwrap().iter().map(|error| (text(error, "pointer"), text(error, "detail"))).collect()
}

fn needs(pointer: &str, scope: &str) -> (String, String) {
    (pointer.to_owned(), format!("needs the scope {scope}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_is_refused_with_each_scope_that_it_lacks() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let shop = Scopes { types: list(&["order_*", "stock_alert"]), accounts: list(&["7", "8"]), users: list(&["42"]), ..narrow() };
    let shop = service(&db, "shop-7", &shop).await;
    let typed = |kind: &str| note("t").raw("type", &format!("\"{kind}\""));
    for (post, expected) in [
        (typed("cart").to_user("42").account("7"), vec![needs("/type", "type:cart")]),
        (typed("stock_alerts").to_user("42").account("7"), vec![needs("/type", "type:stock_alerts")]),
        (typed("order_new").to_everyone(), vec![needs("/broadcast", "broadcast")]),
        (typed("order_new").to_user("42"), vec![needs("/account_id", "account:* (it names no account)")]),
        (typed("order_new").account("7"), vec![needs("/user_id", "user:* (it names no user)")]),
        (typed("order_new").to_user("43").account("9"), vec![needs("/account_id", "account:9"), needs("/user_id", "user:43")]),
        (typed("order_new").to_users(&["42", "44"]).account("8"), vec![needs("/user_ids", "user:44")]),
    ] {
        let answer = hub.post_as(&shop, &post).await.unwrap();
        assert_eq!(missing(answer.status, &answer.body), expected, "{}", post.body());
        // The refusal says what the request lacks, and not what the key has.
        for other in ["order_*", "stock_alert\"", "account:7", "user:42"] {
            assert!(!answer.body.to_string().contains(other), "{}", answer.body);
        }
    }
    assert_eq!(db.head().await, 0);
    for post in [typed("order_new").to_user("42").account("7"), typed("stock_alert").to_users(&["42"]).account("8")] {
        assert_eq!(hub.post_as(&shop, &post).await.unwrap().status, 201, "{}", post.body());
    }
    let loud = service(&db, "loud", &Scopes { accounts: list(&["7"]), broadcast: true, ..narrow() }).await;
    assert_eq!(hub.post_as(&loud, &note("t").to_everyone()).await.unwrap().status, 201);
    let quiet = service(&db, "quiet", &Scopes { broadcast: false, ..Scopes::everything() }).await;
    assert_eq!(hub.post_as(&quiet, &note("t").to_everyone()).await.unwrap().code(), "scope_missing");
    assert_eq!(hub.post_as(&quiet, &note("t").account("9")).await.unwrap().status, 201);
    // Keys without scopes, and tokens, are as before.
    assert_eq!(hub.post(&note("t").to_everyone()).await.seq, 5);
    let token = service_token("shop-7", Role::Service);
    assert_eq!(hub.post_as(&token, &note("t").to_everyone()).await.unwrap().status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_refused_whole_and_a_stream_from_its_first_bad_line() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let shop = service(&db, "shop-7", &Scopes { types: list(&["n"]), accounts: list(&["7"]), ..narrow() }).await;
    let item = |kind: &str, account: &str| note(account).raw("type", &format!("\"{kind}\"")).account(account).body();
    let bad = [item("n", "7"), item("m", "7"), item("n", "7"), item("m", "8")];
    let batch = format!("{{\"items\":[{}]}}", bad.join(","));
    let (status, body) = problem(&hub, "POST", &format!("{NOTIFY}/batch"), &shop, &[JSON], batch).await;
    let expected = vec![needs("/items/1/type", "type:m"), needs("/items/3/type", "type:m"), needs("/items/3/account_id", "account:8")];
    assert_eq!(missing(status, &body), expected);
    assert_eq!(db.head().await, 0, "all or none");
    let good = format!("{{\"items\":[{},{}]}}", item("n", "7"), item("n", "7"));
    assert_eq!(problem(&hub, "POST", &format!("{NOTIFY}/batch"), &shop, &[JSON], good).await.0, 201);

    let lines = |kinds: &[&str]| kinds.iter().map(|kind| item(kind, "7") + "\n").collect::<String>();
    let stream = [("content-type", "application/x-ndjson")];
    for path in [format!("{NOTIFY}/ndjson"), format!("{NOTIFY}/batch")] {
        for (kinds, appended) in [(&["n", "n", "m", "n"][..], 2), (&["m", "n"][..], 0), (&["n"][..], 1)] {
            let before = db.head().await;
            let (status, answers) = ask(&hub, "POST", &path, &shop, &stream, lines(kinds)).await;
            let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let receipts = answers.iter().filter(|answer| answer["seq"].is_i64()).count();
            assert_eq!((status, receipts, db.head().await - before), (200, appended, appended as i64), "{answers:?}");
            if kinds.contains(&"m") {
                let error = &answers.last().unwrap()["error"];
                assert_eq!(error["line"], appended + 1);
                assert_eq!(missing(403, error), [needs("/type", "type:m")]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_refused_in_their_own_words() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let shop =
        service(&db, "shop-7", &Scopes { types: list(&["order_*"]), accounts: list(&["7"]), users: list(&["42"]), ..narrow() }).await;
    let event = |id: &str, kind: &str, more: &str| format!(r#"{{"specversion":"1.0","source":"/s","id":"{id}","type":"{kind}"{more}}}"#);
    let bad = event("1", "cart", r#","userid":"43","accountid":"8""#);
    let expected = [needs("/type", "type:cart"), needs("/accountid", "account:8"), needs("/userid", "user:43")];
    let one = [("content-type", "application/cloudevents+json")];
    for path in [NOTIFY.to_owned(), format!("{NOTIFY}/cloudevent")] {
        let (status, body) = problem(&hub, "POST", &path, &shop, &one, bad.clone()).await;
        assert_eq!(missing(status, &body), expected, "{path}");
    }
    let headers = [JSON, ("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "order_x"), ("ce-broadcast", "true")];
    let (status, body) = problem(&hub, "POST", NOTIFY, &shop, &headers, "{}".to_owned()).await;
    assert_eq!(missing(status, &body), [needs("/broadcast", "broadcast")]);
    let good = event("1", "order_new", r#","userid":"42","accountid":"7""#);
    let listed = event("2", "order_new", r#","userids":"42,43","accountid":"7""#);
    let many = [("content-type", "application/cloudevents-batch+json")];
    for path in [format!("{NOTIFY}/cloudevents"), format!("{NOTIFY}/batch")] {
        let (status, body) = problem(&hub, "POST", &path, &shop, &many, format!("[{good},{listed}]")).await;
        assert_eq!(missing(status, &body), [needs("/1/userids", "user:43")], "{path}");
    }
    assert_eq!(db.head().await, 0);
    assert_eq!(problem(&hub, "POST", &format!("{NOTIFY}/cloudevent"), &shop, &one, good.clone()).await.0, 201);
    assert_eq!(problem(&hub, "POST", &format!("{NOTIFY}/cloudevents"), &shop, &many, format!("[{good}]")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_and_the_routes_that_read_need_their_scopes() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_ACCOUNTS", "table").start().await;
    let path = |account: &str, user: &str| format!("/api/internal/accounts/{account}/members{user}");
    let poster = service(&db, "poster", &Scopes { accounts: list(&["7"]), ..narrow() }).await;
    let keeper = service(&db, "keeper", &Scopes { accounts: list(&["7"]), members: true, ..narrow() }).await;
    let of_ann = service(&db, "of-ann", &Scopes { users: list(&["ann"]), members: true, ..narrow() }).await;
    let ask = async |bearer: &str, method: &str, path: String| problem(&hub, method, &path, bearer, &[], String::new()).await;
    for (bearer, method, at, expected) in [
        (&poster, "PUT", path("7", "/ann"), vec![needs("", "members")]),
        (&poster, "DELETE", path("8", "/ann"), vec![needs("", "members"), needs("/account", "account:8")]),
        (&poster, "GET", path("7", ""), vec![needs("", "members")]),
        (&keeper, "PUT", path("8", "/ann"), vec![needs("/account", "account:8")]),
        (&keeper, "GET", path("8", ""), vec![needs("/account", "account:8")]),
        (&of_ann, "PUT", path("7", "/bob"), vec![needs("/user", "user:bob")]),
        (&of_ann, "GET", path("7", ""), vec![needs("/user", "user:* (it names no user)")]),
    ] {
        let (status, body) = ask(bearer, method, at.clone()).await;
        assert_eq!(missing(status, &body), expected, "{method} {at}");
    }
    assert_eq!(db.head().await, 0);
    assert_eq!(ask(&keeper, "PUT", path("7", "/ann")).await.0, 200);
    assert_eq!(ask(&of_ann, "DELETE", path("7", "/ann")).await.0, 200);
    assert_eq!(ask(&keeper, "GET", path("7", "")).await.1["members"], json!([]));

    let blind = key(&db, "blind", Role::Admin, &Scopes { read: false, ..Scopes::everything() }).await;
    let sees = key(&db, "sees", Role::Admin, &Scopes { types: list(&["x"]), read: true, ..narrow() }).await;
    for at in ["/stats", "/api/internal/ws-stats", "/api/admin/why?user=ann&seq=1"] {
        let (status, body) = ask(&blind, "GET", at.to_owned()).await;
        assert_eq!(missing(status, &body), [needs("", "read")], "{at}");
        assert_eq!(ask(&sees, "GET", at.to_owned()).await.0, 200, "{at}");
        let (status, body) = ask(&keeper, "GET", at.to_owned()).await;
        assert_eq!((status, body["code"].as_str()), (403, Some("forbidden")), "a scope gives no role: {at}");
    }
    assert_eq!(hub.post_as(&blind, &note("t").to_everyone()).await.unwrap().status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_ends_at_its_time() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let end = chrono::Utc::now() + chrono::Duration::seconds(3);
    let brief = service(&db, "brief", &Scopes { expires_at: Some(end), ..Scopes::everything() }).await;
    assert_eq!(hub.post_as(&brief, &note("in time").to_user("ann")).await.unwrap().status, 201);
    let answer = eventually("it expires", PATIENCE, async || {
        let answer = hub.post_as(&brief, &note("too late").to_user("ann")).await.unwrap();
        (answer.status != 201).then_some(answer)
    })
    .await;
    assert!(chrono::Utc::now() >= end, "not early");
    let said = format!("the service key expired at {}", end.format("%Y-%m-%dT%H:%M:%SZ"));
    assert_eq!((answer.status, answer.code()), (401, "unauthorized"));
    assert!(answer.body["detail"].as_str().unwrap().starts_with(&said), "{}", answer.body);
    let gone = service(&db, "gone", &Scopes { expires_at: Some(end), ..Scopes::everything() }).await;
    let (status, answers) =
        ask(&hub, "POST", &format!("{NOTIFY}/ndjson"), &gone, &[("content-type", "application/x-ndjson")], note("n").to_user("a").body())
            .await;
    assert!(status == 401 && answers.contains(&said), "{status} {answers}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_has_a_rate_of_its_own() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_PUBLISH_RATE", "1000").start().await;
    let slow = service(&db, "slow", &Scopes { rate: Some(1), ..Scopes::everything() }).await;
    let fast = service(&db, "fast", &Scopes::everything()).await;
    let mut refused = None;
    for n in 0..6 {
        let answer = hub.post_as(&slow, &note(&n.to_string()).to_user("ann")).await.unwrap();
        assert_eq!(hub.post_as(&fast, &note("other").to_user("ann")).await.unwrap().status, 201, "another key is not slowed down");
        if answer.status == 429 {
            refused = Some(answer);
        }
    }
    let refused = refused.expect("six posts at once are above one a second");
    assert_eq!(refused.code(), "rate_limited");
    assert!(refused.body["detail"].as_str().unwrap().contains("its rate of 1 per second"), "{}", refused.body);
    // Each item of a batch counts: after five items the next post waits.
    let bulk = service(&db, "bulk", &Scopes { rate: Some(2), ..Scopes::everything() }).await;
    let items: Vec<String> = (0..9).map(|n| note(&n.to_string()).to_user("ann").body()).collect();
    let batch = format!("{{\"items\":[{}]}}", items.join(","));
    assert_eq!(problem(&hub, "POST", &format!("{NOTIFY}/batch"), &bulk, &[JSON], batch).await.0, 201);
    assert_eq!(hub.post_as(&bulk, &note("n").to_user("ann")).await.unwrap().status, 429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_used_from_its_networks_as_a_trusted_proxy_names_them() {
    let db = TestDb::new().await;
    let inside = Scopes { networks: list(&["198.51.100.0/24", "2001:db8::/32"]), ..Scopes::everything() };
    let inside = service(&db, "inside", &inside).await;
    let local = service(&db, "local", &Scopes { networks: list(&["127.0.0.0/8"]), ..Scopes::everything() }).await;
    let behind = TestHub::on(&db).with("RECADO_TRUSTED_PROXIES", "127.0.0.1").start().await;
    let direct = TestHub::on(&db).start().await;
    let post = async |hub: &TestHub, bearer: &str, client: &str| {
        let headers = [JSON, ("x-forwarded-for", client)];
        problem(hub, "POST", NOTIFY, bearer, &headers, note("n").to_user("ann").body()).await
    };
    for (client, expected) in
        [("198.51.100.9", 201), ("2001:db8::7", 201), ("192.0.2.1", 403), ("198.51.100.9, 192.0.2.1", 403), ("junk", 403)]
    {
        let (status, body) = post(&behind, &inside, client).await;
        assert_eq!(status, expected, "{client}: {body}");
    }
    let (status, body) = post(&direct, &inside, "198.51.100.9").await;
    assert_eq!((status, body["code"].as_str()), (403, Some("forbidden")), "a client may not name its own address");
    assert_eq!(body["detail"], "this service key may not be used from 127.0.0.1");
    assert_eq!(post(&direct, &local, "192.0.2.1").await.0, 201);
    // A stream is judged as well, by the same address.
    let stream = [("content-type", "application/x-ndjson"), ("x-forwarded-for", "198.51.100.9")];
    let (status, answers) = ask(&behind, "POST", &format!("{NOTIFY}/ndjson"), &inside, &stream, note("n").to_user("ann").body()).await;
    assert!(status == 200 && answers.contains("\"seq\""), "{status} {answers}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_use_is_written_once_a_minute_and_refuses_nothing() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let outside = service(&db, "outside", &Scopes { networks: list(&["192.0.2.1"]), ..Scopes::everything() }).await;
    hub.post(&note("n").to_user("ann")).await;
    assert_eq!(hub.post_as(&outside, &note("n").to_user("ann")).await.unwrap().status, 403);
    let used = "SELECT count(*) FROM recado.service_key WHERE last_used_at > now() - interval '1 minute'";
    eventually("the use is written", PATIENCE, async || (db.number(used).await == 1).then_some(())).await;
    assert_eq!(db.number("SELECT count(*) FROM recado.service_key WHERE last_used_at IS NOT NULL AND name = 'shop'").await, 1);
    let mut sql = db.connect().await;
    let mut last = async || -> chrono::DateTime<chrono::Utc> {
        sqlx::query_scalar("SELECT last_used_at FROM recado.service_key WHERE name = 'shop'").fetch_one(&mut sql).await.unwrap()
    };
    let first = last().await;
    keys::note_use(&mut db.connect().await, &["shop".to_owned(), "none".to_owned()]).await.unwrap();
    assert_eq!(last().await, first, "a minute is not over");
    db.run("UPDATE recado.service_key SET last_used_at = now() - interval '2 minutes'").await;
    keys::note_use(&mut db.connect().await, &["shop".to_owned()]).await.unwrap();
    assert!(last().await > first);
    // A row that is locked delays neither maintenance nor a post.
    let mut holder = db.connect().await;
    sqlx::raw_sql("BEGIN; UPDATE recado.service_key SET last_used_at = NULL WHERE name = 'boss'").execute(&mut holder).await.unwrap();
    hub.stats().await;
    keys::note_use(&mut db.connect().await, &["boss".to_owned()]).await.unwrap();
    hub.post(&note("n").to_user("ann")).await;
}

/// A stream may be open for days. Its key is looked up again for each batch of its lines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_stream_follows_a_change_of_scopes_and_the_end_of_its_key() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let past = Some(chrono::Utc::now() - chrono::Duration::seconds(1));
    for (name, limits, code) in [
        ("narrower", Scopes { types: list(&["other"]), ..narrow() }, "scope_missing"),
        ("ended", Scopes { expires_at: past, ..Scopes::everything() }, "unauthorized"),
        ("elsewhere", Scopes { networks: list(&["192.0.2.0/24"]), ..Scopes::everything() }, "forbidden"),
    ] {
        let bearer = service(&db, name, &Scopes::everything()).await;
        let mut stream = Sender::open(&hub, &bearer, None).await;
        stream.line(&note("before").to_user("ann")).await;
        stream.seq().await;
        assert!(keys::limit(&mut db.connect().await, name, &limits).await.unwrap());
        let error = eventually("the stream ends", PATIENCE, async || {
            stream.line(&note("after").to_user("ann")).await;
            let answer = stream.next().await.expect("an answer to each line");
            answer["error"].is_object().then(|| answer["error"].clone())
        })
        .await;
        assert_eq!(error["code"], code, "{error}");
        assert_eq!(stream.next().await, None, "this is the last line");
    }
}

fn recado(db: &TestDb, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
    command.args(args).env_clear().kill_on_drop(true);
    command.env("DATABASE_URL", db.url()).env("RECADO_ALLOW_UNSAFE_DURABILITY", "on");
    command
}

/// Runs it; returns the exit code, stdout and stderr.
async fn run(db: &TestDb, line: &str) -> (Option<i32>, String, String) {
    let args: Vec<&str> = line.split_whitespace().collect();
    let output = recado(db, &args).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn good(db: &TestDb, line: &str) -> String {
    let (code, stdout, stderr) = run(db, line).await;
    assert_eq!(code, Some(0), "recado {line}: {stderr}");
    stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_made_limited_and_listed_on_the_command_line() {
    let db = TestDb::new().await;
    let hubs = [TestHub::on(&db).start().await, TestHub::on(&db).start().await];
    let line = "key create till --type order_* --account 7 --user 42 --rate 50 --expires 90d --from 127.0.0.0/8 -o json";
    let made: Value = serde_json::from_str(&good(&db, line).await).unwrap();
    let till = made["key"].as_str().unwrap();
    assert_eq!((&made["types"], &made["broadcast"], &made["rate"]), (&json!(["order_*"]), &json!(false), &json!(50)));
    let allowed = note("n").raw("type", "\"order_new\"").to_user("42").account("7");
    let wide = note("n").to_user("43");
    for hub in &hubs {
        assert_eq!(hub.post_as(till, &allowed).await.unwrap().status, 201);
        assert_eq!(hub.post_as(till, &wide).await.unwrap().code(), "scope_missing");
    }
    let listed: Value = serde_json::from_str(&good(&db, "key list -o json").await).unwrap();
    let of = |name: &str| listed.as_array().unwrap().iter().find(|key| key["name"] == name).unwrap().clone();
    let key = of("till");
    assert_eq!((&key["accounts"], &key["users"], &key["networks"]), (&json!(["7"]), &json!(["42"]), &json!(["127.0.0.0/8"])), "{key}");
    assert!(key["expires_at"].is_string() && key["read"] == false && key["members"] == false, "{key}");
    let old = of("shop");
    assert_eq!((&old["types"], &old["broadcast"], &old["expires_at"]), (&Value::Null, &json!(true), &Value::Null), "{old}");
    let table = good(&db, "key list").await;
    for text in ["LAST USED", "type:order_* account:7 user:42 50/s from 127.0.0.0/8", "everything", "never"] {
        assert!(table.contains(text), "{text}: {table}");
    }

    // Both hubs have cached the key. The change reaches them as a revocation does.
    good(&db, "key limit till --user 43").await;
    for hub in &hubs {
        eventually("the new scopes count", Duration::from_secs(4), async || {
            let statuses = (hub.post_as(till, &wide).await.unwrap().status, hub.post_as(till, &allowed).await.unwrap().status);
            (statuses == (201, 403)).then_some(())
        })
        .await;
    }
    good(&db, "key limit till --unlimited").await;
    for hub in &hubs {
        let all = async || (hub.post_as(till, &note("n").to_everyone()).await.unwrap().status == 201).then_some(());
        eventually("all is allowed", Duration::from_secs(4), all).await;
    }
    assert_eq!(
        db.number("SELECT count(*) FROM recado.service_key WHERE name = 'till' AND users IS NULL AND read AND rate IS NULL").await,
        1
    );
    db.run("UPDATE recado.service_key SET expires_at = now() WHERE name = 'till'").await;
    assert!(good(&db, "key list").await.contains("expired 20"));
    for (line, expected) in [
        ("key create bad --type Order", "such as order_*"),
        ("key create bad --from 10.0.0.1/8", "write 10.0.0.0/8"),
        ("key create bad --expires yesterday", "such as 90d"),
        ("key create bad --rate 0", "1..=1000000"),
        ("key create bad --read", "--read needs --role admin"),
        ("key create bad --role admin --read", "--read limits nothing by itself"),
        ("key create bad --broadcast --no-broadcast", "cannot be used with"),
        ("key limit till", "or --unlimited"),
        ("key limit till --unlimited --user 42", "give it alone"),
        ("key limit none --user 42", "no valid key has the name"),
    ] {
        let (code, stdout, stderr) = run(&db, line).await;
        assert!(code != Some(0) && stdout.is_empty() && stderr.contains(expected), "{line}: {stderr}");
    }
    assert_eq!(db.number("SELECT count(*) FROM recado.service_key WHERE name = 'bad'").await, 0);
}

/// The refusal of a call: SQLSTATE, the argument and the message.
async fn call(sql: &mut PgConnection, text: &str) -> Result<(), (String, String, String)> {
    let done = sqlx::raw_sql(AssertSqlSafe(format!("SELECT {text}"))).execute(sql).await;
    done.map(drop).map_err(|error| {
        let error = error.as_database_error().unwrap_or_else(|| panic!("{text}: {error}"));
        let error: &sqlx::postgres::PgDatabaseError = error.downcast_ref();
        (error.code().to_owned(), error.column().unwrap_or_default().to_owned(), error.message().to_owned())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_posts_in_sql_what_its_scopes_name() {
    let db = TestDb::new().await;
    let login = format!("till_{}", db.name);
    db.run(&format!("CREATE ROLE {login} LOGIN PASSWORD 'secret'")).await;
    let (code, _, stderr) = run(&db, "producer grant no_such_login").await;
    assert!(code == Some(1) && stderr.contains("CREATE ROLE"), "{stderr}");
    good(&db, &format!("producer grant {login} --type order_* --account 7 --user 42")).await;
    let mut sql = PgConnection::connect(&db.url_of(&login, "secret")).await.unwrap();
    for (text, argument, scope) in [
        ("recado.notify('cart', 't', 'm', user_id => '42', account_id => '7')", "type", "type:cart"),
        ("recado.notify('order_x', 't', 'm', broadcast => true)", "broadcast", "broadcast"),
        ("recado.notify('order_x', 't', 'm', user_id => '42')", "account_id", "account:* (it names no account)"),
        ("recado.notify('order_x', 't', 'm', user_id => '42', account_id => '8')", "account_id", "account:8"),
        ("recado.notify('order_x', 't', 'm', account_id => '7')", "user_id", "user:* (it names no user)"),
        ("recado.notify('order_x', 't', 'm', user_id => '43', account_id => '7')", "user_id", "user:43"),
        ("recado.notify('order_x', 't', 'm', user_ids => '{42,44}', account_id => '7')", "user_ids", "user:44"),
        (
            "recado.notify('order_x', 't', 'm', '{}'::jsonb, user_id => '45', account_id => '7', idempotency_key => 'k')",
            "user_id",
            "user:45",
        ),
    ] {
        let (state, column, message) = call(&mut sql, text).await.expect_err(text);
        assert_eq!((state.as_str(), column.as_str()), ("RC016", argument), "{text}: {message}");
        assert!(message.contains(&format!("this call needs the scope {scope}, which the login lacks")), "{text}: {message}");
        assert!(!message.contains("order_*") && !message.contains("account:7"), "{message}");
    }
    for text in [
        "recado.notify('order_x', 't', 'm', user_id => '42', account_id => '7')",
        "recado.notify('order_x', 't', 'm', user_ids => '{42}', account_id => '7', idempotency_key => 'k')",
    ] {
        call(&mut sql, text).await.unwrap_or_else(|refused| panic!("{text}: {refused:?}"));
    }
    assert_eq!(db.number("SELECT count(*) FROM recado.outbox").await, 2);
    // The error is of the caller's transaction: what it wrote before is rolled back with it.
    sqlx::raw_sql("BEGIN").execute(&mut sql).await.unwrap();
    call(&mut sql, "recado.notify('order_x', 't', 'm', user_id => '42', account_id => '7')").await.unwrap();
    call(&mut sql, "recado.notify('cart', 't', 'm', user_id => '42', account_id => '7')").await.unwrap_err();
    sqlx::raw_sql("COMMIT").execute(&mut sql).await.unwrap();
    assert_eq!(db.number("SELECT count(*) FROM recado.outbox").await, 2);

    let add = "recado.add_member('42', '7')";
    assert_eq!(call(&mut sql, add).await.unwrap_err().0, "42501", "the role of producers may not");
    good(&db, &format!("producer grant {login} --account 7 --user 42 --members")).await;
    call(&mut sql, add).await.unwrap();
    let (state, column, _) = call(&mut sql, "recado.remove_member('43', '7')").await.unwrap_err();
    assert_eq!((state.as_str(), column.as_str()), ("RC016", "user_id"));
    good(&db, &format!("producer limit {login} --account 7")).await;
    let (state, _, message) = call(&mut sql, add).await.unwrap_err();
    assert!(state == "RC016" && message.contains("recado.add_member: this call needs the scope members"), "{message}");
    call(&mut sql, "recado.notify('cart', 't', 'm', account_id => '7')").await.unwrap();
    db.run("UPDATE recado.producer_scope SET expires_at = now()").await;
    let (state, _, message) = call(&mut sql, "recado.notify('cart', 't', 'm', account_id => '7')").await.unwrap_err();
    assert!(state == "RC017" && message.contains("expired at 20"), "{message}");
    assert_eq!(call(&mut sql, "* FROM recado.producer_scope").await.unwrap_err().0, "42501", "a login does not read scopes");

    let listed: Value = serde_json::from_str(&good(&db, "producer list -o json").await).unwrap();
    let mine = listed.as_array().unwrap().iter().find(|producer| producer["login"] == login.as_str()).unwrap();
    assert_eq!((&mine["may_notify"], &mine["scopes"]["accounts"]), (&json!(true), &json!(["7"])), "{mine}");
    assert!(good(&db, "producer list").await.contains("account:7"));
    good(&db, &format!("producer limit {login} --unlimited")).await;
    call(&mut sql, "recado.notify('cart', 't', 'm', broadcast => true)").await.unwrap();
    good(&db, &format!("producer revoke {login}")).await;
    assert_eq!(call(&mut sql, "recado.notify('cart', 't', 'm', broadcast => true)").await.unwrap_err().0, "42501");
    assert_eq!(run(&db, &format!("producer revoke {login}")).await.0, Some(1), "there is nothing left to take");
    drop(sql);
    db.run(&format!("DROP OWNED BY {login}; DROP ROLE {login}")).await;
}

/// What this version's judge and the function in SQL say of the same post is the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sql_and_http_judge_alike() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let login = format!("twin_{}", db.name);
    db.run(&format!("CREATE ROLE {login} LOGIN PASSWORD 'secret'; GRANT recado_producer TO {login}")).await;
    let mut sql = PgConnection::connect(&db.url_of(&login, "secret")).await.unwrap();
    let lists: [Option<Vec<String>>; 3] = [None, list(&["a", "b*"]), list(&["a"])];
    let (mut same, mut refused) = (0, 0);
    for n in 0..27 {
        let (types, accounts, users) = (&lists[n % 3], &lists[n / 3 % 3], &lists[n / 9]);
        let ids = |list: &Option<Vec<String>>| list.as_ref().map(|_| vec!["a".to_owned()]);
        let scopes = Scopes { types: types.clone(), accounts: ids(accounts), users: ids(users), broadcast: n % 2 == 0, ..narrow() };
        let bearer = service(&db, &format!("k{n}"), &scopes).await;
        recado::store::producers::limit(&mut db.connect().await, &login, &scopes).await.unwrap();
        for (kind, post, arguments) in [
            ("a", note("t").to_everyone(), "broadcast => true"),
            ("bb", note("t").account("a"), "account_id => 'a'"),
            ("b", note("t").account("b"), "account_id => 'b'"),
            ("ab", note("t").to_user("a"), "user_id => 'a'"),
            ("a", note("t").to_user("a").account("a"), "user_id => 'a', account_id => 'a'"),
            ("bab", note("t").to_users(&["a", "b"]).account("a"), "user_ids => '{a,b}', account_id => 'a'"),
            ("a", note("t").to_users(&["a"]), "user_ids => '{a}'"),
        ] {
            let over_http = hub.post_as(&bearer, &post.raw("type", &format!("\"{kind}\""))).await.unwrap();
            let in_sql = call(&mut sql, &format!("recado.notify('{kind}', 't', 'm', {arguments})")).await;
            assert!(over_http.status == 201 || over_http.code() == "scope_missing", "{}", over_http.body);
            let state = in_sql.as_ref().err().map(|refusal| refusal.0.as_str());
            assert_eq!(over_http.status == 201, state.is_none(), "{scopes:?} {kind} {arguments}: {in_sql:?} {}", over_http.body);
            assert!(state.is_none_or(|state| state == "RC016"), "{in_sql:?}");
            same += 1;
            refused += u32::from(state.is_some());
        }
    }
    assert!(refused > 50 && refused < same - 50, "{refused} of {same}");
    drop(sql);
    db.run(&format!("DROP OWNED BY {login}; DROP ROLE {login}")).await;
}
