//! Devices with an inbox over each kind of stream, and what they were told.
//!
//! It keeps the newest counts as a client must: the highest `as_of` wins, of equal ones the later frame.

use std::sync::LazyLock;

use futures_util::StreamExt;
use recado_testkit::ws::WsRequest;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;

use super::hub::token;
use super::{PATIENCE, frame_matches, matches_document};

static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| reqwest::Client::builder().build().unwrap());

/// Counts as the hub tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct ToldCounts {
    pub unread: u32,
    pub unseen: u32,
    pub as_of: i64,
}

impl ToldCounts {
    /// The counts of a frame or an answer, if it has any. It has all three fields or none.
    pub fn of(value: &Value) -> Option<Self> {
        let named = ["unread", "unseen", "as_of"].iter().filter(|name| !value[**name].is_null()).count();
        assert!(named == 0 || named == 3, "counts are three fields: {value}");
        (named == 3).then(|| Self::deserialize(value).unwrap_or_else(|error| panic!("{error}: {value}")))
    }

    pub fn both(self) -> (u32, u32) {
        (self.unread, self.unseen)
    }
}

/// The kind of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InboxTransport {
    WebSocket,
    EventSource,
    Lines,
}

/// The stream of a device with an inbox.
#[derive(Debug, Clone)]
pub struct InboxStream {
    pub user: String,
    pub accounts: Vec<String>,
    device: String,
    pub transport: InboxTransport,
}

impl InboxStream {
    pub fn of(user: &str, accounts: &[&str], device: &str, transport: InboxTransport) -> Self {
        let accounts = accounts.iter().map(|account| (*account).to_owned()).collect();
        Self { user: user.to_owned(), accounts, device: device.to_owned(), transport }
    }

    pub fn token(&self) -> String {
        token(&self.user, &self.accounts.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Connects to the hub at this address. `since`: the number after which the stream begins. Without it the stream
    /// begins where the device is, and over NDJSON at the beginning of the log.
    pub async fn connect(&self, address: &str, since: Option<i64>) -> InboxDevice {
        let mut device = self.opened(address, since).await;
        let hello = device.next().await;
        assert_eq!(hello["type"], "connection_established", "{hello}");
        device.hello = hello;
        device
    }

    async fn opened(&self, address: &str, since: Option<i64>) -> InboxDevice {
        let (out, frames) = mpsc::unbounded_channel();
        let reader = match self.transport {
            InboxTransport::WebSocket => {
                let mut request = WsRequest::to("/ws").query("inbox", "1").query("client_id", &self.device).bearer(&self.token());
                if let Some(since) = since {
                    request = request.query("since", &since.to_string());
                }
                let opened = timeout(PATIENCE, request.open(address.parse().unwrap())).await.expect("a handshake in time");
                let mut socket = opened.unwrap_or_else(|error| panic!("no handshake of {self:?}: {error}"));
                tokio::spawn(async move {
                    while let Some(Ok(message)) = socket.next().await {
                        if let Message::Text(text) = message
                            && out.send(text.to_string()).is_err()
                        {
                            return;
                        }
                    }
                })
            }
            InboxTransport::EventSource => {
                let since = since.map(|since| format!("&since={since}")).unwrap_or_default();
                let target = format!("/api/notifications/stream?inbox=1&client_id={}{since}", self.device);
                tokio::spawn(read_lines(self.body(address, &target).await, "data: ", out))
            }
            InboxTransport::Lines => {
                let after = since.map(|since| format!("&after={since}")).unwrap_or_default();
                let target = format!("/api/notifications/ndjson?follow=1&inbox=1{after}");
                tokio::spawn(read_lines(self.body(address, &target).await, "", out))
            }
        };
        InboxDevice {
            stream: self.clone(),
            hello: Value::Null,
            counts: None,
            told: None,
            owed: 0,
            caught_up: false,
            given: 0,
            frames,
            reader,
        }
    }

    async fn body(&self, address: &str, target: &str) -> reqwest::Response {
        let asked = CLIENT.get(format!("http://{address}{target}")).bearer_auth(self.token()).send();
        let response = timeout(PATIENCE, asked).await.expect("an answer in time").unwrap();
        if response.status().as_u16() != 200 {
            panic!("{target}: {} {}", response.status(), response.text().await.unwrap());
        }
        response
    }

    /// Asks `/api/inbox`.
    pub async fn page(&self, address: &str, query: &str) -> (u16, Value) {
        inbox_request("GET", address, &format!("/api/inbox{query}"), &self.token(), None).await
    }

    /// Posts a change.
    pub async fn change(&self, address: &str, body: &Value) -> (u16, Value) {
        inbox_request("POST", address, "/api/inbox", &self.token(), Some(&body.to_string())).await
    }

    /// Mutes these types and no others.
    pub async fn mute(&self, address: &str, types: &[&str]) -> (u16, Value) {
        let body = json!({ "muted": types }).to_string();
        inbox_request("POST", address, "/api/preferences", &self.token(), Some(&body)).await
    }

    /// Posts a change, which must be made or have no effect. Returns the number of its row.
    pub async fn changed(&self, address: &str, body: Value) -> Option<i64> {
        let (status, answer) = self.change(address, &body).await;
        assert_eq!(status, 200, "{body}: {answer}");
        assert!(ToldCounts::of(&answer).is_some(), "{answer}");
        answer["seq"].as_i64()
    }
}

/// Status and body of a request of a page.
pub async fn inbox_request(method: &str, address: &str, target: &str, bearer: &str, body: Option<&str>) -> (u16, Value) {
    let mut request = CLIENT.request(method.parse().unwrap(), format!("http://{address}{target}")).bearer_auth(bearer);
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_owned());
    }
    let response = timeout(PATIENCE, request.send()).await.expect("an answer in time").unwrap_or_else(|error| panic!("{target}: {error}"));
    let status = response.status().as_u16();
    let media = response.headers().get("content-type").map(|media| media.to_str().unwrap().to_owned());
    let body = response.text().await.unwrap();
    matches_document(method, target, status, media.as_deref(), &body);
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{method} {target}: {status} {error}: {body}")))
}

