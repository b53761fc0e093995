//! Holds a notification that is encoded once and shared by many connections.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use crate::domain::{Audience, MemberChange, Notification, NotificationId, Recount, Seq};
use crate::metrics;
use crate::wire::server_frame::{self, InboxMarks};
use crate::wire::{inbox, member};

/// A notification that is dispatched.
#[derive(Debug)]
pub struct SharedNotification {
    notification: Notification,
    /// The part of its frame that is the same for every client. It is encoded for the first client only, because most
    /// rows from other instances address no user of this one.
    tail: OnceLock<String>,
    /// Set for a membership change: no connection receives it, and the registry applies it.
    change: Option<MemberChange>,
    /// Set for a row that says that items are gone: no connection receives it, and the registry notes it.
    recount: Option<Recount>,
}

impl SharedNotification {
    pub fn of(notification: Notification) -> Arc<Self> {
        let change = if notification.is_member_change() { change_of(&notification) } else { None };
        let recount = if notification.is_recount() { recount_of(&notification) } else { None };
        Arc::new(Self { notification, tail: OnceLock::new(), change, recount })
    }

    /// An empty notification, for tests.
    #[cfg(test)]
    pub fn empty(seq: Seq, audience: crate::domain::Audience) -> Arc<Self> {
        let (kind, title, message) = ("t".to_owned(), String::new(), String::new());
        let (id, created_at, data) = (crate::domain::NotificationId::new(), chrono::Utc::now(), None);
        Self::of(Notification { seq, id, created_at, kind, title, message, data, audience, is_item: false, trace: None, posted: None })
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
            is_item: false,
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
            is_item: false,
            trace: None,
            posted: None,
        })
    }

    /// The membership change that the row makes.
    pub(super) fn member_change(&self) -> Option<&MemberChange> {
        self.change.as_ref()
    }

    /// What the row says of items that are gone.
    pub(super) fn recount(&self) -> Option<Recount> {
        self.recount
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

    /// The frame for one client. `inbox`: what it tells a client with an inbox.
    pub fn frame(&self, prev: Seq, replayed: bool, inbox: InboxMarks) -> String {
        let tail = self.tail.get_or_init(|| server_frame::notification_tail(&self.notification));
        server_frame::notification_frame(self.seq, prev, replayed, inbox, tail)
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

fn recount_of(notification: &Notification) -> Option<Recount> {
    let recount = notification.data.as_deref().and_then(|data| inbox::parse_recount(notification.seq, data));
    if recount.is_none() {
        metrics::UNREADABLE.one();
        tracing::error!(seq = notification.seq.get(), "unreadable recount in the log; passed over");
    }
    recount
}

impl Deref for SharedNotification {
    type Target = Notification;

    fn deref(&self) -> &Notification {
        &self.notification
    }
}
