//! Tests that access is taken back on every hub within five seconds.
//!
//! One of the hubs hears no NOTIFY.

use std::time::{Duration, Instant};

use recado::domain::Role;
use serde_json::{Value, json};

use super::mutants::VARIABLE;
use super::support::*;

/// The promise of the docs.
const PROMISED: Duration = Duration::from_secs(5);

fn builder(db: &TestDb) -> HubBuilder {
    let hub = TestHub::on(db);
    match std::env::var(VARIABLE) {
        Ok(mutant) if cfg!(feature = "mutants") => hub.with(VARIABLE, &mutant),
        _ => hub,
    }
}

/// A hub that hears every NOTIFY, and one that hears none.
async fn two_hubs(db: &TestDb) -> (TestHub, TestHub, TestProxy) {
    let proxy = TestProxy::before(&db.url()).await;
    proxy.set(ProxyFlow::Hole);
    let here = builder(db).start().await;
    let deaf = builder(db).with("RECADO_LISTEN_DATABASE_URL", &db.url_at(proxy.port)).start().await;
    (here, deaf, proxy)
}

async fn ask(hub: &TestHub, method: &str, path: &str, bearer: &str, body: Option<Value>) -> (u16, Value) {
    let mut request = http_client().request(method.parse().unwrap(), format!("http://{}{path}", hub.address)).bearer_auth(bearer);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let response = request.send().await.unwrap();
    let (status, media) = (response.status().as_u16(), response.headers()["content-type"].to_str().unwrap().to_owned());
    let body = response.text().await.unwrap();
    matches_document(method, path, status, Some(&media), &body);
    (status, serde_json::from_str(&body).unwrap())
}

fn admin() -> String {
    service_token("operator", Role::Admin)
}

async fn revoke(hub: &TestHub, body: Value) -> Value {
    let (status, answer) = ask(hub, "POST", "/api/admin/revocations", &admin(), Some(body)).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn lift(hub: &TestHub, user: &str) -> bool {
    let (status, answer) = ask(hub, "DELETE", &format!("/api/admin/revocations/{user}"), &admin(), None).await;
    assert_eq!(status, 200, "{answer}");
    answer["lifted"].as_bool().unwrap()
}

async fn close(hub: &TestHub, body: Value) -> i64 {
    let (status, answer) = ask(hub, "POST", "/api/admin/sessions/close", &admin(), Some(body)).await;
    assert_eq!(status, 200, "{answer}");
    answer["sessions"].as_i64().unwrap()
}

/// A token that says when it was issued, in seconds from now.
fn issued(user: &str, seconds: i64) -> String {
    let now = chrono::Utc::now().timestamp();
    signed(&json!({ "sub": user, "iat": now + seconds, "exp": now + 3600 }))
}

fn signed(claims: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes()).unwrap();
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

async fn status(hub: &TestHub, bearer: &str) -> (u16, String) {
    let (status, body) = hub.get("/api/whoami", Some(bearer)).await.unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

fn revoked() -> ClientEnd {
    ClientEnd::Code(4401, "token_revoked".into())
}

fn closed() -> ClientEnd {
    ClientEnd::Code(4505, "closed_by_admin".into())
}

async fn try_run(db: &TestDb, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sql).execute(&mut db.connect().await).await.map(drop)
}

/// A client of the SDK's kind: it fetches a new token once its connection is closed, and is let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_fetches_a_new_token_at_once_is_let_in() {
    let db = TestDb::new().await;
    let hub = builder(&db).start().await;
    for _ in 0..3 {
        let mut ann = TestClient::of("ann").bearer(&issued("ann", 0)).connect(&hub).await;
        revoke(&hub, json!({ "user_id": "ann" })).await;
        assert_eq!(ann.ended(PATIENCE).await, revoked());
        assert_eq!(status(&hub, &issued("ann", 0)).await.0, 200);
    }
}

