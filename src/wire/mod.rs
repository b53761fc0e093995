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
