//! Lists the WebSocket close codes of the hub.
//!
//! The codes below 2000 are those of RFC 6455 section 7.4. The others are from its private range.

/// Why a WebSocket is closed. `docs/reference/close-codes.md` says what a client should do after each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// The hub stops. Another hub will take the client.
    Draining,
    /// The client read nothing for the send deadline.
    SlowConsumer,
    /// The client did not answer a ping in time.
    NoPong,
    /// The hub cannot serve this connection at present.
    ServerError,
    /// A newer connection of the same user replaced this one.
    SessionReplaced,
    /// Too many messages per minute.
    RateLimited,
    /// The token expired.
    TokenExpired,
    /// An admin has revoked the user's tokens of before some time, and this connection's is one of them.
    TokenRevoked,
    /// An admin has closed the session.
    ClosedByAdmin,
    /// The query of a browser's connection breaks a rule.
    BadQuery,
    /// The token is missing, invalid, or not valid for this route.
    Unauthorized,
    /// The new token names another user.
    IdentityChanged,
    /// Too many refused frames over the life of the connection.
    ProtocolError,
    /// The user has the maximum number of connections already.
    TooManyConnections,
    /// RFC 6455: a frame that breaks the WebSocket protocol.
    BrokenFrame,
    /// RFC 6455: a binary frame. This protocol is text only.
    Binary,
    /// RFC 6455: text that is not UTF-8.
    BadUtf8,
    /// RFC 6455: a message over the size limit.
    TooBig,
    /// RFC 6455: an internal error.
    Internal,
}

impl CloseCode {
    /// All codes, for the table in the docs and its test.
    pub const ALL: [Self; 19] = [
        Self::Draining,
        Self::SlowConsumer,
        Self::NoPong,
        Self::ServerError,
        Self::SessionReplaced,
        Self::RateLimited,
        Self::TokenExpired,
        Self::TokenRevoked,
        Self::ClosedByAdmin,
        Self::BadQuery,
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
            Self::TokenExpired | Self::TokenRevoked => 4401,
            Self::ClosedByAdmin => 4505,
            Self::BadQuery => 4510,
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

    /// The stable word that goes with the code. The session's row stores it as the end reason.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::SlowConsumer => "slow_consumer",
            Self::NoPong => "no_pong",
            Self::ServerError => "server_error",
            Self::SessionReplaced => "session_replaced",
            Self::RateLimited => "rate_limited",
            Self::TokenExpired => "token_expired",
            Self::TokenRevoked => "token_revoked",
            Self::ClosedByAdmin => "closed_by_admin",
            Self::BadQuery => "bad_query",
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

/// Maximum length of a close frame's reason, in bytes (RFC 6455 section 5.5).
const REASON_MAX_BYTES: usize = 123;

impl CloseCode {
    /// The reason's word, a colon, and as much of the detail as fits.
    pub fn reason_with(self, detail: &str) -> String {
        let mut reason = if detail.is_empty() { self.reason().to_owned() } else { format!("{}: {detail}", self.reason()) };
        reason.truncate(reason.floor_char_boundary(REASON_MAX_BYTES));
        reason
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_close_is_documented() {
        let page = include_str!("../../docs/reference/close-codes.md");
        for close in CloseCode::ALL {
            let row = format!("| {} | `{}` |", close.code(), close.reason());
            assert!(page.contains(&row), "docs/reference/close-codes.md has no row {row}");
        }
    }

    #[test]
    fn a_reason_has_room_for_what_was_wrong_and_no_more() {
        assert_eq!(CloseCode::BadQuery.reason_with("since must be ack"), "bad_query: since must be ack");
        assert_eq!(CloseCode::BadQuery.reason_with(""), "bad_query");
        let long = CloseCode::Unauthorized.reason_with(&"é".repeat(100));
        assert!(long.len() <= 123 && long.starts_with("unauthorized: é"), "{long}");
    }

    #[test]
    fn every_word_stands_once_and_every_code_but_that_of_tokens() {
        // A client does the same after both, so that clients of before the second one do so too.
        assert_eq!(CloseCode::TokenRevoked.code(), CloseCode::TokenExpired.code());
        let codes: HashSet<_> = CloseCode::ALL.iter().map(|c| c.code()).collect();
        let words: HashSet<_> = CloseCode::ALL.iter().map(|c| c.reason()).collect();
        assert_eq!((codes.len(), words.len()), (CloseCode::ALL.len() - 1, CloseCode::ALL.len()));
        assert!(CloseCode::ALL.iter().all(|c| c.reason().len() <= 123), "RFC 6455 section 5.5 leaves 123 bytes for a reason");
    }
}
