//! What a client says over its WebSocket.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::domain::Seq;

/// A frame of a client that the protocol knows.
#[derive(Debug, Clone)]
pub enum ClientFrame {
    /// Everything up to here has been received. Cumulative.
    Ack(Seq),
    /// Asks for a `pong`, with the same `id` where it has one.
    Ping { id: Option<Box<RawValue>> },
    /// A newer token of the same user.
    Auth { token: String },
}

/// Why a frame is answered with an `error` frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameError {
    pub code: &'static str,
    pub message: String,
}

impl FrameError {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Longest `id` of a ping that is sent back, in bytes of JSON.
const PING_ID_MAX_BYTES: usize = 128;

/// # Errors
/// When the text is not JSON, not an object, of no known type, or lacks what its type needs.
pub fn parse(text: &str) -> Result<ClientFrame, FrameError> {
    let value: Value = serde_json::from_str(text).map_err(|_| FrameError::new("malformed_json", "the frame is not JSON"))?;
    let Value::Object(frame) = value else {
        return Err(FrameError::new("invalid_frame", "a frame is a JSON object with a type"));
    };
    match frame.get("type").and_then(Value::as_str) {
        Some("ack") => ack(&frame),
        Some("ping") => ping(text),
        Some("auth") => auth(&frame),
        Some(other) => {
            let shown: String = other.chars().take(64).collect();
            Err(FrameError::new("unknown_type", format!("no frame of type {shown:?} is known here; ack, ping and auth are")))
        }
        None => Err(FrameError::new("invalid_frame", "the frame has no type, which is a string")),
    }
}

fn ack(frame: &Map<String, Value>) -> Result<ClientFrame, FrameError> {
    let seq = frame.get("seq").and_then(Value::as_i64).and_then(Seq::new);
    seq.map(ClientFrame::Ack).ok_or_else(|| FrameError::new("bad_ack", "seq must be a whole number, zero or more"))
}

fn ping(text: &str) -> Result<ClientFrame, FrameError> {
    #[derive(serde::Deserialize)]
    struct Ping {
        id: Option<Box<RawValue>>,
    }
    let too_long = |id: &RawValue| id.get().len() > PING_ID_MAX_BYTES || id.get().starts_with(['{', '[']);
    match serde_json::from_str(text) {
        Ok(Ping { id: Some(id) }) if too_long(&id) => {
            Err(FrameError::new("invalid_frame", format!("the id of a ping is a number or a string of at most {PING_ID_MAX_BYTES} bytes")))
        }
        Ok(Ping { id }) => Ok(ClientFrame::Ping { id }),
        Err(_) => Err(FrameError::new("invalid_frame", "a ping is {\"type\":\"ping\"}, with an id if you like")),
    }
}

fn auth(frame: &Map<String, Value>) -> Result<ClientFrame, FrameError> {
    let token = frame.get("token").and_then(Value::as_str);
    token
        .map(|token| ClientFrame::Auth { token: token.to_owned() })
        .ok_or_else(|| FrameError::new("invalid_frame", "an auth frame has a token, which is a string"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_frames_are_read() {
        assert!(matches!(parse(r#"{"type":"ack","seq":7}"#), Ok(ClientFrame::Ack(seq)) if seq.get() == 7));
        assert!(matches!(parse(r#"{"type":"ping"}"#), Ok(ClientFrame::Ping { id: None })));
        assert!(matches!(parse(r#"{"type":"ping","id":7,"at":1}"#), Ok(ClientFrame::Ping { id: Some(id) }) if id.get() == "7"));
        assert!(matches!(parse(r#"{"type":"auth","token":"t"}"#), Ok(ClientFrame::Auth { token }) if token == "t"));
    }

    #[test]
    fn anything_else_gets_a_code() {
        for (text, code) in [
            ("", "malformed_json"),
            ("[1]", "invalid_frame"),
            ("{}", "invalid_frame"),
            (r#"{"type":7}"#, "invalid_frame"),
            (r#"{"type":"bet","payload":{}}"#, "unknown_type"),
            (r#"{"type":"ack"}"#, "bad_ack"),
            (r#"{"type":"ack","seq":"7"}"#, "bad_ack"),
            (r#"{"type":"ack","seq":-1}"#, "bad_ack"),
            (r#"{"type":"ack","seq":1.5}"#, "bad_ack"),
            (r#"{"type":"ack","seq":9223372036854775808}"#, "bad_ack"),
            (r#"{"type":"ping","id":{"a":1}}"#, "invalid_frame"),
            (r#"{"type":"auth"}"#, "invalid_frame"),
        ] {
            assert_eq!(parse(text).expect_err(text).code, code, "{text}");
        }
    }
}
