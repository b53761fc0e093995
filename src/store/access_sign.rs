//! Saves the access watch its own reads while the tailer finds that nothing has changed.
//!
//! The tailer reads the end of the log once a second in any case, and gets the revision of the access changes with it.
//! The access watch reads by itself as soon as this is not fresh, so the tailer may fail without an effect on it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::access::AccessRevision;

/// The access changes as of one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessStanding {
    pub revision: AccessRevision,
    /// A newer token waits for a stream of this hub.
    pub has_renewals: bool,
}

/// What the tailer has seen last. Written by the tailer, read by the access watch.
#[derive(Debug)]
pub struct AccessSign {
    latest: Mutex<Option<(AccessStanding, Instant)>>,
    changed: Arc<Notify>,
}

impl AccessSign {
    /// `changed` is notified when the access watch has something to read.
    pub fn new(changed: Arc<Notify>) -> Self {
        Self { latest: Mutex::new(None), changed }
    }

    /// Takes what a statement found that was sent at `asked_at`.
    pub fn seen(&self, standing: AccessStanding, asked_at: Instant) {
        let before = self.latest.lock().unwrap_or_else(PoisonError::into_inner).replace((standing, asked_at));
        if standing.has_renewals || before.is_some_and(|(before, _)| before.revision != standing.revision) {
            self.changed.notify_one();
        }
    }

    /// When it was last known that nothing follows `revision`; `None` if that is not known.
    pub fn confirmed(&self, revision: AccessRevision) -> Option<Instant> {
        let latest = *self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.filter(|(standing, _)| standing.revision == revision && !standing.has_renewals).map(|(_, asked_at)| asked_at)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn only_a_change_and_a_renewal_notify_and_neither_confirms() {
        let changed = Arc::new(Notify::new());
        let sign = AccessSign::new(Arc::clone(&changed));
        let (first, second) = (AccessRevision::of_test(1), AccessRevision::of_test(2));
        let now = Instant::now();
        for (revision, has_renewals, notifies) in
            [(first, false, false), (first, false, false), (second, false, true), (second, true, true), (second, false, false)]
        {
            sign.seen(AccessStanding { revision, has_renewals }, now);
            assert_eq!(changed.notified().now_or_never().is_some(), notifies, "{revision:?} {has_renewals}");
            assert_eq!(sign.confirmed(revision), (!has_renewals).then_some(now));
        }
        assert_eq!(sign.confirmed(first), None, "another revision was seen");
    }
}
