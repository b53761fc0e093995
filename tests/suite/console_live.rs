//! Tests the console's page and its routes about hubs: who may, what they say, and what they do.
//!
//! `console_instances.rs` has the instances, their samples and draining.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use recado::domain::Role;
use recado::identity::{OwnSecret, sign_in_link};
use recado_testkit::process::clean_command;
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::support::*;

/// A GET with headers; the answer must be in the document.
async fn get(hub: &TestHub, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Vec<u8>) {
    let client = reqwest::Client::builder().redirect(Policy::none()).timeout(PATIENCE).build().unwrap();
    let mut request = client.get(format!("http://{}{path}", hub.address));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let body = answer.bytes().await.unwrap().to_vec();
    let media = headers.get("content-type").map(|media| media.to_str().unwrap());
    let text = if headers.contains_key("content-encoding") { String::new() } else { String::from_utf8(body.clone()).unwrap() };
    // A slash at the end of a path is of no account.
    let documented = if path == "/" { path } else { path.trim_end_matches('/') };
    matches_document("GET", documented, status, media, &text);
    (status, headers, body)
}

fn of<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// A request with a body; the answer must be in the document.
pub async fn ask(hub: &TestHub, method: &str, path: &str, bearer: Option<&str>, body: Option<&Value>) -> (u16, Value) {
    let mut request = http_client().request(method.parse().unwrap(), format!("http://{}{path}", hub.address));
    if let Some(bearer) = bearer {
        request = request.bearer_auth(bearer);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = request.send().await.unwrap();
    let (status, media) = (answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap().to_owned());
    if media == "text/event-stream" {
        return (status, Value::Null);
    }
    let body = answer.text().await.unwrap();
    matches_document(method, path, status, Some(&media), &body);
    (status, serde_json::from_str(&body).unwrap())
}

pub fn admin() -> String {
    service_token("operator", Role::Admin)
}

fn unpacked(gzip: &[u8]) -> Vec<u8> {
    let mut child = std::process::Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(gzip).unwrap();
    child.wait_with_output().unwrap().stdout
}

const FILES: [(&str, &str); 4] = [
    ("/admin", "text/html; charset=utf-8"),
    ("/admin/admin.js", "text/javascript; charset=utf-8"),
    ("/admin/admin.css", "text/css; charset=utf-8"),
    ("/admin/icon.svg", "image/svg+xml"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_file_of_the_page_has_its_headers_and_both_forms_have_one_content() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    for (path, media) in FILES {
        let (status, plain, body) = get(&hub, path, &[]).await;
        assert_eq!((status, of(&plain, "content-type")), (200, media), "{path}");
        let (status, packed, gzip) = get(&hub, path, &[("accept-encoding", "br, gzip")]).await;
        assert_eq!((status, of(&packed, "content-encoding"), of(&plain, "content-encoding")), (200, "gzip", ""), "{path}");
        assert_eq!(unpacked(&gzip), body, "{path}: run web/build.mjs, the .gz form is another file");
        assert!(body.len() > 20, "{path}");
        assert_ne!(plain["etag"], packed["etag"], "two forms are two representations");
        let known = async |tag: String| get(&hub, path, &[("if-none-match", &tag)]).await;
        let (status, again, nothing) = known(format!("\"x\", W/{}", of(&plain, "etag"))).await;
        assert_eq!((status, nothing.len()), (304, 0), "{path}");
        assert_eq!(known("\"x\"".to_owned()).await.0, 200, "{path}");
        for headers in [&plain, &packed, &again] {
            let policy = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'";
            for (name, value) in [
                ("content-security-policy", policy),
                ("x-content-type-options", "nosniff"),
                ("referrer-policy", "no-referrer"),
                ("cross-origin-opener-policy", "same-origin"),
                ("cross-origin-resource-policy", "same-origin"),
                ("cache-control", "no-cache"),
                ("vary", "accept-encoding"),
            ] {
                assert!(headers.get_all(name).iter().any(|one| one == value), "{path} {name}: {headers:?}");
            }
            assert!(!headers.contains_key("set-cookie"));
        }
    }
    let (status, headers, _) = get(&hub, "/admin/", &[]).await;
    assert_eq!((status, of(&headers, "location")), (308, "../admin"));
    for missing in ["/admin/x.js", "/admin/index.html", "/admin/../Cargo.toml", "/admin/%2e%2e/x", "/adminx"] {
        assert_eq!(get(&hub, missing, &[]).await.0, 404, "{missing}");
    }
}

/// The page must not depend on what the policy forbids: the browser would refuse it.
#[test]
fn the_page_holds_no_code_and_no_address_of_another_host() {
    let page = include_str!("../../web/dist/index.html").to_lowercase();
    for forbidden in ["style=", "<style", "onclick", "onload", "javascript:", "http://", "https://", "src=\"//", "href=\"//"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    let scripts = page.matches("<script").count();
    assert_eq!(page.matches("src=").count(), scripts, "each script is a file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_leads_a_browser_to_the_page_and_serves_programs_and_sockets_as_before() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let browser = [("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")];
    let (status, headers, body) = get(&hub, "/", &browser).await;
    assert_eq!((status, of(&headers, "location"), of(&headers, "referrer-policy"), body.len()), (303, "admin", "no-referrer", 0));
    // A token in the query of an old client goes nowhere.
    let (status, headers, _) = get(&hub, "/?token=hush", &browser).await;
    assert_eq!((status, of(&headers, "location")), (303, "admin"));
    for program in [&[("accept", "*/*")][..], &[("accept", "application/json")], &[]] {
        let (status, _, body) = get(&hub, "/", program).await;
        assert_eq!((status, serde_json::from_slice::<Value>(&body).unwrap()["name"].as_str()), (200, Some("recado")), "{program:?}");
    }
    let seq = hub.post(&note("hello").to_user("ann")).await.seq;
    let mut old = TestClient::of("ann").header("accept", "text/html").path("/").connect(&hub).await;
    old.until_caught_up().await;
    let next = hub.post(&note("again").to_user("ann")).await.seq;
    assert_eq!(old.expect_notification().await.seq, next, "after {seq}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_setting_turns_the_page_off_and_the_internal_listener_alone_serves_it() {
    let db = TestDb::new().await;
    let browser = [("accept", "text/html")];
    let off = TestHub::on(&db).with("RECADO_ADMIN", "off").start().await;
    for (path, _) in FILES {
        assert_eq!(get(&off, path, &[]).await.0, 404, "{path}");
    }
    assert_eq!(get(&off, "/", &browser).await.0, 200);
    assert_eq!(ask(&off, "GET", "/api/admin/settings", Some(&admin()), None).await.1["playground"], false);
    drop(off);

    let all = TestHub::on(&db).with("RECADO_BIND", "0.0.0.0").start().await;
    let port = all.address.rsplit(':').next().unwrap().to_owned();
    let local = format!("http://127.0.0.1:{port}/admin");
    assert_eq!(reqwest::get(&local).await.unwrap().status(), 404, "auto is for loopback");
    drop(all);

    let internal = free_port();
    let both = TestHub::on(&db).with("RECADO_INTERNAL_BIND", &format!("127.0.0.1:{internal}")).start().await;
    for (path, _) in FILES {
        assert_eq!(get(&both, path, &[]).await.0, 404, "{path} of the public listener");
        let answer = reqwest::get(format!("http://127.0.0.1:{internal}{path}")).await.unwrap();
        assert_eq!(answer.status(), 200, "{path} of the internal listener");
    }
    assert_eq!(get(&both, "/", &browser).await.0, 200, "the public listener leads nowhere");
    let url = format!("http://127.0.0.1:{internal}/api/admin/settings");
    let settings: Value = http_client().get(&url).bearer_auth(admin()).send().await.unwrap().json().await.unwrap();
    assert_eq!(settings["playground"], false, "the page could not open a stream");
}

fn free_port() -> u16 {
    // Below the range of ephemeral ports, which other tests use.
    (20_000..32_000).find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// Every route of this file: method, path, body.
fn routes() -> Vec<(&'static str, String, Option<Value>)> {
    vec![
        ("GET", "/api/admin/settings".to_owned(), None),
        ("GET", "/api/admin/keys".to_owned(), None),
        ("GET", "/api/admin/analysts".to_owned(), None),
        ("GET", "/api/admin/upstream".to_owned(), None),
        ("POST", "/api/admin/upstream/p/ann".to_owned(), Some(json!({ "action": "reconnect" }))),
        ("POST", "/api/admin/tokens".to_owned(), Some(json!({ "user_id": "ann" }))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_admins_may() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let (user, service) = (token("ann", &[]), service_token("shop", Role::Service));
    let reader = TestHub::on(&db).run(&["key", "create", "looker", "--role", "admin", "--type", "none", "--read", "-o", "json"]).await;
    let reader = serde_json::from_str::<Value>(&reader).unwrap()["key"].as_str().unwrap().to_owned();
    for (method, path, body) in routes() {
        let body = body.as_ref();
        assert_eq!(ask(&hub, method, &path, None, body).await.0, 401, "{method} {path}");
        assert_eq!(ask(&hub, method, &path, Some("rck_no"), body).await.0, 401, "{method} {path}");
        for bearer in [user.as_str(), &service, hub.key()] {
            assert_eq!(ask(&hub, method, &path, Some(bearer), body).await.0, 403, "{method} {path}");
        }
        let (status, answer) = ask(&hub, method, &path, Some(&reader), body).await;
        assert_eq!(status, if method == "GET" { 200 } else { 403 }, "{method} {path} with a key that reads: {answer}");
    }
    // Nothing of this was done.
    assert_eq!(
        db.number("SELECT count(*) FROM recado.audit WHERE what IN ('token.mint', 'instance.drain', 'upstream.reconnect')").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_playground_gets_a_short_token_of_a_user_that_connects_and_stands_in_the_audit() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mint = async |body: Value| ask(&hub, "POST", "/api/admin/tokens", Some(&admin()), Some(&body)).await;
    let before = chrono::Utc::now();
    let (status, minted) = mint(json!({ "user_id": "ann", "account_ids": ["7", "8"], "ttl_seconds": 60 })).await;
    assert_eq!(status, 200, "{minted}");
    let expires = chrono::DateTime::parse_from_rfc3339(minted["expires_at"].as_str().unwrap()).unwrap();
    assert!((58..=61).contains(&(expires.to_utc() - before).num_seconds()), "{minted}");
    let token = minted["token"].as_str().unwrap();
    let (status, who) = hub.get("/api/whoami", Some(token)).await.unwrap();
    let who: Value = serde_json::from_str(&who).unwrap();
    assert_eq!((status, &who["user_id"], &who["account_ids"]), (200, &json!("ann"), &json!(["7", "8"])));
    assert_eq!(hub.get("/api/admin/settings", Some(token)).await.unwrap().0, 403, "it is no admin's");
    let mut ann = TestClient::of("ann").bearer(token).connect(&hub).await;
    ann.until_caught_up().await;
    // The admin's own token posts, as the page does.
    assert_eq!(hub.post_as(&admin(), &note("from the page").to_user("ann")).await.unwrap().status, 201);
    assert_eq!(ann.expect_notification().await.title, "from the page");
    let (_, longest) = mint(json!({ "user_id": "ann" })).await;
    let expires = chrono::DateTime::parse_from_rfc3339(longest["expires_at"].as_str().unwrap()).unwrap();
    assert!((890..=905).contains(&(expires.to_utc() - chrono::Utc::now()).num_seconds()), "{longest}");
    for wrong in [
        json!({}),
        json!({ "user_id": "a b" }),
        json!({ "user_id": "ann", "ttl_seconds": 901 }),
        json!({ "user_id": "ann", "recado_role": "admin" }),
    ] {
        assert_eq!(mint(wrong.clone()).await.0, 422, "{wrong}");
    }
    let acts =
        "SELECT count(*) FROM recado.audit WHERE what = 'token.mint' AND who = 'token:operator' AND via = 'rest' AND user_id = 'ann'";
    assert_eq!(db.number(acts).await, 2);
    let details =
        "SELECT count(*) FROM recado.audit WHERE details = '{\"account_ids\":[\"7\",\"8\"],\"playground\":true,\"ttl_seconds\":60}'";
    assert_eq!(db.number(details).await, 1);
    assert!(!hub.said().contains(token), "a token is in the log");

    let off = TestHub::on(&db).with("RECADO_PLAYGROUND", "off").start().await;
    let (status, refused) = ask(&off, "POST", "/api/admin/tokens", Some(&admin()), Some(&json!({ "user_id": "ann" }))).await;
    assert_eq!((status, refused["code"].as_str()), (403, Some("playground_off")));
    assert_eq!(ask(&off, "GET", "/api/admin/settings", Some(&admin()), None).await.1["playground"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_keys_and_analysts_are_listed_without_a_secret() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_URL", "http://me:hush@127.0.0.1:1/hub?hush=1").start().await;
    let admin = db.admin_key();
    let (_, listed) = ask(&hub, "GET", "/api/admin/settings", Some(&admin), None).await;
    let setting = |name: &str| {
        let all = listed["settings"].as_array().unwrap();
        all.iter().find(|setting| setting["name"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    assert_eq!(listed["settings"].as_array().unwrap().len(), recado::config::TABLE.len());
    assert_eq!(
        setting("RECADO_JWT_SECRET"),
        json!({ "name": "RECADO_JWT_SECRET", "value": "set", "source": "environment", "secret": true })
    );
    assert_eq!(setting("RECADO_KEY"), json!({ "name": "RECADO_KEY", "value": null, "source": "default", "secret": true }));
    assert_eq!(setting("RECADO_URL")["value"], "http://127.0.0.1:1/hub");
    assert_eq!(setting("WS_HEARTBEAT_INTERVAL")["value"], "30s");
    assert_eq!(listed["playground"], true);
    assert!(!listed.to_string().contains("hush") && !listed.to_string().contains(SECRET) && !listed.to_string().contains(&db.url()));

    db.run("UPDATE recado.service_key SET types = '{order_*}', networks = '{10.0.0.0/8}', expires_at = '2030-01-01Z' WHERE name = 'shop'")
        .await;
    let (_, keys) = ask(&hub, "GET", "/api/admin/keys", Some(&admin), None).await;
    let shop = keys["keys"].as_array().unwrap().iter().find(|key| key["name"] == "shop").unwrap();
    assert_eq!((&shop["role"], &shop["revoked_at"]), (&json!("service"), &Value::Null));
    assert_eq!(shop["scopes"]["types"], json!(["order_*"]));
    assert_eq!(shop["scopes"]["networks"], json!(["10.0.0.0/8"]));
    assert_eq!(shop["scopes"]["expires_at"], "2030-01-01T00:00:00.000Z");
    assert!(!keys.to_string().contains("rck_"), "{keys}");

    let name = format!("{}_ana", db.name);
    TestHub::on(&db).run(&["analyst", "create", &name, "--account", "7"]).await;
    let (_, analysts) = ask(&hub, "GET", "/api/admin/analysts", Some(&admin), None).await;
    let ana = analysts["analysts"].as_array().unwrap().iter().find(|analyst| analyst["name"] == name.as_str()).cloned();
    TestHub::on(&db).run(&["analyst", "drop", &name]).await;
    assert_eq!(ana, Some(json!({ "name": name, "accounts": ["7"], "connections": 0, "made_here": true })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provider_sessions_are_listed_and_asked_over_http() {
    let db = TestDb::new().await;
    want(&db, &["ann", "bob"]).await;
    db.run(
        "INSERT INTO recado.upstream_command (command_id, provider, user_id, client_id, session_id, id, type, state, term, accepted_at, reject_at, taken_at, settled_at)
         SELECT gen_random_uuid(), p, 'ann', 'd', gen_random_uuid(), p, 'bet', 'sent', 1, now(), now(), now(), now() FROM unnest('{p,q}'::text[]) p",
    )
    .await;
    let hub = TestHub::on(&db).start().await;
    let admin = admin();
    let list = async |query: &str| ask(&hub, "GET", &format!("/api/admin/upstream{query}"), Some(&admin), None).await;
    let (_, all) = list("").await;
    let all = all["sessions"].as_array().unwrap().clone();
    assert_eq!(all.iter().map(|session| session["user_id"].as_str().unwrap()).collect::<Vec<_>>(), ["ann", "bob"]);
    assert_eq!((&all[0]["state"], &all[0]["is_live"], &all[0]["commands"]), (&json!("waiting"), &json!(false), &Value::Null));
    let (_, ann) = list("?user=ann").await;
    let commands = ann["sessions"][0]["commands"].as_array().unwrap();
    assert_eq!((ann["sessions"].as_array().unwrap().len(), commands.len(), &commands[0]["id"]), (1, 1, &json!("p")));
    assert_eq!(list("?state=live").await.1["sessions"], json!([]));
    assert_eq!(list("?state=waiting&limit=1").await.1["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(list("?state=dead&limit=0&x=1").await.1["errors"].as_array().unwrap().len(), 3);

    let act = async |path: &str, action: &str| ask(&hub, "POST", path, Some(&admin), Some(&json!({ "action": action }))).await;
    assert_eq!(act("/api/admin/upstream/p/ann", "release").await, (200, json!({ "success": true, "sessions": 1 })));
    assert_eq!(list("?user=ann").await.1["sessions"][0]["state"], "released");
    assert_eq!(act("/api/admin/upstream/p/ann", "reconnect").await.0, 200);
    assert_eq!(list("?user=ann").await.1["sessions"][0]["state"], "waiting");
    assert_eq!(act("/api/admin/upstream/q/ann", "release").await.0, 404);
    assert_eq!(act("/api/admin/upstream/P/a%20b", "release").await.1["errors"].as_array().unwrap().len(), 2);
    assert_eq!(act("/api/admin/upstream/p/ann", "drop").await.0, 422);
    let count = async |what: &str, outcome: &str| {
        let sql = format!(
            "SELECT count(*) FROM recado.audit WHERE what = '{what}' AND outcome = '{outcome}' AND who = 'token:operator' AND user_id = 'ann'"
        );
        db.number(&sql).await
    };
    assert_eq!(
        (count("upstream.release", "done").await, count("upstream.reconnect", "done").await, count("upstream.release", "failed").await),
        (1, 1, 1)
    );
}

/// The token of a link that `recado admin` printed.
fn of_link(link: &str) -> &str {
    link.trim().split_once("/admin#token=").unwrap_or_else(|| panic!("{link}")).1
}

/// A link that was made some seconds ago, or that will be, if `age` is negative.
fn link_of_age(age: i64, session: Duration) -> String {
    let secret = OwnSecret { kid: None, secret: SECRET.to_owned() };
    sign_in_link::make(&secret, chrono::Utc::now() - chrono::TimeDelta::seconds(age), session)
}

const HOURS: Duration = Duration::from_secs(8 * 3600);

async fn exchange(hub: &TestHub, link: &str) -> (u16, Value) {
    ask(hub, "POST", "/api/admin/sign-in", None, Some(&json!({ "link": link }))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_is_exchanged_once_for_a_session_that_a_revocation_ends_and_is_in_no_log() {
    let db = TestDb::new().await;
    let (hub, other) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let builder = TestHub::on(&db).with("RECADO_URL", &format!("http://{}", hub.address));
    let printed = builder.run(&["admin"]).await;
    assert!(printed.starts_with(&format!("http://{}/admin#token=rcl_", hub.address)), "{printed}");
    let link = of_link(&printed);
    let (status, session) = exchange(&hub, link).await;
    assert_eq!(status, 200, "{session}");
    let token = session["token"].as_str().unwrap().to_owned();
    assert_eq!(ask(&hub, "GET", "/api/admin/settings", Some(&token), None).await.0, 200);
    let expires = chrono::DateTime::parse_from_rfc3339(session["expires_at"].as_str().unwrap()).unwrap();
    assert!((28_780..=28_801).contains(&(expires.to_utc() - chrono::Utc::now()).num_seconds()), "{session}");
    for hub in [&hub, &other, &hub] {
        let (status, refused) = exchange(hub, link).await;
        assert_eq!((status, &refused["code"]), (401, &json!("link_used")));
        assert!(refused["detail"].as_str().unwrap().ends_with("Run recado admin for a new link"), "{refused}");
    }
    let report: Value = serde_json::from_str(&builder.run(&["admin", "--ttl", "30m", "-o", "json"]).await).unwrap();
    assert_eq!((&report["expires_in_s"], &report["session_s"]), (&json!(300), &json!(1800)));
    let short = exchange(&other, of_link(report["url"].as_str().unwrap())).await.1;
    let expires = chrono::DateTime::parse_from_rfc3339(short["expires_at"].as_str().unwrap()).unwrap();
    assert!((1780..=1801).contains(&(expires.to_utc() - chrono::Utc::now()).num_seconds()), "{short}");
    let acts = "SELECT count(*) FROM recado.audit WHERE what = 'admin.sign_in' AND who = 'token:console' AND via = 'rest'
                AND outcome = 'done' AND address = '127.0.0.1' AND details ? 'expires_at'";
    assert_eq!(db.number(acts).await, 2);

    let unused = builder.run(&["admin"]).await;
    builder.run(&["revoke", "console"]).await;
    let (status, refused) = exchange(&hub, of_link(&unused)).await;
    assert_eq!((status, &refused["code"]), (401, &json!("token_revoked")), "at once, from the database");
    for token in [token.as_str(), short["token"].as_str().unwrap()] {
        for hub in [&hub, &other] {
            eventually("the session ends", PATIENCE, async || {
                (ask(hub, "GET", "/api/admin/settings", Some(token), None).await.0 == 401).then_some(())
            })
            .await;
        }
    }
    assert_eq!(db.number(acts).await, 2);
    // The hub of a test writes its stderr to a file, as a service does.
    let said = hub.said() + &other.said();
    assert!(said.contains("print a link to the console:") && !said.contains("#token=") && !said.contains("rcl_"), "{said}");
    assert!(!said.contains(&token[..60]), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_exchange_one_link_at_once_on_two_hubs_one_gets_a_token() {
    let db = TestDb::new().await;
    let (hub, other) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    for _ in 0..5 {
        let link = link_of_age(0, HOURS);
        let all = futures_util::future::join_all((0..12).map(|n| exchange(if n % 2 == 0 { &hub } else { &other }, &link))).await;
        let mut statuses: Vec<u16> = all.iter().map(|(status, _)| *status).collect();
        statuses.sort_unstable();
        assert_eq!((statuses[0], &statuses[1..]), (200, &[401; 11][..]));
    }
    assert_eq!(db.number("SELECT count(*) FROM recado.audit WHERE what = 'admin.sign_in'").await, 5);
    assert_eq!(db.number("SELECT count(*) FROM recado.used_sign_in_link").await, 5);
    // After a crash of the server the rows are there, and after a day no hub takes the links any more.
    assert_eq!(
        db.number("SELECT count(*) FROM pg_class WHERE oid = 'recado.used_sign_in_link'::regclass AND relpersistence = 'p'").await,
        1
    );
    db.run("UPDATE recado.used_sign_in_link SET used_at = used_at - interval '25 hours'; SELECT recado.trim_access_changes()").await;
    assert_eq!(db.number("SELECT count(*) FROM recado.used_sign_in_link").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_late_early_forged_or_from_a_foreign_page_signs_nobody_in() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let code = async |link: &str| {
        let (status, refused) = exchange(&hub, link).await;
        assert_eq!(status, 401, "{link}");
        refused["code"].as_str().unwrap().to_owned()
    };
    assert_eq!(code(&link_of_age(301, HOURS)).await, "link_expired");
    assert_eq!(code(&link_of_age(-60, HOURS)).await, "unauthorized", "a clock that is ahead must not make a longer life");
    let other = OwnSecret { kid: None, secret: SECRET.replace('a', "b") + "x" };
    for wrong in [sign_in_link::make(&other, chrono::Utc::now(), HOURS), admin(), token("ann", &[]), db.admin_key(), String::new()] {
        assert_eq!(code(&wrong).await, "unauthorized");
    }
    let (status, whole) = ask(&hub, "POST", "/api/admin/sign-in", None, Some(&json!({ "link": 1 }))).await;
    assert_eq!((status, &whole["code"]), (422, &json!("invalid_field")));
    // A hub gives no longer session than its rules allow.
    let long = exchange(&hub, &link_of_age(0, Duration::from_secs(400 * 86_400))).await.1;
    let expires = chrono::DateTime::parse_from_rfc3339(long["expires_at"].as_str().unwrap()).unwrap();
    assert!((expires.to_utc() - chrono::Utc::now()).num_hours() <= 24, "{long}");

    // A page of another origin, and a form, which sends no JSON.
    let link = link_of_age(0, HOURS);
    let url = format!("http://{}/api/admin/sign-in", hub.address);
    let body = json!({ "link": link }).to_string();
    let send = async |headers: &[(&str, &str)]| {
        let mut request = http_client().post(&url).body(body.clone());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(send(&[("content-type", "application/json"), ("origin", "https://evil.example")]).await, 403);
    assert_eq!(send(&[("content-type", "application/json"), ("host", "evil.example")]).await, 421);
    assert_eq!(send(&[("content-type", "text/plain")]).await, 415);
    assert_eq!(send(&[("content-type", "application/x-www-form-urlencoded")]).await, 415);
    assert_eq!(http_client().get(format!("{url}?link={link}")).send().await.unwrap().status(), 405);
    assert_eq!(exchange(&hub, &link).await.0, 200, "none of these used it");
}

/// Every route of the document with its method; parameters of paths have a value.
async fn documented_routes(hub: &TestHub) -> Vec<(String, String)> {
    let (_, document) = hub.get("/openapi.json", None).await.unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let methods = item.as_object().unwrap().keys().filter(|name| ["get", "post", "put", "delete"].contains(&name.as_str()));
        routes.extend(methods.map(|method| (method.to_uppercase(), path.replace(['{', '}'], ""))));
    }
    routes
}

/// A link's token is a credential for nothing but the exchange.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_route_stream_or_frame_takes_a_link() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let link = link_of_age(0, HOURS);
    let open = ["/", "/livez", "/readyz", "/health", "/metrics", "/openapi.json", "/asyncapi.json", "/sdk/recado.js"];
    let mut refused = 0;
    for (method, path) in documented_routes(&hub).await {
        for in_query in [false, true] {
            let query = if in_query { format!("{}token={link}", if path.contains('?') { "&" } else { "?" }) } else { String::new() };
            let request = http_client().request(method.parse().unwrap(), format!("http://{}{path}{query}", hub.address));
            let request = if in_query { request } else { request.bearer_auth(&link) };
            let status = request.send().await.unwrap().status().as_u16();
            let expected = match path.as_str() {
                path if path.starts_with("/admin") || open.contains(&path) => continue,
                // It has no JSON.
                "/api/admin/sign-in" => 415,
                // It has no handshake.
                "/ws" => 426,
                _ => 401,
            };
            assert_eq!(status, expected, "{method} {path}, in the query: {in_query}");
            refused += 1;
        }
    }
    assert!(refused > 70, "{refused}");
    let subprotocol = format!("recado.v1, recado.bearer.{link}");
    for client in [
        TestClient::of("ann").bearer(&link),
        TestClient::of("ann").without_header().query("token", &link),
        TestClient::of("ann").without_header().query("ticket", &link),
        TestClient::of("ann").without_header().header("sec-websocket-protocol", &subprotocol),
    ] {
        let socket = client.open(&hub).await.unwrap();
        let ClientEnd::Code(code, _) = TestClient::over(socket).ended(PATIENCE).await else { panic!("it is closed with a code") };
        assert_eq!(code, 4500);
    }
    let url = format!("http://{}/api/notifications/stream?ticket={link}", hub.address);
    assert_eq!(http_client().get(url).send().await.unwrap().status(), 401);
    let mut ann = TestClient::of("ann").connect(&hub).await;
    ann.say(&format!(r#"{{"type":"auth","token":"{link}"}}"#)).await;
    assert_eq!(ann.expect_other("error").await["code"], "bad_token");
    assert_eq!(exchange(&hub, &link).await.0, 200, "none of these used it");
}

/// `RECADO_ADMIN=auto` serves the console on loopback. A proxy on the same machine would let others in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_through_a_proxy_that_no_setting_names_finds_no_console() {
    let db = TestDb::new().await;
    let auto = TestHub::on(&db).start().await;
    let on = TestHub::on(&db).with("RECADO_ADMIN", "on").start().await;
    let both = TestHub::on(&db).with("RECADO_ADMIN", "on").with("RECADO_PLAYGROUND", "on").start().await;
    let internal = free_port();
    let apart = TestHub::on(&db).with("RECADO_INTERNAL_BIND", &format!("127.0.0.1:{internal}")).start().await;
    let mint = async |hub: &TestHub, header: Option<(&str, &str)>| {
        let mut request = http_client().post(format!("http://{}/api/admin/tokens", hub.address)).bearer_auth(admin());
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let answer = request.json(&json!({ "user_id": "ann" })).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap()["detail"].as_str().unwrap_or_default().to_owned())
    };
    for header in [
        ("forwarded", "for=192.0.2.1"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-host", "hub.example.com"),
        ("X-Real-IP", "192.0.2.1"),
        ("via", "1.1 proxy"),
    ] {
        for (path, _) in FILES.into_iter().chain([("/admin/", "")]) {
            let (status, _, body) = get(&auto, path, &[header]).await;
            let body = String::from_utf8(body).unwrap();
            assert_eq!(status, 404, "{path} {header:?}");
            assert!(body.contains("RECADO_ADMIN=on") && body.contains(&header.0.to_lowercase()), "{body}");
            assert!([200, 308].contains(&get(&on, path, &[header]).await.0), "{path} {header:?}");
        }
        let browser = [("accept", "text/html"), header];
        assert_eq!((get(&auto, "/", &browser).await.0, get(&on, "/", &browser).await.0), (200, 303), "{header:?}");
        let (status, detail) = mint(&auto, Some(header)).await;
        assert!(status == 403 && detail.contains("RECADO_ADMIN=on") && detail.contains("RECADO_PLAYGROUND=on"), "{status} {detail}");
        let (status, detail) = mint(&on, Some(header)).await;
        assert!(status == 403 && detail.contains("RECADO_PLAYGROUND=on"), "{status} {detail}");
        assert_eq!(mint(&both, Some(header)).await.0, 200);
        let link = link_of_age(0, HOURS);
        let sign_in = async |hub: &TestHub| {
            let request = http_client().post(format!("http://{}/api/admin/sign-in", hub.address)).header(header.0, header.1);
            request.json(&json!({ "link": link })).send().await.unwrap().status().as_u16()
        };
        assert_eq!((sign_in(&auto).await, sign_in(&on).await), (404, 200), "{header:?}");
        let page = http_client().get(format!("http://127.0.0.1:{internal}/admin")).header(header.0, header.1);
        assert_eq!(page.send().await.unwrap().status(), 404, "of the internal listener, {header:?}");
    }
    assert_eq!((get(&auto, "/admin", &[]).await.0, mint(&auto, None).await.0), (200, 200));
    let playground = async |header: Option<(&str, &str)>| {
        let mut request = http_client().get(format!("http://{}/api/admin/settings", auto.address)).bearer_auth(admin());
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        request.send().await.unwrap().json::<Value>().await.unwrap()["playground"].clone()
    };
    assert_eq!((playground(None).await, playground(Some(("via", "1.1 x"))).await), (json!(true), json!(false)));
    drop(apart);
}

/// A token of the playground looks like one, wherever its sessions are listed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_the_playground_are_marked_on_every_hub_and_by_ticket() {
    let db = TestDb::new().await;
    let (hub, other) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let mint = async |body: Value| ask(&hub, "POST", "/api/admin/tokens", Some(&admin()), Some(&body)).await;
    let minted = mint(json!({ "user_id": "ann" })).await.1["token"].as_str().unwrap().to_owned();
    let ticket = http_client().post(format!("http://{}/api/ws-ticket", hub.address)).bearer_auth(&minted).send().await.unwrap();
    let ticket = ticket.json::<Value>().await.unwrap()["ticket"].as_str().unwrap().to_owned();
    let _real = TestClient::of("ann").device("real").connect(&hub).await;
    let _by_token = TestClient::of("ann").device("by-token").bearer(&minted).connect(&hub).await;
    let _by_ticket = TestClient::of("ann").device("by-ticket").without_header().query("ticket", &ticket).connect(&other).await;
    // A newer token of the user's own does not take the mark away.
    let mut renewed = TestClient::of("ann").device("renewed").bearer(&minted).connect(&hub).await;
    renewed.say(&format!(r#"{{"type":"auth","token":"{}"}}"#, token("ann", &[]))).await;
    renewed.expect_other("auth_ok").await;
    let wanted = json!([["by-ticket", true], ["by-token", true], ["real", false], ["renewed", true]]);
    for hub in [&hub, &other] {
        eventually("all sessions are listed", PATIENCE, async || {
            let list = ask(hub, "GET", "/api/admin/sessions", Some(&admin()), None).await.1;
            assert_eq!(list["columns"][12], "playground");
            let mut rows: Vec<Value> = list["rows"].as_array().unwrap().iter().map(|row| json!([row[3], row[12]])).collect();
            rows.sort_by_key(|row| row[0].to_string());
            let user = ask(hub, "GET", "/api/admin/users/ann", Some(&admin()), None).await.1;
            let mut of_user: Vec<Value> =
                user["sessions"].as_array().unwrap().iter().map(|one| json!([one["client_id"], one["playground"]])).collect();
            of_user.sort_by_key(|row| row[0].to_string());
            (Value::from(rows) == wanted && Value::from(of_user) == wanted).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_playground_gets_no_token_of_a_revoked_user() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mint = async || ask(&hub, "POST", "/api/admin/tokens", Some(&admin()), Some(&json!({ "user_id": "ann" }))).await;
    // One whose end lies ahead, and one of the past, which a token of now would get around.
    for before in [chrono::Utc::now() + chrono::TimeDelta::hours(1), chrono::Utc::now() - chrono::TimeDelta::hours(1)] {
        let body = json!({ "user_id": "ann", "before": before.to_rfc3339() });
        assert_eq!(ask(&hub, "POST", "/api/admin/revocations", Some(&admin()), Some(&body)).await.0, 200);
        let (status, refused) = mint().await;
        assert_eq!((status, &refused["code"]), (409, &json!("user_revoked")), "{refused}");
        assert!(refused.get("token").is_none());
        assert_eq!(ask(&hub, "DELETE", "/api/admin/revocations/ann", Some(&admin()), None).await.0, 200);
    }
    assert_eq!(db.number("SELECT count(*) FROM recado.audit WHERE what = 'token.mint'").await, 0);
    assert_eq!(mint().await.0, 200);
}

/// In a terminal, the link itself is on the screen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_in_a_terminal_prints_the_link() {
    let db = TestDb::new().await;
    let mut shell = clean_command("script");
    let program = env!("CARGO_BIN_EXE_recado");
    shell.args(["-qefc", &format!("exec {program} serve"), "/dev/null"]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    shell.envs([
        ("DATABASE_URL", db.url().as_str()),
        ("PORT", "0"),
        ("RECADO_JWT_SECRET", SECRET),
        ("RECADO_ALLOW_UNSAFE_DURABILITY", "on"),
    ]);
    let mut child = shell.spawn().unwrap();
    let mut screen = tokio::io::BufReader::new(child.stdout.take().unwrap());
    let link = timeout(Duration::from_secs(60), async {
        use tokio::io::AsyncBufReadExt as _;
        let mut line = String::new();
        while !line.contains("#token=") {
            line.clear();
            assert!(screen.read_line(&mut line).await.unwrap() > 0, "the hub ended without a link");
        }
        line.trim().to_owned()
    })
    .await
    .expect("the hub prints the link");
    let (page, token) = link.split_once("#token=").unwrap();
    let url = page.strip_suffix("/admin").unwrap();
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    let answer = http_client().post(format!("{url}/api/admin/sign-in")).json(&json!({ "link": token })).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    child.kill().await.unwrap();
}
