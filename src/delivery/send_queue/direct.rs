//! Writes rows into the socket of a connection whose task waits, without waking the task.
//!
//! A row for thousands of connections would wake thousands of tasks, whose memory is in no cache. So it is written past
//! them, under the lock of the queue. The rules:
//!
//! 1. A row is only written past a task that is *parked*: its last poll has ended, it waits for rows in live phase, it
//!    has flushed everything, and nothing but rows waits for the client.
//! 2. At the beginning of each poll the task is not parked any more. So it never writes at the same time.
//! 3. The numbers go on where the task stopped, and the task goes on where they stopped: both read and raise
//!    `delivered`.
//!
//! What the kernel does not take at once is left to the task, with its deadlines.

use std::sync::Arc;

use super::{SendQueue, SendQueueState, release};
use crate::delivery::live_socket::{DirectWrite, FrameBuffer, LiveSocket};
use crate::domain::Seq;
use crate::metrics;

/// What the queue knows of the connection's task and socket.
#[derive(Debug, Default)]
pub(super) struct DirectState {
    /// `None` for a transport whose frames only the task can write.
    socket: Option<Arc<dyn LiveSocket>>,
    phase: TaskPhase,
    /// The last number that was sent.
    pub delivered: Seq,
    /// The connection is in a list of those that are written to.
    is_listed: bool,
    /// The socket holds a part of a frame.
    pub unflushed: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum TaskPhase {
    /// The task is being polled, or waits for something else than rows.
    #[default]
    Busy,
    /// In its present poll the task found nothing to send.
    Waiting,
    /// That poll has ended.
    Parked,
}

impl DirectState {
    /// Whether a row can be written past the task.
    pub fn takes_over(&self) -> bool {
        self.phase == TaskPhase::Parked
    }

    /// Notes that the connection is listed. Returns whether it was not.
    pub fn list(&mut self) -> bool {
        !std::mem::replace(&mut self.is_listed, true)
    }

    /// Notes that the task waits for rows and has sent everything up to `delivered`.
    pub fn waits_after(&mut self, delivered: Seq) {
        // A wait that goes on over several polls still names the number at which it began.
        self.delivered = self.delivered.max(delivered);
        if self.socket.is_some() {
            self.phase = TaskPhase::Waiting;
        }
    }
}

impl SendQueue {
    /// From now on rows may be written into this socket while the task waits.
    pub fn write_into(&self, socket: Arc<dyn LiveSocket>) {
        self.state().direct.socket = Some(socket);
    }

    /// Ends that, and lets go of the socket.
    pub(in crate::delivery) fn leave_socket(&self) {
        let mut state = self.state();
        (state.direct.socket, state.direct.phase) = (None, TaskPhase::Busy);
    }

    /// The task begins a poll.
    pub fn begin_poll(&self) {
        self.state().direct.phase = TaskPhase::Busy;
    }

    /// The task ends a poll in which nothing was left to do.
    pub fn end_poll(&self) {
        let mut state = self.state();
        if state.direct.phase == TaskPhase::Waiting && state.look().is_empty() {
            state.direct.phase = TaskPhase::Parked;
        }
    }

    /// The last number that was sent, by the task or past it.
    pub(in crate::delivery) fn delivered(&self) -> Seq {
        self.state().direct.delivered
    }

    /// Whether a row was sent in part since the last call: the task must flush.
    pub(in crate::delivery) fn take_unflushed(&self) -> bool {
        std::mem::take(&mut self.state().direct.unflushed)
    }

    /// Leaves the waiting rows to the task.
    pub(in crate::delivery) fn give_to_task(&self) {
        let mut state = self.state();
        (state.direct.is_listed, state.direct.phase) = (false, TaskPhase::Busy);
        release(state, true);
    }

    /// Writes the waiting rows past the task, or wakes it. `sends` is told each number just before it is sent.
    pub(in crate::delivery) fn write_directly(&self, frames: &mut FrameBuffer, sends: impl FnMut(Seq)) {
        let mut state = self.state();
        state.direct.is_listed = false;
        let is_done = state.write_rows(frames, sends);
        release(state, !is_done);
    }
}

impl SendQueueState {
    /// Returns whether nothing is left for the task.
    fn write_rows(&mut self, frames: &mut FrameBuffer, mut sends: impl FnMut(Seq)) -> bool {
        let Some(socket) = self.direct.socket.clone() else { return false };
        while let Some(event) = self.events.front() {
            if !self.direct.takes_over() || !self.look().has_only_events() || event.seq <= self.direct.delivered {
                return false;
            }
            sends(event.seq);
            let (seq, outcome) = (event.seq, socket.write_now(frames.encode(event, self.direct.delivered)));
            if outcome == DirectWrite::Refused {
                self.direct.phase = TaskPhase::Busy;
                return false;
            }
            event.note_given();
            self.pop();
            self.direct.delivered = seq;
            metrics::SENT.add("live", 1);
            metrics::SENT_DIRECTLY.one();
            if outcome == DirectWrite::Part {
                (self.direct.phase, self.direct.unflushed) = (TaskPhase::Busy, true);
                return false;
            }
        }
        self.look().is_empty()
    }
}

#[cfg(test)]
mod tests;