/// Erasing a user removes the id from closings, and does not give access back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_user_stays_revoked_and_stands_in_no_closing() {
    let db = TestDb::new().await;
    let hub = builder(&db).start().await;
    let old = issued("ann", -1);
    revoke(&hub, json!({ "user_id": "ann" })).await;
    close(&hub, json!({ "user_id": "ann" })).await;
    builder(&db).run(&["erase", "--user", "ann", "--reason", "asked"]).await;
    assert_eq!(db.number("SELECT count(*) FROM recado.access_change WHERE subject = 'ann' AND kind <> 'revoke_user'").await, 0);
    eventually("it is known", PROMISED, async || (status(&hub, &old).await.0 == 401).then_some(())).await;
    assert_eq!(status(&builder(&db).start().await, &old).await.0, 401);
    // Old changes go, but for the last one.
    db.run("UPDATE recado.access_change SET made_at = made_at - interval '2 days'; SELECT recado.trim_access_changes()").await;
    assert_eq!(db.number("SELECT count(*) FROM recado.access_change").await, 1);
    let mut bob = TestClient::of("bob").connect(&hub).await;
    close(&hub, json!({ "user_id": "bob" })).await;
    assert_eq!(bob.ended(PATIENCE).await, closed());
}

/// A follower of a user's history.
async fn follow(hub: &TestHub, bearer: &str) -> reqwest::Response {
    let url = format!("http://{}/api/notifications?follow=true&after=0", hub.address);
    let response = reqwest::Client::new().get(url).bearer_auth(bearer).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response
}

