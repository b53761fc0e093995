//! Tests requests that are refused before their body is read.

use super::probe::{RawConnection, RawSocket, ask, request, upgrade};
use crate::support::{ClientEnd, TestDb, TestHub, token};
use std::time::Duration;

#[tokio::test]
async fn a_request_out_of_bounds_is_refused_with_its_code() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let long = format!("/health?{}", "a".repeat(9 << 10));
    let wide = "a".repeat(17 << 10);
    let many: Vec<(String, &str)> = (0..101).map(|n| (format!("X-{n}"), "1")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let raw = |text: &str| text.as_bytes().to_vec();
    let rows: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("nothing there", request("GET", "/nothing", &[], b""), 404, "not_found"),
        ("a path upwards", request("GET", "/../../etc/passwd", &[], b""), 404, "not_found"),
        ("a path with NUL", request("GET", "/health%00", &[], b""), 404, "not_found"),
        ("another method", request("GET", "/api/internal/notify", &[], b""), 405, "method_not_allowed"),
        ("a post to the socket", request("POST", "/ws", &[], b""), 405, "method_not_allowed"),
        ("DELETE", request("DELETE", "/stats", &[], b""), 405, "method_not_allowed"),
        ("TRACE", request("TRACE", "/health", &[], b""), 405, "method_not_allowed"),
        ("CONNECT", raw("CONNECT hub:80 HTTP/1.1\r\nHost: localhost\r\n\r\n"), 405, "method_not_allowed"),
        ("a method of somebody's own", request("BREW", "/health", &[], b""), 405, "method_not_allowed"),
        ("9 KB of path", request("GET", &long, &[], b""), 414, "uri_too_long"),
        ("17 KB of header", request("GET", "/health", &[("X-Wide", &wide)], b""), 431, "headers_too_large"),
        ("70 KB of header", request("GET", "/health", &[("X-Wide", &"a".repeat(70 << 10))], b""), 431, "headers_too_large"),
        ("101 headers", request("GET", "/health", &many, b""), 431, "headers_too_large"),
        ("no host", raw("GET /health HTTP/1.1\r\n\r\n"), 400, "bad_request"),
        ("two hosts", raw("GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), 400, "bad_request"),
    ];
    for (what, bytes, status, code) in rows {
        let answer = ask(&hub, &bytes).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{what}: {answer:?}");
        assert!(
            code != "method_not_allowed" || what == "TRACE" || what == "CONNECT" || answer.header("allow").is_some(),
            "{what}: {answer:?}"
        );
    }
}

/// These never become a request: the HTTP library refuses them while it parses, with a bare status, and closes.
#[tokio::test]
async fn bytes_that_are_no_request_are_refused_and_the_connection_ends() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let post = "POST /api/internal/notify HTTP/1.1\r\nHost: localhost\r\n";
    let rows = [
        ("two lengths", format!("{post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"), 400),
        ("a negative length", format!("{post}Content-Length: -1\r\n\r\n"), 400),
        ("a length with a sign", format!("{post}Content-Length: +2\r\n\r\n{{}}"), 400),
        ("a length in hex", format!("{post}Content-Length: 0x2\r\n\r\n{{}}"), 400),
        ("a coding of somebody's own", format!("{post}Transfer-Encoding: xchunked\r\n\r\n"), 400),
        ("chunked, and then more", format!("{post}Transfer-Encoding: chunked, gzip\r\n\r\n"), 400),
        ("a space before the colon", "GET /health HTTP/1.1\r\nHost : hub\r\n\r\n".to_owned(), 400),
        ("a folded header", "GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n".to_owned(), 400),
        ("no version", "GET /health\r\n\r\n".to_owned(), 400),
        ("a TLS greeting", "\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_owned(), 400),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400),
        ("1 MB of header", format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(1 << 20)), 431),
        ("300 headers", format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: a\r\n".repeat(300)), 431),
    ];
    for (what, bytes, status) in rows {
        let mut wire = RawConnection::to(&hub).await;
        wire.send(bytes.as_bytes()).await;
        // Above all, no part of it is taken for a second request.
        if let Some(answer) = wire.answer().await {
            assert_eq!(answer.status, status, "{what}: {answer:?}");
        }
        assert!(wire.hung_up(Duration::from_secs(5)).await, "{what}: the connection stays");
    }
    assert_eq!(db.head().await, 0);
    assert!(hub.is_ready().await);
}

/// RFC 9112 section 6.3: a proxy that reads the length instead of the chunks would take the rest for a request.
#[tokio::test]
async fn a_length_beside_chunks_smuggles_nothing() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let smuggled = "0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut wire = RawConnection::to(&hub).await;
    let head = "POST /api/internal/notify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n";
    wire.send(format!("{head}Content-Length: {}\r\n\r\n{smuggled}", smuggled.len()).as_bytes()).await;
    let first = wire.answer().await.expect("an answer");
    assert!(matches!(first.status, 400 | 401), "{first:?}");
    assert!(wire.answer().await.is_none(), "the rest of the body was answered as a request of its own");
}

