//! Queues notifications for one connection: bounded, and never blocking the sender.

pub mod direct;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use chrono::{DateTime, Utc};

use self::direct::DirectState;
use super::control_queue::{ControlFrame, ControlQueue};
use super::event::SharedNotification;
use crate::domain::Seq;
use crate::wire::close::CloseCode;

/// Most notifications that wait for one connection.
const MAX_EVENTS: usize = 1024;
/// Most bytes that wait for one connection. Rows are shared, so this limits the memory that one slow client keeps
/// alive.
const MAX_BYTES: usize = 256 << 10;
/// Capacity that an empty queue keeps, so that a single row needs no allocation: 32 bytes per connection.
const KEPT_PLACES: usize = 4;

/// The queue of one connection. When full, it drops its content and sets a flag; the connection then reads the missed
/// rows from the table.
#[derive(Debug, Default)]
pub struct SendQueue {
    state: Mutex<SendQueueState>,
}

#[derive(Debug, Default)]
struct SendQueueState {
    events: VecDeque<Arc<SharedNotification>>,
    bytes: usize,
    overflowed: bool,
    /// The connection reads rows up to here from the table.
    from: Seq,
    close: Option<CloseOrder>,
    /// The end of a newer token, which came in a request of its own.
    renewed: Option<DateTime<Utc>>,
    /// Created with the first control frame: most connections never have one.
    control: Option<Box<ControlQueue>>,
    asking: ProbeState,
    /// The client is to be pinged to learn whether it is alive.
    is_probed: bool,
    direct: DirectState,
    /// Wakes the one task that waits for content.
    waker: Option<Waker>,
}

/// Whether the client is to be pinged for what it received.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ProbeState {
    /// The client cannot be pinged, or acknowledges on its own.
    #[default]
    Never,
    /// No broadcast arrived since the last ping.
    Nothing,
    /// A broadcast arrived.
    Later,
    Now,
}

/// An order to close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseOrder {
    pub close: CloseCode,
    /// When the client should reconnect, in milliseconds from now.
    pub after_ms: u64,
}

/// The content of a send queue at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueState {
    pub ending: Option<CloseOrder>,
    pub renewed: bool,
    pub control: bool,
    pub events: bool,
    pub overflowed: bool,
    pub ask: bool,
    /// A row was written past the task in part: the task must flush.
    pub unflushed: bool,
    /// The last number that was sent past the task, or that the task had sent when it last waited.
    pub delivered: Seq,
}

impl QueueState {
    fn is_empty(self) -> bool {
        !self.events && self.has_only_events()
    }

    /// Whether nothing but rows is there for the client.
    fn has_only_events(self) -> bool {
        self.ending.is_none() && !self.renewed && !self.control && !self.overflowed && !self.ask && !self.unflushed
    }
}

impl SendQueueState {
    fn look(&self) -> QueueState {
        QueueState {
            ending: self.close,
            renewed: self.renewed.is_some(),
            control: self.control.as_ref().is_some_and(|queue| !queue.is_empty()),
            events: !self.events.is_empty(),
            overflowed: self.overflowed,
            ask: self.asking == ProbeState::Now || self.is_probed,
            unflushed: self.direct.unflushed,
            delivered: self.direct.delivered,
        }
    }

