//! Defines the contract with clients as data: client frames, server frames, and refusals.
//!
//! This room knows only the domain. Nothing here reads a socket or a clock. Three vocabularies stay apart: what a
//! service posts ([`notify`], [`batch`], [`cloudevents`]), what a client sends ([`client_frame`]), and what the hub
//! sends ([`server_frame`], [`close`], [`problem`]).

pub mod access;
pub mod audit;
pub mod batch;
mod borrowed_str;
pub mod client_frame;
pub mod close;
pub mod cloudevents;
pub mod console;
pub mod consumer;
pub mod history;
pub mod inbox;
pub mod json;
pub mod lines;
pub mod member;
pub mod node_service;
pub mod notify;
pub mod problem;
pub mod readiness;
pub mod scopes;
pub mod server_frame;
pub mod stats;
pub mod stream_format;
pub mod type_filter;
pub mod webhook;
pub mod websocket_frame;
pub mod why;

/// Names of frames. A notification may not have one as its type: a client could not tell the two apart.
pub const RESERVED_TYPES: [&str; 14] = [
    "connection_established",
    "caught_up",
    "heartbeat",
    "ping",
    "pong",
    "ack",
    "auth",
    "auth_ok",
    "auth_expiring",
    "status",
    "error",
    "command_result",
    "goodbye",
    "inbox_counts",
];

/// Prefix of types that are reserved for the hub's own notifications, such as `upstream_gap`. A post with one is
/// refused.
pub const OWN_PREFIX: &str = "upstream_";

/// Types that are reserved for the hub's own rows: changes of membership, and of a user's inbox and preferences. A post
/// with one is refused.
const OWN_TYPES: [&str; 3] = [crate::domain::MEMBER_TYPE, crate::domain::INBOX_TYPE, crate::domain::PREFERENCES_TYPE];

/// Maximum length of a notification type, in characters.
const TYPE_MAX: usize = 64;
/// The rule of [`is_type`], as an error says it.
pub const TYPE_RULE: &str = "must be 1 to 64 characters of a-z 0-9 . _ - and begin with a letter or digit";

/// Why a type is reserved for the hub's own notifications, as an error says it. `None`: it is not.
pub fn why_own(kind: &str) -> Option<&'static str> {
    if kind.starts_with(OWN_PREFIX) {
        Some("begins with upstream_, which only the hub's own notifications do")
    } else if OWN_TYPES.contains(&kind) {
        Some("is reserved for the hub's own notifications")
    } else {
        None
    }
}

/// Whether a text has the form of a notification type. Reserved types count as well.
pub fn is_type(kind: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let rest = kind.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'));
    rest && kind.len() <= TYPE_MAX && kind.bytes().next().is_some_and(plain)
}
