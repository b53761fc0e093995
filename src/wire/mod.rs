//! The contract with the outside, as data: what clients send, what the hub sends, and in which words it refuses.
//!
//! Knows only the domain. Nothing here reads a socket or a clock. Three vocabularies stay apart: what a service posts
//! ([`notify`], [`batch`],
//! [`cloudevents`]), what a client says ([`client`]), what the hub says ([`server`], [`close`], [`problem`]).

pub mod batch;
pub mod client;
pub mod close;
pub mod cloudevents;
pub mod flow;
pub mod history;
pub mod json;
pub mod lines;
pub mod notify;
pub mod problem;
pub mod server;
mod text;
pub mod why;

/// Names of frames. A notification may not have one as its type: a client could not tell them apart.
pub const RESERVED_TYPES: [&str; 13] = [
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
];

/// Longest type of a notification, in characters.
const TYPE_MAX: usize = 64;
/// What [`is_type`] asks for, for whoever gave another.
pub const TYPE_RULE: &str = "must be 1 to 64 characters of a-z 0-9 . _ - and begin with a letter or digit";

/// Whether a text can be the type of a notification, reserved or not.
pub fn is_type(kind: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let rest = kind.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'));
    rest && kind.len() <= TYPE_MAX && kind.bytes().next().is_some_and(plain)
}
