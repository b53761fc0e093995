//! A TCP connection into which another task may write a frame.
//!
//! The owner is the HTTP connection, and after the handshake the WebSocket. While the WebSocket's task waits and has
//! nothing left to write, rows are written past it ([`LiveSocket`]). Who may write is decided in
//! [`crate::delivery::send_queue`]; here a frame that the kernel took in part is kept, so that nothing comes between.

use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::delivery::live_socket::{DirectWrite, LiveSocket};

/// The owner's side of a connection.
#[derive(Debug)]
pub struct SharedSocket {
    reader: OwnedReadHalf,
    writer: SocketWriter,
}

/// The side that several tasks may hold. Cheap to clone. The connection is closed when all sides are dropped.
#[derive(Debug, Clone)]
pub struct SocketWriter(Arc<WriterState>);

#[derive(Debug)]
struct WriterState {
    stream: OwnedWriteHalf,
    /// The end of a frame that the kernel took in part. It is written before anything else.
    rest: Mutex<Vec<u8>>,
    has_rest: AtomicBool,
}

impl SharedSocket {
    pub fn new(stream: TcpStream) -> Self {
        let (reader, stream) = stream.into_split();
        let writer = SocketWriter(Arc::new(WriterState { stream, rest: Mutex::default(), has_rest: AtomicBool::new(false) }));
        Self { reader, writer }
    }

    pub fn writer(&self) -> SocketWriter {
        self.writer.clone()
    }
}

impl WriterState {
    fn rest(&self) -> MutexGuard<'_, Vec<u8>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_with(&self, cx: &mut Context<'_>, attempt: impl Fn(&OwnedWriteHalf) -> io::Result<usize>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.as_ref().poll_write_ready(cx))?;
            match attempt(&self.stream) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    /// Writes the rest of a frame.
    fn poll_rest(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.has_rest.load(Ordering::Acquire) {
            let mut rest = self.rest();
            let written = ready!(self.poll_with(cx, |stream| stream.try_write(&rest)))?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            rest.drain(..written);
            if rest.is_empty() {
                *rest = Vec::new();
                self.has_rest.store(false, Ordering::Release);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl LiveSocket for SocketWriter {
    fn write_now(&self, frame: &[u8]) -> DirectWrite {
        if self.0.has_rest.load(Ordering::Acquire) {
            return DirectWrite::Refused;
        }
        match self.0.stream.try_write(frame) {
            Ok(written) if written == frame.len() => DirectWrite::Whole,
            Ok(0) | Err(_) => DirectWrite::Refused,
            Ok(written) => {
                self.0.rest().extend_from_slice(&frame[written..]);
                self.0.has_rest.store(true, Ordering::Release);
                DirectWrite::Part
            }
        }
    }
}

impl AsyncRead for SharedSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buffer)
    }
}

impl AsyncWrite for SharedSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.writer.0.poll_rest(cx))?;
        self.writer.0.poll_with(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.writer.0.poll_rest(cx))?;
        self.writer.0.poll_with(cx, |stream| stream.try_write_vectored(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.0.poll_rest(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.writer.0.poll_rest(cx))?;
        Poll::Ready(SockRef::from(self.writer.0.stream.as_ref()).shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (SharedSocket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (peer, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (SharedSocket::new(accepted.unwrap().0), peer.unwrap())
    }

    #[tokio::test]
    async fn a_frame_that_the_kernel_takes_in_part_comes_whole_and_before_all_else() {
        let (mut socket, mut peer) = pair().await;
        let writer = socket.writer();
        let frame: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
        let mut whole = 0;
        let last = loop {
            match writer.write_now(&frame) {
                DirectWrite::Whole => whole += 1,
                other => break other,
            }
        };
        assert_eq!(last, DirectWrite::Part, "after {whole} frames");
        assert_eq!(writer.write_now(b"not in between"), DirectWrite::Refused);
        let mut read = Vec::new();
        let write = async {
            socket.write_all(b"the end").await.unwrap();
            socket.shutdown().await.unwrap();
        };
        tokio::join!(write, async { peer.read_to_end(&mut read).await.unwrap() });
        let mut expected = frame.repeat(whole + 1);
        expected.extend_from_slice(b"the end");
        assert!(read == expected, "{} bytes instead of {}", read.len(), expected.len());
    }

    #[tokio::test]
    async fn a_flush_writes_the_rest_of_a_frame() {
        let (mut socket, mut peer) = pair().await;
        let writer = socket.writer();
        let frame = vec![7; 100_000];
        let mut sent = 0;
        while writer.write_now(&frame) == DirectWrite::Whole {
            sent += frame.len();
        }
        sent += frame.len();
        let mut read = vec![0; sent];
        tokio::join!(async { socket.flush().await.unwrap() }, async { peer.read_exact(&mut read).await.unwrap() });
        assert_eq!(writer.write_now(b"next"), DirectWrite::Whole);
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_left_to_the_owner() {
        let (mut socket, peer) = pair().await;
        let writer = socket.writer();
        peer.set_zero_linger().unwrap();
        drop(peer);
        let mut none = [0; 8];
        let lost = socket.read(&mut none).await;
        assert!(lost.is_err(), "{lost:?}");
        assert_eq!(writer.write_now(b"frame"), DirectWrite::Refused);
    }
}
