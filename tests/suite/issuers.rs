//! Promise: tokens of an identity provider open streams while its keys say so, and no longer.
//!
//! A key server of the test rotates, removes, hangs and answers wrongly. Every row of the table of cases in
//! docs/guides/identity.md is here.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::support::issuer::{ALGORITHMS, AUD, ISS, IssuerKey, KeyAnswer, KeyServer, claims, now};
use super::support::*;

/// Time after which a token with an unknown key may cause a fetch again, with a margin.
const SPACING: Duration = Duration::from_millis(10_200);

fn hub_with(db: &TestDb, keys: &KeyServer) -> HubBuilder {
    let hub = TestHub::on(db).with("RECADO_JWKS_URL", &keys.url());
    hub.with("RECADO_JWT_ISSUER", ISS).with("RECADO_JWT_AUDIENCE", AUD)
}

async fn ready(hub: &TestHub) {
    eventually("the hub has the keys", PATIENCE, async || hub.is_ready().await.then_some(())).await;
}

/// The status and code of `whoami` with this token.
async fn whoami(hub: &TestHub, token: &str) -> (u16, String) {
    let (status, body) = hub.get("/api/whoami", Some(token)).await.unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    (status, body[if status == 200 { "user_id" } else { "code" }].as_str().unwrap().to_owned())
}

fn accepted(user: &str) -> (u16, String) {
    (200, user.to_owned())
}

fn refused() -> (u16, String) {
    (401, "unauthorized".to_owned())
}

fn unavailable() -> (u16, String) {
    (503, "unavailable".to_owned())
}

/// How a socket with this token ends.
async fn socket_end(hub: &TestHub, token: &str) -> ClientEnd {
    let socket = TestClient::of("nobody").bearer(token).open(hub).await.unwrap();
    TestClient::over(socket).ended(PATIENCE).await
}

