//! Implements a page with an `EventSource`, as WHATWG HTML "Server-sent events" defines it.
//!
//! It reads as a browser does, and keeps the same state.

use serde_json::Value;
use tokio::time::timeout;

use super::hub::token;
use super::{PATIENCE, TestHub, frame_matches, matches_document};

/// The stream request of a page, with its token.
#[derive(Clone)]
pub struct EventSourcePage {
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
}

impl EventSourcePage {
    /// The stream of a user, with the token in the query, as a browser must send it.
    pub fn of(user: &str) -> Self {
        Self::with_token(&token(user, &[]))
    }

    pub fn with_token(token: &str) -> Self {
        Self::without_token().query("token", token)
    }

    pub fn without_token() -> Self {
        Self { path: "/api/notifications/stream".to_owned(), query: Vec::new(), headers: Vec::new() }
    }

    #[must_use]
    pub fn device(self, client_id: &str) -> Self {
        self.query("client_id", client_id)
    }

    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn target(&self) -> String {
        let query: Vec<String> = self.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{}?{}", self.path, query.join("&"))
    }

    async fn send(&self, hub: &TestHub) -> reqwest::Response {
        let client = reqwest::Client::builder().build().unwrap();
        let mut request = client.get(format!("http://{}{}", hub.address, self.target()));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        timeout(PATIENCE, request.send()).await.expect("an answer comes").expect("the hub answers")
    }

    /// Opens the stream, and reads the first event.
    pub async fn open(&self, hub: &TestHub) -> EventSource {
        let response = self.send(hub).await;
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(header("content-type").as_deref(), Some("text/event-stream"));
        let caching = header("cache-control").unwrap_or_default();
        assert!(caching.contains("no-store") && caching.contains("no-transform"), "{caching}");
        let mut source =
            EventSource { response, unread: String::new(), last_event_id: String::new(), retry: None, given: None, hello: Value::Null };
        let hello = source.named("connection_established").await;
        source.hello = hello;
        source
    }

    /// Reconnects as a browser does: with the last event id.
    pub async fn open_again(&self, hub: &TestHub, last_event_id: &str) -> EventSource {
        self.clone().header("last-event-id", last_event_id).open(hub).await
    }

    /// The answer of a hub that cannot take the page now: its only event, and `retry`.
    pub async fn put_off(&self, hub: &TestHub) -> (Value, Option<u64>) {
        let response = self.clone().header("accept", "text/event-stream").send(hub).await;
        assert_eq!(response.status().as_u16(), 200, "any other status ends an EventSource for good");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut source =
            EventSource { response, unread: String::new(), last_event_id: String::new(), retry: None, given: None, hello: Value::Null };
        let block = source.next_block().await.expect("an event");
        assert_eq!(block.name.as_deref(), Some("goodbye"), "{block:?}");
        assert!(block.id.is_none() && source.next_block().await.is_none(), "its place is left alone, and nothing follows");
        (block.frame(), source.retry)
    }

    /// The status and the code of a refusal.
    pub async fn refused(&self, hub: &TestHub) -> (u16, String) {
        let response = self.send(hub).await;
        let status = response.status().as_u16();
        assert_ne!(status, 200, "{}", self.target());
        let body = response.text().await.unwrap();
        matches_document("GET", &self.path, status, Some("application/problem+json"), &body);
        let problem: Value = serde_json::from_str(&body).unwrap();
        (status, problem["code"].as_str().unwrap().to_owned())
    }
}

/// The lines between two empty lines.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SourceBlock {
    pub name: Option<String>,
    pub id: Option<String>,
    /// As the page gets it: the lines of data joined with line feeds. `None`: nothing is dispatched.
    pub data: Option<String>,
}

impl SourceBlock {
    pub fn frame(&self) -> Value {
        serde_json::from_str(self.data.as_deref().expect("an event with data")).expect("a frame is JSON")
    }

