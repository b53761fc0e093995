//! A page with an `EventSource` (WHATWG HTML, "Server-sent events"): reads as a browser does, and remembers what one remembers.

use serde_json::Value;
use tokio::time::timeout;

use super::hub::token;
use super::{Hub, PATIENCE, matches_document};

/// What a page opens, and its token.
#[derive(Clone)]
pub struct Page {
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
}

impl Page {
    /// The stream of a user, the token in the query, as a browser has to.
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

    async fn send(&self, hub: &Hub) -> reqwest::Response {
        let client = reqwest::Client::builder().build().unwrap();
        let mut request = client.get(format!("http://{}{}", hub.address, self.target()));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        timeout(PATIENCE, request.send()).await.expect("an answer comes").expect("the hub answers")
    }

    /// Opens it, and takes the first event.
    pub async fn open(&self, hub: &Hub) -> EventSource {
        let response = self.send(hub).await;
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(header("content-type").as_deref(), Some("text/event-stream"));
        assert_eq!(header("cache-control").as_deref(), Some("no-store"));
        let mut source = EventSource { response, unread: String::new(), last_event_id: String::new(), retry: None, hello: Value::Null };
        let hello = source.named("connection_established").await;
        source.hello = hello;
        source
    }

    /// Comes back, as a browser does: with what it was given last.
    pub async fn open_again(&self, hub: &Hub, last_event_id: &str) -> EventSource {
        self.clone().header("last-event-id", last_event_id).open(hub).await
    }

    /// The status and the code of a refusal.
    pub async fn refused(&self, hub: &Hub) -> (u16, String) {
        let response = self.send(hub).await;
        let status = response.status().as_u16();
        assert_ne!(status, 200, "{}", self.target());
        let body = response.text().await.unwrap();
        matches_document("GET", &self.path, status, Some("application/problem+json"), &body);
        let problem: Value = serde_json::from_str(&body).unwrap();
        (status, problem["code"].as_str().unwrap().to_owned())
    }
}

/// What stands between two empty lines.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Block {
    pub name: Option<String>,
    pub id: Option<String>,
    /// As the page gets it: the lines of data joined with line feeds. `None`: nothing is dispatched.
    pub data: Option<String>,
}

impl Block {
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
    /// What the browser would come back with.
    pub last_event_id: String,
    /// How long the browser would wait before it comes back, in milliseconds.
    pub retry: Option<u64>,
    pub hello: Value,
}

impl EventSource {
    /// The next block, whatever it is; `None` at the end of the stream.
    pub async fn next_block(&mut self) -> Option<Block> {
        let end = loop {
            if let Some(end) = self.unread.find("\n\n") {
                break end;
            }
            let chunk = timeout(PATIENCE, self.response.chunk()).await.expect("something comes").unwrap_or(None)?;
            let text = std::str::from_utf8(&chunk).expect("a piece ends with a whole character");
            assert!(!text.contains('\r'), "a line's end that is none of ours: {text:?}");
            self.unread.push_str(text);
        };
        let text: String = self.unread.drain(..end + 2).collect();
        let mut block = Block::default();
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
        Some(block)
    }

    /// The next event that a page would see.
    pub async fn next_event(&mut self) -> Option<Block> {
        loop {
            let block = self.next_block().await?;
            if block.data.is_some() {
                return Some(block);
            }
        }
    }

    /// What `onmessage` gets next.
    pub async fn message(&mut self) -> Block {
        loop {
            let event = self.next_event().await.expect("the stream goes on");
            if event.name.is_none() {
                return event;
            }
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

    /// Everything up to `caught_up`, by title.
    pub async fn replayed(&mut self) -> Vec<String> {
        let mut titles = Vec::new();
        loop {
            let event = self.next_event().await.expect("caught_up comes");
            match event.name.as_deref() {
                None => titles.push(event.title()),
                Some("caught_up") => return titles,
                Some(other) => panic!("{other} before caught_up"),
            }
        }
    }
}
