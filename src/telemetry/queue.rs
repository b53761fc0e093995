//! Queues log lines, bounded in bytes, for the one thread that writes to stderr.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::metrics::LOG_DROPPED;

/// Most bytes of waiting lines. Above it, new lines are dropped.
const MOST_BYTES: usize = 1 << 20;
/// Pause before a descriptor that is not ready (a non-blocking pipe) is retried.
const NOT_READY: Duration = Duration::from_millis(20);

/// The queue of this process.
pub(super) static QUEUE: LogQueue = LogQueue::new(MOST_BYTES);

pub(super) struct LogQueue {
    most_bytes: usize,
    state: Mutex<LogQueueState>,
    changed: Condvar,
}

struct LogQueueState {
    lines: VecDeque<Vec<u8>>,
    /// Bytes of the waiting lines and of the line that is being written.
    bytes: usize,
    /// Lines that were dropped since the last warning about it.
    dropped: usize,
    has_writer: bool,
}

impl LogQueue {
    const fn new(most_bytes: usize) -> Self {
        let state = LogQueueState { lines: VecDeque::new(), bytes: 0, dropped: 0, has_writer: false };
        Self { most_bytes, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, LogQueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_writer(&self) -> bool {
        self.lock().has_writer
    }

    /// Queues the line, or drops and counts it if the queue is full.
    pub(super) fn push(&self, line: Vec<u8>) {
        let mut state = self.lock();
        if state.bytes + line.len() > self.most_bytes {
            state.dropped += 1;
            LOG_DROPPED.add("queue_full", 1);
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until everything is written, at most `limit`. Returns at once if no thread writes.
    pub(super) fn wait_empty(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        while state.has_writer && state.bytes > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns the next line; waits for it.
    fn next(&self) -> Vec<u8> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                return line;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes that a line of this length left the queue. After a written line, returns how many were dropped before it.
    fn settle(&self, length: usize, written: bool) -> usize {
        let mut state = self.lock();
        state.bytes -= length;
        let dropped = if written {
            std::mem::take(&mut state.dropped)
        } else {
            state.dropped += 1;
            LOG_DROPPED.add("unwritable", 1);
            0
        };
        drop(state);
        self.changed.notify_all();
        dropped
    }

    fn write_all(&self, out: &mut impl Write) -> ! {
        // Set if a line broke off in the middle: the next one then starts on a new line.
        let mut torn = false;
        loop {
            let line = self.next();
            let written = if torn { write_whole(out, b"\n").and_then(|()| write_whole(out, &line)) } else { write_whole(out, &line) };
            torn = written.is_err();
            let dropped = self.settle(line.len(), written.is_ok());
            if dropped > 0 {
                tracing::warn!(dropped, "log lines were dropped: the log was not read, or writing it failed");
            }
        }
    }
}

/// Starts the thread that writes to stderr, once.
pub(super) fn start_writer(queue: &'static LogQueue) -> io::Result<()> {
    let mut state = queue.lock();
    if !state.has_writer {
        // Not `io::stderr()`: the thread would hold its lock while a full pipe is not read.
        thread::Builder::new().name("log".to_owned()).spawn(|| queue.write_all(&mut Stderr))?;
        state.has_writer = true;
    }
    Ok(())
}

/// File descriptor 2, without a lock and without a buffer.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(rustix::stdio::stderr(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Works like `Write::write_all`, and waits for a descriptor that is not ready.
fn write_whole(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            #[expect(clippy::disallowed_methods, reason = "a thread of its own, not a worker of the runtime")]
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(NOT_READY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_new_lines_and_counts_them() {
        let queue = LogQueue::new(8);
        for line in ["one\n", "two\n", "three\n"] {
            queue.push(line.into());
        }
        assert_eq!(queue.next(), b"one\n");
        assert_eq!(queue.settle(4, true), 1, "one line was dropped before this one was written");
        assert_eq!(queue.next(), b"two\n");
        assert_eq!(queue.settle(4, false), 0);
        assert_eq!(queue.lock().bytes, 0);
    }

    #[test]
    fn a_writer_that_is_not_ready_or_interrupted_is_tried_again() {
        struct Stubborn(Vec<io::ErrorKind>, Vec<u8>);
        impl Write for Stubborn {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if let Some(kind) = self.0.pop() {
                    return Err(kind.into());
                }
                self.1.push(bytes[0]);
                Ok(1)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut out = Stubborn(vec![io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted], Vec::new());
        write_whole(&mut out, b"line\n").unwrap();
        assert_eq!(out.1, b"line\n");
    }
}
