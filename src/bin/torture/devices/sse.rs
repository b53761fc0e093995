//! A device by EventSource: remembers the id of the last event, and comes back with it.

use std::time::Duration;

use rand::Rng;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::{Acks, CONNECT_LIMIT, Device, Left, SILENCE};
use crate::fact::{Asked, Since};

/// What stands between two empty lines.
#[derive(Default)]
struct Block {
    name: Option<String>,
    id: Option<i64>,
    data: Option<String>,
}

impl Block {
    fn parse(text: &str) -> Self {
        let mut block = Self::default();
        for line in text.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => block.name = Some(value.to_owned()),
                "id" => block.id = value.parse().ok(),
                "data" => match &mut block.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => block.data = Some(value.to_owned()),
                },
                _ => {}
            }
        }
        block
    }
}

/// A body that goes on.
pub(super) struct Source {
    response: reqwest::Response,
    unread: Vec<u8>,
}

impl Source {
    pub(super) fn of(response: reqwest::Response) -> Self {
        Self { response, unread: Vec::new() }
    }

    /// What stands before the next `end`. Safe to drop: what was read stays in `unread`.
    pub(super) async fn piece(&mut self, end: &[u8]) -> Result<Option<String>, reqwest::Error> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|bytes| bytes == end) {
                let text: Vec<u8> = self.unread.drain(..at + end.len()).collect();
                return Ok(Some(String::from_utf8_lossy(&text).into_owned()));
            }
            match self.response.chunk().await? {
                Some(chunk) => self.unread.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }

    async fn next(&mut self) -> Result<Option<Block>, reqwest::Error> {
        Ok(self.piece(b"\n\n").await?.map(|text| Block::parse(&text)))
    }
}

impl Device {
    pub(super) async fn event_source(&mut self, hub: usize, asked: Asked, leave: Instant) -> Left {
        let mut url = self.url(hub, &format!("/api/notifications/stream?client_id={}", self.client));
        let mut last_event = None;
        match &asked.since {
            Since::Ack => {}
            Since::Earliest => url.push_str("&since=earliest"),
            Since::Seq(seq) if asked.log_id.is_none() => last_event = Some(seq.to_string()),
            Since::Seq(seq) => {
                url.push_str(&format!("&since={seq}"));
                url.extend(asked.log_id.iter().map(|id| format!("&log_id={id}")));
                url.extend(asked.last_id.iter().map(|id| format!("&last_id={id}")));
            }
        }
        let mut request = self.http.get(url).bearer_auth(&self.token);
        if let Some(last_event) = last_event {
            request = request.header("last-event-id", last_event);
        }
        let response = match timeout(CONNECT_LIMIT, request.send()).await {
            Ok(Ok(response)) if response.status() == 200 => response,
            Ok(Ok(response)) => return Left::Ended(response.status().to_string()),
            Ok(Err(error)) => return Left::Ended(error.without_url().to_string()),
            Err(_) => return Left::Ended("no answer".to_owned()),
        };
        let mut source = Source::of(response);
        let hello = loop {
            match timeout(CONNECT_LIMIT, source.next()).await {
                Ok(Ok(Some(block))) => match block.data.map(|data| serde_json::from_str::<Value>(&data)) {
                    Some(Ok(hello)) => break hello,
                    _ => continue,
                },
                _ => return Left::Ended("no greeting".to_owned()),
            }
        };
        let Some(conn) = self.opened(hub, asked, &hello) else { return Left::Ended(format!("not a greeting: {hello}")) };
        let left = self.read(hub, conn, &mut source, leave).await;
        self.closed(conn, &left);
        left
    }

    async fn read(&mut self, hub: usize, conn: u64, source: &mut Source, leave: Instant) -> Left {
        let mut stride = self.random.random_range(1..30);
        let mut heard = Instant::now();
        loop {
            let block = match timeout(Duration::from_millis(200), source.next()).await {
                Ok(Ok(Some(block))) => block,
                Ok(Ok(None)) => return Left::Ended("end".to_owned()),
                Ok(Err(error)) => return Left::Ended(error.without_url().to_string()),
                Err(_) if self.wants_to_leave(leave) => return Left::Wanted,
                Err(_) if heard.elapsed() > SILENCE => return Left::Ended("silence".to_owned()),
                Err(_) => continue,
            };
            heard = Instant::now();
            match (&block.data, block.id) {
                (Some(data), _) => {
                    if self.take(conn, data) {
                        stride -= 1;
                        self.linger().await;
                    }
                }
                (None, Some(seq)) => self.pass(conn, seq, None, true),
                (None, None) => {}
            }
            if block.name.as_deref() == Some("goodbye") {
                return Left::Ended("goodbye".to_owned());
            }
            if stride <= 0 {
                stride = self.random.random_range(1..60);
                if self.acks == Acks::Rest {
                    self.ack_by_rest(hub).await;
                }
            }
            if self.wants_to_leave(leave) {
                return Left::Wanted;
            }
        }
    }
}
