//! Tests that a ticket opens one stream, once, on any hub, within half a minute.
//!
//! It reveals nothing about its user.

use std::time::Duration;

use serde_json::Value;

use super::support::*;

async fn ask(hub: &TestHub, bearer: &str) -> (u16, Value) {
    let request = http_client().post(format!("http://{}/api/ws-ticket", hub.address)).bearer_auth(bearer);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn ticket_with(hub: &TestHub, bearer: &str) -> String {
    let (status, body) = ask(hub, bearer).await;
    assert_eq!(status, 200, "{body}");
    body["ticket"].as_str().unwrap().to_owned()
}

async fn ticket(hub: &TestHub, user: &str) -> String {
    ticket_with(hub, &token(user, &[])).await
}

/// How a socket that is opened with this ticket alone ends.
async fn refused(hub: &TestHub, ticket: &str) -> ClientEnd {
    let socket = TestClient::of("nobody").without_header().query("ticket", ticket).open(hub).await.unwrap();
    TestClient::over(socket).ended(PATIENCE).await
}

fn unauthorized() -> ClientEnd {
    ClientEnd::Code(4500, "unauthorized".into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_of_one_hub_opens_one_stream_of_another_as_its_user() {
    let db = TestDb::new().await;
    let (one, two) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let (status, body) = ask(&one, &token("ann", &["7", "8"])).await;
    assert_eq!(status, 200);
    let ticket = body["ticket"].as_str().unwrap();
    assert!(!ticket.contains("ann") && body["expires_at"].is_string(), "{body}");
    let mut ann = TestClient::of("nobody").without_header().query("ticket", ticket).device("tab").connect(&two).await;
    assert_eq!((&ann.hello["user_id"], &ann.hello["account_ids"]), (&"ann".into(), &serde_json::json!(["7", "8"])));
    one.post(&note("in 8").account("8")).await;
    ann.until("in 8").await;
    for hub in [&one, &two] {
        assert_eq!(refused(hub, ticket).await, unauthorized(), "it was used");
    }
    // On the root path, and as an EventSource. The header takes precedence, and then the ticket is kept.
    let ticket = self::ticket(&two, "bob").await;
    let carol = TestClient::of("carol").path("/").query("ticket", &ticket).connect(&one).await;
    assert_eq!(carol.hello["user_id"], "carol");
    let bob = TestClient::of("nobody").without_header().path("/").query("ticket", &ticket).connect(&one).await;
    assert_eq!(bob.hello["user_id"], "bob");
    let page = EventSourcePage::without_token().query("ticket", &self::ticket(&one, "dan").await);
    assert_eq!(page.open(&two).await.hello["user_id"], "dan");
    assert_eq!(page.refused(&one).await, (401, "unauthorized".into()));
    assert_eq!(db.number("SELECT count(*) FROM recado.ticket").await, 0, "what is used up leaves nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_uses_at_the_same_time_one_has_the_stream() {
    let db = TestDb::new().await;
    let (one, two) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    for _ in 0..5 {
        let asked = TestClient::of("nobody").without_header().query("ticket", &ticket(&one, "ann").await);
        let uses = (0..8).map(|n| {
            let (asked, address) = (asked.clone(), if n % 2 == 0 { one.address.clone() } else { two.address.clone() });
            tokio::spawn(async move { asked.try_connect(&address).await })
        });
        let mut opened = 0;
        for used in uses.collect::<Vec<_>>() {
            match used.await.unwrap() {
                Ok(client) => {
                    opened += 1;
                    client.close().await;
                }
                Err(why) => assert!(why.contains("4500"), "{why}"),
            }
        }
        assert_eq!(opened, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_ticket_that_comes_too_late_says_so_and_is_removed() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let (late, unused) = (ticket(&hub, "ann").await, ticket(&hub, "ann").await);
    // The row counts, whatever the ticket says of itself.
    db.run("UPDATE recado.ticket SET expires_at = clock_timestamp() - interval '1 ms'").await;
    assert_eq!(refused(&hub, &late).await, ClientEnd::Code(4401, "token_expired".into()));
    let forged = format!("rct_{:010x}{}", 9_999_999_999_u64, &unused[14..]);
    assert_eq!(refused(&hub, &forged).await, unauthorized());
    let gone = async || (db.number("SELECT count(*) FROM recado.ticket").await == 0).then_some(());
    eventually("expired tickets are removed", PATIENCE, gone).await;
    // A ticket without a row, whose own timestamp has expired.
    let old = format!("rct_{:010x}{}", 1_000_000_000, "0".repeat(48));
    assert_eq!(refused(&hub, &old).await, ClientEnd::Code(4401, "token_expired".into()));
    let page = EventSourcePage::without_token().query("ticket", &old);
    assert_eq!(page.refused(&hub).await, (401, "token_expired".into()));
    // The same, of a hub whose clock is behind that of the database: its row exists, so it is good.
    let good = "INSERT INTO recado.ticket SELECT sha256('{}'), 'ann', '{}', now() + interval '1 hour', now() + interval '30 s'";
    db.run(&good.replacen("{}", &old, 1)).await;
    TestClient::of("nobody").without_header().query("ticket", &old).connect(&hub).await.close().await;
    assert_eq!(refused(&hub, &old).await, ClientEnd::Code(4401, "token_expired".into()), "once");
    for bad in ["", "x", &old[..40], "rct_%00", &"a".repeat(4000)] {
        assert_eq!(refused(&hub, bad).await, unauthorized(), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_connection_by_ticket_ends_with_the_token_and_not_with_the_ticket() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let ttl = Duration::from_secs(4);
    let by_ticket = ticket_with(&hub, &brief_token("ann", &[], ttl)).await;
    let mut ann = TestClient::of("nobody").without_header().query("ticket", &by_ticket).connect(&hub).await;
    let mut bob = TestClient::of("nobody").without_header().query("ticket", &ticket(&hub, "bob").await).connect(&hub).await;
    assert_eq!(ann.ended(ttl + Duration::from_secs(5)).await, ClientEnd::Code(4401, "token_expired".into()));
    let half_an_hour = chrono::Utc::now() + chrono::TimeDelta::minutes(30);
    let ends: chrono::DateTime<chrono::Utc> = bob.hello["token_expires_at"].as_str().unwrap().parse().unwrap();
    assert!(ends > half_an_hour, "{ends}");
    hub.post(&note("on").to_user("bob")).await;
    bob.until("on").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_are_for_users_at_their_rate_and_for_pages_that_may_connect() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_LOG", "trace,sqlx::query=trace,hyper::proto=trace").start().await;
    for (bearer, status, code) in [
        (db.key(), 401, "unauthorized"),
        ("x.y.z".to_owned(), 401, "unauthorized"),
        (service_token("shop", recado::domain::Role::Service), 403, "forbidden"),
    ] {
        let (got, body) = ask(&hub, &bearer).await;
        assert_eq!((got, body["code"].as_str()), (status, Some(code)));
    }
    let ann = token("ann", &[]);
    let mut given = Vec::new();
    let refusal = loop {
        let (status, body) = ask(&hub, &ann).await;
        match status {
            200 => given.push(body["ticket"].as_str().unwrap().to_owned()),
            _ => break (status, body["code"].clone()),
        }
        assert!(given.len() < 200, "no limit");
    };
    assert_eq!(refusal, (429, "rate_limited".into()));
    assert_eq!(ask(&hub, &token("bob", &[])).await.0, 200, "and nobody else is slowed down");

    let request = |origin: &'static str| http_client().post(format!("http://{}/api/ws-ticket", hub.address)).header("origin", origin);
    let foreign = request("https://evil.example").bearer_auth(token("carol", &[])).send().await.unwrap();
    assert_eq!(foreign.status().as_u16(), 403);
    let ours = request("http://localhost:3000").bearer_auth(token("carol", &[])).send().await.unwrap();
    assert_eq!(ours.headers()["access-control-allow-origin"], "http://localhost:3000");
    assert_eq!(ours.headers()["cache-control"], "no-store");

    // Neither the log nor the database holds a usable ticket.
    let last = given.last().unwrap();
    TestClient::of("nobody").without_header().query("ticket", last).connect(&hub).await.close().await;
    let said = hub.said();
    assert!(said.contains("/api/ws-ticket"), "the log says something");
    for ticket in &given {
        assert!(!said.contains(ticket), "a ticket was logged");
    }
    let kept = db.number("SELECT count(*) FROM recado.ticket WHERE encode(hash, 'escape') LIKE 'rct_%' OR length(hash) <> 32").await;
    assert_eq!(kept, 0);
}
