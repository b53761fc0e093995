//! A program that follows the history by lines: the frames of a WebSocket, one a line, from the place that it keeps itself.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::sse::Source;
use super::{CONNECT_LIMIT, Device, Left, SILENCE};
use crate::fact::{Asked, Since};

impl Device {
    pub(super) async fn lines(&mut self, hub: usize, asked: Asked, leave: Instant) -> Left {
        let Since::Seq(after) = asked.since else { return Left::Wanted };
        let mut url = self.url(hub, &format!("/api/notifications?follow=1&after={after}"));
        url.extend(asked.log_id.iter().map(|id| format!("&log_id={id}")));
        let asked = Asked { last_id: None, ..asked };
        let response = match timeout(CONNECT_LIMIT, self.http.get(url).bearer_auth(&self.token).send()).await {
            Ok(Ok(response)) if response.status() == 200 => response,
            Ok(Ok(response)) => return Left::Ended(response.status().to_string()),
            Ok(Err(error)) => return Left::Ended(error.without_url().to_string()),
            Err(_) => return Left::Ended("no answer".to_owned()),
        };
        let mut source = Source::of(response);
        let hello = match timeout(CONNECT_LIMIT, source.piece(b"\n")).await {
            Ok(Ok(Some(line))) => serde_json::from_str::<Value>(&line).unwrap_or_default(),
            _ => return Left::Ended("no greeting".to_owned()),
        };
        let Some(conn) = self.opened(hub, asked, &hello) else { return Left::Ended(format!("not a greeting: {hello}")) };
        let left = self.follow(conn, &mut source, leave).await;
        self.closed(conn, &left);
        left
    }

    async fn follow(&mut self, conn: u64, source: &mut Source, leave: Instant) -> Left {
        let mut heard = Instant::now();
        loop {
            let line = match timeout(Duration::from_millis(200), source.piece(b"\n")).await {
                Ok(Ok(Some(line))) => line,
                Ok(Ok(None)) => return Left::Ended("end".to_owned()),
                Ok(Err(error)) => return Left::Ended(error.without_url().to_string()),
                Err(_) if self.wants_to_leave(leave) => return Left::Wanted,
                Err(_) if heard.elapsed() > SILENCE => return Left::Ended("silence".to_owned()),
                Err(_) => continue,
            };
            heard = Instant::now();
            if self.take(conn, line.trim_end()) {
                self.linger().await;
            }
            if self.wants_to_leave(leave) {
                return Left::Wanted;
            }
        }
    }
}
