//! Parses the frames that a client sends over its WebSocket.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::json::{self, JsonError};
use crate::domain::{CommandTag, Seq};

/// A frame of a known type.
#[derive(Debug, Clone)]
pub enum ClientFrame {
    /// The client has received everything up to this number. Cumulative.
    Ack(Seq),
    /// Asks for a `pong`, which repeats the `id` if there is one.
    Ping { id: Option<Box<RawValue>> },
    /// A newer token of the same user.
    Auth { token: String },
    /// A command for a provider. `payload` is the JSON text as it was sent, or `None`.
    Command { kind: String, tag: Option<CommandTag>, payload: Option<String> },
}

/// Why the hub answers a frame with an `error` frame.
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

/// Maximum length of an `id` that the hub repeats, in bytes of JSON.
const ID_MAX_BYTES: usize = 128;

/// Any frame, as far as its `id` goes.
#[derive(serde::Deserialize)]
struct TaggedFrame {
    id: Option<Box<RawValue>>,
}

/// Whether an answer may repeat this `id`: a number or a short string.
fn is_repeatable(id: &RawValue) -> bool {
    id.get().len() <= ID_MAX_BYTES && !id.get().starts_with(['{', '['])
}

/// The `id` of a frame that is refused, for the `error` frame. `None` if it has none, or one that is not repeated.
pub fn frame_id(text: &str) -> Option<Box<RawValue>> {
    // A list would be read as the fields of a frame, in their order.
    let object = text.trim_start().strip_prefix('{').map(|_| text)?;
    let TaggedFrame { id } = serde_json::from_str(object).ok()?;
    id.filter(|id| is_repeatable(id))
}

/// Parses one frame. `is_command` tells which types are commands for a provider.
///
/// # Errors
/// When the text is malformed JSON, not an object, of an unknown type, or lacks a field that its type needs.
pub fn parse(text: &str, is_command: impl Fn(&str) -> bool) -> Result<ClientFrame, FrameError> {
    let value: Value = serde_json::from_str(text).map_err(|_| FrameError::new("malformed_json", "the frame is not JSON"))?;
    let Value::Object(frame) = value else {
        return Err(FrameError::new("invalid_frame", "a frame is a JSON object with a type"));
    };
    match frame.get("type").and_then(Value::as_str) {
        Some("ack") => ack(&frame),
        Some("ping") => ping(text),
        Some("auth") => auth(&frame),
        Some(kind) if is_command(kind) => command(kind, text),
        Some(other) => {
            let shown: String = other.chars().take(64).collect();
            Err(FrameError::new(
                "unknown_type",
                format!("unknown frame type {shown:?}; the types are ack, ping, auth and the configured commands"),
            ))
        }
        None => Err(FrameError::new("invalid_frame", "the frame needs a type, which must be a string")),
    }
}

fn ack(frame: &Map<String, Value>) -> Result<ClientFrame, FrameError> {
    let seq = frame.get("seq").and_then(Value::as_i64).and_then(Seq::new);
    seq.map(ClientFrame::Ack).ok_or_else(|| FrameError::new("bad_ack", "seq must be a whole number, zero or more"))
}

fn ping(text: &str) -> Result<ClientFrame, FrameError> {
    match serde_json::from_str(text) {
        Ok(TaggedFrame { id: Some(id) }) if !is_repeatable(&id) => {
            Err(FrameError::new("invalid_frame", format!("the id of a ping is a number or a string of at most {ID_MAX_BYTES} bytes")))
        }
        Ok(TaggedFrame { id }) => Ok(ClientFrame::Ping { id }),
        Err(_) => Err(FrameError::new("invalid_frame", "a ping is {\"type\":\"ping\"}, with an optional id")),
    }
}

fn auth(frame: &Map<String, Value>) -> Result<ClientFrame, FrameError> {
    let token = frame.get("token").and_then(Value::as_str);
    token
        .map(|token| ClientFrame::Auth { token: token.to_owned() })
        .ok_or_else(|| FrameError::new("invalid_frame", "an auth frame needs a token, which must be a string"))
}

