//! Tests NDJSON posts: lines are appended as they come and answered one by one.
//!
//! The answer names the line that ends the stream, and every line before it is in the log.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::support::*;

fn to_ann(title: &str) -> Note {
    note(title).to_user("ann")
}

/// A stream to the batch route, spoken in chunks.
pub struct Sender {
    write: OwnedWriteHalf,
    lines: Lines<BufReader<OwnedReadHalf>>,
}

impl Sender {
    pub async fn open(hub: &TestHub, bearer: &str, key: Option<&str>) -> Self {
        Self::open_at("/api/internal/notify/batch", hub, bearer, key).await
    }

    /// A stream to another route that accepts lines.
    pub async fn open_at(path: &str, hub: &TestHub, bearer: &str, key: Option<&str>) -> Self {
        let (read, mut write) = TcpStream::connect(&hub.address).await.unwrap().into_split();
        let key = key.map(|key| format!("idempotency-key: {key}\r\n")).unwrap_or_default();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {bearer}\r\n\
             content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n{key}\r\n"
        );
        write.write_all(head.as_bytes()).await.unwrap();
        Self { write, lines: BufReader::new(read).lines() }
    }

    pub async fn say(&mut self, text: &str) {
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        self.write.write_all(chunk.as_bytes()).await.unwrap();
    }

    pub async fn line(&mut self, note: &Note) {
        self.say(&format!("{}\n", note.body())).await;
    }

    pub async fn end(&mut self) {
        self.write.write_all(b"0\r\n\r\n").await.unwrap();
    }

    /// The next line of the answer; `None` when it is over.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            let line = timeout(PATIENCE, self.lines.next_line()).await.expect("the answer goes on").unwrap()?;
            // The other lines are the head and the sizes of chunks; "0" is the last.
            if line.starts_with('{') {
                return Some(serde_json::from_str(&line).unwrap());
            } else if line == "0" {
                return None;
            }
        }
    }

    pub async fn seq(&mut self) -> i64 {
        let line = self.next().await.expect("an answer");
        line["seq"].as_i64().unwrap_or_else(|| panic!("{line}"))
    }

    /// The line that ends the answer.
    pub async fn error(&mut self) -> (u64, String) {
        let line = self.next().await.expect("an answer");
        let error = &line["error"];
        assert!(error["request_id"].is_string() && error["detail"].is_string(), "{line}");
        assert_eq!(self.next().await, None, "this is the last line");
        (error["line"].as_u64().unwrap(), error["code"].as_str().unwrap().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_are_answered_while_the_stream_goes_on() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    let mut sender = Sender::open(&hub, &db.key(), None).await;
    for n in 1..=3 {
        sender.line(&to_ann(&n.to_string())).await;
        assert_eq!(sender.seq().await, n);
    }
    // A line in pieces, a blank one, and one without its line break.
    let text = to_ann("in pieces").body();
    let (head, tail) = text.split_at(10);
    sender.say(head).await;
    sender.say(&format!("{tail}\r\n\n{}", to_ann("the last").body())).await;
    sender.end().await;
    assert_eq!((sender.seq().await, sender.seq().await), (4, 5));
    assert_eq!(sender.next().await, None);
    assert_eq!(ann.until_seq(5).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_thousand_lines_come_out_in_their_order_in_commits_of_at_most_a_thousand() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let count = 12_000;
    let Sender { mut write, lines } = Sender::open(&hub, &db.key(), Some("import")).await;
    let sending = tokio::spawn(async move {
        let all: String = (0..count).map(|n| format!("{}\n", to_ann(&n.to_string()).body())).collect();
        let chunk = format!("{:x}\r\n{all}\r\n0\r\n\r\n", all.len());
        write.write_all(chunk.as_bytes()).await.unwrap();
        write
    });
    let (_, spare) = TcpStream::connect(&hub.address).await.unwrap().into_split();
    let mut answers = Sender { write: spare, lines };
    for seq in 1..=count {
        assert_eq!(answers.seq().await, seq);
    }
    assert_eq!(answers.next().await, None);
    sending.await.unwrap();
    assert_eq!(db.number("SELECT count(*) FROM recado.log WHERE title <> (seq - 1)::text").await, 0);
    let biggest = db.number("SELECT max(rows) FROM (SELECT count(*) AS rows FROM recado.log GROUP BY xmin::text) c").await;
    assert!((2..=1000).contains(&biggest), "{biggest}");

    // The same lines again over a new stream: no row is doubled.
    let mut again = Sender::open(&hub, &db.key(), Some("import")).await;
    again.line(&to_ann("0")).await;
    again.line(&to_ann("1")).await;
    assert_eq!((again.seq().await, again.seq().await), (1, 2));
    again.line(&to_ann("another")).await;
    assert_eq!(again.error().await, (3, "idempotency_conflict".into()));
    assert_eq!(db.head().await, count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_bad_line_ends_it_and_the_lines_before_it_stay() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&to_ann("taken").key("taken")).await;
    let good = to_ann("good").body();
    let bad = [
        ("{", "malformed_json"),
        ("[]", "invalid_body"),
        (r#"{"type":"a","message":"m","user_id":"1"}"#, "invalid_field"),
        (r#"{"type":"a","title":"t","message":"m"}"#, "no_audience"),
        (&to_ann("other").body_key("taken").body(), "idempotency_conflict"),
        (&format!("{good}{}", " ".repeat(64 << 10)), "body_too_large"),
    ];
    for (at, (line, code)) in bad.into_iter().enumerate() {
        let first = 2 + 2 * i64::try_from(at).unwrap();
        let mut sender = Sender::open(&hub, &db.key(), None).await;
        sender.say(&format!("{good}\n{good}\n{line}\n{good}\n")).await;
        assert_eq!((sender.seq().await, sender.seq().await), (first, first + 1), "{code}");
        assert_eq!(sender.error().await, (3, code.to_owned()));
        assert_eq!(db.head().await, first + 1, "{code}: the lines before it, and none after it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_stream_that_goes_quiet_or_breaks_off_ends() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut quiet = Sender::open(&hub, &db.key(), None).await;
    quiet.line(&to_ann("1")).await;
    assert_eq!(quiet.seq().await, 1);
    quiet.say("{\"type\":").await;
    assert_eq!(quiet.error().await, (2, "body_too_slow".into()));
    // Half a line of a sender that is gone is not appended, even where it would be a whole notification.
    let mut gone = Sender::open(&hub, &db.key(), None).await;
    gone.line(&to_ann("2")).await;
    assert_eq!(gone.seq().await, 2);
    gone.say(&to_ann("half").body()).await;
    drop(gone);
    assert_eq!(hub.post(&to_ann("3")).await.seq, 3);
    tokio::time::timeout(Duration::from_secs(5), hub.settled(&db)).await.unwrap();
    assert_eq!(db.number("SELECT count(*) FROM recado.log WHERE title = 'half'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_hub_ends_its_streams_in_time() {
    let db = TestDb::new().await;
    let mut hub = TestHub::on(&db).start().await;
    let mut sender = Sender::open(&hub, &db.key(), None).await;
    sender.line(&to_ann("1")).await;
    assert_eq!(sender.seq().await, 1);
    hub.signal("-TERM").await;
    assert_eq!(sender.error().await, (2, "draining".into()));
    assert!(hub.ended(Duration::from_secs(15)).await.success());
}

/// A stream that never pauses leaves the hub no idle moment in which to notice that it is stopping.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_hub_ends_a_stream_that_never_pauses_and_keeps_what_it_answered() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let mut hub = TestHub::on(&db).start().await;
    let Sender { mut write, lines } = Sender::open(&hub, &db.key(), None).await;
    let (_, spare) = TcpStream::connect(&hub.address).await.unwrap().into_split();
    let mut answers = Sender { write: spare, lines };
    let sending = tokio::spawn(async move {
        let line = format!("{}\n", to_ann("x").body()).repeat(20);
        let chunk = format!("{:x}\r\n{line}\r\n", line.len());
        while write.write_all(chunk.as_bytes()).await.is_ok() {}
    });
    for seq in 1..=100 {
        assert_eq!(answers.seq().await, seq);
    }
    hub.signal("-TERM").await;
    let told = tokio::time::Instant::now();
    let mut answered = 100;
    let end = loop {
        let line = answers.next().await.expect("the answer ends with a line that says why");
        match line["seq"].as_i64() {
            Some(seq) => answered = seq,
            None => break line,
        }
    };
    assert_eq!((end["error"]["code"].as_str(), end["error"]["line"].as_i64()), (Some("draining"), Some(answered + 1)));
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
    assert!(hub.ended(Duration::from_secs(15)).await.success());
    assert!(!hub.said().contains("still ran"), "{}", hub.said());
    assert_eq!(db.head().await, answered, "each answered line is in the log, and no other");
    sending.abort();
}

/// The answers of a sender that never reads them fill the buffers in between; then the connection's deadline applies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_sender_that_reads_no_answers_is_cut_off_in_time() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_SEND_DEADLINE", "1s").start().await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(hub.address.parse().unwrap()).await.unwrap();
    let head = format!(
        "POST /api/internal/notify/batch HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
         content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n",
        db.key()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let lines = format!("{}\n", to_ann("x").body()).repeat(200);
    let chunk = format!("{:x}\r\n{lines}\r\n", lines.len());
    let broken = async { while stream.write_all(chunk.as_bytes()).await.is_ok() {} };
    timeout(Duration::from_secs(90), broken).await.expect("the hub closes the connection");
    let appended = db.head().await;
    assert!(appended > 200, "{appended} lines were appended before the answers stood still");
    assert!(hub.is_ready().await);
}
