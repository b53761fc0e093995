//! A notification on its way to many clients: encoded once, shared by all.

use std::sync::Arc;

use crate::domain::{Audience, Notification, Seq};
use crate::wire::server;

/// What is published. The tail of its frame is the same for every client.
#[derive(Debug)]
pub struct Event {
    pub seq: Seq,
    pub audience: Audience,
    tail: String,
}

impl Event {
    pub fn of(notification: &Notification) -> Arc<Self> {
        Arc::new(Self { seq: notification.seq, audience: notification.audience.clone(), tail: server::notification_tail(notification) })
    }

    /// What it costs to hold, in bytes.
    pub fn weight(&self) -> usize {
        self.tail.len() + 64
    }

    /// The frame for one client.
    pub fn frame(&self, prev: Seq, replayed: bool) -> String {
        server::notification_frame(self.seq, prev, replayed, &self.tail)
    }
}
