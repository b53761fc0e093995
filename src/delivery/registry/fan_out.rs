//! Writes rows to many connections, past the connections' own tasks.
//!
//! The tailer lists the connections whose tasks wait ([`crate::delivery::send_queue`]). To a few of them it writes
//! itself, which is sooner than to wake another task. Long lists it cuts into parts, which all processors write.
//!
//! Channel: each writer has a bounded queue of parts. The tailer writes a part itself when the queue is full, so it
//! never runs far ahead of the sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::Connection;
use crate::delivery::live_socket::FrameBuffer;
use crate::tasks::Stop;

/// Connections that the tailer writes to itself.
const FEW: usize = 8;
/// Connections of a part: about a millisecond of writing.
const PART: usize = 128;
/// Most parts in the queue of a writer.
const QUEUE: usize = 64;

/// Sends parts to the writers. Without writers the caller writes everything itself.
#[derive(Debug, Default)]
pub struct FanOut {
    writers: Vec<mpsc::Sender<FanOutPart>>,
    next: AtomicUsize,
}

impl FanOut {
    /// Makes this many writers. Each must be run in a task of its own.
    pub fn new(writers: usize) -> (Self, Vec<FanOutWriter>) {
        let (senders, writers) = (0..writers).map(|_| mpsc::channel(QUEUE)).map(|(sender, parts)| (sender, FanOutWriter { parts })).unzip();
        (Self { writers: senders, next: AtomicUsize::new(0) }, writers)
    }

    /// Writes the waiting rows of these connections.
    pub(super) fn write(&self, mut connections: Vec<Arc<Connection>>) {
        while connections.len() > FEW {
            let rest = connections.split_off(connections.len().min(PART));
            self.give(FanOutPart { connections });
            connections = rest;
        }
        FanOutPart { connections }.write(&mut FrameBuffer::default());
    }

    fn give(&self, part: FanOutPart) {
        let refused = match self.writers.get(self.next.fetch_add(1, Ordering::Relaxed) % self.writers.len().max(1)) {
            Some(writer) => writer.try_send(part).err().map(|error| error.into_inner()),
            None => Some(part),
        };
        if let Some(part) = refused {
            part.write(&mut FrameBuffer::default());
        }
    }
}

/// Listed connections that were not written to yet. Those that are left when it is dropped are given to their tasks.
#[derive(Debug)]
struct FanOutPart {
    connections: Vec<Arc<Connection>>,
}

impl FanOutPart {
    fn write(mut self, frames: &mut FrameBuffer) {
        while let Some(connection) = self.connections.pop() {
            connection.write_directly(frames);
        }
        frames.clear();
    }
}

impl Drop for FanOutPart {
    fn drop(&mut self) {
        for connection in self.connections.drain(..) {
            connection.send_queue.give_to_task();
        }
    }
}

/// A task that writes parts.
pub struct FanOutWriter {
    parts: mpsc::Receiver<FanOutPart>,
}

impl FanOutWriter {
    /// Runs until stopped. Rows that are left then are written by the tasks of their connections.
    pub async fn run(mut self, mut stop: Stop) {
        let mut frames = FrameBuffer::default();
        loop {
            let part = tokio::select! {
                part = self.parts.recv() => part,
                () = stop.wait() => return,
            };
            let Some(part) = part else { return };
            part.write(&mut frames);
            // A long row of parts must not keep this worker from other tasks.
            tokio::task::yield_now().await;
        }
    }
}
