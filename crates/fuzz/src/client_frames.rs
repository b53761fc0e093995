//! Fuzzes the parser of client frames.

use serde_json::Value;

use recado::wire::client_frame::{self, ClientFrame};
use recado::wire::json;
use recado::wire::server_frame::ServerFrame;

const CODES: [&str; 5] = ["malformed_json", "invalid_frame", "unknown_type", "bad_ack", "invalid_command"];
/// Maximum length of the answer to a refused frame, in bytes.
const ANSWER_MAX: usize = 1024;

pub fn client_frame(input: &[u8]) {
    // The socket refuses text that is not UTF-8 before the parser.
    let Ok(text) = std::str::from_utf8(input) else { return };
    let frame = match client_frame::parse(text, |kind| matches!(kind, "bet" | "raise")) {
        Ok(frame) => frame,
        Err(error) => {
            assert!(CODES.contains(&error.code), "{error:?}");
            let id = client_frame::frame_id(text);
            let answer = ServerFrame::Error { code: error.code, message: &error.message, id: id.as_deref() }.encode();
            assert!(answer.len() <= ANSWER_MAX, "{answer}");
            let answer: Value = serde_json::from_str(&answer).expect("a frame is JSON");
            assert_eq!(answer["message"], error.message.as_str());
            assert_eq!(answer.get("id").is_some(), id.is_some());
            return;
        }
    };
    let said: Value = serde_json::from_str(text).expect("what was taken is JSON");
    match frame {
        ClientFrame::Ack(seq) => assert_eq!(said["seq"], seq.get()),
        ClientFrame::Ping { id } => {
            let answer = ServerFrame::Pong { timestamp: 0, id: id.as_deref() }.encode();
            assert!(answer.len() <= ANSWER_MAX, "{answer}");
            let answer: Value = serde_json::from_str(&answer).expect("a frame is JSON");
            assert_eq!(answer.get("id"), said.get("id").filter(|id| !id.is_null()));
        }
        ClientFrame::Auth { token } => assert_eq!(said["token"], token),
        ClientFrame::Command { kind, tag, payload } => {
            assert_eq!(said["type"], kind);
            assert_eq!(said.get("id").and_then(Value::as_str), tag.as_ref().map(|tag| tag.as_str()));
            let payload = payload.unwrap_or_else(|| "null".to_owned());
            assert_eq!(json::check(&payload), Ok(()));
            assert!(payload == "null" || text.contains(&payload), "{payload}");
        }
    }
}
