//! Passes to the outbox relay what NOTIFY says about the outbox.
//!
//! The listener of this hub writes, the relay reads. A call that arrives while the relay polls is forgotten when the
//! relay announces its sleep: the relay polls on after that, so it misses nothing.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::Notify;

/// The channel on which callers of `recado.notify` wake a relay, and on which a relay announces its sleep.
pub const CHANNEL: &str = "recado_outbox";

/// No announcement was heard. Numbers of relays are above 1.
const NONE: i64 = 0;

/// What was heard on the channel.
#[derive(Debug, Default)]
pub struct OutboxCalls {
    called: Notify,
    announced: AtomicI64,
}

impl OutboxCalls {
    /// Takes the payload of a NOTIFY: the number of a relay that is going to sleep, or nothing for a call.
    pub fn heard(&self, payload: &str) {
        match payload.parse() {
            Ok(number) => self.announced.store(number, Ordering::Release),
            // A call, or a payload of any other database client: a reason to look, and nothing else.
            Err(_) => self.called.notify_one(),
        }
    }

    /// The connection that listened is lost, and a call may be lost with it.
    pub fn lost(&self) {
        self.announced.store(NONE, Ordering::Release);
        self.called.notify_one();
    }

    /// Forgets what was heard so far.
    pub async fn forget(&self) {
        self.announced.store(NONE, Ordering::Release);
        // At most one call is stored; this takes it, and waits for no other.
        tokio::select! {
            biased;
            () = self.called.notified() => {}
            () = std::future::ready(()) => {}
        }
    }

    /// Waits for a call.
    pub async fn called(&self) {
        self.called.notified().await;
    }

    /// Whether the announcement with this number was heard since [`OutboxCalls::forget`]. It proves that the calls
    /// after it are heard, too: they arrive on the same connection.
    pub fn has_heard(&self, number: i64) -> bool {
        self.announced.load(Ordering::Acquire) == number
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_call_is_kept_until_it_is_taken_or_forgotten() {
        let calls = OutboxCalls::default();
        calls.heard("");
        calls.heard("");
        assert!(calls.called().now_or_never().is_some());
        assert!(calls.called().now_or_never().is_none(), "two calls wake once");
        calls.heard("");
        calls.forget().await;
        assert!(calls.called().now_or_never().is_none());
    }

    #[tokio::test]
    async fn an_announcement_wakes_nobody_and_is_lost_with_its_connection() {
        let calls = OutboxCalls::default();
        calls.heard("7");
        assert!(calls.has_heard(7) && !calls.has_heard(8));
        assert!(calls.called().now_or_never().is_none());
        calls.lost();
        assert!(!calls.has_heard(7));
        assert!(calls.called().now_or_never().is_some(), "a call may have been lost");
        calls.heard("7");
        calls.forget().await;
        assert!(!calls.has_heard(7), "an earlier announcement says nothing about the next one");
    }
}
