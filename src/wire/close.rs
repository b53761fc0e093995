//! Why the hub closes a WebSocket: the codes of RFC 6455 section 7.4 and our own from its private range.

/// A close, as the client sees it. What a client should do after each is in `docs/protocol.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Close {
    /// This hub stops; another one will take the client.
    Draining,
    /// The client took nothing for the send deadline.
    SlowConsumer,
    /// The client did not answer a ping in time.
    NoPong,
    /// The hub cannot serve this connection for now.
    ServerError,
    /// A newer connection of the same user took its place.
    SessionReplaced,
    /// Too many messages a minute.
    RateLimited,
    /// The token ran out.
    TokenExpired,
    /// No token, or not one that opens this door.
    Unauthorized,
    /// The new token names another user.
    IdentityChanged,
    /// Too many frames that were refused, over the life of the connection.
    ProtocolError,
    /// The user has as many connections as one may have.
    TooManyConnections,
    /// RFC 6455: a frame that breaks the WebSocket protocol.
    BrokenFrame,
    /// RFC 6455: a binary frame; this protocol is text.
    Binary,
    /// RFC 6455: text that is not UTF-8.
    BadUtf8,
    /// RFC 6455: a message over the limit.
    TooBig,
    /// RFC 6455: a fault inside the hub.
    Internal,
}

impl Close {
    /// All of them, for the table in the docs and its test.
    pub const ALL: [Self; 16] = [
        Self::Draining,
        Self::SlowConsumer,
        Self::NoPong,
        Self::ServerError,
        Self::SessionReplaced,
        Self::RateLimited,
        Self::TokenExpired,
        Self::Unauthorized,
        Self::IdentityChanged,
        Self::ProtocolError,
        Self::TooManyConnections,
        Self::BrokenFrame,
        Self::Binary,
        Self::BadUtf8,
        Self::TooBig,
        Self::Internal,
    ];

    pub const fn code(self) -> u16 {
        match self {
            Self::Draining => 4000,
            Self::SlowConsumer => 4001,
            Self::NoPong => 4002,
            Self::ServerError => 4003,
            Self::SessionReplaced => 4004,
            Self::RateLimited => 4029,
            Self::TokenExpired => 4401,
            Self::Unauthorized => 4500,
            Self::IdentityChanged => 4501,
            Self::ProtocolError => 4502,
            Self::TooManyConnections => 4504,
            Self::BrokenFrame => 1002,
            Self::Binary => 1003,
            Self::BadUtf8 => 1007,
            Self::TooBig => 1009,
            Self::Internal => 1011,
        }
    }

    /// The stable word beside the code, and the reason that the session's row keeps.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::SlowConsumer => "slow_consumer",
            Self::NoPong => "no_pong",
            Self::ServerError => "server_error",
            Self::SessionReplaced => "session_replaced",
            Self::RateLimited => "rate_limited",
            Self::TokenExpired => "token_expired",
            Self::Unauthorized => "unauthorized",
            Self::IdentityChanged => "identity_changed",
            Self::ProtocolError => "protocol_error",
            Self::TooManyConnections => "too_many_connections",
            Self::BrokenFrame => "broken_frame",
            Self::Binary => "binary_frame",
            Self::BadUtf8 => "bad_utf8",
            Self::TooBig => "frame_too_big",
            Self::Internal => "internal",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_close_is_documented() {
        let page = include_str!("../../docs/protocol.md");
        for close in Close::ALL {
            let row = format!("| {} | `{}` |", close.code(), close.reason());
            assert!(page.contains(&row), "docs/protocol.md has no row {row}");
        }
    }

    #[test]
    fn every_code_and_word_stands_once() {
        let codes: HashSet<_> = Close::ALL.iter().map(|c| c.code()).collect();
        let words: HashSet<_> = Close::ALL.iter().map(|c| c.reason()).collect();
        assert_eq!((codes.len(), words.len()), (Close::ALL.len(), Close::ALL.len()));
        assert!(Close::ALL.iter().all(|c| c.reason().len() <= 123), "RFC 6455 section 5.5 leaves 123 bytes for a reason");
    }
}
