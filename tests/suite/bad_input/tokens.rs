//! Tests tokens that must open nothing.
//!
//! On a socket a browser cannot read a status, so the upgrade is completed and the socket closed.

use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::json;

use super::probe::{RawSocket, ask, request, upgrade};
use crate::support::{ClientEnd, SECRET, TestDb, TestHub, service_token, token};
use recado::domain::Role;

/// A token of exactly this header and these claims, signed by `secret` with `algorithm`.
fn signed(header: &str, claims: &str, secret: &str, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", base64(header), base64(claims));
    let signature = if secret.is_empty() {
        // The library refuses an empty secret; any HMAC library of another language takes it.
        base64_bytes(aws_lc_rs::hmac::sign(&aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b""), message.as_bytes()).as_ref())
    } else {
        let key = EncodingKey::from_secret(secret.as_bytes()).unwrap();
        crypto::sign(message.as_bytes(), &key, algorithm).unwrap()
    };
    format!("{message}.{signature}")
}

/// RFC 4648 section 5, without padding.
fn base64(text: &str) -> String {
    base64_bytes(text.as_bytes())
}

fn base64_bytes(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0_u32, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        for at in 0..=chunk.len() {
            out.push(char::from(LETTERS[(bits >> (18 - 6 * at)) as usize & 63]));
        }
    }
    out
}

