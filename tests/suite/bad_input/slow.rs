//! Tests that clients which stop or trickle in the middle of something are disconnected.
//!
//! They must not hold a connection for ever.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::probe::{RawConnection, request};
use crate::support::{TestDb, TestHub, note};

/// A head and a body have ten seconds each, and a setting limits the time between two requests. The rest is a margin
/// for a busy machine.
const LIMIT: Duration = Duration::from_secs(16);

async fn ends_in_time(what: &str, wire: &mut RawConnection, begun: Instant) {
    assert!(wire.hung_up(LIMIT.saturating_sub(begun.elapsed())).await, "{what}: still open after {:?}", begun.elapsed());
    assert!(begun.elapsed() > Duration::from_secs(5), "{what}: a slow client would be cut off after {:?}", begun.elapsed());
}

#[tokio::test]
#[ignore = "slow"]
async fn half_a_request_is_given_up_in_time() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_IDLE_TIMEOUT", "11s").start().await;
    let bearer = format!("Bearer {}", db.key());
    let whole = request("POST", "/api/internal/notify", &[("Authorization", &bearer), ("Content-Type", "application/json")], &[b' '; 1000]);
    let half_head = whole[..60].to_vec();
    let half_body = whole[..whole.len() - 500].to_vec();
    let chunks = format!(
        "POST /api/internal/notify HTTP/1.1\r\nHost: localhost\r\nAuthorization: {bearer}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{{\"typ\r\n"
    );
    let silent = async {
        let begun = Instant::now();
        ends_in_time("silent", &mut RawConnection::to(&hub).await, begun).await;
    };
    let half = async |what, bytes: &[u8]| {
        let (mut wire, begun) = (RawConnection::to(&hub).await, Instant::now());
        wire.send(bytes).await;
        ends_in_time(what, &mut wire, begun).await;
    };
    let told = async {
        let mut wire = RawConnection::to(&hub).await;
        wire.send(&half_body).await;
        let answer = wire.answer().await.expect("a refusal");
        assert_eq!((answer.status, answer.problem().as_str()), (408, "body_too_slow"));
    };
    let drip = async |what, bytes: &[u8]| {
        let (mut wire, begun) = (RawConnection::to(&hub).await, Instant::now());
        for byte in bytes {
            if !wire.send(&[*byte]).await || begun.elapsed() > LIMIT {
                break;
            }
            sleep(Duration::from_millis(300)).await;
        }
        ends_in_time(what, &mut wire, begun).await;
    };
    let idle = async {
        let (mut wire, begun) = (RawConnection::to(&hub).await, Instant::now());
        wire.send(&request("GET", "/livez", &[], b"")).await;
        let answer = wire.answer().await.unwrap();
        assert_eq!((answer.status, answer.header("keep-alive")), (200, Some("timeout=11")));
        ends_in_time("idle after an answer", &mut wire, begun).await;
    };
    tokio::join!(
        silent,
        half("half a head", &half_head),
        half("half a body", &half_body),
        half("chunks without end", chunks.as_bytes()),
        drip("a head in drops", &whole),
        told,
        idle,
    );
    assert_eq!(db.head().await, 0);
    assert_eq!(hub.post(&note("good").to_user("1")).await.seq, 1);
}

/// A request that is too long is refused as soon as that shows, not after all of it has been read.
#[tokio::test]
async fn a_body_without_end_is_refused_at_the_limit() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut wire = RawConnection::to(&hub).await;
    let head = format!(
        "POST /api/internal/notify HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        db.key()
    );
    wire.send(head.as_bytes()).await;
    let chunk = format!("400\r\n{}\r\n", "a".repeat(1024));
    for _ in 0..65 {
        wire.send(chunk.as_bytes()).await;
    }
    let answer = wire.answer().await.expect("a refusal");
    assert_eq!((answer.status, answer.problem().as_str()), (413, "body_too_large"));
    assert!(wire.hung_up(Duration::from_secs(5)).await, "the connection stays");
}

/// The database's part of the time begins when there is something to append.
#[tokio::test]
#[ignore = "slow"]
async fn a_body_that_takes_its_time_within_the_limit_is_appended() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let bearer = format!("Bearer {}", db.key());
    let body = note("slow").to_user("ann").body();
    let whole =
        request("POST", "/api/internal/notify", &[("Authorization", &bearer), ("Content-Type", "application/json")], body.as_bytes());
    let mut wire = RawConnection::to(&hub).await;
    wire.send(&whole[..whole.len() - 5]).await;
    sleep(Duration::from_secs(6)).await;
    wire.send(&whole[whole.len() - 5..]).await;
    let answer = wire.answer().await.expect("an answer");
    assert_eq!(answer.status, 201, "{}", answer.problem());
}

/// A client that sends requests and never takes the answers must not hold a connection for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn answers_that_nobody_takes_are_given_up_in_time() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let files = || hub.open_files();
    sleep(Duration::from_secs(2)).await;
    let before = files();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(hub.address.parse().unwrap()).await.unwrap();
    let many = request("GET", "/nothing", &[], b"").repeat(400_000);
    let sent = tokio::time::timeout(Duration::from_secs(3), tokio::io::AsyncWriteExt::write_all(&mut stream, &many)).await;
    assert!(sent.is_err(), "the hub reads no more requests while its answers are not read");
    assert!(files() > before);
    let begun = Instant::now();
    while files() > before {
        assert!(begun.elapsed() < Duration::from_secs(45), "the connection is still open");
        sleep(Duration::from_millis(500)).await;
    }
}
