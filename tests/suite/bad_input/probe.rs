//! Writes raw bytes to a socket, as no library would, and reads the answer.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{ClientEnd, PATIENCE, TestHub, matches_document, token, word};

/// A TCP connection to a hub.
pub struct RawConnection {
    stream: TcpStream,
    read: Vec<u8>,
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answered {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The code of the problem body, which must be complete.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: Value = serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(problem["status"], self.status, "{self:?}");
        for field in ["type", "title", "code", "detail", "request_id"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "no {field}: {self:?}");
        }
        assert_eq!(self.header("x-request-id"), problem["request_id"].as_str());
        problem["code"].as_str().unwrap().to_owned()
    }
}

/// A request with the headers of every good one: `Host`, and a length when it has a body.
pub fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    let mut bytes = format!("{head}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// The head of an upgrade, without the empty line that ends it.
pub fn upgrade(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
}

/// Sends one request on a connection of its own.
pub async fn ask(hub: &TestHub, bytes: &[u8]) -> Answered {
    let mut wire = RawConnection::to(hub).await;
    wire.send(bytes).await;
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    let answer = wire.answer().await.unwrap_or_else(|| panic!("no answer to {head}"));
    if let [method, target, ..] = head.split(' ').collect::<Vec<_>>()[..] {
        matches_document(method, target, answer.status, answer.header("content-type"), &answer.body);
    }
    answer
}

impl RawConnection {
    pub async fn to(hub: &TestHub) -> Self {
        Self { stream: TcpStream::connect(&hub.address).await.unwrap(), read: Vec::new() }
    }

    /// Sends as much as the hub takes: it may have answered and closed before the end.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        matches!(timeout(PATIENCE, self.stream.write_all(bytes)).await, Ok(Ok(())))
    }

    /// Closes the sending side.
    pub async fn shut_down(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Reads one more piece; false at the end of the stream, however it came.
    async fn fill(&mut self) -> bool {
        let got = timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await.expect("the hub answers or closes");
        got.is_ok_and(|count| count > 0)
    }

    /// Reads an answer; `None` when the hub closes without one.
    pub async fn answer(&mut self) -> Option<Answered> {
        let head_end = loop {
            if let Some(at) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if !self.fill().await {
                return None;
            }
        };
        let head = String::from_utf8(self.read[..head_end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|s| s.parse().ok()).unwrap();
        let headers: Vec<(String, String)> =
            lines.map(|line| line.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned())).unwrap()).collect();
        self.read.drain(..head_end + 4);
        let mut answered = Answered { status, headers, body: String::new() };
        let length: usize = answered.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.read.len() < length && self.fill().await {}
        let body: Vec<u8> = self.read.drain(..length.min(self.read.len())).collect();
        answered.body = String::from_utf8(body).unwrap();
        Some(answered)
    }

    /// The status of an answer that must be a head and nothing else, after which the hub closes.
    pub async fn head_only(&mut self) -> u16 {
        while self.fill().await {}
        assert!(self.read.ends_with(b"\r\n\r\n"), "{}", String::from_utf8_lossy(&self.read));
        String::from_utf8_lossy(&self.read).split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap()
    }

    /// Waits until the hub closes the connection.
    pub async fn hung_up(&mut self, limit: Duration) -> bool {
        let end = async { while self.stream.read_buf(&mut self.read).await.is_ok_and(|count| count > 0) {} };
        timeout(limit, end).await.is_ok()
    }
}

/// A WebSocket after a good handshake, frame by frame.
pub struct RawSocket {
    /// The whole reason of its close frame.
    pub reason: String,
    wire: RawConnection,
}

/// A frame of a client. Everything about it can be wrong.
#[derive(Clone)]
pub struct RawFrame {
    pub first: u8,
    pub masked: bool,
    /// The length that the frame claims; `None` means the true one.
    pub length: Option<u64>,
    pub payload: Vec<u8>,
}

pub const FIN: u8 = 0x80;
pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

