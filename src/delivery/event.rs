//! Holds a notification that is encoded once and shared by many connections.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use crate::domain::{Audience, MemberChange, Notification, NotificationId, Seq};
use crate::metrics;
use crate::wire::{member, server_frame};

/// A notification that is dispatched.
#[derive(Debug)]
pub struct SharedNotification {
    notification: Notification,
    /// The part of its frame that is the same for every client. It is encoded for the first client only, because most
    /// rows from other instances address no user of this one.
    tail: OnceLock<String>,
    /// Set for a membership change: no connection receives it, and the registry applies it.
    change: Option<MemberChange>,
}

impl SharedNotification {
    pub fn of(notification: Notification) -> Arc<Self> {
        let change = if notification.is_member_change() { change_of(&notification) } else { None };
        Arc::new(Self { notification, tail: OnceLock::new(), change })
    }

    /// An empty notification, for tests.
    #[cfg(test)]
    pub fn empty(seq: Seq, audience: crate::domain::Audience) -> Arc<Self> {
        let (kind, title, message) = ("t".to_owned(), String::new(), String::new());
        let (id, created_at, data) = (crate::domain::NotificationId::new(), chrono::Utc::now(), None);
        Self::of(Notification { seq, id, created_at, kind, title, message, data, audience, trace: None, posted: None })
    }

    /// A membership change, for tests.
    #[cfg(test)]
    pub fn change(seq: Seq, change: &MemberChange) -> Arc<Self> {
        let (id, created_at, data) = (NotificationId::new(), chrono::Utc::now(), Some(member::encode(change)));
        let (title, message, audience) = (String::new(), String::new(), Audience::no_user());
        Self::of(Notification {
            seq,
            id,
            created_at,
            kind: crate::domain::MEMBER_TYPE.to_owned(),
            title,
            message,
            data,
            audience,
            trace: None,
            posted: None,
        })
    }

    /// A placeholder for an unreadable row: its sequence number is dispatched, and no connection receives it.
    pub(super) fn for_no_user(seq: Seq, id: NotificationId) -> Arc<Self> {
        let (kind, title, message) = (String::new(), String::new(), String::new());
        let audience = Audience::no_user();
        Self::of(Notification {
            seq,
            id,
            created_at: chrono::Utc::now(),
            kind,
            title,
            message,
            data: None,
            audience,
            trace: None,
            posted: None,
        })
    }

    /// The membership change that the row makes.
    pub(super) fn member_change(&self) -> Option<&MemberChange> {
        self.change.as_ref()
    }

    /// Its memory cost in bytes: its texts, counted once as they are and once in the frame.
    pub fn weight(&self) -> usize {
        let Notification { kind, title, message, data, .. } = &self.notification;
        2 * (kind.len() + title.len() + message.len() + data.as_ref().map_or(0, String::len)) + 256
    }

    /// Notes that a connection was given it, for the time since its post. Rows from the table have none.
    pub(super) fn note_given(&self) {
        if let Some(posted) = self.posted {
            metrics::POST_TO_SOCKET_SECONDS.time_in(posted.elapsed(), self.trace.and_then(|trace| trace.recorded()));
        }
    }

    /// The frame for one client.
    pub fn frame(&self, prev: Seq, replayed: bool) -> String {
        let tail = self.tail.get_or_init(|| server_frame::notification_tail(&self.notification));
        server_frame::notification_frame(self.seq, prev, replayed, tail)
    }
}

/// A row of this type that is no change has no effect, in memory and in the table `recado.member`.
fn change_of(notification: &Notification) -> Option<MemberChange> {
    let change = notification.data.as_deref().and_then(member::parse);
    if change.is_none() {
        metrics::UNREADABLE.one();
        tracing::error!(seq = notification.seq.get(), "unreadable membership change in the log; passed over");
    }
    change
}

impl Deref for SharedNotification {
    type Target = Notification;

    fn deref(&self) -> &Notification {
        &self.notification
    }
}
