//! The socket of a connection, as far as rows are written past its task.

use std::fmt::Debug;
use std::sync::Arc;

use super::event::SharedNotification;
use crate::domain::Seq;
use crate::wire::server_frame::InboxMarks;
use crate::wire::websocket_frame;

/// Writes whole frames without waiting.
pub trait LiveSocket: Debug + Send + Sync {
    /// Tries to write a frame. Only called while the connection's task waits and has written everything.
    fn write_now(&self, frame: &[u8]) -> DirectWrite;
}

/// The outcome of [`LiveSocket::write_now`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectWrite {
    /// The kernel has the frame.
    Whole,
    /// The kernel has a part; the socket keeps the rest. The connection's task must flush.
    Part,
    /// Nothing was written: the kernel's buffer is full, or the connection is lost. The connection's task finds out.
    Refused,
}

/// Encodes frames for many sockets. Most clients of a broadcast got the same notification before it, so the same bytes
/// serve many of them.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    held: Option<(Arc<SharedNotification>, Seq)>,
}

impl FrameBuffer {
    /// A notification as a WebSocket frame for a client that got `prev` before.
    pub(super) fn encode(&mut self, event: &Arc<SharedNotification>, prev: Seq) -> &[u8] {
        let is_held = self.held.as_ref().is_some_and(|(held, after)| Arc::ptr_eq(held, event) && *after == prev);
        if !is_held {
            websocket_frame::text(&mut self.bytes, &event.frame(prev, false, InboxMarks::default()));
            self.held = Some((Arc::clone(event), prev));
        }
        &self.bytes
    }

    /// A notification, and after it a ping that asks for it.
    pub(super) fn encode_with_ping(&mut self, event: &Arc<SharedNotification>, prev: Seq) -> &[u8] {
        self.encode(event, prev);
        self.held = None;
        websocket_frame::push_ping(&mut self.bytes, event.seq.get());
        &self.bytes
    }

    /// A ping that asks for everything up to `seq`.
    pub(super) fn ping(&mut self, seq: Seq) -> &[u8] {
        self.held = None;
        self.bytes.clear();
        websocket_frame::push_ping(&mut self.bytes, seq.get());
        &self.bytes
    }

    /// Forgets what it holds, so that no notification is kept alive.
    pub(super) fn clear(&mut self) {
        self.held = None;
    }
}
