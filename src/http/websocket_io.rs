//! Reads, checks and writes the frames of one WebSocket, and closes it.
//!
//! The meaning of the messages is defined in [`super::socket`].

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use futures_util::SinkExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite;

use super::deadline::within;
use crate::wire::close::CloseCode;

/// Maximum length of a client's frame and message, in bytes.
pub const MESSAGE_MAX_BYTES: usize = 16 << 10;
/// Size of a connection's read buffer. Client frames are short; a longer one grows the buffer.
const READ_BUFFER_BYTES: usize = 512;
/// Frames are collected up to this size before they go to the kernel, so that a page does not take one system call
/// for each notification.
const WRITE_BUFFER_BYTES: usize = 4 << 10;
/// How long the peer's part of a close may take.
pub const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Sets our buffers and limits on a handshake. `most` is the maximum length of a client's frame and message, in
/// bytes.
pub fn bounded(upgrade: WebSocketUpgrade, most: usize) -> WebSocketUpgrade {
    upgrade.read_buffer_size(READ_BUFFER_BYTES).write_buffer_size(WRITE_BUFFER_BYTES).max_message_size(most).max_frame_size(most)
}

/// Why a connection ends.
pub enum CloseCause {
    /// The hub closes it, with a code.
    Close { close: CloseCode, after_ms: Option<u64> },
    /// The client closed it.
    ByClient,
    /// The connection was lost.
    Lost,
}

impl From<CloseCode> for CloseCause {
    fn from(close: CloseCode) -> Self {
        Self::Close { close, after_ms: None }
    }
}

/// An open socket, and the deadline of each write.
pub struct WebSocketIo {
    socket: WebSocket,
    send_deadline: Duration,
}

impl WebSocketIo {
    pub fn new(socket: WebSocket, send_deadline: Duration) -> Self {
        Self { socket, send_deadline }
    }

    /// Reads the next message other than a close. Safe to cancel and call again. The library queues the pong of a
    /// ping; it is written with the next [`WebSocketIo::flush`].
    ///
    /// # Errors
    /// When there is no next message. The error tells how to close the connection.
    pub async fn hear(&mut self) -> Result<Message, CloseCause> {
        match self.socket.recv().await {
            None => Err(CloseCause::Lost),
            Some(Err(error)) => Err(broken(error)),
            Some(Ok(Message::Close(_))) => Err(CloseCause::ByClient),
            Some(Ok(message)) => Ok(message),
        }
    }

    /// Writes a message to the buffer.
    ///
    /// # Errors
    /// When the connection is lost, or the client reads nothing for the deadline.
    pub async fn feed(&mut self, message: Message) -> Result<(), CloseCause> {
        taken(within(self.send_deadline, self.socket.feed(message)).await)
    }

    /// Writes the buffer to the kernel.
    ///
    /// # Errors
    /// As [`WebSocketIo::feed`].
    pub async fn flush(&mut self) -> Result<(), CloseCause> {
        taken(within(self.send_deadline, self.socket.flush()).await)
    }

    /// Ends the connection as the cause requires. `last` is sent before the hub's own close frame.
    pub async fn finish(mut self, cause: CloseCause, last: Option<Message>) {
        match cause {
            CloseCause::Close { close, .. } => {
                if let Some(last) = last {
                    let _ = timeout(CLOSE_LIMIT, self.socket.send(last)).await;
                }
                end(&mut self.socket, close).await;
            }
            // The library answers a close with a close; that is written by the next step.
            CloseCause::ByClient => drop(timeout(CLOSE_LIMIT, self.socket.recv()).await),
            CloseCause::Lost => {}
        }
    }
}

fn taken(outcome: Result<Result<(), axum::Error>, tokio::time::error::Elapsed>) -> Result<(), CloseCause> {
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(CloseCause::Lost),
        Err(_) => Err(CloseCode::SlowConsumer.into()),
    }
}

/// The close code for a broken frame. The library only reports the error.
fn broken(error: axum::Error) -> CloseCause {
    use tungstenite::Error;
    use tungstenite::error::ProtocolError;
    match error.into_inner().downcast_ref::<Error>() {
        Some(Error::Capacity(_)) => CloseCode::TooBig.into(),
        Some(Error::Utf8(_)) => CloseCode::BadUtf8.into(),
        Some(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => CloseCause::Lost,
        Some(Error::Protocol(_)) => CloseCode::BrokenFrame.into(),
        _ => CloseCause::Lost,
    }
}

/// Sends the close code and waits briefly for the peer. What the peer still sends is read and dropped: closing a
/// socket with unread data resets it, and the code might not arrive.
pub async fn end(socket: &mut WebSocket, close: CloseCode) {
    end_saying(socket, close, "").await;
}

/// As [`end`]; the close reason also tells what was wrong.
pub async fn end_saying(socket: &mut WebSocket, close: CloseCode, detail: &str) {
    let frame = CloseFrame { code: close.code(), reason: close.reason_with(detail).into() };
    let said = timeout(CLOSE_LIMIT, socket.send(Message::Close(Some(frame)))).await;
    if matches!(said, Ok(Ok(()))) {
        let _ = timeout(CLOSE_LIMIT, async { while let Some(Ok(_)) = socket.recv().await {} }).await;
    }
}
