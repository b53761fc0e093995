//! Who says half of something and then nothing, or one byte now and then, must not hold a place.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::probe::{Wire, request};
use crate::support::{Hub, TestDb, note};

/// Ten seconds are given for a head and for a body; the rest is for a busy machine.
const LIMIT: Duration = Duration::from_secs(16);

async fn ends_in_time(what: &str, wire: &mut Wire, begun: Instant) {
    assert!(wire.hung_up(LIMIT.saturating_sub(begun.elapsed())).await, "{what}: still open after {:?}", begun.elapsed());
    assert!(begun.elapsed() > Duration::from_secs(5), "{what}: a slow client would be cut off after {:?}", begun.elapsed());
}

#[tokio::test]
async fn half_a_request_is_given_up_in_time() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).start().await;
    let bearer = format!("Bearer {}", db.key());
    let whole = request("POST", "/api/internal/notify", &[("Authorization", &bearer), ("Content-Type", "application/json")], &[b' '; 1000]);
    let half_head = whole[..60].to_vec();
    let half_body = whole[..whole.len() - 500].to_vec();
    let chunks = format!(
        "POST /api/internal/notify HTTP/1.1\r\nHost: hub\r\nAuthorization: {bearer}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{{\"typ\r\n"
    );
    let silent = async {
        let begun = Instant::now();
        ends_in_time("silent", &mut Wire::to(&hub).await, begun).await;
    };
    let half = async |what, bytes: &[u8]| {
        let (mut wire, begun) = (Wire::to(&hub).await, Instant::now());
        wire.send(bytes).await;
        ends_in_time(what, &mut wire, begun).await;
    };
    let told = async {
        let mut wire = Wire::to(&hub).await;
        wire.send(&half_body).await;
        let answer = wire.answer().await.expect("a refusal");
        assert_eq!((answer.status, answer.problem().as_str()), (408, "body_too_slow"));
    };
    let drip = async |what, bytes: &[u8]| {
        let (mut wire, begun) = (Wire::to(&hub).await, Instant::now());
        for byte in bytes {
            if !wire.send(&[*byte]).await || begun.elapsed() > LIMIT {
                break;
            }
            sleep(Duration::from_millis(300)).await;
        }
        ends_in_time(what, &mut wire, begun).await;
    };
    let idle = async {
        let (mut wire, begun) = (Wire::to(&hub).await, Instant::now());
        wire.send(&request("GET", "/livez", &[], b"")).await;
        assert_eq!(wire.answer().await.unwrap().status, 200);
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

/// What is too long is refused when it is seen to be, not when all of it has been swallowed.
#[tokio::test]
async fn a_body_without_end_is_refused_at_the_limit() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).start().await;
    let mut wire = Wire::to(&hub).await;
    let head = format!(
        "POST /api/internal/notify HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
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
async fn a_body_that_takes_its_time_within_the_limit_is_appended() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).start().await;
    let bearer = format!("Bearer {}", db.key());
    let body = note("slow").to_user("ann").body();
    let whole =
        request("POST", "/api/internal/notify", &[("Authorization", &bearer), ("Content-Type", "application/json")], body.as_bytes());
    let mut wire = Wire::to(&hub).await;
    wire.send(&whole[..whole.len() - 5]).await;
    sleep(Duration::from_secs(6)).await;
    wire.send(&whole[whole.len() - 5..]).await;
    let answer = wire.answer().await.expect("an answer");
    assert_eq!(answer.status, 201, "{}", answer.problem());
}

/// Who asks and never takes the answers must not hold a place for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_takes_are_given_up_in_time() {
    let db = TestDb::new().await;
    let hub = Hub::on(&db).start().await;
    let files = || std::fs::read_dir(format!("/proc/{}/fd", hub.pid())).unwrap().count();
    sleep(Duration::from_secs(2)).await;
    let before = files();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(hub.address.parse().unwrap()).await.unwrap();
    let many = request("GET", "/nothing", &[], b"").repeat(400_000);
    let sent = tokio::time::timeout(Duration::from_secs(3), tokio::io::AsyncWriteExt::write_all(&mut stream, &many)).await;
    assert!(sent.is_err(), "the hub takes no more questions while its answers are not taken");
    assert!(files() > before);
    let begun = Instant::now();
    while files() > before {
        assert!(begun.elapsed() < Duration::from_secs(45), "the connection is still open");
        sleep(Duration::from_millis(500)).await;
    }
}
