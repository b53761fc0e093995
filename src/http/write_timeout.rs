//! Cuts a connection off when one write waits for too long.
//!
//! Otherwise a client that never reads, or has vanished, would hold one of the limited slots for as long as it likes.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream with a limit on how long one write may wait. Reads have limits of their own, set by their readers.
pub struct WriteTimeout<S> {
    stream: S,
    limit: Duration,
    /// Set while a write waits.
    end: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeout<S> {
    pub fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, end: None }
    }

    /// Passes on the outcome of a write, unless the write has waited too long.
    fn timed<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<Result<T>>) -> Poll<Result<T>> {
        if outcome.is_ready() {
            self.end = None;
            return outcome;
        }
        let limit = self.limit;
        let end = self.end.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(end.as_mut().poll(cx));
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the peer read nothing for the write timeout")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.timed(cx, outcome)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.timed(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        // A socket has nothing to flush, so a finished flush says nothing about a write that waits.
        if outcome.is_ready() { outcome } else { self.timed(cx, outcome) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.timed(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_write_waits_no_longer_than_the_limit_and_each_write_has_its_own() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut ours = WriteTimeout::new(ours, Duration::from_secs(2));
        ours.write_all(b"four").await.unwrap();
        let taker = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                theirs.read_exact(&mut [0; 4]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(ours.write_all(b"twelve bytes"), taker);
        written.unwrap();
        let error = ours.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_flush_does_not_restart_the_limit() {
        let (ours, _theirs) = tokio::io::duplex(4);
        let mut ours = WriteTimeout::new(ours, Duration::from_millis(50));
        ours.write_all(b"four").await.unwrap();
        let flushed_between = async {
            loop {
                if let Poll::Ready(written) = futures_util::poll!(std::pin::pin!(ours.write_all(b"more"))) {
                    return written;
                }
                ours.flush().await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let written = tokio::time::timeout(Duration::from_secs(30), flushed_between).await.expect("the limit ends the write");
        assert_eq!(written.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