/// Sends the texts of frames. Each is in a line that begins with `before`.
async fn read_lines(mut response: reqwest::Response, before: &'static str, out: mpsc::UnboundedSender<String>) {
    let mut unread = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        unread.extend_from_slice(&chunk);
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            let line = String::from_utf8(line).expect("UTF-8");
            if let Some(frame) = line.trim_end().strip_prefix(before).filter(|frame| !frame.is_empty())
                && out.send(frame.to_owned()).is_err()
            {
                return;
            }
        }
    }
}

/// A connected device. Dropping it cuts the connection off.
#[derive(Debug)]
pub struct InboxDevice {
    pub stream: InboxStream,
    pub hello: Value,
    /// The newest counts, of frames and of answers that the test has given to it.
    pub counts: Option<ToldCounts>,
    /// The newest counts of frames.
    pub told: Option<ToldCounts>,
    /// A number that the test expects counts for, in its own frame or a later one.
    pub owed: i64,
    /// Whether the replay has ended.
    pub caught_up: bool,
    /// The last number that it received.
    pub given: i64,
    frames: mpsc::UnboundedReceiver<String>,
    reader: JoinHandle<()>,
}

impl InboxDevice {
    /// Takes the counts of an answer to a request of this device.
    pub fn merge(&mut self, counts: ToldCounts) {
        if self.counts.is_none_or(|known| known.as_of <= counts.as_of) {
            self.counts = Some(counts);
        }
    }

    fn take(&mut self, text: &str) -> Value {
        let frame: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        frame_matches(&frame).unwrap_or_else(|problem| panic!("{problem}"));
        self.caught_up |= frame["type"] == "caught_up";
        if let Some(from) = frame["resume"]["from"].as_i64() {
            self.given = from;
        }
        if let Some(seq) = frame["seq"].as_i64() {
            if let Some(prev) = frame["prev"].as_i64() {
                assert_eq!(prev, self.given, "prev names the number before: {text}");
            }
            assert!(seq >= self.given, "{text} after {}", self.given);
            self.given = seq;
        }
        if let Some(counts) = ToldCounts::of(&frame) {
            self.merge(counts);
            if self.told.is_none_or(|told| told.as_of <= counts.as_of) {
                self.told = Some(counts);
            }
        }
        frame
    }

    /// The next frame.
    pub async fn next(&mut self) -> Value {
        let next = timeout(PATIENCE, self.frames.recv()).await.unwrap_or_else(|_| panic!("no frame came to {:?}", self.stream));
        let text = next.unwrap_or_else(|| panic!("the connection of {:?} ended", self.stream));
        self.take(&text)
    }

    /// The next frame that has come already.
    pub fn waiting(&mut self) -> Option<Value> {
        let text = self.frames.try_recv().ok()?;
        Some(self.take(&text))
    }

    /// Whether the connection has ended.
    pub fn has_ended(&self) -> bool {
        self.reader.is_finished()
    }

    /// The frames up to the one with this number, which must come.
    pub async fn until(&mut self, seq: i64) -> Vec<Value> {
        let mut frames = Vec::new();
        while self.given < seq {
            frames.push(self.next().await);
        }
        frames
    }

    /// The next frame of this type.
    pub async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next().await;
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// Waits until the newest counts are these.
    pub async fn shows(&mut self, unread: u32, unseen: u32) {
        let end = Instant::now() + PATIENCE;
        while self.counts.map(ToldCounts::both) != Some((unread, unseen)) {
            match timeout_at(end, self.frames.recv()).await {
                Ok(Some(text)) => drop(self.take(&text)),
                Ok(None) => panic!("the connection of {:?} ended with {:?}", self.stream, self.counts),
                Err(_) => panic!("{:?} shows {:?}, not {unread} unread and {unseen} unseen", self.stream, self.counts),
            }
        }
    }
}

impl Drop for InboxDevice {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