    fn push(&mut self, event: &Arc<SharedNotification>, for_many: bool) {
        if event.seq <= self.from {
            return;
        }
        if for_many && self.asking == ProbeState::Nothing {
            self.asking = ProbeState::Later;
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

    fn pop(&mut self) -> Option<Arc<SharedNotification>> {
        let event = self.events.pop_front()?;
        self.bytes -= event.weight();
        if self.events.is_empty() && self.events.capacity() > KEPT_PLACES {
            // An idle connection keeps no buffer.
            self.events = VecDeque::new();
        }
        Some(event)
    }
}

/// Gives the lock back, and wakes the waiting task if it `has_work`. The task needs the lock at once.
fn release(mut state: MutexGuard<'_, SendQueueState>, has_work: bool) {
    let waker = if has_work { state.waker.take() } else { None };
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl SendQueue {
    fn state(&self) -> MutexGuard<'_, SendQueueState> {
        // No code panics in the middle of a change, so that a poisoned lock holds a valid state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the content and wakes the waiting task.
    fn change(&self, change: impl FnOnce(&mut SendQueueState)) {
        let mut state = self.state();
        change(&mut state);
        let is_filled = !state.look().is_empty();
        release(state, is_filled);
    }

    /// Adds a row; called by the registry, under its lock. `for_many`: the client is pinged later, because pings to all
    /// at once would compete with the broadcast. Returns whether the caller must call
    /// [`super::registry::Connection::write_directly`], instead of the task that would be woken otherwise.
    #[must_use]
    pub(super) fn push(&self, event: &Arc<SharedNotification>, for_many: bool) -> bool {
        let mut state = self.state();
        state.push(event, for_many);
        let look = state.look();
        // A ping and the row that it is for are one write.
        let asks = !for_many && state.asking != ProbeState::Never;
        if look.has_only_events() && look.events && state.direct.takes_over() && (!asks || state.direct.takes_asking_row()) {
            return state.direct.list();
        }
        release(state, !look.is_empty());
        false
    }

    /// The row that [`SendQueue::pop`] would take.
    pub(super) fn front(&self) -> Option<Arc<SharedNotification>> {
        self.state().events.front().cloned()
    }

    pub fn pop(&self) -> Option<Arc<SharedNotification>> {
        self.state().pop()
    }

    /// Requests a ping to learn whether the client is alive, whether or not it received anything.
    pub(super) fn probe(&self) {
        self.change(|state| state.is_probed = true);
    }

    /// Reads everything that decides the next step, under one lock.
    pub(super) fn look(&self) -> QueueState {
        self.state().look()
    }

    /// Whether the queue is empty and did not overflow.
    pub fn is_clear(&self) -> bool {
        let state = self.state();
        state.events.is_empty() && !state.overflowed
    }

    pub fn overflowed(&self) -> bool {
        self.state().overflowed
    }

    /// Empties the queue and accepts rows above `from`; called by the registry, under its lock, when a new P is taken.
    pub(super) fn restart(&self, from: Seq) {
        let mut state = self.state();
        state.from = from;
        state.events = VecDeque::new();
        state.bytes = 0;
        state.overflowed = false;
    }

    /// Changes the control frames, which have no sequence number.
    pub(super) fn notify(&self, change: impl FnOnce(&mut ControlQueue)) {
        self.change(|state| change(state.control.get_or_insert_default()));
    }

    pub fn next_notice(&self) -> Option<ControlFrame> {
        self.state().control.as_mut()?.take()
    }

    /// Whether the connection was told to close.
    pub fn is_ending(&self) -> bool {
        self.state().close.is_some()
    }

    /// Orders the connection to close. The first order counts.
    pub fn end(&self, ending: CloseOrder) {
        self.change(|state| {
            state.close.get_or_insert(ending);
        });
    }

    /// Tells the connection the end of a newer token. Of several, the last one counts.
    pub fn renew(&self, expires_at: DateTime<Utc>) {
        self.change(|state| state.renewed = Some(expires_at));
    }

    pub(super) fn take_renewal(&self) -> Option<DateTime<Utc>> {
        self.state().renewed.take()
    }

    /// Turns pings on for this connection: after each broadcast from now on, and once for rows that wait already.
    pub(super) fn will_ask(&self) {
        let mut state = self.state();
        state.asking = if state.look().is_empty() { ProbeState::Nothing } else { ProbeState::Now };
    }

    /// Whether a broadcast arrived and [`SendQueue::ask`] was not called since.
    pub(super) fn is_unasked(&self) -> bool {
        self.state().asking == ProbeState::Later
    }

    /// Whether a ping is due. It stays due while rows wait: they may belong to a broadcast, and no other event would
    /// cause a ping for them.
    pub(super) fn take_ask(&self) -> bool {
        let mut state = self.state();
        if state.asking != ProbeState::Now {
            return false;
        }
        if state.events.is_empty() && !state.overflowed {
            state.asking = ProbeState::Nothing;
        }
        true
    }

    /// Whether the client is to be pinged to learn whether it is alive.
    pub(super) fn take_probe(&self) -> bool {
        std::mem::take(&mut self.state().is_probed)
    }

    /// Returns once the queue has a row, a control frame, a close order, a newer token or an overflow. For one task
    /// only. Safe to drop and call again. `delivered`: the last number that the task has sent.
    pub(super) async fn filled(&self, delivered: Seq) {
        poll_fn(|context| self.poll_filled(delivered, context)).await;
    }

    fn poll_filled(&self, delivered: Seq, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if !state.look().is_empty() {
            return Poll::Ready(());
        }
        state.direct.waits_after(delivered);
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}
