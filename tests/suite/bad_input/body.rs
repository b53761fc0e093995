//! Tests bad bodies of posts.

use super::probe::{Answered, RawConnection, ask, request};
use crate::support::{TestClient, TestDb, TestHub, note, service_token, token};
use recado::domain::Role;

async fn post(hub: &TestHub, bearer: &str, headers: &[(&str, &str)], body: &[u8]) -> Answered {
    let bearer = format!("Bearer {bearer}");
    let mut all = vec![("Authorization", bearer.as_str())];
    all.extend_from_slice(headers);
    ask(hub, &request("POST", "/api/internal/notify", &all, body)).await
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A good body with this member added, or with this in place of a field.
fn with(member: &str) -> String {
    let name = member.split(':').next().unwrap();
    let good = [r#""type":"a""#, r#""title":"t""#, r#""message":"m""#, r#""user_id":"1""#];
    let mut members: Vec<&str> = good.into_iter().filter(|m| !m.starts_with(name)).collect();
    members.push(member);
    format!("{{{}}}", members.join(","))
}

#[tokio::test]
async fn a_body_that_breaks_a_rule_is_refused_with_its_code_and_nothing_is_appended() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let deep = |levels: usize| with(&format!(r#""data":{}{}"#, "[".repeat(levels), "]".repeat(levels)));
    let user = |id: &str| with(&format!(r#""user_id":{id}"#));
    let many = with(&format!(r#""user_ids":[{}]"#, vec![r#""1""#; 10_001].join(",")));
    let text = |body: &str| body.as_bytes().to_vec();
    let rows: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("nothing", text(""), 400, "malformed_json"),
        ("cut off", text(r#"{"type":"a","tit"#), 400, "malformed_json"),
        ("a byte order mark", text("\u{feff}{}"), 400, "malformed_json"),
        ("two values", text("{} {}"), 400, "malformed_json"),
        ("a list", text("[]"), 422, "invalid_body"),
        ("a number as title", text(&with(r#""title":7"#)), 422, "invalid_field"),
        ("no title", text(r#"{"type":"a","message":"m","user_id":"1"}"#), 422, "invalid_field"),
        ("an unknown field", text(&with(r#""usr_id":"2""#)), 422, "invalid_field"),
        ("a type with a capital", text(&with(r#""type":"Order""#)), 422, "invalid_field"),
        ("a type of 65 letters", text(&with(&format!(r#""type":"{}""#, "a".repeat(65)))), 422, "invalid_field"),
        ("the name of a frame", text(&with(r#""type":"goodbye""#)), 422, "reserved_type"),
        ("nobody", text(r#"{"type":"a","title":"t","message":"m"}"#), 422, "no_audience"),
        ("broadcast false", text(r#"{"type":"a","title":"t","message":"m","broadcast":false}"#), 422, "no_audience"),
        ("everyone and somebody", text(&with(r#""broadcast":true"#)), 422, "invalid_field"),
        ("an empty list", text(&with(r#""user_ids":[]"#)), 422, "invalid_field"),
        ("10,001 users", text(&many), 422, "invalid_field"),
        ("a list in the list", text(&with(r#""user_ids":[["1"]]"#)), 422, "invalid_field"),
        ("an id that is a number", text(&user("42")), 422, "invalid_field"),
        ("an id with NUL", text(&user(r#""a\u0000""#)), 422, "invalid_field"),
        ("an id with a line end", text(&user(r#""a\nb""#)), 422, "invalid_field"),
        ("an id that turns the writing", text(&user("\"a\u{202e}b\"")), 422, "invalid_field"),
        ("an id of 10 KB", text(&user(&format!("\"{}\"", "a".repeat(10_000)))), 422, "invalid_field"),
        ("an id that matches all", text(&user("\"*\"")), 422, "invalid_field"),
        ("an id for LIKE", text(&user("\"%\"")), 422, "invalid_field"),
        ("an id for SQL", text(&user("\"' OR 1=1 --\"")), 422, "invalid_field"),
        ("an id with a slash", text(&user("\"1/7\"")), 422, "invalid_field"),
        ("an id that smiles", text(&user("\"😀\"")), 422, "invalid_field"),
        ("an account with a space", text(&with(r#""account_id":"a b""#)), 422, "invalid_field"),
        ("a field twice", text(&with(r#""title":"a","title":"b""#)), 422, "invalid_field"),
        ("a key twice in data", text(&with(r#""data":{"a":1,"b":{"c":1,"c":2}}"#)), 422, "invalid_field"),
        ("NUL in data", text(&with(r#""data":["\u0000"]"#)), 422, "invalid_field"),
        ("a number beyond a double", text(&with(r#""data":1e999"#)), 422, "invalid_field"),
        ("half a surrogate", text(&with(r#""title":"\ud800""#)), 400, "malformed_json"),
        ("half a surrogate in data", text(&with(r#""data":{"a":"\ud800"}"#)), 400, "malformed_json"),
        ("bytes that are no UTF-8", [b"{\"title\":\"".as_slice(), &[0xff, 0xfe], b"\"}"].concat(), 400, "malformed_json"),
        ("an overlong slash", [b"{\"title\":\"".as_slice(), &[0xc0, 0xaf], b"\"}"].concat(), 400, "malformed_json"),
        ("33 levels", text(&deep(33)), 422, "invalid_field"),
        ("200 levels", text(&deep(200)), 422, "invalid_field"),
        ("30,000 levels", text(&deep(30_000)), 422, "invalid_field"),
        ("30,000 levels never closed", text(&with(&format!(r#""data":{}"#, "[".repeat(30_000)))), 400, "malformed_json"),
        ("no time to live", text(&with(r#""ttl":0"#)), 422, "invalid_field"),
        ("a negative one", text(&with(r#""ttl":-1"#)), 422, "invalid_field"),
        ("one of 68 years", text(&with(r#""ttl":2147483648"#)), 422, "invalid_field"),
        ("one with a fraction", text(&with(r#""ttl":1.5"#)), 422, "invalid_field"),
        ("one as text", text(&with(r#""ttl":"60""#)), 422, "invalid_field"),
        ("replay as text", text(&with(r#""replay":"no""#)), 422, "invalid_field"),
        ("an empty key", text(&with(r#""idempotency_key":"""#)), 422, "invalid_field"),
        ("64 KiB and a byte", vec![b' '; (64 << 10) + 1], 413, "body_too_large"),
        ("3 MB", vec![b'['; 3 << 20], 413, "body_too_large"),
    ];
    for (what, body, status, code) in rows {
        let answer = post(&hub, &db.key(), &[JSON], &body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{what}: {}", answer.body);
        assert!(answer.body.len() < 1000, "{what}: the refusal echoes what was posted: {}", answer.body);
    }
    assert_eq!(db.head().await, 0);
    assert_eq!(hub.post(&note("good").to_user("1")).await.seq, 1);
}

/// Regression: of a header in two lines only the first was read, so gzip got in behind identity, and text/plain behind
/// JSON.
#[tokio::test]
async fn headers_that_break_a_rule_are_refused_with_their_code_and_nothing_is_appended() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let good = with("\"data\":1");
    let long = "k".repeat(256);
    type BodyRow<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, &'a str);
    let rows: [BodyRow; 13] = [
        ("no type", &[], 415, "unsupported_media_type"),
        ("a form", &[("Content-Type", "application/x-www-form-urlencoded")], 415, "unsupported_media_type"),
        ("text", &[("Content-Type", "text/plain")], 415, "unsupported_media_type"),
        ("another charset", &[("Content-Type", "application/json; charset=latin1")], 415, "unsupported_media_type"),
        ("compressed", &[JSON, ("Content-Encoding", "gzip")], 415, "unsupported_media_type"),
        ("compressed twice", &[JSON, ("Content-Encoding", "gzip, br")], 415, "unsupported_media_type"),
        (
            "compressed in the second place",
            &[JSON, ("Content-Encoding", "identity"), ("Content-Encoding", "gzip")],
            415,
            "unsupported_media_type",
        ),
        ("two types", &[JSON, ("Content-Type", "text/plain")], 415, "unsupported_media_type"),
        ("an empty key", &[JSON, ("Idempotency-Key", "")], 400, "idempotency_key"),
        ("an empty key in quotes", &[JSON, ("Idempotency-Key", "\"\"")], 400, "idempotency_key"),
        ("a key of 256 bytes", &[JSON, ("Idempotency-Key", &long)], 400, "idempotency_key"),
        ("a key that is not ASCII", &[JSON, ("Idempotency-Key", "clé")], 400, "idempotency_key"),
        ("two keys", &[JSON, ("Idempotency-Key", "a"), ("Idempotency-Key", "b")], 400, "idempotency_key"),
    ];
    for (what, headers, status, code) in rows {
        let answer = post(&hub, &db.key(), headers, good.as_bytes()).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{what}: {}", answer.body);
    }
    assert_eq!(db.head().await, 0);
    for good_type in ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""] {
        assert_eq!(post(&hub, &db.key(), &[("Content-Type", good_type)], good.as_bytes()).await.status, 201, "{good_type}");
    }
}

#[tokio::test]
async fn every_field_that_is_wrong_is_pointed_at() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let body = br#"{"type":"No","title":1,"message":"m","user_ids":["ok","not ok"],"ttl":-1,"a/b~c":0}"#;
    let answer = post(&hub, &db.key(), &[JSON], body).await;
    assert_eq!(answer.problem(), "invalid_field");
    let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let mut pointers: Vec<&str> = problem["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/a~1b~0c", "/title", "/ttl", "/type", "/user_ids/1"]);
}

#[tokio::test]
async fn who_may_not_post_is_told_so() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let good = with("\"data\":1");
    let bare = ask(&hub, &request("POST", "/api/internal/notify", &[JSON], good.as_bytes())).await;
    assert_eq!((bare.status, bare.problem().as_str(), bare.header("www-authenticate")), (401, "unauthorized", Some("Bearer")));
    let unknown = format!("rck_{}", "0".repeat(64));
    let rows = [
        (unknown.as_str(), 401, "unauthorized"),
        ("rck_", 401, "unauthorized"),
        ("rck_' OR 1=1 --", 401, "unauthorized"),
        ("", 401, "unauthorized"),
        (&token("1", &[]), 403, "forbidden"),
    ];
    for (bearer, status, code) in rows {
        let answer = post(&hub, bearer, &[JSON], good.as_bytes()).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{bearer}");
    }
    let basic = ask(&hub, &request("POST", "/api/internal/notify", &[("Authorization", "Basic dTpw"), JSON], good.as_bytes())).await;
    assert_eq!(basic.status, 401);
    for path in ["/stats", "/api/internal/ws-stats"] {
        for (bearer, status) in [(db.key(), 403), (token("1", &[]), 403), (service_token("s", Role::Service), 403), (unknown.clone(), 401)]
        {
            let answer = ask(&hub, &request("GET", path, &[("Authorization", &format!("Bearer {bearer}"))], b"")).await;
            assert_eq!(answer.status, status, "{path} {}", answer.body);
            answer.problem();
        }
    }
    assert_eq!(db.head().await, 0);
}

#[tokio::test]
async fn a_key_means_one_body_and_belongs_to_one_service() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let key = [JSON, ("Idempotency-Key", "\"k\"")];
    assert_eq!(post(&hub, &db.key(), &key, with("\"data\":1").as_bytes()).await.status, 201);
    assert_eq!(post(&hub, &db.key(), &key, with("\"data\":1").as_bytes()).await.status, 200);
    let other = post(&hub, &db.key(), &key, with("\"data\":2").as_bytes()).await;
    assert_eq!((other.status, other.problem().as_str()), (422, "idempotency_conflict"));
    let stranger = post(&hub, &service_token("stranger", Role::Service), &key, with("\"data\":2").as_bytes()).await;
    assert_eq!(stranger.status, 201, "{}", stranger.body);
    let two = post(&hub, &db.key(), &key, with("\"idempotency_key\":\"other\"").as_bytes()).await;
    assert_eq!((two.status, two.problem().as_str()), (422, "invalid_field"));
    assert_eq!(db.head().await, 2);
}

#[tokio::test]
async fn a_service_that_posts_too_fast_slows_nobody_else_down() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_PUBLISH_RATE", "5").start().await;
    let body = with("\"data\":1");
    let mut refused = 0;
    for _ in 0..40 {
        let answer = post(&hub, &db.key(), &[JSON], body.as_bytes()).await;
        if answer.status == 429 {
            assert_eq!((answer.problem().as_str(), answer.header("retry-after")), ("rate_limited", Some("1")));
            refused += 1;
        }
    }
    assert!(refused > 0, "40 posts at once kept to 5 a second");
    assert_eq!(post(&hub, &db.admin_key(), &[JSON], body.as_bytes()).await.status, 201);
    assert_eq!(db.head().await, 40 - refused + 1);
}

#[tokio::test]
async fn what_looks_dangerous_and_is_not_comes_out_as_it_went_in() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut client = TestClient::of("1").connect(&hub).await;
    let data = format!(
        "{{ \"html\" : \"<script>{}</script>\", \"controls\":\"\\u0001\\u001b[31m\\u2028\\ufffd\", \"n\": 1.0e2, \"big\": 12345678901234567890, \"rtl\": \"\u{202e}\" }}",
        "a".repeat(60_000)
    );
    hub.post(&note("<b>'); DROP TABLE recado.log; --\r\n\u{1b}[2J").to_user("1").data(&data)).await;
    let got = client.expect_notification().await;
    assert_eq!(got.data, data);
    assert_eq!(got.title, "<b>'); DROP TABLE recado.log; --\r\n\u{1b}[2J");
}

/// A refusal while the body is still being sent reaches a client that sends first and reads then. The hub leaves no
/// part of the body unread for so long that the connection is reset.
#[tokio::test]
async fn a_refusal_reaches_who_is_still_sending() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let (key, json) = (format!("Bearer {}", db.key()), "application/json");
    let good = [("Authorization", key.as_str()), ("Content-Type", json)];
    let stranger = [("Authorization", "Bearer rck_x"), ("Content-Type", json)];
    for (what, path, headers, length, status) in [
        ("too large for one", "/api/internal/notify", &good, 6 << 20, 413),
        ("too large for a batch", "/api/internal/notify/batch", &good, 12 << 20, 413),
        ("of a stranger", "/api/internal/notify/batch", &stranger, 7 << 20, 401),
        ("to nowhere", "/nothing", &good, 5 << 20, 404),
    ] {
        let mut wire = RawConnection::to(&hub).await;
        let bytes = request("POST", path, headers, &vec![b' '; length]);
        let (first, rest) = bytes.split_at(100_000);
        assert!(wire.send(first).await, "{what}");
        // The hub has refused by now; later bytes would meet a closed socket.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert!(wire.send(rest).await, "{what}: the hub hung up");
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let answer = wire.answer().await.unwrap_or_else(|| panic!("{what}: the answer was lost"));
        assert_eq!(answer.status, status, "{what}");
    }
    assert_eq!(db.head().await, 0);
}