/// The reason of the goodbye of a stream of lines.
async fn farewell(mut response: reqwest::Response) -> String {
    let mut text = String::new();
    while let Some(chunk) = tokio::time::timeout(PATIENCE, response.chunk()).await.expect("it ends").unwrap() {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).unwrap();
    assert_eq!(last["type"], "goodbye", "{text}");
    last["reason"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_user_is_out_everywhere_within_five_seconds_and_no_other_user() {
    let db = TestDb::new().await;
    let (here, deaf, _proxy) = two_hubs(&db).await;
    let old = issued("ann", -1);
    // Streams of every transport on both hubs, and of another user.
    let mut sockets = Vec::new();
    let mut pages = Vec::new();
    let mut followers = Vec::new();
    for hub in [&here, &deaf] {
        sockets.push(TestClient::of("ann").bearer(&old).device("ws").connect(hub).await);
        pages.push(EventSourcePage::with_token(&old).device("sse").open(hub).await);
        followers.push(follow(hub, &old).await);
    }
    let mut bob = TestClient::of("bob").bearer(&issued("bob", -1)).connect(&deaf).await;
    let (made, ticket) = ask(&deaf, "POST", "/api/ws-ticket", &old, None).await;
    assert_eq!(made, 200);

    let begun = Instant::now();
    let answer = revoke(&here, json!({ "user_id": "ann", "reason": "left the company" })).await;
    assert_eq!(answer["user_id"], "ann");
    for socket in &mut sockets {
        assert_eq!(socket.ended(PATIENCE).await, revoked());
    }
    for page in &mut pages {
        assert_eq!(page.named("goodbye").await["reason"], "token_revoked");
    }
    for follower in followers {
        assert_eq!(farewell(follower).await, "token_revoked");
    }
    assert!(begun.elapsed() < PROMISED, "{:?}", begun.elapsed());

    // Every door refuses what was issued before, and what does not say when.
    let now = chrono::Utc::now().timestamp();
    for hub in [&here, &deaf] {
        for token in [&old, &signed(&json!({ "sub": "ann", "exp": now + 60 })), &issued("ann", -3000)] {
            assert_eq!(status(hub, token).await, (401, "token_revoked".into()));
            let socket = TestClient::of("ann").bearer(token).open(hub).await.unwrap();
            assert_eq!(TestClient::over(socket).ended(PATIENCE).await, revoked());
            assert_eq!(EventSourcePage::with_token(token).refused(hub).await, (401, "token_revoked".into()));
            assert_eq!(ask(hub, "POST", "/api/ws-ticket", token, None).await.0, 401);
        }
    }
    // The ticket was deleted with the revocation.
    let with_ticket = TestClient::of("ticket").without_header().query("ticket", ticket["ticket"].as_str().unwrap());
    let socket = with_ticket.open(&here).await.unwrap();
    assert_eq!(TestClient::over(socket).ended(PATIENCE).await, ClientEnd::Code(4500, "unauthorized".into()));

    // A token that was issued afterwards counts, and no other user noticed.
    let new = issued("ann", 2);
    let mut ann = TestClient::of("ann").bearer(&new).device("ws").connect(&deaf).await;
    here.post(&note("after").to_everyone()).await;
    ann.until("after").await;
    bob.until("after").await;
    // A hub that starts later knows it from its first moment.
    let late = builder(&db).start().await;
    assert_eq!(status(&late, &old).await, (401, "token_revoked".into()));
    assert_eq!(status(&late, &new).await.0, 200);

    let (listed, list) = ask(&late, "GET", "/api/admin/revocations", &admin(), None).await;
    assert_eq!((listed, &list["next"]), (200, &Value::Null));
    let one = &list["revocations"].as_array().unwrap()[0];
    assert_eq!(
        (&one["user_id"], &one["reason"], &one["revoked_by"]),
        (&json!("ann"), &json!("left the company"), &json!("token:operator"))
    );
    assert!(lift(&here, "ann").await && !lift(&here, "ann").await);
    for hub in [&here, &deaf, &late] {
        eventually("lifted", PROMISED, async || (status(hub, &old).await.0 == 200).then_some(())).await;
    }
    assert_eq!(db.number("SELECT count(*) FROM recado.session WHERE end_reason = 'token_revoked'").await, 6);
}

/// An earlier time refuses less, a later one keeps the user out until then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_names_the_time_before_which_tokens_are_refused() {
    let db = TestDb::new().await;
    let hub = builder(&db).start().await;
    let (hour_ago, minute_ago) = (issued("ann", -3600), issued("ann", -60));
    let at = |minutes: i64| (chrono::Utc::now() + chrono::TimeDelta::minutes(minutes)).to_rfc3339();
    let mut open = TestClient::of("ann").bearer(&minute_ago).connect(&hub).await;
    revoke(&hub, json!({ "user_id": "ann", "before": at(-30) })).await;
    eventually("the older one is refused", PROMISED, async || (status(&hub, &hour_ago).await.0 == 401).then_some(())).await;
    assert_eq!(status(&hub, &minute_ago).await.0, 200);
    hub.post(&note("still there").to_user("ann")).await;
    open.until("still there").await;

    revoke(&hub, json!({ "user_id": "ann", "before": at(10) })).await;
    assert_eq!(open.ended(PATIENCE).await, revoked());
    assert_eq!(status(&hub, &issued("ann", 0)).await, (401, "token_revoked".into()));
    // One that would refuse less changes nothing.
    let answer = revoke(&hub, json!({ "user_id": "ann", "before": at(-30) })).await;
    assert!(answer["not_before"].as_str().unwrap() > at(5).as_str(), "{answer}");
    assert_eq!(status(&hub, &issued("ann", 0)).await.0, 401);
    // The owner of the tables can do it in SQL.
    let bob = issued("bob", -1);
    db.run("SELECT recado.revoke_user('bob', NULL, 'in SQL')").await;
    eventually("bob is refused", PROMISED, async || (status(&hub, &bob).await.0 == 401).then_some(())).await;
    // A time that no client could write, and the command line's own subject.
    assert!(try_run(&db, "SELECT recado.revoke_user('bob', '290000-01-01')").await.is_err());
    revoke(&hub, json!({ "user_id": "local", "before": at(10) })).await;
    let local = service_token("local", Role::Admin);
    eventually("a user of that name is refused", PROMISED, async || (status(&hub, &issued("local", 0)).await.0 == 401).then_some(())).await;
    assert_eq!(ask(&hub, "DELETE", "/api/admin/revocations/local", &local, None).await.0, 200);
    // The subject of a service's token can be revoked as well.
    let service = service_token("shop", Role::Service);
    assert_eq!(hub.post_as(&service, &note("x").to_user("bob")).await.unwrap().status, 201);
    revoke(&hub, json!({ "user_id": "shop", "before": at(1) })).await;
    let refused = async || (hub.post_as(&service, &note("x").to_user("bob")).await.unwrap().code() == "token_revoked").then_some(());
    eventually("the service is refused", PROMISED, refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_session_or_those_of_a_user_or_an_account_are_closed_and_may_come_again() {
    let db = TestDb::new().await;
    let (here, deaf, _proxy) = two_hubs(&db).await;
    let mut one = TestClient::of("ann").device("one").connect(&deaf).await;
    let mut two = TestClient::of("ann").device("two").connect(&deaf).await;
    let session = one.hello["session_id"].clone();
    let begun = Instant::now();
    eventually("it is stored", PATIENCE, async || (close(&here, json!({ "session_id": session })).await == 1).then_some(())).await;
    assert_eq!(one.ended(PATIENCE).await, closed());
    assert!(begun.elapsed() < PROMISED, "{:?}", begun.elapsed());
    here.post(&note("the other one stays").to_user("ann")).await;
    two.until("the other one stays").await;

    let mut again = TestClient::of("ann").device("one").connect(&here).await;
    let (made, ticket) = ask(&here, "POST", "/api/ws-ticket", &token("ann", &[]), None).await;
    assert_eq!(made, 200);
    let begun = Instant::now();
    close(&here, json!({ "user_id": "ann" })).await;
    assert_eq!((again.ended(PATIENCE).await, two.ended(PATIENCE).await), (closed(), closed()));
    let with_ticket = TestClient::of("ticket").without_header().query("ticket", ticket["ticket"].as_str().unwrap());
    let socket = with_ticket.open(&here).await.unwrap();
    assert_eq!(TestClient::over(socket).ended(PATIENCE).await, ClientEnd::Code(4500, "unauthorized".into()));
    assert!(begun.elapsed() < PROMISED, "{:?}", begun.elapsed());

    // A page without the code to stop comes back late, not at once.
    let mut page = EventSourcePage::of("ann").device("page").open(&deaf).await;
    close(&here, json!({ "user_id": "ann" })).await;
    assert_eq!(page.named("goodbye").await["reason"], "closed_by_admin");
    assert_eq!(page.retry, Some(3_600_000));

    let mut in_7 = TestClient::of("ann").account("7").connect(&deaf).await;
    let mut in_8 = TestClient::of("bob").account("8").connect(&deaf).await;
    close(&here, json!({ "account_id": "7" })).await;
    assert_eq!(in_7.ended(PATIENCE).await, closed());
    here.post(&note("bob stays").account("8")).await;
    in_8.until("bob stays").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_the_table_are_closed_with_their_account() {
    let db = TestDb::new().await;
    let hub = builder(&db).with("RECADO_ACCOUNTS", "table").start().await;
    let (added, _) = ask(&hub, "PUT", "/api/internal/accounts/7/members/ann", hub.key(), None).await;
    assert_eq!(added, 200);
    let mut ann = TestClient::of("ann").connect(&hub).await;
    let mut bob = TestClient::of("bob").connect(&hub).await;
    close(&hub, json!({ "account_id": "7" })).await;
    assert_eq!(ann.ended(PATIENCE).await, closed());
    hub.post(&note("bob stays").to_everyone()).await;
    bob.until("bob stays").await;
}

/// A hub of an earlier version, or a service that writes in SQL, revokes a key without a NOTIFY of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_is_refused_within_five_seconds_though_every_notify_is_lost() {
    let db = TestDb::new().await;
    let (_here, deaf, _proxy) = two_hubs(&db).await;
    deaf.post(&note("before").to_user("ann")).await;
    let begun = Instant::now();
    db.run("UPDATE recado.service_key SET revoked_at = now()").await;
    let refused = async || {
        let answer = deaf.try_post(&note("after").to_user("ann")).await.unwrap();
        (answer.status == 401).then_some(answer)
    };
    assert_eq!(eventually("the key is refused", PATIENCE, refused).await.code(), "unauthorized");
    assert!(begun.elapsed() < PROMISED, "{:?}", begun.elapsed());
}

/// The changes that a hub missed while the database was away, and those that are no longer kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_missed_changes_reads_them_all() {
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    let here = builder(&db).start().await;
    let cut_off = builder(&db).with("DATABASE_URL", &db.url_at(proxy.port)).start().await;
    let old = issued("ann", -1);
    let mut ann = TestClient::of("ann").bearer(&old).connect(&cut_off).await;
    proxy.cut(Cut::Rst);
    proxy.set(ProxyFlow::Hole);
    revoke(&here, json!({ "user_id": "eve" })).await;
    revoke(&here, json!({ "user_id": "ann" })).await;
    db.run("DELETE FROM recado.access_change").await;
    proxy.set(ProxyFlow::Pass);
    proxy.cut(Cut::Rst);
    assert_eq!(ann.ended(PATIENCE).await, revoked());
    assert_eq!(status(&cut_off, &issued("eve", -1)).await, (401, "token_revoked".into()));
    // A failover that lost the last commit, and another change with the same number.
    let bob = issued("bob", -1);
    assert_eq!(status(&cut_off, &bob).await.0, 200);
    proxy.cut(Cut::Rst);
    proxy.set(ProxyFlow::Hole);
    db.run("DELETE FROM recado.access_change WHERE revision = (SELECT revision FROM recado.access_state)").await;
    db.run("UPDATE recado.access_state SET revision = revision - 1").await;
    revoke(&here, json!({ "user_id": "bob" })).await;
    proxy.set(ProxyFlow::Pass);
    proxy.cut(Cut::Rst);
    eventually("the change is noticed", PATIENCE, async || (status(&cut_off, &bob).await.0 == 401).then_some(())).await;
    // A database that was restored from a backup is behind the hub.
    db.run("DELETE FROM recado.revocation; UPDATE recado.access_state SET revision = 0").await;
    eventually("what is no longer revoked counts", PATIENCE, async || (status(&cut_off, &old).await.0 == 200).then_some(())).await;
}

/// Each hub's own check comes before the connection is registered. Revocations that arrive in between are found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_slips_through_between_its_check_and_its_registration() {
    let db = TestDb::new().await;
    let hub = builder(&db).start().await;
    let old = issued("ann", -1);
    for round in 0..10 {
        let connects = (0..8).map(|n| {
            let client = TestClient::of("ann").bearer(&old).device(&format!("{round}-{n}"));
            let hub = &hub;
            async move {
                tokio::time::sleep(Duration::from_millis(3 * n)).await;
                client.open(hub).await.map(TestClient::over)
            }
        });
        let (sockets, _) =
            tokio::join!(futures_util::future::join_all(connects), revoke(&hub, json!({ "user_id": "ann", "reason": round.to_string() })));
        for socket in sockets {
            // Some had said hello before the revocation.
            let mut socket = socket.unwrap();
            let end = loop {
                match socket.try_next(PATIENCE).await {
                    Some(ClientSawFrame::Ended(end)) => break end,
                    Some(_) => {}
                    None => panic!("a connection of a revoked user is open"),
                }
            };
            assert_eq!(end, revoked());
        }
        lift(&hub, "ann").await;
        eventually("lifted", PROMISED, async || (status(&hub, &old).await.0 == 200).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_admins_take_access_back_and_bad_requests_say_what_is_wrong() {
    let db = TestDb::new().await;
    let hub = builder(&db).start().await;
    let doors = [
        ("POST", "/api/admin/revocations", Some(json!({ "user_id": "ann" }))),
        ("GET", "/api/admin/revocations", None),
        ("DELETE", "/api/admin/revocations/ann", None),
        ("POST", "/api/admin/sessions/close", Some(json!({ "user_id": "ann" }))),
    ];
    for (method, path, body) in doors {
        for (bearer, expected) in [(hub.key().to_owned(), 403), (token("ann", &[]), 403), ("nonsense".to_owned(), 401)] {
            assert_eq!(ask(&hub, method, path, &bearer, body.clone()).await.0, expected, "{method} {path}");
        }
    }
    for (path, body) in [
        ("/api/admin/revocations", json!({ "user_id": "a b" })),
        ("/api/admin/revocations", json!({ "user_id": "ann", "before": "tomorrow" })),
        ("/api/admin/sessions/close", json!({})),
        ("/api/admin/sessions/close", json!({ "user_id": "ann", "account_id": "7" })),
        ("/api/admin/sessions/close", json!({ "session_id": "7" })),
    ] {
        assert_eq!(ask(&hub, "POST", path, &admin(), Some(body.clone())).await.0, 422, "{body}");
    }
    assert_eq!(ask(&hub, "DELETE", "/api/admin/revocations/a%20b", &admin(), None).await.0, 422);
    assert_eq!(db.number("SELECT count(*) FROM recado.access_change").await, 0);
    // Page by page.
    for user in ["a", "b", "c"] {
        revoke(&hub, json!({ "user_id": user })).await;
    }
    let (_, page) = ask(&hub, "GET", "/api/admin/revocations?limit=2", &admin(), None).await;
    assert_eq!((page["revocations"].as_array().unwrap().len(), &page["next"]), (2, &json!("b")));
    let (_, page) = ask(&hub, "GET", "/api/admin/revocations?limit=2&after=b", &admin(), None).await;
    assert_eq!((&page["revocations"][0]["user_id"], &page["next"]), (&json!("c"), &Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_revokes_lists_lifts_and_closes() {
    let db = TestDb::new().await;
    let builder = builder(&db);
    let hub = builder.start().await;
    let on = |words: &[&str]| -> Vec<String> {
        let url = ["--url".to_owned(), format!("http://{}", hub.address)];
        words.iter().map(|word| (*word).to_owned()).chain(url).collect()
    };
    let run = async |words: &[&str]| {
        let words = on(words);
        builder.run(&words.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let mut ann = TestClient::of("ann").bearer(&issued("ann", -1)).connect(&hub).await;
    let said = run(&["revoke", "ann", "--reason", "lost a laptop", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["user_id"], "ann");
    assert_eq!(ann.ended(PATIENCE).await, revoked());
    let listed = run(&["revocation", "list"]).await;
    assert!(listed.contains("ann") && listed.contains("lost a laptop"), "{listed}");
    run(&["revocation", "lift", "ann"]).await;
    eventually("lifted", PROMISED, async || (status(&hub, &issued("ann", -1)).await.0 == 200).then_some(())).await;
    let mut bob = TestClient::of("bob").connect(&hub).await;
    run(&["close", "--user", "bob"]).await;
    assert_eq!(bob.ended(PATIENCE).await, closed());
}

/// A stream that lives longer than its token, on the hub that the request reaches and on the other one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_takes_a_newer_token_in_a_request_on_any_hub() {
    let db = TestDb::new().await;
    let (here, deaf, _proxy) = two_hubs(&db).await;
    // Long enough for a machine with much to do: a stream that has ended takes no token.
    let life = Duration::from_secs(15);
    let mut streams = Vec::new();
    for (serving, asked) in [(&here, &here), (&here, &deaf), (&deaf, &here)] {
        let brief = brief_token("ann", &["7"], life);
        let page = EventSourcePage::with_token(&brief).open(serving).await;
        let url = format!("http://{}/api/notifications?follow=true", serving.address);
        let response = reqwest::Client::new().get(url).bearer_auth(&brief).send().await.unwrap();
        let mut follower = Lines { response, unread: String::new() };
        let hello = follower.frame().await;
        for session in [&page.hello["session_id"], &hello["session_id"]] {
            let path = format!("/api/session/{}/auth", session.as_str().unwrap());
            // The session is stored a moment after it began.
            let (status, answer) = eventually("it is taken", PATIENCE, async || {
                Some(ask(asked, "POST", &path, &token("ann", &["7"]), None).await).filter(|(status, _)| *status != 404)
            })
            .await;
            assert_eq!((status, &answer["session_id"]), (200, session), "{answer}");
        }
        streams.push((page, follower));
    }
    for (page, follower) in &mut streams {
        assert!(page.named("auth_ok").await["expires_at"].is_string());
        while follower.frame().await["type"] != "auth_ok" {}
    }
    tokio::time::sleep(life).await;
    let seq = here.post(&note("later than the first token").account("7")).await.seq;
    for (page, follower) in &mut streams {
        assert_eq!(page.message().await.id, Some(seq.to_string()));
        while follower.frame().await["seq"] != seq {}
    }
    // Another user's session, one that has ended, and other accounts.
    let mut page = EventSourcePage::with_token(&token("ann", &["7"])).device("page").open(&deaf).await;
    let path = format!("/api/session/{}/auth", page.hello["session_id"].as_str().unwrap());
    eventually("it is stored", PATIENCE, async || (ask(&here, "POST", &path, &token("ann", &["7"]), None).await.0 == 200).then_some(()))
        .await;
    for hub in [&here, &deaf] {
        assert_eq!(ask(hub, "POST", &path, &token("bob", &["7"]), None).await.1["code"], "unknown_session");
        assert_eq!(ask(hub, "POST", &path, &token("ann", &["8"]), None).await.1["code"], "other_accounts");
        assert_eq!(ask(hub, "POST", &path, &service_token("shop", Role::Service), None).await.0, 403);
        assert_eq!(ask(hub, "POST", &path, "nonsense", None).await.0, 401);
        assert_eq!(ask(hub, "POST", "/api/session/7/auth", &token("ann", &["7"]), None).await.1["code"], "unknown_session");
    }
    // A revoked user cannot go on with a token of before, and the stream ends.
    let older = token("ann", &["7"]);
    revoke(&here, json!({ "user_id": "ann" })).await;
    assert_eq!(page.named("goodbye").await["reason"], "token_revoked");
    assert_eq!(ask(&deaf, "POST", &path, &older, None).await.0, 401);
}

/// Reads a stream of lines.
struct Lines {
    response: reqwest::Response,
    unread: String,
}

impl Lines {
    async fn frame(&mut self) -> Value {
        loop {
            if let Some((line, rest)) = self.unread.split_once('\n') {
                let frame = serde_json::from_str(line).unwrap();
                self.unread = rest.to_owned();
                return frame;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("a line").unwrap().expect("the stream goes on");
            self.unread.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}
