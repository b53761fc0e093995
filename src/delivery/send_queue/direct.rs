//! Writes rows and pings into the socket of a waiting connection, without waking its task.
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
//!
//! A ping that asks for an acknowledgement is written in the same way, if the task has none on its way: together with
//! the row, or later after a broadcast. The task takes the ping over when it wakes: by the pong, or by the next
//! heartbeat, which finds a pong that is overdue.

use std::sync::Arc;

use tokio::time::Instant;

use super::{ProbeState, SendQueue, SendQueueState, release};
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
    /// As of the moment when the task was parked, or a ping was written past it.
    ping_plan: PingPlan,
    /// A row waits that is to leave together with a ping.
    row_asks: bool,
    /// A ping that was written past the task: its number, and when.
    pinged: Option<(Seq, Instant)>,
}

/// Which ping a row needs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum PingPlan {
    /// None: a ping is on its way, or has its time, or the client acknowledges by itself. The pong of an earlier ping
    /// makes the task ping again for what was sent since.
    #[default]
    NotNeeded,
    /// One for a number above `above`, whose pong has arrived; not before `from`.
    Due { from: Instant, above: Seq },
}

/// What was written past the task since it last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenPast {
    /// The last number that was sent.
    pub delivered: Seq,
    pub pinged: Option<(Seq, Instant)>,
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

    /// Whether a row for few can be written past the task: no ping is needed, or it may leave with the row.
    pub fn takes_asking_row(&mut self) -> bool {
        match self.ping_plan {
            PingPlan::NotNeeded => true,
            PingPlan::Due { from, .. } => {
                self.row_asks = from <= Instant::now();
                self.row_asks
            }
        }
    }

    /// Notes that the connection is listed. Returns whether it was not.
    pub fn list(&mut self) -> bool {
        !std::mem::replace(&mut self.is_listed, true)
    }

    /// Notes that a ping for all that was sent was written past the task.
    fn has_pinged(&mut self, at: Instant) {
        (self.ping_plan, self.row_asks, self.pinged) = (PingPlan::NotNeeded, false, Some((self.delivered, at)));
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
        let mut state = self.state();
        (state.direct.phase, state.direct.row_asks) = (TaskPhase::Busy, false);
    }

    /// The task ends a poll in which nothing was left to do.
    pub fn end_poll(&self, ping_plan: PingPlan) {
        let mut state = self.state();
        if state.direct.phase == TaskPhase::Waiting && state.look().is_empty() {
            (state.direct.phase, state.direct.ping_plan) = (TaskPhase::Parked, ping_plan);
        }
    }

    /// What was written past the task.
    pub(in crate::delivery) fn written_past(&self) -> WrittenPast {
        let mut state = self.state();
        WrittenPast { delivered: state.direct.delivered, pinged: state.direct.pinged.take() }
    }

    /// Pings for a broadcast past the task, or makes the ping due and wakes the task.
    pub(in crate::delivery) fn ask(&self, frames: &mut FrameBuffer, acked: Seq) {
        let mut state = self.state();
        if state.asking != ProbeState::Later {
            return;
        }
        let is_sent = state.write_ping(frames, acked);
        state.asking = if is_sent { ProbeState::Nothing } else { ProbeState::Now };
        let is_left = !state.look().is_empty();
        release(state, is_left);
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
            let (seq, prev) = (event.seq, self.direct.delivered);
            let asks = self.direct.row_asks && self.events.len() == 1 && self.direct.ping_plan != PingPlan::NotNeeded;
            sends(seq);
            let outcome = socket.write_now(if asks { frames.encode_with_ping(event, prev) } else { frames.encode(event, prev) });
            if outcome == DirectWrite::Refused {
                self.direct.phase = TaskPhase::Busy;
                return false;
            }
            event.note_given();
            self.pop();
            self.direct.delivered = seq;
            if asks {
                self.direct.has_pinged(Instant::now());
            }
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

impl SendQueueState {
    /// Returns whether no ping is needed from the task.
    fn write_ping(&mut self, frames: &mut FrameBuffer, acked: Seq) -> bool {
        let Some(socket) = self.direct.socket.clone() else { return false };
        if !self.direct.takes_over() || !self.look().is_empty() {
            return false;
        }
        let PingPlan::Due { from, above } = self.direct.ping_plan else { return true };
        let (seq, now) = (self.direct.delivered, Instant::now());
        if seq <= acked.max(above) {
            return true;
        }
        if now < from {
            return false;
        }
        let outcome = socket.write_now(frames.ping(seq));
        if outcome == DirectWrite::Refused {
            return false;
        }
        self.direct.has_pinged(now);
        if outcome == DirectWrite::Part {
            (self.direct.phase, self.direct.unflushed) = (TaskPhase::Busy, true);
        }
        true
    }
}

#[cfg(test)]
mod tests;
