//! Closes connections that wait too long for a request.
//!
//! A request's head has ten seconds once it has begun. The time between two requests has a longer limit, because a
//! client keeps a connection for its next request and might send that at the very moment at which a short limit
//! closes the connection. The client is told this limit. Bodies have limits of their own.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::connection_slots::{ConnectionSlot, SlotPhase};

/// A stream that holds its connection's slot, and fails when the client sends nothing for too long.
pub struct IdleTimeout<S> {
    stream: S,
    place: Arc<ConnectionSlot>,
    head: Duration,
    idle: Duration,
    /// The number of the awaited request, and its deadline.
    awaited: Option<(u64, Instant)>,
    head_has_begun: bool,
    /// Set while a read waits.
    clock: Option<Pin<Box<Sleep>>>,
}

impl<S> IdleTimeout<S> {
    pub fn new(stream: S, place: Arc<ConnectionSlot>, head: Duration, idle: Duration) -> Self {
        Self { stream, place, head, idle, awaited: None, head_has_begun: false, clock: None }
    }

    /// The deadline of the awaited request.
    fn deadline(&mut self) -> Instant {
        let requests = self.place.requests();
        match self.awaited {
            Some((awaited, until)) if awaited == requests => until,
            _ => {
                // A connection without any request yet gets no more time than a head.
                let limit = if requests == 0 { self.head.min(self.idle) } else { self.idle };
                let until = Instant::now() + limit;
                self.awaited = Some((requests, until));
                self.head_has_begun = false;
                until
            }
        }
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        // Registered first, so that a connection that becomes idle at this moment is not missed.
        self.place.wake_when_idle(cx);
        if self.place.phase() != SlotPhase::Waiting {
            self.clock = None;
            return Poll::Pending;
        }
        let until = self.deadline();
        let clock = self.clock.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if clock.deadline() != until {
            clock.as_mut().reset(until);
        }
        ready!(clock.as_mut().poll(cx));
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "no request came in time")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for IdleTimeout<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(outcome) => {
                if self.place.phase() == SlotPhase::Waiting {
                    self.deadline();
                    if !self.head_has_begun {
                        self.head_has_begun = true;
                        self.awaited = Some((self.place.requests(), Instant::now() + self.head));
                    }
                }
                Poll::Ready(outcome)
            }
            Poll::Pending => self.poll_patience(cx),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for IdleTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
