//! A WebSocket's frames: how a client's are taken and checked, how ours are written, how either side ends it. What the
//! messages mean is told elsewhere.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use futures_util::SinkExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite;

use crate::wire::close::Close;

/// Longest frame and message of a client, in bytes.
pub const MESSAGE_MAX_BYTES: usize = 16 << 10;
/// What a connection holds to read into. Client frames are short; a longer one grows it.
const READ_BUFFER_BYTES: usize = 512;
/// Frames gather up to this size before they go to the kernel: a page is not one system call a notification.
const WRITE_BUFFER_BYTES: usize = 4 << 10;
/// How long the other side of a close may take.
pub const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// The handshake's answer with our buffers and limits. `most` is the longest frame and message of a client, in bytes.
pub fn bounded(upgrade: WebSocketUpgrade, most: usize) -> WebSocketUpgrade {
    upgrade.read_buffer_size(READ_BUFFER_BYTES).write_buffer_size(WRITE_BUFFER_BYTES).max_message_size(most).max_frame_size(most)
}

/// Why a connection is over.
pub enum Over {
    /// We end it, with a code.
    Close { close: Close, after_ms: Option<u64> },
    /// The client said goodbye.
    ByClient,
    /// The other side is gone.
    Lost,
}

impl From<Close> for Over {
    fn from(close: Close) -> Self {
        Self::Close { close, after_ms: None }
    }
}

/// An open socket, with the deadline that each write has.
pub struct Frames {
    socket: WebSocket,
    send_deadline: Duration,
}

impl Frames {
    pub fn new(socket: WebSocket, send_deadline: Duration) -> Self {
        Self { socket, send_deadline }
    }

    /// The next message that is not a goodbye. Safe to drop and call again. The library queues the pong of a ping; it goes
    /// out with the next [`Frames::flush`].
    ///
    /// # Errors
    /// When there is none, and what the other side is told then.
    pub async fn hear(&mut self) -> Result<Message, Over> {
        match self.socket.recv().await {
            None => Err(Over::Lost),
            Some(Err(error)) => Err(broken(error)),
            Some(Ok(Message::Close(_))) => Err(Over::ByClient),
            Some(Ok(message)) => Ok(message),
        }
    }

    /// # Errors
    /// When the other side is gone, or takes nothing for the deadline.
    pub async fn feed(&mut self, message: Message) -> Result<(), Over> {
        taken(timeout(self.send_deadline, self.socket.feed(message)).await)
    }

    /// # Errors
    /// As [`Frames::feed`].
    pub async fn flush(&mut self) -> Result<(), Over> {
        taken(timeout(self.send_deadline, self.socket.flush()).await)
    }

    /// Ends the connection in the way that fits; `last` is said before a close of ours.
    pub async fn finish(mut self, over: Over, last: Option<Message>) {
        match over {
            Over::Close { close, .. } => {
                if let Some(last) = last {
                    let _ = timeout(CLOSE_LIMIT, self.socket.send(last)).await;
                }
                end(&mut self.socket, close).await;
            }
            // The library answers a close with a close; it goes out with the next step.
            Over::ByClient => drop(timeout(CLOSE_LIMIT, self.socket.recv()).await),
            Over::Lost => {}
        }
    }
}

fn taken(outcome: Result<Result<(), axum::Error>, tokio::time::error::Elapsed>) -> Result<(), Over> {
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Over::Lost),
        Err(_) => Err(Close::SlowConsumer.into()),
    }
}

/// What a broken frame is answered with; the library only reports it.
fn broken(error: axum::Error) -> Over {
    use tungstenite::Error;
    use tungstenite::error::ProtocolError;
    match error.into_inner().downcast_ref::<Error>() {
        Some(Error::Capacity(_)) => Close::TooBig.into(),
        Some(Error::Utf8(_)) => Close::BadUtf8.into(),
        Some(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => Over::Lost,
        Some(Error::Protocol(_)) => Close::BrokenFrame.into(),
        _ => Over::Lost,
    }
}

/// Says the code and waits for the other side, briefly. What it still sends is read and forgotten: a socket that is
/// closed over unread data is reset, and the code may not arrive.
pub async fn end(socket: &mut WebSocket, close: Close) {
    let frame = CloseFrame { code: close.code(), reason: close.reason().into() };
    let said = timeout(CLOSE_LIMIT, socket.send(Message::Close(Some(frame)))).await;
    if matches!(said, Ok(Ok(()))) {
        let _ = timeout(CLOSE_LIMIT, async { while let Some(Ok(_)) = socket.recv().await {} }).await;
    }
}
