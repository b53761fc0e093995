//! Collects frames into one WebSocket message, one frame in each line.
//!
//! A browser hands each message over between two processes and runs a task for it. A replay of thousands of frames
//! costs mostly that.

use crate::wire::stream_format::push_one_line;

/// A message is sent when the next frame would make it longer than this. It is far below the 64 KiB that the
/// documentation allows: a client that reads a few kilobytes a second must take a whole message within the send
/// deadline, and a socket's write buffer keeps the capacity that its longest message needed.
const MESSAGE_BYTES: usize = 4 << 10;

/// The message that is being collected.
#[derive(Debug, Default)]
pub struct LineMessage {
    text: String,
}

impl LineMessage {
    /// Adds a frame. Returns the message before it, if the frame does not fit into that. A frame that is longer than a
    /// message may be is a message of its own.
    pub fn add(&mut self, frame: &str) -> Option<String> {
        let is_full = !self.text.is_empty() && self.text.len() + 1 + frame.len() > MESSAGE_BYTES;
        let full = if is_full { self.take() } else { None };
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        push_one_line(&mut self.text, frame);
        full
    }

    /// Takes what was collected.
    pub fn take(&mut self) -> Option<String> {
        if self.text.is_empty() { None } else { Some(std::mem::take(&mut self.text)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_one_frame_in_each_line_and_a_limit() {
        let mut message = LineMessage::default();
        assert_eq!(message.take(), None);
        assert_eq!(message.add("{\"data\":[1,\r\n2]}"), None);
        assert_eq!(message.add("{}"), None);
        assert_eq!(message.take().as_deref(), Some("{\"data\":[1,  2]}\n{}"));
        let long = "x".repeat(MESSAGE_BYTES - 3);
        assert_eq!(message.add(&long), None);
        assert_eq!(message.add("{}").as_ref(), None, "a message of exactly the limit");
        assert_eq!(message.add("{}").map(|full| full.len()), Some(MESSAGE_BYTES));
        let too_long = "x".repeat(MESSAGE_BYTES + 1);
        assert_eq!(message.add(&too_long).as_deref(), Some("{}"));
        assert_eq!(message.add("{}"), Some(too_long), "a longer frame is a message of its own");
    }
}
