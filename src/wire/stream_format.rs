//! Writes frames into the body of an HTTP response.
//!
//! The body is a sequence of `EventSource` events (WHATWG HTML, "Server-sent events") or one JSON text per line.

use std::fmt::Write;

use crate::domain::Seq;

/// How frames are written one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFormat {
    /// `text/event-stream`.
    Events,
    /// `application/x-ndjson`.
    Lines,
}

impl StreamFormat {
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Events => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        }
    }

    /// The name of the format as a kind of connection.
    pub const fn transport(self) -> &'static str {
        match self {
            Self::Events => "sse",
            Self::Lines => "ndjson",
        }
    }

    /// Writes a notification. As an event it has no name, so that `onmessage` receives it.
    pub fn notification(self, out: &mut String, seq: Seq, frame: &str) {
        match self {
            Self::Events => event(out, Some(seq), None, frame),
            Self::Lines => line(out, frame),
        }
    }

    /// Writes a control frame. `position` is a number up to which the client then has everything.
    pub fn control(self, out: &mut String, name: &str, position: Option<Seq>, frame: &str) {
        match self {
            Self::Events => event(out, position, Some(name), frame),
            Self::Lines => line(out, frame),
        }
    }
}

/// Sets how long an `EventSource` waits before it reconnects. The line belongs to the next event: some parsers hand
/// out a block without data as an empty message.
pub fn retry(out: &mut String, ms: u64) {
    writeln!(out, "retry: {ms}").expect("writing to a String cannot fail");
}

/// Keeps proxies from ending a silent stream. No empty line follows, which would end a block without data.
pub fn comment(out: &mut String) {
    out.push_str(":\n");
}

fn event(out: &mut String, id: Option<Seq>, name: Option<&str>, frame: &str) {
    if let Some(name) = name {
        writeln!(out, "event: {name}").expect("writing to a String cannot fail");
    }
    if let Some(id) = id {
        writeln!(out, "id: {id}").expect("writing to a String cannot fail");
    }
    // Posted data may have several lines. The client joins them with line feeds again.
    for line in frame.replace("\r\n", "\n").split(['\n', '\r']) {
        out.push_str("data: ");
        out.push_str(line);
        out.push('\n');
    }
    out.push('\n');
}

fn line(out: &mut String, frame: &str) {
    push_one_line(out, frame);
    out.push('\n');
}

/// Adds JSON text without its line ends. A JSON string escapes its own, so a bare one in posted data is white space
/// between two tokens.
pub fn push_one_line(out: &mut String, json: &str) {
    if json.contains(['\n', '\r']) {
        out.extend(json.chars().map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }));
    } else {
        out.push_str(json);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut String)) -> String {
        let mut out = String::new();
        write(&mut out);
        out
    }

    #[test]
    fn a_frame_is_one_event_whatever_lines_its_data_has() {
        let seq = Seq::from_db(7);
        let frame = "{\"data\":[1,\n 2,\r\n3,\r4],\n\"t\":\"a\\n\"}";
        let event = written(|out| StreamFormat::Events.notification(out, seq, frame));
        assert_eq!(event, "id: 7\ndata: {\"data\":[1,\ndata:  2,\ndata: 3,\ndata: 4],\ndata: \"t\":\"a\\n\"}\n\n");
        let line = written(|out| StreamFormat::Lines.notification(out, seq, frame));
        assert_eq!(line, "{\"data\":[1,  2,  3, 4], \"t\":\"a\\n\"}\n");
    }

    #[test]
    fn control_frames_are_named_and_carry_an_id_where_they_are_a_place() {
        let caught_up = written(|out| StreamFormat::Events.control(out, "caught_up", Some(Seq::from_db(9)), "{}"));
        assert_eq!(caught_up, "event: caught_up\nid: 9\ndata: {}\n\n");
        let goodbye = written(|out| StreamFormat::Events.control(out, "goodbye", None, "{}"));
        assert_eq!(goodbye, "event: goodbye\ndata: {}\n\n");
        let later = written(|out| {
            comment(out);
            retry(out, 1500);
            StreamFormat::Events.control(out, "goodbye", None, "{}");
        });
        assert_eq!(later, ":\nretry: 1500\nevent: goodbye\ndata: {}\n\n", "one block, with data");
    }
}
