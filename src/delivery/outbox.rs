//! What waits for one connection: bounded, never blocking whoever puts in.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::event::Event;
use super::notices::{Notice, Notices};
use crate::wire::close::Close;

/// Most notifications that wait for one connection.
const MAX_EVENTS: usize = 1024;
/// Most bytes that wait for one connection. The events are shared; this bounds what one slow client keeps alive.
const MAX_BYTES: usize = 256 << 10;
/// Places that an empty outbox keeps, so that an event which comes alone allocates nothing: 32 bytes a connection.
const KEPT_PLACES: usize = 4;

/// Full means: drop everything and note it. The connection then reads from the table what it missed.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    overflowed: bool,
    close: Option<Ending>,
    /// Made when the first one comes: most connections never have one.
    notices: Option<Box<Notices>>,
}

/// An order to end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    pub close: Close,
    /// When the client should come back, in milliseconds from now.
    pub after_ms: u64,
}

/// What stands in an outbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub ending: Option<Ending>,
    pub notices: bool,
    pub events: bool,
    pub overflowed: bool,
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an event in; called by the registry, under its gate.
    pub(super) fn push(&self, event: &Arc<Event>) {
        let mut state = self.state();
        if state.overflowed {
            return;
        }
        if state.events.len() >= MAX_EVENTS || state.bytes + event.weight() > MAX_BYTES && !state.events.is_empty() {
            state.events = VecDeque::new();
            state.bytes = 0;
            state.overflowed = true;
        } else {
            state.bytes += event.weight();
            state.events.push_back(Arc::clone(event));
        }
        drop(state);
        self.wake.notify_one();
    }

    pub fn pop(&self) -> Option<Arc<Event>> {
        let mut state = self.state();
        let event = state.events.pop_front()?;
        state.bytes -= event.weight();
        if state.events.is_empty() && state.events.capacity() > KEPT_PLACES {
            // An idle connection keeps no buffer.
            state.events = VecDeque::new();
        }
        Some(event)
    }

    /// Looks at all that decides what comes next, at one moment.
    pub(super) fn look(&self) -> Look {
        let state = self.state();
        Look {
            ending: state.close,
            notices: state.notices.as_ref().is_some_and(|notices| !notices.is_empty()),
            events: !state.events.is_empty(),
            overflowed: state.overflowed,
        }
    }

    /// Nothing waits and nothing was dropped.
    pub fn is_clear(&self) -> bool {
        let state = self.state();
        state.events.is_empty() && !state.overflowed
    }

    pub fn overflowed(&self) -> bool {
        self.state().overflowed
    }

    /// Starts anew, empty; called by the registry, under its gate, when a new P is taken.
    pub(super) fn restart(&self) {
        let mut state = self.state();
        state.events = VecDeque::new();
        state.bytes = 0;
        state.overflowed = false;
    }

    /// Changes what waits beside the notifications, which no number orders.
    pub(super) fn notify(&self, change: impl FnOnce(&mut Notices)) {
        let mut state = self.state();
        let notices = state.notices.get_or_insert_default();
        change(notices);
        let waits = !notices.is_empty();
        drop(state);
        if waits {
            self.wake.notify_one();
        }
    }

    pub fn next_notice(&self) -> Option<Notice> {
        self.state().notices.as_mut()?.take()
    }

    /// Orders the connection to end. The first order counts.
    pub fn end(&self, ending: Ending) {
        self.state().close.get_or_insert(ending);
        self.wake.notify_one();
    }

    /// Returns when something has changed since the last call. Safe to drop and call again.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}
