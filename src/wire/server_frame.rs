//! Encodes the frames that the hub sends: one flat JSON object per frame.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::value::RawValue;

use super::close::CloseCode;
use crate::domain::{AccountId, ClientId, InboxCounts, LogId, Notification, Seq, SessionId, UserId};

/// How a connection began; the first frame tells the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum ResumeOutcome {
    /// Nothing to resume: the stream begins at `from`, the head of the log.
    Live { from: Seq },
    /// Everything above `from` will be delivered.
    Ok { from: Seq },
    /// Retention dropped `lost_from` to `lost_to`, or the device expired. Everything above `from` will be delivered.
    Gap { from: Seq, lost_from: Seq, lost_to: Seq },
    /// The position belongs to another log; the client must drop its local state. Everything above `from` will be
    /// delivered.
    Reset { from: Seq },
}

impl ResumeOutcome {
    /// The position after which the stream begins.
    pub const fn from(self) -> Seq {
        match self {
            Self::Live { from } | Self::Ok { from } | Self::Gap { from, .. } | Self::Reset { from } => from,
        }
    }

    /// The position that the client has acknowledged. It is below `from` for a gap: the first pong acknowledges that
    /// the client knows of the gap, and the gap is not reported again.
    pub fn confirmed(self) -> Seq {
        match self {
            Self::Gap { lost_from, .. } => Seq::from_db(lost_from.get() - 1),
            Self::Live { from } | Self::Ok { from } | Self::Reset { from } => from,
        }
    }
}

/// How a connection began, and whether its device has other connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Resumed {
    #[serde(flatten)]
    pub resume: ResumeOutcome,
    /// Another connection of the same `client_id` is open or may come back, so some notifications may be repeated.
    #[serde(skip_serializing_if = "is_false")]
    pub shared: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// The first frame of a connection.
#[derive(Debug, Serialize)]
pub struct Established<'a> {
    pub session_id: SessionId,
    pub user_id: &'a UserId,
    pub account_ids: &'a [AccountId],
    pub client_id: &'a ClientId,
    pub log_id: LogId,
    pub head: Seq,
    pub earliest: Seq,
    pub resume: Resumed,
    pub heartbeat_ms: u64,
    #[serde(serialize_with = "as_timestamp")]
    pub token_expires_at: DateTime<Utc>,
    #[serde(flatten)]
    pub inbox: Option<InboxCounts>,
}

/// A control frame: any frame but a notification.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame<'a> {
    ConnectionEstablished(Established<'a>),
    CaughtUp {
        seq: Seq,
        replayed: u64,
        #[serde(flatten)]
        inbox: Option<InboxCounts>,
    },
    /// Counts that changed without a row for the user.
    InboxCounts(InboxCounts),
    Heartbeat {
        seq: Seq,
        prev: Seq,
    },
    Pong {
        timestamp: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
    },
    /// `id` is the one of the refused frame, so that a client can tell which of its frames it was.
    Error {
        code: &'a str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
    },
    /// The status of the user's session with a provider. `provider` is set if there are several providers.
    Status {
        status: &'a str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        provider: Option<&'a str>,
    },
    /// Why the last attempt to reach a provider failed. The old service's frame, which has no code.
    #[serde(rename = "error")]
    Trouble {
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        provider: Option<&'a str>,
    },
    /// The outcome of a command.
    CommandResult {
        id: &'a str,
        status: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<&'a str>,
    },
    AuthExpiring {
        #[serde(serialize_with = "as_timestamp")]
        expires_at: DateTime<Utc>,
    },
    AuthOk {
        #[serde(serialize_with = "as_timestamp")]
        expires_at: DateTime<Utc>,
    },
    Goodbye {
        reason: &'static str,
        after_ms: u64,
    },
}

impl ServerFrame<'_> {
    pub fn goodbye(close: CloseCode, after_ms: u64) -> Self {
        Self::Goodbye { reason: close.reason(), after_ms }
    }

    pub fn encode(&self) -> String {
        // Plain structs of strings and numbers. serde_json fails only on maps whose keys are not strings.
        serde_json::to_string(self).expect("a frame of plain fields is always JSON")
    }
}

/// Formats a time as RFC 3339 in UTC, with milliseconds.
pub fn timestamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn as_timestamp<S: serde::Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&timestamp(*at))
}

/// Length of a tail without its texts, if nothing in them is escaped. Not less, so that one allocation is enough.
const TAIL_BYTES: usize = 176;

