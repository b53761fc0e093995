//! Wraps a connection and refuses writes once the lease of its owner has ended.
//!
//! The task that polls it checks the lease too, but a process can be frozen between that check and the write. Here,
//! check and write are one step.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::lease_clock::LeaseTrust;

#[derive(Debug)]
pub struct LeaseCheckedIo {
    stream: TcpStream,
    /// `None` if the connection belongs to no lease, as when an operator tests a provider.
    trust: Option<Arc<LeaseTrust>>,
}

impl LeaseCheckedIo {
    pub fn new(stream: TcpStream, trust: Option<Arc<LeaseTrust>>) -> Self {
        Self { stream, trust }
    }

    fn look(&self) -> io::Result<()> {
        match &self.trust {
            Some(trust) if trust.is_over() => Err(io::Error::other("the lease is over")),
            _ => Ok(()),
        }
    }
}

impl AsyncRead for LeaseCheckedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for LeaseCheckedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.look()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.look()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::outgoing::lease_clock::ClockReading;

    #[tokio::test]
    async fn not_a_byte_leaves_after_the_trust_has_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut other, _) = listener.accept().await.unwrap();
        let trust = Arc::new(LeaseTrust::until(ClockReading::now().plus(Duration::from_secs(60))));
        let mut fenced = LeaseCheckedIo::new(stream, Some(Arc::clone(&trust)));
        fenced.write_all(b"before").await.unwrap();
        trust.end();
        assert!(fenced.write_all(b"after").await.is_err());
        drop(fenced);
        let mut heard = Vec::new();
        other.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"before");
    }
}
