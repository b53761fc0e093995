//! Asks a WebSocket's client for acknowledgements, by pings that it answers by itself.

use std::time::Duration;

use axum::extract::ws::Message;
use tokio::time::Instant;

use super::WebSocketTask;
use crate::delivery::send_queue::direct::PingPlan;
use crate::domain::Seq;
use crate::http::stream_request::AckMode;
use crate::http::websocket_io::CloseCause;

/// A pong acknowledges only if its connection is still open after this time. A page that is being closed still
/// answers pings for some milliseconds, but shows nothing any more. Below the spacing of pings, so that each pong
/// counts before the next.
const PONG_SETTLES: Duration = Duration::from_millis(500);
/// Minimum time between two pings that only ask for an acknowledgement.
const ACK_PING_SPACING: Duration = Duration::from_secs(1);

impl WebSocketTask {
    /// Sends a ping of its own: after a broadcast that is not acknowledged yet, or because another connection of the
    /// device has begun.
    pub(super) async fn send_due_ping(&mut self) -> Result<(), CloseCause> {
        if self.subscription.take_probe() {
            self.ping().await?;
        } else if self.subscription.is_unconfirmed() && self.settling.is_none_or(|(seq, _)| seq < self.subscription.delivered()) {
            self.ask_for_ack().await?;
            self.frames.flush().await?;
        }
        Ok(())
    }

    /// Sends a ping together with the frames just written, unless one is on its way or was sent a moment ago.
    pub(super) async fn ask_for_ack(&mut self) -> Result<(), CloseCause> {
        if self.ack_mode == AckMode::Client || self.pinged.is_some() {
            return Ok(());
        }
        let due = self.last_ping.map_or_else(Instant::now, |at| at + ACK_PING_SPACING);
        if due <= Instant::now() {
            self.feed_ping().await
        } else {
            self.ping_at = Some(due);
            Ok(())
        }
    }

    /// Which ping is needed for a row that is written past this task.
    pub(super) fn ping_plan(&self) -> PingPlan {
        if self.ack_mode == AckMode::Client || self.pinged.is_some() || self.ping_at.is_some() {
            return PingPlan::NotNeeded;
        }
        let from = self.last_ping.map_or_else(Instant::now, |at| at + ACK_PING_SPACING);
        PingPlan::Due { from, above: self.settling.map_or(Seq::ZERO, |(seq, _)| seq) }
    }

    /// Sends a ping, unless one is on its way, together with the frames just written.
    pub(super) async fn ping(&mut self) -> Result<(), CloseCause> {
        if self.pinged.is_none() {
            self.feed_ping().await?;
        }
        self.frames.flush().await
    }

    async fn feed_ping(&mut self) -> Result<(), CloseCause> {
        let seq = self.subscription.delivered();
        let now = Instant::now();
        self.ping_at = None;
        self.last_ping = Some(now);
        self.pinged = Some((seq, now));
        // The pong says that the client has every delivered frame, so none may still wait here.
        self.feed_collected().await?;
        self.frames.feed(Message::Ping(seq.to_string().into_bytes().into())).await
    }

    pub(super) fn pong(&mut self, payload: &[u8]) {
        let Some((seq, _)) = self.pinged else { return };
        // An unsolicited pong, or an old one.
        if payload != seq.to_string().as_bytes() {
            return;
        }
        self.pinged = None;
        self.subscription.connection().touch();
        if self.ack_mode == AckMode::Pong {
            let now = Instant::now();
            if self.settling.is_some_and(|(_, at)| now >= at) {
                self.settle();
            }
            // Most pings are heartbeats, with nothing sent since the last one. A timer for them would wake every task.
            if seq > self.subscription.connection().acked() {
                self.settling = Some((seq, now + PONG_SETTLES));
            }
            if self.subscription.delivered() > seq {
                self.ping_at = self.last_ping.map(|at| at + ACK_PING_SPACING);
            }
        }
    }

    pub(super) fn settle(&mut self) {
        if let Some((seq, _)) = self.settling.take() {
            self.subscription.pong(seq);
        }
    }
}