fn now() -> i64 {
    i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

fn claiming(claims: &str) -> String {
    signed(HS256, claims, SECRET, Algorithm::HS256)
}

fn headed(header: &str) -> String {
    signed(header, &format!(r#"{{"sub":"1","exp":{}}}"#, now() + 60), SECRET, Algorithm::HS256)
}

/// Each bad token with its description, and the code with which the socket is closed.
fn bad_tokens() -> Vec<(&'static str, String, u16)> {
    let exp = now() + 3600;
    let good = token("1", &[]);
    let (signing_input, signature) = good.rsplit_once('.').unwrap();
    let (header, claims) = signing_input.split_once('.').unwrap();
    let ours = |claims: &str| claiming(&claims.replace("EXP", &exp.to_string()));
    vec![
        ("an empty one", String::new(), 4500),
        ("two dots", "..".to_owned(), 4500),
        ("two parts", signing_input.to_owned(), 4500),
        ("four parts", format!("{good}.x"), 4500),
        ("no signature", format!("{signing_input}."), 4500),
        ("a padded signature", format!("{good}="), 4500),
        ("somebody else's signature", format!("{signing_input}.{}", "A".repeat(43)), 4500),
        ("no header", format!(".{claims}.{signature}"), 4500),
        ("7 KB of it", "a".repeat(7 << 10), 4500),
        ("alg none", format!("{}.{claims}.", base64(r#"{"alg":"none"}"#)), 4500),
        ("alg none, and signed", format!("{}.{claims}.{signature}", base64(r#"{"alg":"none"}"#)), 4500),
        ("alg nOnE", format!("{}.{claims}.", base64(r#"{"alg":"nOnE"}"#)), 4500),
        ("no alg", headed(r#"{"typ":"JWT"}"#), 4500),
        ("a header that is a list", headed("[]"), 4500),
        ("an ID token", headed(r#"{"alg":"HS256","typ":"id+jwt"}"#), 4500),
        ("an extension that must be known", headed(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#), 4500),
        ("an extension that is null", headed(r#"{"alg":"HS256","crit":null}"#), 4500),
        ("HS384", signed(r#"{"alg":"HS384"}"#, &format!(r#"{{"sub":"1","exp":{exp}}}"#), SECRET, Algorithm::HS384), 4500),
        ("HS384, said to be HS256", signed(HS256, &format!(r#"{{"sub":"1","exp":{exp}}}"#), SECRET, Algorithm::HS384), 4500),
        ("another secret", signed(HS256, &format!(r#"{{"sub":"1","exp":{exp}}}"#), &"x".repeat(32), Algorithm::HS256), 4500),
        ("no secret", signed(HS256, &format!(r#"{{"sub":"1","exp":{exp}}}"#), "", Algorithm::HS256), 4500),
        ("other claims under the same signature", format!("{header}.{}.{signature}", base64(r#"{"sub":"2","exp":4102444800}"#)), 4500),
        ("expired 6 s ago", claiming(&format!(r#"{{"sub":"1","exp":{}}}"#, now() - 6)), 4401),
        ("expired an hour ago", claiming(&format!(r#"{{"sub":"1","exp":{}}}"#, now() - 3600)), 4401),
        ("expired in 1970", claiming(r#"{"sub":"1","exp":0}"#), 4401),
        ("no exp", claiming(r#"{"sub":"1"}"#), 4500),
        ("exp as text", claiming(&format!(r#"{{"sub":"1","exp":"{exp}"}}"#)), 4500),
        ("exp beyond all time", claiming(r#"{"sub":"1","exp":1e308}"#), 4500),
        ("exp in the year 9999", claiming(r#"{"sub":"1","exp":253402300799}"#), 4500),
        ("exp at the end of what a library counts", claiming(r#"{"sub":"1","exp":8210266876799}"#), 4500),
        ("exp at the end of 64 bits", claiming(r#"{"sub":"1","exp":9223372036854775807}"#), 4500),
        ("nbf at the beginning of 64 bits", ours(r#"{"sub":"1","exp":EXP,"nbf":-9223372036854775808}"#), 4500),
        ("valid for 25 hours", claiming(&format!(r#"{{"sub":"1","exp":{}}}"#, now() + 25 * 3600)), 4500),
        ("two exp", ours(r#"{"sub":"1","exp":1,"exp":EXP}"#), 4500),
        ("two sub", ours(r#"{"sub":"1","sub":"2","exp":EXP}"#), 4500),
        ("two accounts", ours(r#"{"sub":"1","account_id":"7","account_id":"8","exp":EXP}"#), 4500),
        ("not valid before in an hour", claiming(&format!(r#"{{"sub":"1","exp":{},"nbf":{}}}"#, exp + 7200, now() + 3600)), 4500),
        ("nbf as text", ours(r#"{"sub":"1","exp":EXP,"nbf":"0"}"#), 4500),
        ("no sub", ours(r#"{"exp":EXP}"#), 4500),
        ("sub as number with a fraction", ours(r#"{"sub":1.5,"exp":EXP}"#), 4500),
        ("sub as number with an exponent", ours(r#"{"sub":1e0,"exp":EXP}"#), 4500),
        ("an empty sub", ours(r#"{"sub":"","exp":EXP}"#), 4500),
        ("a sub with a line end", ours(r#"{"sub":"1\n2","exp":EXP}"#), 4500),
        ("a sub with a slash", ours(r#"{"sub":"1/7","exp":EXP}"#), 4500),
        ("an account as number with a fraction", ours(r#"{"sub":"1","account_id":7.0,"exp":EXP}"#), 4500),
        ("accounts as text", ours(r#"{"sub":"1","account_ids":"7","exp":EXP}"#), 4500),
        ("an account that is everyone", ours(r#"{"sub":"1","account_ids":["*"],"exp":EXP}"#), 4500),
        ("a role as list", ours(r#"{"sub":"1","recado_role":["admin"],"exp":EXP}"#), 4500),
        ("a role that is none", ours(r#"{"sub":"1","recado_role":"user","exp":EXP}"#), 4500),
        ("a list", claiming("[]"), 4500),
        ("a service's", service_token("1", Role::Service), 4500),
        ("an admin's", service_token("1", Role::Admin), 4500),
    ]
}

#[tokio::test]
async fn a_bad_token_opens_no_socket_and_says_why_over_it() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    for (what, token, code) in bad_tokens() {
        let reason = if code == 4401 { "token_expired" } else { "unauthorized" };
        let expected = ClientEnd::Code(code, reason.to_owned());
        let query = format!("/ws?token={}", token.replace('=', "%3D"));
        assert_eq!(RawSocket::upgraded(&hub, &query, "").await.ended().await, expected, "{what}, in the query");
        let header = format!("Authorization: Bearer {token}\r\n");
        assert_eq!(RawSocket::upgraded(&hub, "/ws", &header).await.ended().await, expected, "{what}, in the header");
    }
    assert_eq!(RawSocket::upgraded(&hub, "/ws", "").await.ended().await, ClientEnd::Code(4500, "unauthorized".to_owned()), "no token");
    assert_eq!(
        RawSocket::upgraded(&hub, "/?userId=1", "").await.ended().await,
        ClientEnd::Code(4500, "unauthorized".to_owned()),
        "the old way"
    );
    assert_eq!(hub.stats().await["totalConnections"], 0);
}

#[tokio::test]
async fn a_bad_token_posts_nothing() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let body = br#"{"type":"a","title":"t","message":"m","user_id":"1"}"#;
    for (what, token, code) in bad_tokens() {
        if what.starts_with("a service's") || what.starts_with("an admin's") {
            continue;
        }
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let answer = ask(&hub, &request("POST", "/api/internal/notify", &headers, body)).await;
        let expected = if code == 4401 { "token_expired" } else { "unauthorized" };
        assert_eq!((answer.status, answer.problem().as_str()), (401, expected), "{what}: {}", answer.body);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{what}");
    }
    let roles =
        [r#""recado_role":"root""#, r#""recado_role":"Admin""#, r#""recado_role":null"#, r#""role":"admin""#, r#""roles":["admin"]"#];
    for role in roles {
        let bearer = format!("Bearer {}", claiming(&format!(r#"{{"sub":"1","exp":{},{role}}}"#, now() + 60)));
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let answer = ask(&hub, &request("POST", "/api/internal/notify", &headers, body)).await;
        assert!(matches!(answer.status, 401 | 403), "{role}: {answer:?}");
    }
    assert_eq!(db.head().await, 0);
}

/// A header field that names another key is not followed: the hub's secret decides.
#[tokio::test]
async fn a_good_token_comes_in_by_every_way_and_is_never_echoed() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let good = token("1", &[]);
    for header in [
        r#"{"alg":"HS256"}"#,
        r#"{"alg":"HS256","typ":"at+jwt"}"#,
        r#"{"alg":"HS256","kid":"../../etc/passwd","jku":"http://127.0.0.1:1/jwks","x5u":"http://127.0.0.1:1/"}"#,
    ] {
        let hello = RawSocket::upgraded(&hub, &format!("/ws?token={}", headed(header)), "").await.next_text().await.unwrap();
        assert_eq!(hello["user_id"], "1", "{header}");
    }
    let bearer = format!("Authorization: bearer {good}\r\n");
    assert_eq!(RawSocket::upgraded(&hub, "/ws", &bearer).await.next_text().await.unwrap()["user_id"], "1");
    let protocols = format!("{}Sec-WebSocket-Protocol: recado.v1, recado.bearer.{good}\r\n\r\n", upgrade("/ws"));
    let answer = ask(&hub, protocols.as_bytes()).await;
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, Some("recado.v1")));
    assert!(!format!("{answer:?}").contains(&good), "the token is echoed");
    let alone = format!("{}Sec-WebSocket-Protocol: recado.bearer.{good}\r\n\r\n", upgrade("/ws"));
    let answer = ask(&hub, alone.as_bytes()).await;
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, None));
}

#[tokio::test]
#[ignore = "slow"]
async fn issuer_and_audience_must_fit_where_they_are_configured() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_JWT_ISSUER", "https://id.example.com").with("RECADO_JWT_AUDIENCE", "recado").start().await;
    let (iss, exp) = ("https://id.example.com", now() + 60);
    let rows = [
        (json!({"sub": "1", "exp": exp, "iss": iss, "aud": "recado"}), true),
        (json!({"sub": "1", "exp": exp, "iss": iss, "aud": ["other", "recado"]}), true),
        (json!({"sub": "1", "exp": exp, "iss": iss}), false),
        (json!({"sub": "1", "exp": exp, "iss": iss, "aud": "other"}), false),
        (json!({"sub": "1", "exp": exp, "iss": iss, "aud": []}), false),
        (json!({"sub": "1", "exp": exp, "iss": iss, "aud": {"0": "recado"}}), false),
        (json!({"sub": "1", "exp": exp, "aud": "recado"}), false),
        (json!({"sub": "1", "exp": exp, "iss": [iss], "aud": "recado"}), false),
        (json!({"sub": "1", "exp": exp, "iss": format!("{iss}/"), "aud": "recado"}), false),
    ];
    for (claims, good) in rows {
        let mut socket = RawSocket::upgraded(&hub, &format!("/ws?token={}", claiming(&claims.to_string())), "").await;
        assert_eq!(socket.next_text().await.is_some(), good, "{claims}");
    }
}
