//! Says who holds a request: its caller, who may still give up, or the database, which may have it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const QUEUED: u8 = 0;
const SENT: u8 = 1;
const GIVEN_UP: u8 = 2;

/// One state, shared by the caller and the appender. Each step is one atomic exchange, so that a caller who was told
/// "not appended" is never appended afterwards.
#[derive(Debug, Clone, Default)]
pub struct Custody(Arc<AtomicU8>);

impl Custody {
    /// The appender is about to send the request. False when the caller has given up.
    pub fn send(&self) -> bool {
        self.step(QUEUED, SENT)
    }

    /// The database certainly rolled the request back, or it was not sent after all.
    pub fn take_back(&self) {
        self.step(SENT, QUEUED);
    }

    /// The caller waits no longer. True when the request was certainly not appended.
    pub fn give_up(&self) -> bool {
        self.step(QUEUED, GIVEN_UP)
    }

    fn step(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_given_up_is_not_sent_and_one_that_was_sent_cannot_be_given_up() {
        let custody = Custody::default();
        assert!(custody.send());
        assert!(!custody.give_up(), "the database may have it");
        custody.take_back();
        assert!(custody.give_up(), "it was rolled back");
        assert!(!custody.send());
    }
}