    pub fn title(&self) -> String {
        self.frame()["title"].as_str().unwrap().to_owned()
    }
}

/// An open stream. Dropping it cuts the connection off.
pub struct EventSource {
    response: reqwest::Response,
    unread: String,
    /// The last event id that the browser would reconnect with.
    pub last_event_id: String,
    /// How long the browser would wait before it reconnects, in milliseconds.
    pub retry: Option<u64>,
    /// The number that the next `prev` must name.
    given: Option<i64>,
    pub hello: Value,
}

impl EventSource {
    /// The next block, whatever it is; `None` at the end of the stream. Some parsers pass every block on to pages that
    /// parse `data` at once, also one without data (httpx-sse, fetch-event-source), so each block must be a frame. Each
    /// `prev` must name the number before it.
    pub async fn next_block(&mut self) -> Option<SourceBlock> {
        let end = loop {
            if let Some(end) = self.unread.find("\n\n") {
                break end;
            }
            let chunk = timeout(PATIENCE, self.response.chunk()).await.expect("a frame comes").unwrap_or(None)?;
            let text = std::str::from_utf8(&chunk).expect("a piece ends with a whole character");
            assert!(!text.contains('\r'), "a line's end that is none of ours: {text:?}");
            self.unread.push_str(text);
        };
        let text: String = self.unread.drain(..end + 2).collect();
        let mut block = SourceBlock::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => {}
                "event" => block.name = Some(value.to_owned()),
                "id" => block.id = Some(value.to_owned()),
                "retry" => self.retry = Some(value.parse().expect("retry is a number")),
                "data" => match &mut block.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => block.data = Some(value.to_owned()),
                },
                other => panic!("an unknown field {other}: {text:?}"),
            }
        }
        if let Some(id) = &block.id {
            self.last_event_id.clone_from(id);
        }
        self.check(&block, &text);
        Some(block)
    }

    fn check(&mut self, block: &SourceBlock, text: &str) {
        let frame: Value = block.data.as_deref().and_then(|data| serde_json::from_str(data).ok()).unwrap_or_default();
        frame_matches(&frame).unwrap_or_else(|problem| panic!("{problem}: {text:?}"));
        if let Some(from) = frame["resume"]["from"].as_i64() {
            self.given = Some(from);
        }
        let Some(seq) = frame["seq"].as_i64() else { return };
        if let Some(prev) = frame["prev"].as_i64() {
            assert_eq!(Some(prev), self.given, "prev names what was given before: {text:?}");
        }
        assert_eq!(block.id, Some(seq.to_string()), "{text:?}");
        self.given = Some(seq);
    }

    /// The next event that a page would see.
    pub async fn next_event(&mut self) -> Option<SourceBlock> {
        loop {
            let block = self.next_block().await?;
            if block.data.is_some() {
                return Some(block);
            }
        }
    }

    /// The next event that `onmessage` gets.
    pub async fn message(&mut self) -> SourceBlock {
        loop {
            let event = self.next_event().await.expect("the stream goes on");
            if event.name.is_none() {
                return event;
            }
            // No heartbeat reaches `onmessage`.
            assert_ne!(event.name.as_deref(), Some("goodbye"), "{event:?}");
        }
    }

    /// The next event of this name.
    pub async fn named(&mut self, name: &str) -> Value {
        loop {
            let event = self.next_event().await.unwrap_or_else(|| panic!("{name} comes before the end"));
            if event.name.as_deref() == Some(name) {
                return event.frame();
            }
        }
    }

    /// All events up to `caught_up`, by title.
    pub async fn replayed(&mut self) -> Vec<String> {
        let mut titles = Vec::new();
        loop {
            let event = self.next_event().await.expect("caught_up comes");
            match event.name.as_deref() {
                None => titles.push(event.title()),
                Some("caught_up") => return titles,
                Some("heartbeat") => {}
                Some(other) => panic!("{other} before caught_up"),
            }
        }
    }
}
