//! Implements a device that reads all the time and checks every frame against the contract.
//!
//! It reads as a browser does, and checks the client's side of the contract.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use recado_testkit::ws::{WsRequest, WsSocket};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{self, Message};

use super::hub::token;
use super::{PATIENCE, TestHub, frame_matches};

/// How the connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEnd {
    Code(u16, String),
    /// Without a close frame.
    Torn,
}

#[derive(Debug, Clone)]
pub struct ClientNotification {
    pub seq: i64,
    pub prev: i64,
    pub kind: String,
    pub title: String,
    pub id: String,
    pub to: String,
    pub account: Option<String>,
    pub replayed: bool,
    /// `data`, byte for byte.
    pub data: String,
    /// The whole frame.
    pub text: String,
}

#[derive(Debug, Clone)]
pub enum ClientSawFrame {
    Notification(Box<ClientNotification>),
    CaughtUp {
        seq: i64,
        replayed: u64,
    },
    Heartbeat {
        seq: i64,
    },
    Other(Value),
    Ended(ClientEnd),
    /// The frame breaks the contract.
    Wrong(String),
}

/// The stream request of a device.
#[derive(Clone)]
pub struct ClientBuilder {
    user: String,
    accounts: Vec<String>,
    sends_header: bool,
    request: WsRequest,
}

impl ClientBuilder {
    /// Adds this account.
    #[must_use]
    pub fn account(mut self, account: &str) -> Self {
        self.accounts.push(account.to_owned());
        self
    }

    #[must_use]
    pub fn device(self, client_id: &str) -> Self {
        self.query("client_id", client_id)
    }

    #[must_use]
    pub fn since(self, since: impl ToString) -> Self {
        self.query("since", &since.to_string())
    }