#[tokio::test]
async fn head_and_options_say_what_they_should_and_no_more() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_ALLOWED_ORIGINS", "https://app.example.com").start().await;
    for (path, status) in [("/health", 200), ("/livez", 200), ("/readyz", 200), ("/nothing", 404), ("/stats", 401)] {
        let mut wire = RawConnection::to(&hub).await;
        wire.send(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await;
        // A body would come before the end, and `answer` would have to wait for it.
        assert_eq!(wire.head_only().await, status, "{path}");
    }
    let preflight = |origin| {
        request(
            "OPTIONS",
            "/api/internal/notify",
            &[("Origin", origin), ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization")],
            b"",
        )
    };
    let ours = ask(&hub, &preflight("https://app.example.com")).await;
    assert_eq!((ours.status, ours.header("access-control-allow-origin")), (200, Some("https://app.example.com")));
    let foreign = ask(&hub, &preflight("https://evil.example")).await;
    assert_eq!(foreign.header("access-control-allow-origin"), None, "{foreign:?}");
}

#[tokio::test]
async fn pages_of_other_origins_get_no_socket() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_ALLOWED_ORIGINS", "https://app.example.com").start().await;
    let target = format!("/ws?token={}", token("1", &[]));
    let open = async |headers: &str| ask(&hub, format!("{}{headers}\r\n", upgrade(&target)).as_bytes()).await;
    for origin in [
        "https://evil.example",
        "null",
        "",
        "https://app.example.com.evil",
        "https://evil.example/https://app.example.com",
        "HTTPS://APP.EXAMPLE.COM",
        "https://app.example.com:8443",
        "https://app.example.com/",
        "http://app.example.com",
        "http://localhost:3000",
        "https://app.example.com\r\nOrigin: https://evil.example",
    ] {
        let answer = open(&format!("Origin: {origin}\r\n")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (403, "foreign_origin"), "{origin}");
    }
    assert_eq!(open("Origin: https://app.example.com\r\n").await.status, 101);
    assert_eq!(open("").await.status, 101, "no origin: not a browser");

    let at_home = TestHub::on(&db).start().await;
    for (origin, status) in [
        ("http://localhost:3000", 101),
        ("http://127.0.0.1:5173", 101),
        ("https://[::1]:8080", 101),
        ("http://localhost.evil.example", 403),
        ("http://127.0.0.1.evil.example", 403),
        ("http://localhost@evil.example", 403),
        ("file://", 403),
    ] {
        let answer = ask(&at_home, format!("{}Origin: {origin}\r\n\r\n", upgrade(&target)).as_bytes()).await;
        assert_eq!(answer.status, status, "{origin}");
    }
}

#[tokio::test]
async fn a_handshake_or_query_that_breaks_a_rule_is_refused() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let token = token("1", &[]);
    let ws = |query: &str| format!("{}\r\n", upgrade(&format!("/ws?token={token}&{query}")));
    let changed = |from: &str, to: &str| ws("").replace(from, to);
    let rows = [
        ("no upgrade", format!("GET /ws?token={token} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 426, "upgrade_required"),
        ("version 8", changed("Version: 13", "Version: 8"), 426, "upgrade_required"),
        ("no version", changed("Sec-WebSocket-Version: 13\r\n", ""), 400, "bad_handshake"),
        ("no key", changed("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400, "bad_handshake"),
        ("a short key", changed("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), 400, "bad_handshake"),
        ("a key that is none", changed("dGhlIHNhbXBsZSBub25jZQ==", "!!!!!!!!!!!!!!!!!!!!!!=="), 400, "bad_handshake"),
        ("an upgrade to something else", changed("Upgrade: websocket", "Upgrade: h2c"), 400, "bad_handshake"),
        ("since what", ws("since=-1"), 400, "bad_query"),
        ("since a word", ws("since=yesterday"), 400, "bad_query"),
        ("since too much", ws("since=9223372036854775808"), 400, "bad_query"),
        ("since SQL", ws("since=1;DROP%20TABLE"), 400, "bad_query"),
        ("a device of 65 letters", ws(&format!("client_id={}", "a".repeat(65))), 400, "bad_query"),
        ("a device with a slash", ws("client_id=a%2Fb"), 400, "bad_query"),
        ("a device twice", ws("client_id=a&client_id=b"), 400, "bad_query"),
        ("a log that is no UUID", ws("log_id=1"), 400, "bad_query"),
        ("an id that is no UUID", ws("last_id=%27"), 400, "bad_query"),
        ("an ack of another kind", ws("ack=never"), 400, "bad_query"),
        ("a query that is no UTF-8", ws("client_id=%ff%fe"), 400, "bad_query"),
    ];
    for (what, bytes, status, code) in rows {
        let answer = ask(&hub, bytes.as_bytes()).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{what}: {answer:?}");
    }
}

/// A page cannot read a status: it takes the end for a broken connection, and reconnects for ever.
#[tokio::test]
async fn a_page_that_asks_wrongly_is_told_by_the_close_and_an_empty_value_is_none() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let token = token("1", &[]);
    let page = "Origin: http://localhost:3000\r\n";
    for (query, said) in [
        ("since=null", "bad_query: since must be"),
        ("client_id=a%2Fb", "bad_query: client_id "),
        ("log_id=undefined", "bad_query: log_id must be a UUID"),
        ("client_id=a&client_id=b", "bad_query: the query is not"),
    ] {
        let mut socket = RawSocket::upgraded(&hub, &format!("/ws?token={token}&{query}"), page).await;
        assert_eq!(socket.ended().await, ClientEnd::Code(4510, "bad_query".to_owned()), "{query}");
        assert!(socket.reason.starts_with(said) && socket.reason.len() <= 123, "{query}: {}", socket.reason);
    }
    let mut socket = RawSocket::upgraded(&hub, "/ws?token=x.y.z", page).await;
    assert_eq!(socket.ended().await, ClientEnd::Code(4500, "unauthorized".to_owned()));
    assert!(socket.reason.starts_with("unauthorized: the token is refused"), "{}", socket.reason);
    for query in ["client_id=&since=&log_id=&last_id=&ack=&ticket=", "client_id="] {
        let mut socket = RawSocket::upgraded(&hub, &format!("/ws?token={token}&{query}"), page).await;
        assert_eq!(socket.next_text().await.expect("a first frame")["client_id"], "default", "{query}");
    }
}
