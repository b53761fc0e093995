//! Reading a provider's socket: what came, and what a socket that broke is told.

use bytes::Bytes;
use futures_util::StreamExt;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::dial::{Socket, kind};

/// One thing that a provider does.
#[derive(Debug)]
pub enum Heard {
    Text(Utf8Bytes),
    Binary(Bytes),
    /// A ping, which the library answers, or a pong.
    Control,
    /// It said goodbye, with this code; 1005 where it gave none.
    Closed(u16),
    /// The connection is of no use any more; `answer` is the code that it ends with, if it can still be said.
    Broken {
        why: &'static str,
        answer: CloseCode,
    },
}

/// The next thing. Safe to drop and call again.
pub async fn read(socket: &mut Socket) -> Heard {
    match socket.next().await {
        Some(Ok(Message::Text(text))) => Heard::Text(text),
        Some(Ok(Message::Binary(bytes))) => Heard::Binary(bytes),
        Some(Ok(Message::Close(frame))) => Heard::Closed(frame.map_or(1005, |frame| u16::from(frame.code))),
        Some(Ok(_)) => Heard::Control,
        Some(Err(error)) => Heard::Broken { why: kind(&error), answer: answer(&error) },
        None => Heard::Broken { why: "the connection was closed", answer: CloseCode::Normal },
    }
}

/// The codes of RFC 6455 section 7.4.1 for what broke it.
fn answer(error: &Error) -> CloseCode {
    match error {
        Error::Protocol(_) => CloseCode::Protocol,
        Error::Utf8(_) => CloseCode::Invalid,
        Error::Capacity(_) => CloseCode::Size,
        _ => CloseCode::Normal,
    }
}