async fn fetches(hub: &TestHub, outcome: &str) -> f64 {
    hub.metric(&format!("recado_jwks_fetches_total{{outcome=\"{outcome}\"}}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_key_of_every_algorithm_opens_streams_and_an_unknown_key_does_not() {
    let db = TestDb::new().await;
    let all: Vec<IssuerKey> = ALGORITHMS.iter().map(|algorithm| IssuerKey::new(*algorithm, &format!("{algorithm:?}"))).collect();
    let server = KeyServer::start(&all.iter().collect::<Vec<_>>()).await;
    let hub = hub_with(&db, &server).start().await;
    ready(&hub).await;
    for key in &all {
        assert_eq!(whoami(&hub, &key.token("ann")).await, accepted("ann"), "{:?}", key.algorithm);
    }
    let mut ann = TestClient::of("ann").bearer(&all[6].token("ann")).connect(&hub).await;
    hub.post(&note("to ann").to_user("ann")).await;
    ann.until("to ann").await;
    // The hub's own tokens go on to work, under the same rules for claims.
    assert_eq!(whoami(&hub, &own("bob")).await, accepted("bob"));
    // The set is fresh, so nothing is asked again.
    let stranger = IssuerKey::new(Algorithm::ES256, "unknown").token("ann");
    assert_eq!(whoami(&hub, &stranger).await, refused());
    assert_eq!(socket_end(&hub, &stranger).await, ClientEnd::Code(4500, "unauthorized".into()));
    assert_eq!(server.hits(), 1);
    let nameless = IssuerKey { kid: None, ..all[6].clone() };
    assert_eq!(whoami(&hub, &nameless.token("ann")).await, accepted("ann"), "the only key of its algorithm");
    assert_eq!(hub.metric("recado_tokens_total{outcome=\"accepted\",alg=\"ES256\"}").await, 3.0);
    assert_eq!(hub.metric("recado_tokens_total{outcome=\"refused\",alg=\"ES256\"}").await, 2.0);
    assert!(hub.metric("recado_jwks_age_seconds").await >= 0.0);
}

/// A token of the hub's own secret with the claims of these tests.
fn own(user: &str) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes()).unwrap();
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims(user), &key).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_new_key_is_fetched_once_for_all_who_ask() {
    let db = TestDb::new().await;
    let (old, new) = (IssuerKey::new(Algorithm::ES256, "old"), IssuerKey::new(Algorithm::ES256, "new"));
    let server = KeyServer::start(&[&old]).await;
    let hub = hub_with(&db, &server).start().await;
    ready(&hub).await;
    tokio::time::sleep(SPACING).await;
    server.publish(&[&old, &new]);
    assert_eq!(server.hits(), 1);
    let asked = futures_util::future::join_all((0..40).map(|n| {
        let (hub, token) = (&hub, if n % 2 == 0 { new.token("ann") } else { old.token("ann") });
        async move { whoami(hub, &token).await }
    }));
    assert!(asked.await.iter().all(|answer| *answer == accepted("ann")));
    assert_eq!(server.hits(), 2, "one fetch for all");
    // Guesses cause no more fetches, and do not wait.
    let begun = Instant::now();
    for n in 0..30 {
        let guess = IssuerKey { kid: Some(format!("guess-{n}")), ..new.clone() };
        assert_eq!(whoami(&hub, &guess.token("ann")).await, refused());
    }
    assert_eq!(server.hits(), 2);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_token_is_not_called_bad_because_its_issuer_cannot_be_asked() {
    let db = TestDb::new().await;
    let (known, new) = (IssuerKey::new(Algorithm::ES256, "known"), IssuerKey::new(Algorithm::ES256, "new"));
    let server = KeyServer::start(&[]).await;
    server.answer(KeyAnswer::Raw(500, String::new(), Vec::new()));
    let hub = hub_with(&db, &server).with("RECADO_JWKS_REFRESH", "1s").start().await;
    eventually("the first fetch fails", PATIENCE, async || (fetches(&hub, "status").await >= 1.0).then_some(())).await;
    // Before the first set.
    assert!(!hub.is_ready().await);
    let (_, checks) = hub.get("/readyz?verbose", None).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&checks).unwrap()["checks"]["key_sets"]["ok"], false, "{checks}");
    assert_eq!(whoami(&hub, &known.token("ann")).await, unavailable());
    assert_eq!(socket_end(&hub, &known.token("ann")).await, ClientEnd::Code(4003, "server_error".into()));
    assert_eq!(whoami(&hub, &own("bob")).await, accepted("bob"), "the hub's own tokens need nobody else");
    server.publish(&[&known]);
    ready(&hub).await;
    assert_eq!(whoami(&hub, &known.token("ann")).await, accepted("ann"));
    // After it: a known key is good, an unknown one cannot be judged.
    server.answer(KeyAnswer::Raw(500, String::new(), Vec::new()));
    server.asked_again().await;
    assert_eq!(whoami(&hub, &known.token("ann")).await, accepted("ann"));
    assert_eq!(whoami(&hub, &new.token("ann")).await, unavailable());
    assert_eq!(socket_end(&hub, &new.token("ann")).await, ClientEnd::Code(4003, "server_error".into()));
    let (goodbye, retry) = EventSourcePage::with_token(&new.token("ann")).put_off(&hub).await;
    assert!(goodbye["reason"] == "unavailable" && retry.is_some(), "{goodbye}");
    // In band, the token is not called bad either, and the connection stays.
    let mut ann = TestClient::of("ann").bearer(&known.token("ann")).connect(&hub).await;
    ann.say(&json!({"type": "auth", "token": new.token("ann")}).to_string()).await;
    assert_eq!(ann.expect_other("error").await["code"], "unavailable");
    assert!(hub.said().contains("key set could not be fetched"), "{}", hub.said());
    // A server that does not answer at all, and a token that waits for it in vain.
    server.answer(KeyAnswer::Hang);
    let before = server.hits();
    eventually("a fetch hangs", PATIENCE, async || (server.hits() > before).then_some(())).await;
    let begun = Instant::now();
    assert_eq!(whoami(&hub, &new.token("ann")).await, unavailable());
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    eventually("the fetch is given up", PATIENCE, async || (fetches(&hub, "timeout").await >= 1.0).then_some(())).await;
    server.publish(&[&known, &new]);
    eventually("the new key is accepted", PATIENCE, async || (whoami(&hub, &new.token("ann")).await == accepted("ann")).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_wrong_answer_leaves_the_old_set_in_use_until_it_is_stale() {
    let db = TestDb::new().await;
    let key = IssuerKey::new(Algorithm::EdDSA, "k");
    let server = KeyServer::start(&[&key]).await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hub = hub_with(&db, &server).with("RECADO_JWKS_REFRESH", "1s").with("RECADO_JWKS_MAX_STALE", "40s").start().await;
    ready(&hub).await;
    let good = json!({"keys": [key.jwk]}).to_string();
    let oct = json!({"kty": "oct", "kid": "o", "alg": "HS256", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"});
    let location = format!("Location: http://{}/jwks\r\n", elsewhere.local_addr().unwrap());
    let many: Vec<Value> = (0..101).map(|_| key.jwk.clone()).collect();
    for (what, answer, outcome) in [
        ("500", KeyAnswer::Raw(500, String::new(), good.clone().into_bytes()), "status"),
        ("a redirect", KeyAnswer::Raw(302, location, Vec::new()), "status"),
        ("1 MiB", KeyAnswer::Raw(200, String::new(), format!("{}{good}", " ".repeat(1 << 20)).into_bytes()), "too_large"),
        ("no JSON", KeyAnswer::Raw(200, String::new(), b"<html>".to_vec()), "malformed"),
        ("101 keys", KeyAnswer::Set(many), "malformed"),
        ("no keys", KeyAnswer::Set(Vec::new()), "no_usable_key"),
        ("a secret alone", KeyAnswer::Set(vec![oct]), "no_usable_key"),
    ] {
        let before = fetches(&hub, outcome).await;
        server.answer(answer);
        eventually(what, PATIENCE, async || (fetches(&hub, outcome).await > before).then_some(())).await;
        assert_eq!(whoami(&hub, &key.token("ann")).await, accepted("ann"), "after {what}");
        server.publish(&[&key]);
        let fetched = fetches(&hub, "ok").await;
        eventually("a good set again", PATIENCE, async || (fetches(&hub, "ok").await > fetched).then_some(())).await;
    }
    let followed = tokio::time::timeout(Duration::from_millis(50), elsewhere.accept()).await;
    assert!(followed.is_err(), "the redirect was followed");
    server.answer(KeyAnswer::Raw(500, String::new(), Vec::new()));
    let hub = hub_with(&db, &server).with("RECADO_JWKS_REFRESH", "1s").with("RECADO_JWKS_MAX_STALE", "3s").start().await;
    server.publish(&[&key]);
    ready(&hub).await;
    server.answer(KeyAnswer::Raw(500, String::new(), Vec::new()));
    eventually("the set is too old", PATIENCE, async || (whoami(&hub, &key.token("ann")).await == unavailable()).then_some(())).await;
}

/// The set of a JWKS file is read again, as one that is fetched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_set_in_a_file_is_read_again() {
    let db = TestDb::new().await;
    let (old, new) = (IssuerKey::new(Algorithm::ES384, "old"), IssuerKey::new(Algorithm::ES384, "new"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let publish = |keys: &[&IssuerKey]| {
        let aside = file.path().with_extension("new");
        let keys: Vec<&Value> = keys.iter().map(|key| &key.jwk).collect();
        std::fs::write(&aside, json!({"keys": keys}).to_string()).unwrap();
        std::fs::rename(aside, file.path()).unwrap();
    };
    publish(&[&old]);
    let hub = TestHub::on(&db).with("RECADO_JWKS_FILE", file.path().to_str().unwrap()).with("RECADO_JWKS_REFRESH", "1s");
    let hub = hub.with("RECADO_JWT_ISSUER", ISS).with("RECADO_JWT_AUDIENCE", AUD).start().await;
    ready(&hub).await;
    assert_eq!(whoami(&hub, &old.token("ann")).await, accepted("ann"));
    publish(&[&new]);
    eventually("the file is read again", PATIENCE, async || (whoami(&hub, &new.token("ann")).await == accepted("ann")).then_some(())).await;
    assert_eq!(whoami(&hub, &old.token("ann")).await, refused());
}

/// A secret in a public set is known to everyone; two keys may share a name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_in_a_set_signs_nothing_and_keys_with_one_name_are_both_tried() {
    let db = TestDb::new().await;
    let (one, two) = (IssuerKey::new(Algorithm::ES256, "same"), IssuerKey::new(Algorithm::ES256, "same"));
    let secret = "a-secret-that-everyone-can-read-in-the-set";
    let server = KeyServer::start(&[]).await;
    let oct = json!({"kty": "oct", "kid": "shared", "use": "sig", "alg": "HS256", "k": super::support::issuer::base64url(secret)});
    server.answer(KeyAnswer::Set(vec![oct, one.jwk.clone(), two.jwk.clone()]));
    let hub = hub_with(&db, &server).start().await;
    ready(&hub).await;
    for key in [&one, &two] {
        assert_eq!(whoami(&hub, &key.token("ann")).await, accepted("ann"));
        let nameless = IssuerKey { kid: None, ..key.clone() };
        assert_eq!(whoami(&hub, &nameless.token("ann")).await, refused(), "it leaves a choice");
    }
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes()).unwrap();
    for kid in [None, Some("shared".to_owned()), Some("same".to_owned())] {
        let header = jsonwebtoken::Header { kid, ..jsonwebtoken::Header::default() };
        assert_eq!(whoami(&hub, &jsonwebtoken::encode(&header, &claims("ann"), &key).unwrap()).await, refused());
    }
}

async fn ticket(hub: &TestHub, bearer: &str) -> String {
    let request = http_client().post(format!("http://{}/api/ws-ticket", hub.address)).bearer_auth(bearer);
    let body: Value = request.send().await.unwrap().json().await.unwrap();
    body["ticket"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned()
}

/// A key that an issuer removes may be stolen: what came in with it goes, on every hub.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_a_removed_key_are_closed_over_the_drain_window_and_no_others() {
    let db = TestDb::new().await;
    let (gone, stays) = (IssuerKey::new(Algorithm::ES256, "gone"), IssuerKey::new(Algorithm::ES256, "stays"));
    let server = KeyServer::start(&[&gone, &stays]).await;
    let builder = hub_with(&db, &server).with("RECADO_JWKS_REFRESH", "1s").with("RECADO_DRAIN_WINDOW", "2s");
    let (one, two) = (builder.start().await, builder.start().await);
    ready(&one).await;
    ready(&two).await;
    let mut doomed = Vec::new();
    for n in 0..5 {
        for hub in [&one, &two] {
            doomed.push(TestClient::of("ann").bearer(&gone.token(&format!("ann-{n}"))).connect(hub).await);
        }
    }
    // Through a ticket that the other hub made.
    let by_ticket = ticket(&one, &gone.token("dan")).await;
    doomed.push(TestClient::of("dan").without_header().query("ticket", &by_ticket).connect(&two).await);
    let unused = ticket(&one, &gone.token("eve")).await;
    let mut page = EventSourcePage::with_token(&gone.token("page")).open(&one).await;
    let mut kept = vec![
        TestClient::of("bob").bearer(&stays.token("bob")).connect(&one).await,
        TestClient::of("own").bearer(&own("own")).connect(&two).await,
    ];
    let by_ticket = ticket(&two, &stays.token("fay")).await;
    kept.push(TestClient::of("fay").without_header().query("ticket", &by_ticket).connect(&one).await);
    let mut renewed = TestClient::of("gus").bearer(&gone.token("gus")).connect(&two).await;
    renewed.say(&json!({"type": "auth", "token": stays.token("gus")}).to_string()).await;
    renewed.expect_other("auth_ok").await;
    kept.push(renewed);

    server.publish(&[&stays]);
    let mut times = Vec::new();
    let ends = futures_util::future::join_all(doomed.iter_mut().map(|client| async {
        let end = client.ended(PATIENCE).await;
        (end, Instant::now())
    }));
    for (end, at) in ends.await {
        assert_eq!(end, ClientEnd::Code(4401, "token_expired".into()));
        times.push(at);
    }
    times.sort();
    let spread = times[times.len() - 1] - times[0];
    assert!(spread > Duration::from_millis(500) && spread < Duration::from_secs(10), "spread over {spread:?}");
    assert_eq!(page.named("goodbye").await["reason"], "token_expired");
    for hub in [&one, &two] {
        eventually("the key is refused", PATIENCE, async || (whoami(hub, &gone.token("ann")).await == refused()).then_some(())).await;
        assert_eq!(socket_end(hub, &gone.token("ann")).await, ClientEnd::Code(4500, "unauthorized".into()));
    }
    // A ticket of the key that was not used yet admits no one.
    let late = TestClient::of("eve").without_header().query("ticket", &unused).open(&two).await.unwrap();
    assert_eq!(TestClient::over(late).ended(PATIENCE).await, ClientEnd::Code(4401, "token_expired".into()));
    one.post(&note("still here").to_everyone()).await;
    for client in &mut kept {
        client.until("still here").await;
    }
    // A key that comes back counts again.
    server.publish(&[&gone, &stays]);
    eventually("the key is back", PATIENCE, async || (whoami(&one, &gone.token("ann")).await == accepted("ann")).then_some(())).await;
    let mut back = TestClient::of("ann").bearer(&gone.token("ann")).connect(&one).await;
    one.post(&note("welcome back").to_user("ann")).await;
    back.until("welcome back").await;
}

/// An identity provider cannot make a user an admin, unless the settings trust it for roles.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_count_only_in_tokens_of_trusted_keys() {
    let db = TestDb::new().await;
    let key = IssuerKey::new(Algorithm::ES256, "k");
    let server = KeyServer::start(&[&key]).await;
    let with_role = |role: Value| {
        let mut claims = claims("shop");
        claims["recado_role"] = role;
        claims
    };
    let own_key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes()).unwrap();
    let own = |claims: &Value| jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &own_key).unwrap();
    let hub = hub_with(&db, &server).start().await;
    ready(&hub).await;
    for role in [json!("service"), json!("admin"), json!("user"), json!(null), json!([]), json!("")] {
        let token = key.sign(&with_role(role.clone()));
        assert_eq!(hub.post_as(&token, &note("n").to_everyone()).await.unwrap().status, 401, "{role}");
        assert_eq!(whoami(&hub, &token).await, refused(), "{role}");
        assert_eq!(socket_end(&hub, &token).await, ClientEnd::Code(4500, "unauthorized".into()), "{role}");
    }
    assert_eq!(hub.get("/stats", Some(&key.sign(&with_role(json!("admin"))))).await.unwrap().0, 401);
    assert_eq!(hub.post_as(&own(&with_role(json!("service"))), &note("n").to_everyone()).await.unwrap().status, 201);
    assert_eq!(hub.get("/stats", Some(&own(&with_role(json!("admin"))))).await.unwrap().0, 200);
    let hub = hub_with(&db, &server).with("RECADO_JWT_ROLES", "any").start().await;
    ready(&hub).await;
    assert_eq!(hub.post_as(&key.sign(&with_role(json!("service"))), &note("n").to_everyone()).await.unwrap().status, 201);
    assert_eq!(hub.get("/stats", Some(&key.sign(&with_role(json!("admin"))))).await.unwrap().0, 200);
    assert_eq!(hub.get("/stats", Some(&key.sign(&with_role(json!("service"))))).await.unwrap().0, 403);
}

