//! Implements a program that follows its history as NDJSON.
//!
//! It gets the frames of a WebSocket, one a line, after the position that it keeps itself.

use std::time::Duration;

use recado_torture_check::fact::{FactSince, StreamAsked};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::sse::EventStreamBody;
use super::{CONNECT_LIMIT, LeaveCause, SILENCE, TortureDevice};

impl TortureDevice {
    pub(super) async fn lines(&mut self, hub: usize, asked: StreamAsked, leave: Instant) -> LeaveCause {
        let FactSince::Seq(after) = asked.since else { return LeaveCause::Wanted };
        let mut url = self.url(hub, &format!("/api/notifications?follow=1&after={after}"));
        url.extend(asked.log_id.iter().map(|id| format!("&log_id={id}")));
        let asked = StreamAsked { last_id: None, ..asked };
        let response = match timeout(CONNECT_LIMIT, self.http.get(url).bearer_auth(&self.token).send()).await {
            Ok(Ok(response)) if response.status() == 200 => response,
            Ok(Ok(response)) => return LeaveCause::Ended(response.status().to_string()),
            Ok(Err(error)) => return LeaveCause::Ended(error.without_url().to_string()),
            Err(_) => return LeaveCause::Ended("no answer".to_owned()),
        };
        let mut source = EventStreamBody::of(response);
        let hello = match timeout(CONNECT_LIMIT, source.piece(b"\n")).await {
            Ok(Ok(Some(line))) => serde_json::from_str::<Value>(&line).unwrap_or_default(),
            _ => return LeaveCause::Ended("no greeting".to_owned()),
        };
        let Some(conn) = self.opened(hub, asked, &hello) else { return LeaveCause::Ended(format!("not a greeting: {hello}")) };
        let left = self.follow(conn, &mut source, leave).await;
        self.closed(conn, &left);
        left
    }

    async fn follow(&mut self, conn: u64, source: &mut EventStreamBody, leave: Instant) -> LeaveCause {
        let mut heard = Instant::now();
        loop {
            let line = match timeout(Duration::from_millis(200), source.piece(b"\n")).await {
                Ok(Ok(Some(line))) => line,
                Ok(Ok(None)) => return LeaveCause::Ended("end".to_owned()),
                Ok(Err(error)) => return LeaveCause::Ended(error.without_url().to_string()),
                Err(_) if self.wants_to_leave(leave) => return LeaveCause::Wanted,
                Err(_) if heard.elapsed() > SILENCE => return LeaveCause::Ended("silence".to_owned()),
                Err(_) => continue,
            };
            heard = Instant::now();
            if self.take(conn, line.trim_end()) {
                self.linger().await;
            }
            if self.wants_to_leave(leave) {
                return LeaveCause::Wanted;
            }
        }
    }
}
