//! Writing to a provider's socket so that one knows afterwards what has left.

use std::future::poll_fn;
use std::task::{Poll, ready};
use std::time::Duration;

use futures_util::SinkExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::dial::Socket;
use super::mailbox::Mailbox;

/// Longest time that a provider may take nothing.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// Longest time for a goodbye; nobody waits for its answer.
const GOODBYE_DEADLINE: Duration = Duration::from_millis(500);

/// What has become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrote {
    /// The socket took every byte.
    All,
    /// Not a byte of it can have left.
    Nothing,
    /// Some of it may have left.
    Some,
}

/// Writes and flushes, as long as the lease is trusted: that is looked at before every byte, so a process that is frozen
/// in here and wakes after its lease sends nothing.
pub async fn write(socket: &mut Socket, message: Message, mailbox: &Mailbox) -> Wrote {
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
            // The library writes to the socket in here, so from now on nobody knows better than "some".
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
                // What is posted is read later; a lost lease is seen in the next round.
                () = mailbox.posted() => {}
            }
        }
    };
    let done = timeout(WRITE_DEADLINE, attended).await.unwrap_or(false);
    match (done, begun) {
        (true, _) => Wrote::All,
        (false, false) => Wrote::Nothing,
        (false, true) => Wrote::Some,
    }
}

/// Says goodbye, if that is quick, and ends the connection.
pub async fn hang_up(mut socket: Box<Socket>, code: CloseCode, mailbox: &Mailbox) {
    let frame = Message::Close(Some(CloseFrame { code, reason: "".into() }));
    let _ = timeout(GOODBYE_DEADLINE, write(&mut socket, frame, mailbox)).await;
}