pub fn frame(first: u8, payload: impl AsRef<[u8]>) -> RawFrame {
    RawFrame { first, masked: true, length: None, payload: payload.as_ref().to_vec() }
}

impl RawFrame {
    pub fn unmasked(mut self) -> Self {
        self.masked = false;
        self
    }

    pub fn says_length(mut self, length: u64) -> Self {
        self.length = Some(length);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mask = if self.masked { 0x80 } else { 0 };
        let length = self.length.unwrap_or(self.payload.len() as u64);
        let mut out = vec![self.first];
        match length {
            0..126 => out.push(mask | length as u8),
            126..0x1_0000 => {
                out.push(mask | 126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                out.push(mask | 127);
                out.extend_from_slice(&length.to_be_bytes());
            }
        }
        let key = [1, 2, 3, 4];
        if self.masked {
            out.extend_from_slice(&key);
        }
        let key = if self.masked { key } else { [0; 4] };
        out.extend(self.payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        out
    }
}

impl RawSocket {
    /// Connects, and reads the first frame of the hub.
    pub async fn open(hub: &TestHub, user: &str) -> Self {
        let mut socket = Self::upgraded(hub, &format!("/ws?token={}", token(user, &[])), "").await;
        let hello = socket.next_text().await.expect("a first frame");
        assert_eq!(hello["type"], "connection_established");
        socket
    }

    /// Connects with these headers, and reads no frame.
    pub async fn upgraded(hub: &TestHub, target: &str, headers: &str) -> Self {
        let mut wire = RawConnection::to(hub).await;
        wire.send(format!("{}{headers}\r\n", upgrade(target)).as_bytes()).await;
        let answer = wire.answer().await.expect("an answer to the handshake");
        assert_eq!(answer.status, 101, "{answer:?}");
        Self { reason: String::new(), wire }
    }

    pub async fn send(&mut self, frame: &RawFrame) -> bool {
        self.wire.send(&frame.bytes()).await
    }

    pub async fn say(&mut self, text: &str) -> bool {
        self.send(&frame(FIN | TEXT, text)).await
    }

    pub async fn half_close(&mut self) {
        self.wire.shut_down().await;
    }

    /// The next frame of the hub: opcode and payload.
    pub async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((opcode, payload, taken)) = parse(&self.wire.read) {
                self.wire.read.drain(..taken);
                return Some((opcode, payload));
            }
            if !self.wire.fill().await {
                return None;
            }
        }
    }

    /// The next text that is neither caught_up nor a heartbeat. Pings are not answered.
    pub async fn next_text(&mut self) -> Option<Value> {
        loop {
            let (opcode, payload) = self.next().await?;
            let value: Value = if opcode == TEXT { serde_json::from_slice(&payload).unwrap() } else { continue };
            if value["type"] != "caught_up" && value["type"] != "heartbeat" {
                return Some(value);
            }
        }
    }

    /// The code of the close frame. The hub must then close the connection.
    pub async fn ended(&mut self) -> ClientEnd {
        let ended = loop {
            match self.next().await {
                Some((CLOSE, payload)) if payload.len() >= 2 => {
                    // As a client should answer. The hub drops one that does not two seconds later.
                    self.send(&frame(FIN | CLOSE, &payload[..2])).await;
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    self.reason = String::from_utf8(payload[2..].to_vec()).unwrap();
                    break ClientEnd::Code(code, word(&self.reason));
                }
                Some(_) => {}
                None => return ClientEnd::Torn,
            }
        };
        assert!(self.wire.hung_up(Duration::from_secs(6)).await, "the hub keeps a socket that it has closed: {ended:?}");
        ended
    }
}

/// A whole frame of the hub, which is neither masked nor in parts.
fn parse(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    assert_eq!((first & 0xf0, second & 0x80), (FIN, 0), "the hub sends whole, unmasked frames");
    let (length, head) = match second {
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?, 10),
        short => (usize::from(short), 2),
    };
    let payload = bytes.get(head..head + length)?.to_vec();
    Some((first & 0x0f, payload, head + length))
}
