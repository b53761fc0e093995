//! Frames as they stand in the body of an HTTP answer: events of an `EventSource` (WHATWG HTML, "Server-sent
//! events"), or one JSON text a line.

use std::fmt::Write;

use crate::domain::Seq;

/// How frames are written one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `text/event-stream`.
    Events,
    /// `application/x-ndjson`.
    Lines,
}

impl Form {
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Events => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        }
    }

    /// The word for it among the kinds of connection.
    pub const fn transport(self) -> &'static str {
        match self {
            Self::Events => "sse",
            Self::Lines => "ndjson",
        }
    }

    /// A notification. As an event it has no name, so that `onmessage` gets it.
    pub fn notification(self, out: &mut String, seq: Seq, frame: &str) {
        match self {
            Self::Events => event(out, Some(seq), None, frame),
            Self::Lines => line(out, frame),
        }
    }

    /// A frame of the hub's own; `place` where the client has everything up to a number with it.
    pub fn control(self, out: &mut String, name: &str, place: Option<Seq>, frame: &str) {
        match self {
            Self::Events => event(out, place, Some(name), frame),
            Self::Lines => line(out, frame),
        }
    }
}

/// How long an `EventSource` waits before it comes back. Belongs to no event.
pub fn retry(out: &mut String, ms: u64) {
    write!(out, "retry: {ms}\n\n").expect("writing to a String cannot fail");
}

/// Moves the place that an `EventSource` comes back with; without data nothing is dispatched.
pub fn place(out: &mut String, seq: Seq) {
    write!(out, "id: {seq}\n\n").expect("writing to a String cannot fail");
}

/// Keeps proxies from taking the silence for an end.
pub fn comment(out: &mut String) {
    out.push_str(":\n\n");
}

fn event(out: &mut String, id: Option<Seq>, name: Option<&str>, frame: &str) {
    if let Some(name) = name {
        writeln!(out, "event: {name}").expect("writing to a String cannot fail");
    }
    if let Some(id) = id {
        writeln!(out, "id: {id}").expect("writing to a String cannot fail");
    }
    // Posted data may be written over several lines. A client joins them with line feeds again.
    for line in frame.replace("\r\n", "\n").split(['\n', '\r']) {
        out.push_str("data: ");
        out.push_str(line);
        out.push('\n');
    }
    out.push('\n');
}

fn line(out: &mut String, frame: &str) {
    // Inside a JSON string a line's end is written as an escape; what stands bare is white space between two tokens.
    out.extend(frame.chars().map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }));
    out.push('\n');
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
        let event = written(|out| Form::Events.notification(out, seq, frame));
        assert_eq!(event, "id: 7\ndata: {\"data\":[1,\ndata:  2,\ndata: 3,\ndata: 4],\ndata: \"t\":\"a\\n\"}\n\n");
        let line = written(|out| Form::Lines.notification(out, seq, frame));
        assert_eq!(line, "{\"data\":[1,  2,  3, 4], \"t\":\"a\\n\"}\n");
    }

    #[test]
    fn control_frames_are_named_and_carry_an_id_where_they_are_a_place() {
        let caught_up = written(|out| Form::Events.control(out, "caught_up", Some(Seq::from_db(9)), "{}"));
        assert_eq!(caught_up, "event: caught_up\nid: 9\ndata: {}\n\n");
        let goodbye = written(|out| Form::Events.control(out, "goodbye", None, "{}"));
        assert_eq!(goodbye, "event: goodbye\ndata: {}\n\n");
    }
}