fn command(kind: &str, text: &str) -> Result<ClientFrame, FrameError> {
    #[derive(serde::Deserialize)]
    struct CommandFrame {
        id: Option<Value>,
        payload: Option<Box<RawValue>>,
    }
    let invalid = |what: &str| FrameError::new("invalid_command", what.to_owned());
    let CommandFrame { id, payload } = serde_json::from_str(text).map_err(|_| invalid("the command has a duplicate field"))?;
    let tag = match id {
        None => None,
        Some(Value::String(id)) => Some(CommandTag::parse(&id).map_err(|error| invalid(&format!("id {error}")))?),
        Some(_) => return Err(invalid("the id of a command must be a string")),
    };
    let payload = payload.map(|payload| payload.get().to_owned()).filter(|payload| payload != "null");
    if let Some(payload) = &payload {
        json::check(payload).map_err(|error| match error {
            JsonError::Malformed(why) | JsonError::Unfaithful(why) => invalid(&format!("payload: {why}")),
        })?;
    }
    Ok(ClientFrame::Command { kind: kind.to_owned(), tag, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ClientFrame, FrameError> {
        super::parse(text, |kind| kind == "bet")
    }

    #[test]
    fn a_command_keeps_what_it_says_byte_for_byte() {
        let frame = parse(r#"{"type":"bet","id":"b-17","payload":{ "n":1.0 , "s":"\u00e9"}}"#);
        let Ok(ClientFrame::Command { kind, tag, payload }) = frame else { panic!("{frame:?}") };
        assert_eq!((kind.as_str(), tag.unwrap().as_str()), ("bet", "b-17"));
        assert_eq!(payload.as_deref(), Some(r#"{ "n":1.0 , "s":"\u00e9"}"#));
        for bare in [r#"{"type":"bet"}"#, r#"{"type":"bet","id":null,"payload":null,"more":1}"#] {
            assert!(matches!(parse(bare), Ok(ClientFrame::Command { tag: None, payload: None, .. })), "{bare}");
        }
        for bad in [
            r#"{"type":"bet","id":7}"#,
            r#"{"type":"bet","id":""}"#,
            r#"{"type":"bet","id":"a b"}"#,
            r#"{"type":"bet","payload":{"a":1,"a":2}}"#,
            r#"{"type":"bet","payload":1,"payload":2}"#,
            r#"{"type":"bet","payload":"\u0000"}"#,
        ] {
            assert_eq!(parse(bad).expect_err(bad).code, "invalid_command", "{bad}");
        }
    }

    #[test]
    fn known_frames_are_read() {
        assert!(matches!(parse(r#"{"type":"ack","seq":7}"#), Ok(ClientFrame::Ack(seq)) if seq.get() == 7));
        assert!(matches!(parse(r#"{"type":"ping"}"#), Ok(ClientFrame::Ping { id: None })));
        assert!(matches!(parse(r#"{"type":"ping","id":7,"at":1}"#), Ok(ClientFrame::Ping { id: Some(id) }) if id.get() == "7"));
        assert!(matches!(parse(r#"{"type":"auth","token":"t"}"#), Ok(ClientFrame::Auth { token }) if token == "t"));
    }

    #[test]
    fn a_refusal_can_repeat_the_id_of_its_frame() {
        let id = |text: &str| frame_id(text).map(|id| id.get().to_owned());
        assert_eq!(id(r#"{"type":"bet","id":"b-17","payload":"\u0000"}"#).as_deref(), Some(r#""b-17""#));
        assert_eq!(id(r#"{"type":"dance","id":7}"#).as_deref(), Some("7"));
        let long = format!(r#"{{"type":"bet","id":"{}"}}"#, "a".repeat(ID_MAX_BYTES));
        for none in ["", "[1]", "{}", r#"{"id":null}"#, r#"{"id":{"a":1}}"#, r#"{"id":[1]}"#, r#"{"id":1,"id":2}"#, &long] {
            assert_eq!(id(none), None, "{none}");
        }
    }

    #[test]
    fn anything_else_gets_a_code() {
        for (text, code) in [
            ("", "malformed_json"),
            ("[1]", "invalid_frame"),
            ("{}", "invalid_frame"),
            (r#"{"type":7}"#, "invalid_frame"),
            (r#"{"type":"dance","payload":{}}"#, "unknown_type"),
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
