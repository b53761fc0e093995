//! A notification on its way to many clients: encoded once, shared by all.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use crate::domain::{Notification, Seq};
use crate::wire::server;

/// What is published.
#[derive(Debug)]
pub struct Event {
    notification: Notification,
    /// The tail of its frame, the same for every client. Made for the first of them: most of what other instances take
    /// concerns nobody who is connected here.
    tail: OnceLock<String>,
}

impl Event {
    pub fn of(notification: Notification) -> Arc<Self> {
        Arc::new(Self { notification, tail: OnceLock::new() })
    }

    /// One that says nothing, for tests.
    #[cfg(test)]
    pub fn empty(seq: Seq, audience: crate::domain::Audience) -> Arc<Self> {
        let (kind, title, message) = ("t".to_owned(), String::new(), String::new());
        let (id, created_at, data) = (crate::domain::NotificationId::new(), chrono::Utc::now(), None);
        Self::of(Notification { seq, id, created_at, kind, title, message, data, audience })
    }

    /// What it costs to hold, in bytes: its texts, once as they are and once in the frame.
    pub fn weight(&self) -> usize {
        let Notification { kind, title, message, data, .. } = &self.notification;
        2 * (kind.len() + title.len() + message.len() + data.as_ref().map_or(0, String::len)) + 256
    }

    /// The frame for one client.
    pub fn frame(&self, prev: Seq, replayed: bool) -> String {
        let tail = self.tail.get_or_init(|| server::notification_tail(&self.notification));
        server::notification_frame(self.seq, prev, replayed, tail)
    }
}

impl Deref for Event {
    type Target = Notification;

    fn deref(&self) -> &Notification {
        &self.notification
    }
}
