//! What waits for one connection: bounded, never blocking whoever puts in.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

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
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    overflowed: bool,
    close: Option<Ending>,
    /// Made when the first one comes: most connections never have one.
    notices: Option<Box<Notices>>,
    asking: Asking,
    /// Of the one task that waits for something to come.
    waker: Option<Waker>,
}

/// Whether the client is to be asked for a word on what it was given.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Asking {
    /// This one cannot be asked, or says by itself what it has.
    #[default]
    Never,
    /// Nothing that went to many came since it was asked.
    Nothing,
    /// Something that went to many came.
    Later,
    Now,
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
    pub ask: bool,
}

impl Look {
    fn is_empty(self) -> bool {
        self.ending.is_none() && !self.notices && !self.events && !self.overflowed && !self.ask
    }
}

impl State {
    fn look(&self) -> Look {
        Look {
            ending: self.close,
            notices: self.notices.as_ref().is_some_and(|notices| !notices.is_empty()),
            events: !self.events.is_empty(),
            overflowed: self.overflowed,
            ask: self.asking == Asking::Now,
        }
    }

    fn push(&mut self, event: &Arc<Event>, for_many: bool) {
        if for_many && self.asking == Asking::Nothing {
            self.asking = Asking::Later;
        }
        if self.overflowed {
            return;
        }
        if self.events.len() >= MAX_EVENTS || self.bytes + event.weight() > MAX_BYTES && !self.events.is_empty() {
            self.events = VecDeque::new();
            self.bytes = 0;
            self.overflowed = true;
        } else {
            self.bytes += event.weight();
            self.events.push_back(Arc::clone(event));
        }
    }
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is in it, and wakes the task that waits for that.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let waker = if state.look().is_empty() { None } else { state.waker.take() };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Puts an event in; called by the registry, under its gate. `for_many`: the client is asked about it later, all at once
    /// would stand in each other's way.
    pub(super) fn push(&self, event: &Arc<Event>, for_many: bool) {
        self.change(|state| state.push(event, for_many));
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
        self.state().look()
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
        self.change(|state| change(state.notices.get_or_insert_default()));
    }

    pub fn next_notice(&self) -> Option<Notice> {
        self.state().notices.as_mut()?.take()
    }

    /// Orders the connection to end. The first order counts.
    pub fn end(&self, ending: Ending) {
        self.change(|state| {
            state.close.get_or_insert(ending);
        });
    }

    /// From now on the client is to be asked about what goes to many; about what is here already, once it has that.
    pub(super) fn will_ask(&self) {
        let mut state = self.state();
        state.asking = if state.look().is_empty() { Asking::Nothing } else { Asking::Now };
    }

    /// Whether something came that went to many, and [`Outbox::ask`] was not called since.
    pub(super) fn is_unasked(&self) -> bool {
        self.state().asking == Asking::Later
    }

    /// It is this connection's turn to ask.
    pub(super) fn ask(&self) {
        self.change(|state| {
            if state.asking == Asking::Later {
                state.asking = Asking::Now;
            }
        });
    }

    /// Whether it is this connection's turn to ask. As long as events wait it stays so: they may have come to many, and nobody
    /// would be told to ask about them.
    pub(super) fn take_ask(&self) -> bool {
        let mut state = self.state();
        if state.asking != Asking::Now {
            return false;
        }
        if state.events.is_empty() && !state.overflowed {
            state.asking = Asking::Nothing;
        }
        true
    }

    /// Returns when something is in it: an event, a notice, an order, or that there were too many events. For one task only.
    /// Safe to drop and call again.
    pub(super) async fn filled(&self) {
        poll_fn(|context| self.poll_filled(context)).await;
    }

    fn poll_filled(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if !state.look().is_empty() {
            return Poll::Ready(());
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}