/// Settings under which foreign tokens would be accepted do not start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_set_without_issuer_audience_or_tls_does_not_start() {
    let db = TestDb::new().await;
    let url = ("RECADO_JWKS_URL", "https://id.example.com/jwks");
    let (iss, aud) = (("RECADO_JWT_ISSUER", ISS), ("RECADO_JWT_AUDIENCE", AUD));
    for (settings, expected) in [
        (vec![url, iss], "RECADO_JWT_AUDIENCE"),
        (vec![url, aud], "RECADO_JWT_ISSUER"),
        (vec![("RECADO_JWKS_FILE", "/keys.json")], "RECADO_JWT_ISSUER"),
        (vec![url, iss, aud, ("RECADO_JWKS_FILE", "/keys.json")], "leave one out"),
        (vec![("RECADO_JWKS_URL", "http://id.example.com/jwks"), iss, aud], "https://"),
        (vec![("RECADO_JWKS_URL", "id.example.com"), iss, aud], "RECADO_JWKS_URL is not an address"),
        (vec![("RECADO_JWKS_REFRESH", "0s")], "RECADO_JWKS_REFRESH"),
        (vec![("RECADO_JWT_ROLES", "all")], "own, any"),
        (vec![("RECADO_JWT_USER_CLAIM", "/a~b")], "RECADO_JWT_USER_CLAIM"),
        (vec![("RECADO_IDENTITY_FILE", "/nowhere.toml")], "RECADO_IDENTITY_FILE"),
        (vec![("RECADO_JWT_ACCEPTED_SECRETS", "short")], "RECADO_JWT_ACCEPTED_SECRETS: line 1"),
    ] {
        let hub = settings.iter().fold(TestHub::on(&db), |hub, (name, value)| hub.with(name, value));
        let (code, said) = run_to_the_end(&hub).await;
        assert!(code == Some(78) && said.contains(expected), "{settings:?}: {code:?} {said}");
    }
}