/// Encodes the part of a notification's frame that is the same for every client: all after `seq` and `prev`. It is
/// encoded once for all connections. [`notification_frame`] puts the head before it.
pub fn notification_tail(n: &Notification) -> String {
    let data = n.data.as_deref().unwrap_or("null");
    let account = n.audience.account().map_or(0, |account| account.as_str().len());
    let mut out = String::with_capacity(TAIL_BYTES + n.kind.len() + n.title.len() + n.message.len() + data.len() + account);
    out.push_str("\"type\":");
    push_string(&mut out, &n.kind);
    out.push_str(",\"title\":");
    push_string(&mut out, &n.title);
    out.push_str(",\"message\":");
    push_string(&mut out, &n.message);
    out.push_str(",\"data\":");
    out.push_str(data);
    out.push_str(",\"id\":\"");
    out.push_str(n.id.0.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()));
    out.push_str("\",\"to\":\"");
    out.push_str(n.audience.kind());
    if let Some(account) = n.audience.account() {
        out.push_str("\",\"account_id\":\"");
        out.push_str(account.as_str());
    }
    out.push_str("\",\"created_at\":\"");
    out.push_str(&timestamp(n.created_at));
    out.push_str("\"}");
    out
}

fn push_string(out: &mut String, text: &str) {
    // RFC 8259 section 7: no other characters must be escaped.
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
        return;
    }
    // Writing a str to a String cannot fail.
    let json = serde_json::to_string(text).expect("a string is always JSON");
    out.push_str(&json);
}

/// What a frame tells one connection of its inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InboxMarks {
    /// The user muted the type.
    pub muted: bool,
    pub counts: Option<InboxCounts>,
}

/// Builds a whole frame: its number, the number delivered before it on this connection, what is of this connection
/// only, and the shared tail.
pub fn notification_frame(seq: Seq, prev: Seq, replayed: bool, inbox: InboxMarks, tail: &str) -> String {
    use std::fmt::Write;
    const CANNOT_FAIL: &str = "writing to a String cannot fail";
    let mut out = String::with_capacity(if inbox.counts.is_some() { 112 } else { 64 } + tail.len());
    write!(out, "{{\"seq\":{seq},\"prev\":{prev},").expect(CANNOT_FAIL);
    out.push_str(if replayed { "\"replayed\":true," } else { "" });
    out.push_str(if inbox.muted { "\"muted\":true," } else { "" });
    if let Some(InboxCounts { unread, unseen, as_of }) = inbox.counts {
        write!(out, "\"unread\":{unread},\"unseen\":{unseen},\"as_of\":{as_of},").expect(CANNOT_FAIL);
    }
    out.push_str(tail);
    out
}

/// Encodes a notification outside any connection: its frame without `prev`.
pub fn notification_record(n: &Notification) -> String {
    format!("{{\"seq\":{},{}", n.seq, notification_tail(n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Audience, NotificationId};

    #[test]
    fn a_notification_keeps_the_posted_bytes_and_hides_the_list_of_users() {
        let user = |s: &str| UserId::parse(s).unwrap();
        let n = Notification {
            seq: Seq::from_db(7),
            id: NotificationId::new(),
            created_at: "2026-11-21T16:39:58.120999Z".parse().unwrap(),
            kind: "order_created".into(),
            title: "a \"b\" \n\u{2028}".into(),
            message: "<script>".into(),
            data: Some("{ \"z\":1.0 , \"a\":1e2}".into()),
            audience: Audience::Users { users: vec![user("42"), user("43")], account: Some(AccountId::parse("7").unwrap()) },
            is_item: false,
            trace: None,
            posted: None,
        };
        let text = notification_frame(n.seq, Seq::from_db(3), true, InboxMarks::default(), &notification_tail(&n));
        assert!(text.contains("\"data\":{ \"z\":1.0 , \"a\":1e2},"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["seq"], 7);
        assert_eq!(json["prev"], 3);
        assert_eq!(json["replayed"], true);
        assert_eq!(json["title"], "a \"b\" \n\u{2028}");
        assert_eq!(json["to"], "user");
        assert_eq!(json["account_id"], "7");
        assert_eq!(json["created_at"], "2026-11-21T16:39:58.120Z");
        assert!(json.get("user_ids").is_none() && json.get("user_id").is_none());
    }

    #[test]
    fn control_frames_are_flat() {
        let frame = ServerFrame::Goodbye { reason: "draining", after_ms: 1830 };
        assert_eq!(frame.encode(), r#"{"type":"goodbye","reason":"draining","after_ms":1830}"#);
        let status = ServerFrame::Status { status: "connected", message: "Conectado", provider: None };
        assert_eq!(status.encode(), r#"{"type":"status","status":"connected","message":"Conectado"}"#);
        let trouble = ServerFrame::Trouble { message: "Erro", provider: None };
        assert_eq!(trouble.encode(), r#"{"type":"error","message":"Erro"}"#);
        let result = ServerFrame::CommandResult { id: "b-17", status: "sent", detail: None };
        assert_eq!(result.encode(), r#"{"type":"command_result","id":"b-17","status":"sent"}"#);
        let gap = ResumeOutcome::Gap { from: Seq::from_db(9), lost_from: Seq::from_db(4), lost_to: Seq::from_db(9) };
        assert_eq!(serde_json::to_string(&gap).unwrap(), r#"{"status":"gap","from":9,"lost_from":4,"lost_to":9}"#);
    }
}
