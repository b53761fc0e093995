//! Decides which open sessions an admin asked for.

use uuid::Uuid;

use super::{AccountId, ClientId, Seq, UserId};

/// The conditions that a session must meet, all of them. `None` sets no condition. The function
/// `recado.close_matching` of `V26__console_sign_in.sql` has the same rule in SQL; a test compares the two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionFilter {
    pub user: Option<UserId>,
    /// One of the accounts of the session, by its token or by the table of members.
    pub account: Option<AccountId>,
    pub client: Option<ClientId>,
    pub instance: Option<Uuid>,
    pub transport: Option<Transport>,
    /// The head of the log is at least so many numbers above the acknowledged position.
    pub min_lag: Option<i64>,
}

/// The ways to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    Sse,
    Ndjson,
}

impl Transport {
    /// `None` for a word that names no transport.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::WebSocket, Self::Sse, Self::Ndjson].into_iter().find(|transport| transport.as_str() == text)
    }

    /// As sessions store it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Sse => "sse",
            Self::Ndjson => "ndjson",
        }
    }
}

/// What a filter looks at in a session.
#[derive(Debug, Clone, Copy)]
pub struct FilteredSession<'a> {
    pub user: &'a str,
    pub client: &'a str,
    pub instance: Uuid,
    pub transport: &'a str,
    pub acked: Seq,
}

impl SessionFilter {
    /// Whether it has no condition, so that every session matches.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the session matches. `is_in` tells whether the session has an account; it is only called if needed.
    pub fn matches(&self, session: FilteredSession<'_>, head: Seq, is_in: impl FnOnce(&AccountId) -> bool) -> bool {
        self.user.as_ref().is_none_or(|user| user.as_str() == session.user)
            && self.client.as_ref().is_none_or(|client| client.as_str() == session.client)
            && self.instance.is_none_or(|instance| instance == session.instance)
            && self.transport.is_none_or(|transport| transport.as_str() == session.transport)
            && self.min_lag.is_none_or(|lag| head.since(session.acked) >= lag)
            && self.account.as_ref().is_none_or(is_in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_must_meet_every_condition() {
        let instance = Uuid::new_v4();
        let session = FilteredSession { user: "ann", client: "web", instance, transport: "sse", acked: Seq::from_db(7) };
        let matches = |filter: &SessionFilter| filter.matches(session, Seq::from_db(10), |account| account.as_str() == "7");
        let none = SessionFilter::default();
        assert!(none.is_empty() && matches(&none));
        let all = SessionFilter {
            user: UserId::parse("ann").ok(),
            account: AccountId::parse("7").ok(),
            client: ClientId::parse("web").ok(),
            instance: Some(instance),
            transport: Transport::parse("sse"),
            min_lag: Some(3),
        };
        assert!(matches(&all) && !all.is_empty());
        for other in [
            SessionFilter { user: UserId::parse("bob").ok(), ..all.clone() },
            SessionFilter { account: AccountId::parse("8").ok(), ..all.clone() },
            SessionFilter { client: ClientId::parse("phone").ok(), ..all.clone() },
            SessionFilter { instance: Some(Uuid::new_v4()), ..all.clone() },
            SessionFilter { transport: Some(Transport::WebSocket), ..all.clone() },
            SessionFilter { min_lag: Some(4), ..all.clone() },
        ] {
            assert!(!matches(&other), "{other:?}");
        }
    }
}