/// The token of another service of the same provider, or one that is too old or too long, is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_of_a_published_key_are_checked_as_those_of_the_own_secret() {
    let db = TestDb::new().await;
    let key = IssuerKey::new(Algorithm::ES256, "k");
    let server = KeyServer::start(&[&key]).await;
    let hub = hub_with(&db, &server).start().await;
    ready(&hub).await;
    let with = |name: &str, value: Value| {
        let mut claims = claims("ann");
        claims[name] = value;
        key.sign(&claims)
    };
    for (name, value) in [
        ("aud", json!("https://other.example.com")),
        ("aud", json!([])),
        ("aud", json!(null)),
        ("iss", json!("https://id.example.com")),
        ("iss", json!([ISS])),
        ("sub", json!("")),
        ("exp", json!(now() + 2 * 86_400)),
        ("nbf", json!(now() + 60)),
    ] {
        assert_eq!(whoami(&hub, &with(name, value.clone())).await, refused(), "{name}: {value}");
    }
    assert_eq!(whoami(&hub, &with("exp", json!(now() - 60))).await, (401, "token_expired".into()));
    assert_eq!(whoami(&hub, &with("aud", json!(["x", AUD]))).await, accepted("ann"));
    assert_eq!(whoami(&hub, &with("sub", json!("auth0|5f7c8ec7c33c6c004bbafe82"))).await, accepted("auth0|5f7c8ec7c33c6c004bbafe82"));
}