    #[must_use]
    pub fn query(self, name: &str, value: &str) -> Self {
        Self { request: self.request.query(name, value), ..self }
    }

    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        Self { request: self.request.header(name, value), ..self }
    }

    #[must_use]
    pub fn path(self, path: &str) -> Self {
        Self { request: self.request.path(path), ..self }
    }

    /// Sends no `Authorization`; the token goes another way, or there is none.
    #[must_use]
    pub fn without_header(mut self) -> Self {
        self.sends_header = false;
        self
    }

    /// Sends this token instead of one of the hub's own.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.without_header().header("authorization", &format!("Bearer {token}"))
    }

    /// A small receive window: bytes that the client does not read stay with the hub.
    #[must_use]
    pub fn receive_buffer(self, bytes: u32) -> Self {
        Self { request: self.request.receive_buffer(bytes), ..self }
    }

    fn request(&self) -> WsRequest {
        if !self.sends_header {
            return self.request.clone();
        }
        let accounts: Vec<&str> = self.accounts.iter().map(String::as_str).collect();
        self.request.clone().bearer(&token(&self.user, &accounts))
    }

    /// The bare socket after the handshake. Nothing is read and no ping is answered unless the test does it.
    pub async fn open(&self, hub: &TestHub) -> Result<WsSocket, tungstenite::Error> {
        self.open_at(&hub.address).await
    }

    pub async fn open_at(&self, address: &str) -> Result<WsSocket, tungstenite::Error> {
        in_time(self.request().open(address.parse().unwrap())).await
    }

    /// Connects, and reads the first frame.
    pub async fn connect(&self, hub: &TestHub) -> TestClient {
        self.try_connect(&hub.address).await.unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// Connects over a connection that the test has made.
    pub async fn connect_over(&self, stream: TcpStream, hub: &TestHub) -> TestClient {
        let socket = in_time(self.request().open_over(stream, hub.address.parse().unwrap())).await.unwrap();
        self.greeted(socket).await.unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// Connects; `Err` says why there is no stream.
    pub async fn try_connect(&self, address: &str) -> Result<TestClient, String> {
        self.greeted(self.open_at(address).await.map_err(|error| format!("no handshake: {error}"))?).await
    }

    async fn greeted(&self, socket: WsSocket) -> Result<TestClient, String> {
        let lines = self.request.asks_for("frames", "lines");
        let mut client = TestClient::reading(socket, lines);
        match client.try_next(PATIENCE).await {
            Some(ClientSawFrame::Other(hello)) if hello["type"] == "connection_established" => {
                client.hello = hello;
                Ok(client)
            }
            other => Err(format!("the first frame is not connection_established: {other:?}")),
        }
    }
}

async fn in_time(opened: impl Future<Output = Result<WsSocket, tungstenite::Error>>) -> Result<WsSocket, tungstenite::Error> {
    timeout(PATIENCE, opened).await.unwrap_or_else(|_| Err(tungstenite::Error::Io(std::io::ErrorKind::TimedOut.into())))
}

/// A connected device. Dropping it cuts the connection off without a close frame.
#[derive(Debug)]
pub struct TestClient {
    /// The first frame.
    pub hello: Value,
    /// The last sequence number that it received.
    pub given: i64,
    frames: mpsc::UnboundedReceiver<ClientSawFrame>,
    say: mpsc::UnboundedSender<Message>,
    reader: JoinHandle<()>,
}

impl TestClient {
    /// The stream request of `user`'s default device.
    pub fn of(user: &str) -> ClientBuilder {
        ClientBuilder { user: user.to_owned(), accounts: Vec::new(), sends_header: true, request: WsRequest::to("/ws") }
    }

    /// A client over a socket that the test has opened.
    pub fn over(socket: WsSocket) -> Self {
        Self::reading(socket, false)
    }

    /// `lines`: a message may hold several frames, one in each line.
    fn reading(socket: WsSocket, lines: bool) -> Self {
        let (out, frames) = mpsc::unbounded_channel();
        let (say, said) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read(socket, lines, out, said));
        Self { hello: Value::Null, given: 0, frames, say, reader }
    }

    pub fn resume_status(&self) -> &str {
        self.hello["resume"]["status"].as_str().unwrap()
    }

    pub fn log_id(&self) -> &str {
        self.hello["log_id"].as_str().unwrap()
    }

    /// The next frame, whatever it is; `None` when nothing came within `limit`.
    pub async fn try_next(&mut self, limit: Duration) -> Option<ClientSawFrame> {
        let frame = timeout(limit, self.frames.recv()).await.ok()?.unwrap_or(ClientSawFrame::Ended(ClientEnd::Torn));
        match &frame {
            ClientSawFrame::Notification(n) => self.given = n.seq,
            ClientSawFrame::CaughtUp { seq, .. } | ClientSawFrame::Heartbeat { seq, .. } => self.given = *seq,
            ClientSawFrame::Wrong(problem) => panic!("the stream of {} broke the contract: {problem}", self.hello),
            _ => {}
        }
        Some(frame)
    }

    pub async fn next_frame(&mut self) -> ClientSawFrame {
        self.try_next(PATIENCE).await.expect("a frame comes")
    }

    /// The next frame, however long it takes.
    pub async fn next_of_many(&mut self) -> ClientSawFrame {
        loop {
            if let Some(frame) = self.try_next(Duration::from_secs(3600)).await {
                return frame;
            }
        }
    }

    /// The next notification. Heartbeats and caught_up may come before it, but the connection must not end.
    pub async fn expect_notification(&mut self) -> ClientNotification {
        loop {
            match self.next_frame().await {
                ClientSawFrame::Notification(notification) => return *notification,
                ClientSawFrame::CaughtUp { .. } | ClientSawFrame::Heartbeat { .. } => {}
                other => panic!("a notification was to come, not {other:?}"),
            }
        }
    }

    /// All replayed notifications, up to caught_up.
    pub async fn until_caught_up(&mut self) -> Vec<ClientNotification> {
        let mut got = Vec::new();
        loop {
            match self.next_frame().await {
                ClientSawFrame::Notification(notification) => {
                    assert!(notification.replayed, "{} came before caught_up and does not say replayed", notification.seq);
                    got.push(*notification);
                }
                ClientSawFrame::CaughtUp { seq, replayed } => {
                    assert_eq!(replayed, got.len() as u64, "caught_up counts what was replayed");
                    assert!(got.last().is_none_or(|last| last.seq <= seq));
                    return got;
                }
                other => panic!("caught_up was to come, not {other:?}"),
            }
        }
    }

    /// All notifications up to and including the one with this title.
    pub async fn until(&mut self, title: &str) -> Vec<ClientNotification> {
        let mut got = Vec::new();
        loop {
            let notification = self.expect_notification().await;
            got.push(notification);
            if got.last().unwrap().title == title {
                return got;
            }
        }
    }

    /// The titles of the notifications before the marker.
    pub async fn titles_before(&mut self, marker: &str) -> Vec<String> {
        let mut got = self.until(marker).await;
        got.pop();
        got.into_iter().map(|n| n.title).collect()
    }

    /// All notifications up to and including this number.
    pub async fn until_seq(&mut self, seq: i64) -> Vec<ClientNotification> {
        let mut got = Vec::new();
        while self.given < seq {
            match self.next_frame().await {
                ClientSawFrame::Notification(notification) => got.push(*notification),
                ClientSawFrame::CaughtUp { .. } | ClientSawFrame::Heartbeat { .. } => {}
                other => panic!("number {seq} was to come, not {other:?}"),
            }
        }
        got
    }

    /// As [`TestClient::until_seq`], but skips frames without a number.
    pub async fn until_seq_past_others(&mut self, seq: i64) -> Vec<ClientNotification> {
        let mut got = Vec::new();
        while self.given < seq {
            match self.next_frame().await {
                ClientSawFrame::Notification(notification) => got.push(*notification),
                ClientSawFrame::CaughtUp { .. } | ClientSawFrame::Heartbeat { .. } | ClientSawFrame::Other(_) => {}
                other => panic!("number {seq} was to come, not {other:?}"),
            }
        }
        got
    }

    /// The next frame other than notifications and heartbeats; it must have this type.
    pub async fn expect_other(&mut self, kind: &str) -> Value {
        loop {
            match self.next_frame().await {
                ClientSawFrame::Other(value) if value["type"] == kind => return value,
                ClientSawFrame::Notification(_) | ClientSawFrame::CaughtUp { .. } | ClientSawFrame::Heartbeat { .. } => {}
                other => panic!("{kind} was to come, not {other:?}"),
            }
        }
    }

    pub async fn say(&self, text: &str) {
        self.say.send(Message::text(text)).expect("the connection is open");
    }

    /// Sends the text if the connection is open.
    pub fn try_say(&self, text: &str) {
        let _ = self.say.send(Message::text(text));
    }

    pub async fn ack(&self, seq: i64) {
        self.say(&format!("{{\"type\":\"ack\",\"seq\":{seq}}}")).await;
    }

    /// How the connection ends; earlier frames are dropped.
    pub async fn ended(&mut self, limit: Duration) -> ClientEnd {
        let wait = async {
            loop {
                if let ClientSawFrame::Ended(ended) = self.next_frame().await {
                    return ended;
                }
            }
        };
        timeout(limit, wait).await.unwrap_or_else(|_| panic!("the connection did not end within {limit:?}"))
    }

    /// Sends a close frame and waits for the answer.
    pub async fn close(mut self) {
        self.say.send(Message::Close(None)).expect("the connection is open");
        while !matches!(self.next_frame().await, ClientSawFrame::Ended(_)) {}
    }

    /// Cuts the connection off.
    pub fn kill(self) {}
}

