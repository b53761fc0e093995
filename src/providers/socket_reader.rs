//! Reads a provider's socket and picks the close code for a broken connection.

use bytes::Bytes;
use futures_util::StreamExt;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::dial::{ProviderSocket, kind};

/// An event on a provider's socket.
#[derive(Debug)]
pub enum ProviderFrame {
    Text(Utf8Bytes),
    Binary(Bytes),
    /// A ping, which the library answers, or a pong.
    Control,
    /// The provider closed the socket with this code; 1005 if it gave none.
    Closed(u16),
    /// The connection is broken; `answer` is the close code to send, if that is still possible.
    Broken {
        why: &'static str,
        answer: CloseCode,
    },
}

/// Reads the next event. Safe to drop and call again.
pub async fn read(socket: &mut ProviderSocket) -> ProviderFrame {
    match socket.next().await {
        Some(Ok(Message::Text(text))) => ProviderFrame::Text(text),
        Some(Ok(Message::Binary(bytes))) => ProviderFrame::Binary(bytes),
        Some(Ok(Message::Close(frame))) => ProviderFrame::Closed(frame.map_or(1005, |frame| u16::from(frame.code))),
        Some(Ok(_)) => ProviderFrame::Control,
        Some(Err(error)) => ProviderFrame::Broken { why: kind(&error), answer: answer(&error) },
        None => ProviderFrame::Broken { why: "the connection was closed", answer: CloseCode::Normal },
    }
}

/// Maps an error to its close code (RFC 6455 section 7.4.1).
fn answer(error: &Error) -> CloseCode {
    match error {
        Error::Protocol(_) => CloseCode::Protocol,
        Error::Utf8(_) => CloseCode::Invalid,
        Error::Capacity(_) => CloseCode::Size,
        _ => CloseCode::Normal,
    }
}
