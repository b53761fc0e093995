//! Implements a device by EventSource, which reconnects with the id of its last event.

use std::time::Duration;

use rand::Rng;
use recado_torture_check::fact::{FactSince, StreamAsked};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::{Acks, CONNECT_LIMIT, LeaveCause, SILENCE, TortureDevice};

/// The lines between two empty lines.
#[derive(Default)]
struct EventBlock {
    name: Option<String>,
    id: Option<i64>,
    data: Option<String>,
}

impl EventBlock {
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

/// A streamed body.
pub(super) struct EventStreamBody {
    response: reqwest::Response,
    unread: Vec<u8>,
}

impl EventStreamBody {
    pub(super) fn of(response: reqwest::Response) -> Self {
        Self { response, unread: Vec::new() }
    }

    /// The text before the next `end`. Cancel-safe: bytes that were read stay in `unread`.
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

    async fn next(&mut self) -> Result<Option<EventBlock>, reqwest::Error> {
        Ok(self.piece(b"\n\n").await?.map(|text| EventBlock::parse(&text)))
    }
}

impl TortureDevice {
    pub(super) async fn event_source(&mut self, hub: usize, asked: StreamAsked, leave: Instant) -> LeaveCause {
        let mut url = self.url(hub, &format!("/api/notifications/stream?{}", self.client_query()));
        let mut last_event = None;
        match &asked.since {
            FactSince::Ack => {}
            FactSince::Earliest => url.push_str("since=earliest"),
            FactSince::Seq(seq) if asked.log_id.is_none() => last_event = Some(seq.to_string()),
            FactSince::Seq(seq) => {
                url.push_str(&format!("since={seq}"));
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
            Ok(Ok(response)) => return LeaveCause::Ended(response.status().to_string()),
            Ok(Err(error)) => return LeaveCause::Ended(error.without_url().to_string()),
            Err(_) => return LeaveCause::Ended("no answer".to_owned()),
        };
        let mut source = EventStreamBody::of(response);
        let hello = loop {
            match timeout(CONNECT_LIMIT, source.next()).await {
                Ok(Ok(Some(block))) => match block.data.map(|data| serde_json::from_str::<Value>(&data)) {
                    Some(Ok(hello)) => break hello,
                    _ => continue,
                },
                _ => return LeaveCause::Ended("no greeting".to_owned()),
            }
        };
        let Some(conn) = self.opened(hub, asked, &hello) else { return LeaveCause::Ended(format!("not a greeting: {hello}")) };
        let left = self.read(hub, conn, &mut source, leave).await;
        self.closed(conn, &left);
        left
    }

    async fn read(&mut self, hub: usize, conn: u64, source: &mut EventStreamBody, leave: Instant) -> LeaveCause {
        let mut stride = self.random.random_range(1..30);
        let mut heard = Instant::now();
        loop {
            let block = match timeout(Duration::from_millis(200), source.next()).await {
                Ok(Ok(Some(block))) => block,
                Ok(Ok(None)) => return LeaveCause::Ended("end".to_owned()),
                Ok(Err(error)) => return LeaveCause::Ended(error.without_url().to_string()),
                Err(_) if self.wants_to_leave(leave) => return LeaveCause::Wanted,
                Err(_) if heard.elapsed() > SILENCE => return LeaveCause::Ended("silence".to_owned()),
                Err(_) => continue,
            };
            heard = Instant::now();
            // A block without data is not a frame, and is recorded as a violation: parsers report it as an empty
            // message.
            if self.take(conn, block.data.as_deref().unwrap_or_default()) {
                stride -= 1;
                self.linger().await;
            }
            if block.name.as_deref() == Some("goodbye") {
                return LeaveCause::Ended("goodbye".to_owned());
            }
            if stride <= 0 {
                stride = self.random.random_range(1..60);
                if self.acks == Acks::Rest {
                    self.ack_by_rest(hub).await;
                }
            }
            if self.wants_to_leave(leave) {
                return LeaveCause::Wanted;
            }
        }
    }
}
