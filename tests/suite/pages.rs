//! Tests that allowed pages can connect and read the hub's answers, in every browser way.

use super::support::*;

/// The answer to a request of a page: its status, and its headers.
async fn asked(request: reqwest::RequestBuilder, origin: &str) -> (u16, reqwest::header::HeaderMap) {
    let response = request.header("origin", origin).send().await.unwrap();
    (response.status().as_u16(), response.headers().clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_the_hubs_own_host_of_listed_hosts_and_of_apps_are_let_in() {
    let db = TestDb::new().await;
    let origins = "HTTPS://App.Example.com:443, https://*.example.org, capacitor://localhost, https://bücher.example";
    let hub = TestHub::on(&db).with("RECADO_ALLOWED_ORIGINS", origins).start().await;
    let page = |origin: &str| TestClient::of("ann").header("origin", origin);
    for origin in [
        "https://app.example.com",
        "https://shop.example.org",
        "capacitor://localhost",
        "https://xn--bcher-kva.example",
        // The Origin of Python's websocket-client, and of a page that a proxy serves under the hub's own address.
        &format!("http://{}", hub.address),
        &format!("https://{}", hub.address),
    ] {
        page(origin).connect(&hub).await.close().await;
        let source = EventSourcePage::of("ann").header("origin", origin).open(&hub).await;
        drop(source);
    }
    let rebound = EventSourcePage::of("ann").header("host", "evil.example:8080").header("origin", "http://evil.example:8080");
    assert_eq!(rebound.refused(&hub).await, (421, "unknown_host".into()), "a foreign name that leads to loopback");
    for origin in ["https://evil.example", "https://a.b.example.org", "http://shop.example.org", "http://localhost:3000", "null"] {
        assert!(page(origin).try_connect(&hub.address).await.is_err(), "{origin}");
        assert_eq!(EventSourcePage::of("ann").header("origin", origin).refused(&hub).await, (403, "foreign_origin".into()), "{origin}");
    }
    let said = hub.said();
    let named: Vec<&str> = said.lines().filter(|line| line.contains("refused a page of an origin")).collect();
    assert_eq!(named.len(), 1, "once a minute: {named:?}");
    assert!(named[0].contains("evil.example"), "{named:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_the_public_address_are_let_in_whatever_is_listed_and_whatever_host_a_proxy_names() {
    let db = TestDb::new().await;
    for origins in ["", "https://app.example.com"] {
        let hub = TestHub::on(&db).with("RECADO_ALLOWED_ORIGINS", origins).with("RECADO_PUBLIC_URL", "https://Hub.example.com:443/hub/");
        let hub = hub.start().await;
        let page = "https://hub.example.com";
        TestClient::of("ann").header("origin", page).connect(&hub).await.close().await;
        for host in [hub.address.as_str(), "hub.example.com"] {
            drop(EventSourcePage::of("ann").header("host", host).header("origin", page).open(&hub).await);
        }
        for foreign in ["http://hub.example.com", "https://hub.example.com:8443", "https://example.com"] {
            let refused = EventSourcePage::of("ann").header("origin", foreign).refused(&hub).await;
            assert_eq!(refused, (403, "foreign_origin".into()), "{foreign}");
        }
    }
    let (code, said) = run_to_the_end(&TestHub::on(&db).with("RECADO_PUBLIC_URL", "hub.example.com")).await;
    assert!(code == Some(78) && said.contains("RECADO_PUBLIC_URL"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_no_page_can_have_is_refused_at_the_start() {
    let db = TestDb::new().await;
    for (entry, reason) in [
        ("*", "would let every page in"),
        ("app.example.com", "a scheme is missing"),
        ("wss://app.example.com", "a page is http:// or https://"),
        ("https://app.example.com/path", "has no path"),
        ("https://*.com", "two labels or more"),
    ] {
        let hub = TestHub::on(&db).with("RECADO_ALLOWED_ORIGINS", &format!("https://good.example.com,{entry}"));
        let (code, said) = run_to_the_end(&hub).await;
        assert_eq!(code, Some(78), "{entry}: {said}");
        assert!(said.contains("RECADO_ALLOWED_ORIGINS") && said.contains(reason), "{entry}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_may_send_its_headers_and_read_those_of_the_hub() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_ALLOWED_ORIGINS", "https://app.example.com").start().await;
    let url = |path: &str| format!("http://{}{path}", hub.address);
    let preflight = |origin: &'static str| {
        let request = http_client().request(reqwest::Method::OPTIONS, url("/api/notifications/stream"));
        let request = request.header("access-control-request-method", "GET");
        asked(request.header("access-control-request-headers", "authorization,idempotency-key,traceparent,x-requested-with"), origin)
    };
    let (status, headers) = preflight("https://app.example.com").await;
    assert_eq!(status, 200);
    assert_eq!(headers["access-control-allow-origin"], "https://app.example.com");
    assert_eq!(headers["access-control-allow-credentials"], "true");
    assert_eq!(headers["access-control-max-age"], "7200");
    let allowed = headers["access-control-allow-headers"].to_str().unwrap().to_lowercase();
    assert!(["authorization", "idempotency-key", "traceparent", "x-requested-with"].iter().all(|name| allowed.contains(name)), "{allowed}");
    let (_, headers) = preflight("https://evil.example").await;
    assert!(
        !headers.contains_key("access-control-allow-origin") && !headers.contains_key("access-control-allow-credentials"),
        "{headers:?}"
    );

    let ann = token("ann", &[]);
    let lines = http_client().get(url("/api/notifications")).bearer_auth(&ann).header("accept", "application/x-ndjson");
    let (status, headers) = asked(lines, "https://app.example.com").await;
    assert_eq!((status, &headers["access-control-allow-credentials"]), (200, &"true".parse().unwrap()));
    let exposed = headers["access-control-expose-headers"].to_str().unwrap().to_lowercase();
    for name in ["retry-after", "x-request-id", "recado-next", "recado-head", "recado-log-id"] {
        assert!(exposed.split(',').any(|exposed| exposed.trim() == name), "{name}: {exposed}");
    }
    let varies: Vec<&str> = headers.get_all("vary").iter().map(|value| value.to_str().unwrap()).collect();
    assert!(varies.join(",").to_lowercase().contains("origin"), "a cache must tell pages apart: {varies:?}");
    let (_, headers) = asked(http_client().get(url("/health")), "https://evil.example").await;
    assert!(!headers.contains_key("access-control-allow-origin") && !headers.contains_key("access-control-allow-credentials"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_any_origin_may_load_the_client_and_nothing_else() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_ALLOWED_ORIGINS", "https://app.example.com").start().await;
    let url = format!("http://{}/sdk/recado.js", hub.address);
    let (status, headers) = asked(http_client().get(&url), "https://shop.example").await;
    assert_eq!(status, 200);
    assert_eq!(headers["access-control-allow-origin"], "https://shop.example");
    assert!(!headers.contains_key("access-control-allow-credentials"), "{headers:?}");
    assert_eq!(headers["cross-origin-resource-policy"], "cross-origin");
    assert_eq!(headers["content-type"], "text/javascript; charset=utf-8");
    let text = http_client().get(&url).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("RecadoClient"), "{} bytes", text.len());
    let whoami = http_client().get(format!("http://{}/api/whoami", hub.address)).bearer_auth(token("ann", &[]));
    let (_, headers) = asked(whoami, "https://shop.example").await;
    assert!(!headers.contains_key("access-control-allow-origin"), "{headers:?}");
}

/// A proxy that signs people in may put an `Authorization` of its own before every request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_token_or_ticket_in_the_query_counts_beside_a_proxys_own_bearer() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let foreign = "Bearer eyJhbGciOiJub25lIn0.e30.of-a-proxy";
    let ann = token("ann", &[]);
    let mut client = TestClient::of("nobody").without_header().header("authorization", foreign).query("token", &ann).connect(&hub).await;
    assert_eq!(client.hello["user_id"], "ann");
    let mut source = EventSourcePage::with_token(&ann).header("authorization", foreign).open(&hub).await;
    hub.post(&note("one").to_user("ann")).await;
    assert_eq!((client.expect_notification().await.title.as_str(), source.message().await.title().as_str()), ("one", "one"));
    let url = format!("http://{}/api/whoami?token={ann}", hub.address);
    let whoami = http_client().get(&url).header("authorization", foreign).send().await.unwrap();
    assert_eq!(whoami.status().as_u16(), 200);
    let ticket = http_client().post(format!("http://{}/api/ws-ticket", hub.address)).bearer_auth(&ann).send().await.unwrap();
    let ticket: serde_json::Value = ticket.json().await.unwrap();
    let page = EventSourcePage::without_token().query("ticket", ticket["ticket"].as_str().unwrap());
    assert_eq!(page.header("authorization", foreign).open(&hub).await.hello["user_id"], "ann");
    // The header takes precedence where it is one of ours; a foreign one alone opens nothing.
    let bob = TestClient::of("bob").query("token", &ann).connect(&hub).await;
    assert_eq!(bob.hello["user_id"], "bob");
    assert_eq!(EventSourcePage::without_token().header("authorization", foreign).refused(&hub).await, (401, "unauthorized".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_keep_the_callers_request_id_and_end_their_line() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let get = |path: &str, id: &str| {
        let request = http_client().get(format!("http://{}{path}", hub.address)).header("x-request-id", id).bearer_auth(token("ann", &[]));
        async move {
            let response = request.send().await.unwrap();
            let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
            let length: Option<usize> = response.headers().get("content-length").and_then(|v| v.to_str().ok()?.parse().ok());
            let body = response.text().await.unwrap();
            assert_eq!(length, Some(body.len()));
            (id, body)
        }
    };
    let longest = "a".repeat(128);
    for id in ["4bf92f3577b34da6a3ce929d0e0e4736", "Root=1-67891233-abcdef012345678912345678;x", "a/b+c=_.:-@", longest.as_str()] {
        let (kept, body) = get("/api/notifications", id).await;
        let is_kept = !id.contains(';');
        assert_eq!(kept == id, is_kept, "{id}");
        assert!(body.ends_with("}\n") && !body.ends_with("\n\n"), "{body:?}");
    }
    let (kept, body) = get("/api/nothing", "mine-1").await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap()["request_id"], "mine-1");
    assert!(kept == "mine-1" && body.ends_with("}\n"), "{body:?}");
    for bad in ["a b", "a\"b", "", "{}", &"a".repeat(129)] {
        let (made, _) = get("/health", bad).await;
        assert!(made != bad && made.len() == 36, "{bad:?}: {made}");
    }
    // Many libraries write the charset; RFC 8259 section 8.1 knows only one.
    let body = note("utf8").to_user("ann").body();
    let posted = hub.post_raw("/api/internal/notify", &[("content-type", "application/json; charset=utf8")], body).await;
    assert_eq!(posted.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streaming_answer_tells_proxies_not_to_gather_it() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let lines = http_client().get(format!("http://{}/api/notifications?follow=1", hub.address)).bearer_auth(token("ann", &[]));
    let post = http_client().post(format!("http://{}/api/internal/notify/batch", hub.address)).bearer_auth(db.key());
    let post = post.header("content-type", "application/x-ndjson").body(note("one").to_user("ann").body() + "\n");
    for request in [lines, post] {
        let response = request.send().await.unwrap();
        let caching = response.headers()["cache-control"].to_str().unwrap().to_owned();
        assert!(caching.contains("no-transform") && caching.contains("no-cache"), "{caching}");
    }
}