impl Drop for TestClient {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[derive(Deserialize)]
struct WireFrame {
    seq: Option<i64>,
    prev: Option<i64>,
    #[serde(rename = "type")]
    kind: String,
    title: Option<String>,
    data: Option<Box<RawValue>>,
    id: Option<Value>,
    to: Option<String>,
    account_id: Option<String>,
    created_at: Option<String>,
    message: Option<String>,
    replayed: Option<Value>,
}

/// State that a client keeps between two frames.
#[derive(Default)]
struct ClientPosition {
    given: i64,
}

impl ClientPosition {
    fn take(&mut self, text: &str) -> Result<ClientSawFrame, String> {
        let wire: WireFrame = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        frame_matches(&value)?;
        match wire.kind.as_str() {
            "connection_established" => {
                self.given = value["resume"]["from"].as_i64().ok_or_else(|| format!("no place to begin at: {text}"))?;
                Ok(ClientSawFrame::Other(value))
            }
            "caught_up" => {
                let seq = wire.seq.ok_or("caught_up without seq")?;
                if seq < self.given {
                    return Err(format!("caught_up at {seq} after {}", self.given));
                }
                self.given = seq;
                Ok(ClientSawFrame::CaughtUp { seq, replayed: wire.replayed.and_then(|v| v.as_u64()).ok_or("caught_up without replayed")? })
            }
            "heartbeat" => {
                let (seq, prev) = wire.seq.zip(wire.prev).ok_or("a heartbeat without numbers")?;
                if seq < self.given || prev != self.given {
                    return Err(format!("heartbeat {seq} with prev {prev} after {}", self.given));
                }
                self.given = seq;
                Ok(ClientSawFrame::Heartbeat { seq })
            }
            _ if wire.seq.is_none() => Ok(ClientSawFrame::Other(value)),
            _ => self.notification(wire, text),
        }
    }

