//! Writes to a provider's socket and reports how much of a message has left.

use std::future::poll_fn;
use std::task::{Poll, ready};
use std::time::Duration;

use futures_util::SinkExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::dial::ProviderSocket;
use super::mailbox::Mailbox;

/// Write timeout: longest time that a provider may take nothing.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// Deadline for sending a close frame; its answer is not awaited.
const GOODBYE_DEADLINE: Duration = Duration::from_millis(500);

/// The outcome of writing a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The socket accepted every byte.
    All,
    /// No byte of it can have left.
    Nothing,
    /// Some of it may have left.
    Some,
}

/// Writes and flushes while the lease is trusted. The trust is checked before every byte, so a process that is frozen
/// in here and wakes after its lease sends nothing.
pub async fn write(socket: &mut ProviderSocket, message: Message, mailbox: &Mailbox) -> WriteOutcome {
    let mut message = Some(message);
    let mut begun = false;
    let writing = poll_fn(|cx| {
        if mailbox.trust.is_over() {
            return Poll::Ready(false);
        }
        if !begun && ready!(socket.poll_ready_unpin(cx)).is_err() {
            return Poll::Ready(false);
        }
        if let Some(message) = message.take() {
            // The library writes to the socket in here, so from now on the best possible answer is "some".
            begun = true;
            if socket.start_send_unpin(message).is_err() {
                return Poll::Ready(false);
            }
        }
        socket.poll_flush_unpin(cx).map(|flushed| flushed.is_ok())
    });
    tokio::pin!(writing);
    let attended = async {
        loop {
            tokio::select! {
                biased;
                done = &mut writing => return done,
                // The posted message is read later; the next poll finds a lost lease.
                () = mailbox.posted() => {}
            }
        }
    };
    let done = timeout(WRITE_DEADLINE, attended).await.unwrap_or(false);
    match (done, begun) {
        (true, _) => WriteOutcome::All,
        (false, false) => WriteOutcome::Nothing,
        (false, true) => WriteOutcome::Some,
    }
}

/// Sends a close frame, if that is quick, and ends the connection. If the provider closed first, its close frame is
/// answered: the library has queued the answer, sends it with the next flush, and accepts no close frame of ours any
/// more.
pub async fn hang_up(mut socket: Box<ProviderSocket>, code: CloseCode, mailbox: &Mailbox) {
    let frame = Message::Close(Some(CloseFrame { code, reason: "".into() }));
    let goodbye = async {
        if write(&mut socket, frame, mailbox).await != WriteOutcome::All && !mailbox.trust.is_over() {
            let _ = socket.flush().await;
        }
    };
    let _ = timeout(GOODBYE_DEADLINE, goodbye).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::StreamExt;
    use tokio::io::{AsyncRead, AsyncWrite};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, accept_async, client_async};

    use super::*;
    use crate::domain::{ProviderName, Term, UserId};
    use crate::outgoing::{ClockReading, LeaseCheckedIo};
    use crate::providers::socket_reader::{ProviderFrame, read};
    use crate::store::providers::Lease;

    async fn pair() -> (Box<ProviderSocket>, WebSocketStream<TcpStream>, Arc<Mailbox>) {
        let (provider, user) = (ProviderName::parse("p").unwrap(), UserId::parse("u").unwrap());
        let lease = Lease { provider, user, term: Term::from_db(1) };
        let mailbox = Arc::new(Mailbox::new(lease, ClockReading::now().plus(Duration::from_secs(60))));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = MaybeTlsStream::Plain(LeaseCheckedIo::new(stream, Some(Arc::clone(&mailbox.trust))));
        let theirs = async { accept_async(listener.accept().await.unwrap().0).await.unwrap() };
        let (ours, theirs) = tokio::join!(client_async("ws://provider/", stream), theirs);
        (Box::new(ours.unwrap().0), theirs, mailbox)
    }

    async fn code<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) -> u16 {
        match socket.next().await {
            Some(Ok(Message::Close(Some(frame)))) => frame.code.into(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_provider_that_says_goodbye_is_answered() {
        // Regression: the connection was dropped while the answer was still in the library's queue.
        let (mut ours, mut theirs, mailbox) = pair().await;
        theirs.close(Some(CloseFrame { code: CloseCode::Away, reason: "".into() })).await.unwrap();
        assert!(matches!(read(&mut ours).await, ProviderFrame::Closed(1001)));
        hang_up(ours, CloseCode::Normal, &mailbox).await;
        assert_eq!(code(&mut theirs).await, 1001);
    }

    #[tokio::test]
    async fn a_provider_that_breaks_the_protocol_is_told_so() {
        use tokio::io::AsyncWriteExt;
        for (bytes, expected) in [(&b"\x83\x00"[..], 1002), (b"\x81\x01\xff", 1007), (b"\x81\x7f\x00\x00\x00\x00\x7f\xff\xff\xff", 1009)] {
            let (mut ours, mut theirs, mailbox) = pair().await;
            theirs.get_mut().write_all(bytes).await.unwrap();
            let ProviderFrame::Broken { answer, .. } = read(&mut ours).await else { panic!("{bytes:?} was taken") };
            hang_up(ours, answer, &mailbox).await;
            assert_eq!(code(&mut theirs).await, expected);
        }
    }
}
