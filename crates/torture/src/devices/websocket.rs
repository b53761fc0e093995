//! Implements a device by WebSocket.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::Rng;
use recado_testkit::ws::{WsRequest, WsSocket};
use recado_torture_check::fact::{FactSince, RunFact, StreamAsked};
use serde_json::Value;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use super::{Acks, CONNECT_LIMIT, LeaveCause, SILENCE, TortureDevice};
use crate::RunError;

impl TortureDevice {
    pub(super) async fn websocket(&mut self, hub: usize, asked: StreamAsked, leave: Instant) -> LeaveCause {
        let (mut socket, hello) = match timeout(CONNECT_LIMIT, self.dial(hub, &asked)).await {
            Ok(Ok(open)) => open,
            Ok(Err(error)) => return LeaveCause::Ended(error.to_string()),
            Err(_) => return LeaveCause::Ended("no answer".to_owned()),
        };
        let Some(conn) = self.opened(hub, asked, &hello) else { return LeaveCause::Ended(format!("not a greeting: {hello}")) };
        let left = self.listen(hub, conn, &mut socket, leave).await;
        self.closed(conn, &left);
        left
    }

    async fn dial(&mut self, hub: usize, asked: &StreamAsked) -> Result<(WsSocket, Value), RunError> {
        let address = self.floor.addresses[hub].clone();
        let ticket = if self.random.random_bool(0.15) { self.ticket(hub).await } else { None };
        let ack = if self.acks == Acks::Pong { "pong" } else { "client" };
        let mut request = WsRequest::to(&format!("/ws?{}ack={ack}&since={}", self.client_query(), since(&asked.since)));
        for (name, value) in [("log_id", &asked.log_id), ("last_id", &asked.last_id), ("ticket", &ticket)] {
            if let Some(value) = value {
                request = request.query(name, value);
            }
        }
        if ticket.is_none() {
            request = request.bearer(&self.token);
        }
        if self.is_slow {
            request = request.receive_buffer(4096);
        }
        Ok(request.greeted(address.parse()?).await?)
    }

    async fn listen(&mut self, hub: usize, conn: u64, socket: &mut WsSocket, leave: Instant) -> LeaveCause {
        let mut stride = self.random.random_range(1..30);
        let mut heard = Instant::now();
        loop {
            if self.gives_commands {
                self.command(socket).await;
            }
            // Looked at often: staying may begin at any time.
            let message = match timeout(Duration::from_millis(200), socket.next()).await {
                Ok(message) => message,
                Err(_) if self.wants_to_leave(leave) => return self.leave(socket).await,
                // Not even pings or heartbeats came.
                Err(_) if heard.elapsed() > SILENCE => return LeaveCause::Ended("silence".to_owned()),
                Err(_) => continue,
            };
            heard = Instant::now();
            match message {
                Some(Ok(Message::Text(text))) => {
                    if self.take(conn, &text) {
                        stride -= 1;
                        self.linger().await;
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    return LeaveCause::Ended(
                        frame.map_or_else(|| "closed".to_owned(), |frame| format!("{} {}", u16::from(frame.code), frame.reason)),
                    );
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return LeaveCause::Ended(error.to_string()),
                None => return LeaveCause::Ended("end".to_owned()),
            }
            if stride <= 0 {
                stride = self.random.random_range(1..60);
                self.acknowledge(hub, socket).await;
            }
            if self.wants_to_leave(leave) {
                return self.leave(socket).await;
            }
        }
    }

    /// Sends a command, now and then.
    async fn command(&mut self, socket: &mut WsSocket) {
        let is_last = self.floor.staying.load(Ordering::SeqCst);
        for said in self.commands.due(&self.floor.book, &mut self.random, is_last) {
            // A failure shows at the next read.
            let _ = timeout(CONNECT_LIMIT, socket.send(Message::text(said))).await;
        }
    }

    async fn acknowledge(&mut self, hub: usize, socket: &mut WsSocket) {
        match self.acks {
            Acks::Frames => {
                let seq = self.given;
                self.floor.book.note(RunFact::AckSent { device: self.name.clone(), seq });
                // A failure shows at the next read.
                let _ = timeout(CONNECT_LIMIT, socket.send(Message::text(format!("{{\"type\":\"ack\",\"seq\":{seq}}}")))).await;
            }
            Acks::Rest => self.ack_by_rest(hub).await,
            Acks::Pong | Acks::Never => {}
        }
    }

    /// Gets a ticket, as a page does that wants no token in a URL.
    async fn ticket(&self, hub: usize) -> Option<String> {
        let request = self.http.post(self.url(hub, "/api/ws-ticket")).bearer_auth(&self.token).timeout(CONNECT_LIMIT);
        let answer: Value = request.send().await.ok()?.error_for_status().ok()?.json().await.ok()?;
        let ticket = answer["ticket"].as_str()?.to_owned();
        self.floor.tickets.lock().unwrap_or_else(PoisonError::into_inner).push(ticket.clone());
        Some(ticket)
    }

    /// Leaves with or without a close frame.
    async fn leave(&mut self, socket: &mut WsSocket) -> LeaveCause {
        if self.random.random_bool(0.5) {
            let _ = timeout(Duration::from_secs(1), socket.close(None)).await;
        }
        LeaveCause::Wanted
    }

    /// Connects with a position of another log, which the hub must report. Uses a device of its own, for a moment.
    pub(super) async fn liar(&mut self, hub: usize) {
        let (Some((seq, _)), Some(log_id)) = (self.place.clone(), self.log_id.clone()) else { return };
        let asked = match self.random.random_range(0..3) {
            0 => StreamAsked { since: FactSince::Seq(seq), log_id: Some(Uuid::new_v4().to_string()), last_id: None },
            1 => StreamAsked { since: FactSince::Seq(seq + 1_000_000_000), log_id: Some(log_id), last_id: None },
            _ => StreamAsked { since: FactSince::Seq(seq), log_id: Some(log_id), last_id: Some(Uuid::new_v4().to_string()) },
        };
        if seq == 0 {
            return;
        }
        let client = self.client.replace("liar".to_owned());
        let dialled = timeout(CONNECT_LIMIT, self.dial(hub, &asked)).await;
        self.client = client;
        let Ok(Ok((_socket, hello))) = dialled else { return };
        let Some(told) = super::told(&hello) else { return };
        let (conn, device) = (self.floor.book.number(), format!("{}/liar", self.user));
        self.floor.book.note(RunFact::Liar { conn, device, asked, told });
    }
}

fn since(since: &FactSince) -> String {
    match since {
        FactSince::Ack => "ack".to_owned(),
        FactSince::Earliest => "earliest".to_owned(),
        FactSince::Seq(seq) => seq.to_string(),
    }
}