    fn notification(&mut self, wire: WireFrame, text: &str) -> Result<ClientSawFrame, String> {
        let (seq, prev) = wire.seq.zip(wire.prev).ok_or_else(|| format!("no prev: {text}"))?;
        if seq <= self.given {
            return Err(format!("{seq} came after {}", self.given));
        }
        if prev != self.given {
            return Err(format!("{seq} says prev {prev}, but {} was given before", self.given));
        }
        if text.contains("\"user_ids\"") || text.contains("\"user_id\"") {
            return Err(format!("a frame tells users' ids: {text}"));
        }
        if wire.created_at.is_none() || wire.message.is_none() {
            return Err(format!("a field is missing: {text}"));
        }
        self.given = seq;
        Ok(ClientSawFrame::Notification(Box::new(ClientNotification {
            seq,
            prev,
            kind: wire.kind,
            title: wire.title.ok_or("no title")?,
            id: wire.id.and_then(|id| id.as_str().map(str::to_owned)).ok_or("no id")?,
            to: wire.to.ok_or("no to")?,
            account: wire.account_id,
            replayed: wire.replayed == Some(Value::Bool(true)),
            data: wire.data.map_or_else(|| "null".to_owned(), |data| data.get().to_owned()),
            text: text.to_owned(),
        })))
    }
}

async fn read(mut socket: WsSocket, lines: bool, out: mpsc::UnboundedSender<ClientSawFrame>, mut said: mpsc::UnboundedReceiver<Message>) {
    let mut place = ClientPosition::default();
    let mut close = None;
    loop {
        let message = tokio::select! {
            Some(message) = said.recv() => {
                if socket.send(message).await.is_err() {
                    break;
                }
                continue;
            }
            message = socket.next() => message,
        };
        match message {
            Some(Ok(Message::Text(text))) => {
                let several: Vec<&str> = if lines { text.split('\n').collect() } else { vec![&text] };
                for frame in several {
                    if out.send(place.take(frame).unwrap_or_else(ClientSawFrame::Wrong)).is_err() {
                        return;
                    }
                }
            }
            Some(Ok(Message::Close(frame))) => {
                close = frame.map(|frame| ClientEnd::Code(frame.code.into(), word(&frame.reason))).or(close);
                continue;
            }
            Some(Ok(_)) => continue,
            Some(Err(_)) | None => break,
        }
    }
    let _ = out.send(ClientSawFrame::Ended(close.unwrap_or(ClientEnd::Torn)));
}

/// The code word of a close reason; details may follow it.
pub fn word(reason: &str) -> String {
    reason.split(": ").next().unwrap_or_default().to_owned()
}
