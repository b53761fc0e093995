//! Queues the messages of a provider session for the log, in order.

use std::time::Duration;

use chrono::Utc;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::ProviderSession;
use crate::domain::{IdempotencyKey, NewNotification};
use crate::metrics;
use crate::providers::mailbox::MESSAGES_UNDER_WAY;
use crate::providers::message_appender::MessageHandle;

/// How long an ending session waits for its last messages to be in the log.
const LAST_MESSAGES: Duration = Duration::from_secs(2);

impl ProviderSession {
    pub(super) fn append(&mut self) {
        let Some(text) = self.message.take() else { return };
        let lease = &self.mailbox.lease;
        let mut notification = self.provider.messages.notification(&lease.provider, &lease.user, &text);
        let bytes = notification.data.as_ref().map_or(0, String::len);
        if bytes > self.provider.messages.max_bytes {
            metrics::UPSTREAM_TOO_LARGE.one();
            tracing::warn!(
                session = ?lease,
                bytes,
                max_bytes = self.provider.messages.max_bytes,
                "provider message is too large for the log; the user gets upstream_gap instead"
            );
            notification = self.provider.gap_for_too_large(&lease.user, Utc::now(), bytes);
        }
        self.mailbox.heard_a_message();
        self.record(notification);
    }

    /// If there was a connection before this one, appends a notification that messages in between may be missing,
    /// before the messages of this connection.
    pub(super) fn append_gap(&mut self) {
        let now = Utc::now();
        let Some(since) = self.heard_at.replace(now) else { return };
        let lease = &self.mailbox.lease;
        let gap = self.provider.gap(&lease.user, since, now);
        self.record(gap);
    }

    /// Queues a notification for the log, in order, also while an earlier one waits for room.
    fn record(&mut self, mut notification: NewNotification) {
        let lease = &self.mailbox.lease;
        self.counter += 1;
        notification.key = Some(IdempotencyKey::of_message(&lease.provider, &lease.user, lease.term, self.counter));
        let appender = &self.shared.recorder;
        if let Some(earlier) = self.placing.take() {
            let (appender, waiting) = (appender.clone(), MessageHandle::waiting(notification, &self.mailbox));
            let after = earlier.then(move |()| appender.record_when_there_is_room(waiting));
            self.placing = Some(after.boxed());
        } else if let Err(waiting) = appender.record(notification, &self.mailbox) {
            self.placing = Some(appender.clone().record_when_there_is_room(waiting).boxed());
        }
    }

    pub(super) async fn until_appended(&mut self) {
        let all = u32::try_from(MESSAGES_UNDER_WAY).unwrap_or(u32::MAX);
        let recorded = async {
            finished_if_any(&mut self.placing).await;
            drop(self.mailbox.room.acquire_many(all).await);
        };
        if timeout(LAST_MESSAGES, recorded).await.is_err() {
            tracing::warn!(session = ?self.mailbox.lease, "provider session ended before its last messages were in the log");
        }
    }
}

async fn finished_if_any(work: &mut Option<BoxFuture<'static, ()>>) {
    if let Some(work) = work {
        work.await;
    }
}
