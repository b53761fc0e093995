//! Reads the requests of `/api/admin/upstream`, and defines its answers.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::UserId;
use crate::wire::problem::{FieldError, Problem, read_body};

/// Most sessions of one answer.
pub const LIMIT_MAX: i64 = 10_000;
const LIMIT_DEFAULT: i64 = 1000;
/// The states of a provider session.
const STATES: [&str; 8] = ["waiting", "signing_in", "connecting", "live", "backing_off", "refused", "idle", "released"];

/// Which sessions are asked for. `None` lists all.
#[derive(Debug, PartialEq, Eq)]
pub struct UpstreamQuery {
    pub user: Option<UserId>,
    pub state: Option<String>,
    pub limit: i64,
}

#[derive(Debug, Serialize)]
pub struct UpstreamBody {
    pub sessions: Vec<ShownUpstream>,
}

/// A provider session, without its secret.
#[derive(Debug, Serialize)]
pub struct ShownUpstream {
    pub provider: String,
    pub user_id: String,
    pub state: String,
    /// The session is live, and its owner's lease has not expired.
    pub is_live: bool,
    pub attempts: i32,
    /// The instance that holds the session.
    pub owner: Option<Uuid>,
    pub term: i64,
    pub lease_until: Option<String>,
    pub wanted_until: String,
    pub next_try_at: String,
    pub connected_at: Option<String>,
    pub last_message_at: Option<String>,
    pub error: Option<String>,
    /// `reconnect` or `release`, until the owner has done it.
    pub asked: Option<String>,
    /// The user's last commands for this provider, newest first. `None`: the request named no user.
    pub commands: Option<Vec<ShownCommand>>,
}

/// A command, without its payload.
#[derive(Debug, Clone, Serialize)]
pub struct ShownCommand {
    pub command_id: Uuid,
    pub client_id: String,
    pub id: String,
    pub r#type: String,
    pub state: String,
    pub detail: Option<String>,
    pub term: Option<i64>,
    pub accepted_at: String,
    pub settled_at: Option<String>,
}

/// What an admin wants of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamAction {
    /// Drop the connection, and sign in again.
    Reconnect,
    /// End the session until the user's next connection.
    Release,
}

#[derive(Debug, Serialize)]
pub struct UpstreamAsked {
    pub success: bool,
    pub sessions: u64,
}

impl UpstreamQuery {
    /// # Errors
    /// 422 with every broken rule.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self, Problem> {
        let (mut query, mut errors) = (Self { user: None, state: None, limit: LIMIT_DEFAULT }, Vec::new());
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in pairs {
            let mut wrong = |rule: String| errors.push(FieldError::new(format!("/{name}"), rule));
            if seen.contains(&name.as_str()) {
                wrong("duplicate parameter".to_owned());
                continue;
            }
            seen.push(name);
            match name.as_str() {
                "user" => match UserId::parse(value) {
                    Ok(user) => query.user = Some(user),
                    Err(error) => wrong(error.to_string()),
                },
                "state" if STATES.contains(&value.as_str()) => query.state = Some(value.clone()),
                "state" => wrong(format!("must be one of {}", STATES.join(", "))),
                "limit" => match value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit)) {
                    Some(limit) => query.limit = limit,
                    None => wrong(format!("must be a number from 1 to {LIMIT_MAX}")),
                },
                _ => wrong("the parameters are user, state and limit".to_owned()),
            }
        }
        if errors.is_empty() {
            return Ok(query);
        }
        Err(Problem::new(422, "invalid_field", "the query breaks the rules listed in errors").with_errors(errors))
    }
}

impl UpstreamAction {
    /// Reads `{"action":"reconnect"}` or `{"action":"release"}`.
    ///
    /// # Errors
    /// 400 for malformed JSON, 422 for any other JSON.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            action: UpstreamAction,
        }
        let Fields { action } = read_body(body, r#"the body is {"action":"reconnect"} or {"action":"release"} and nothing else"#)?;
        Ok(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_strict() {
        let parse = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            UpstreamQuery::parse(&pairs).map_err(|problem| problem.errors.into_iter().map(|e| e.pointer).collect::<Vec<_>>())
        };
        assert_eq!(parse(&[]).unwrap(), UpstreamQuery { user: None, state: None, limit: LIMIT_DEFAULT });
        let full = parse(&[("user", "ann"), ("state", "live"), ("limit", "5")]).unwrap();
        assert_eq!((full.user.unwrap().as_str(), full.state.as_deref(), full.limit), ("ann", Some("live"), 5));
        let all = parse(&[("user", "a b"), ("state", "dead"), ("limit", "0"), ("x", ""), ("user", "b")]).unwrap_err();
        assert_eq!(all, ["/user", "/state", "/limit", "/x", "/user"]);
    }

    #[test]
    fn an_action_is_one_of_two() {
        let read = |text: &str| UpstreamAction::parse(text.as_bytes());
        assert_eq!(read(r#"{"action":"reconnect"}"#), Ok(UpstreamAction::Reconnect));
        assert_eq!(read(r#"{"action":"release"}"#), Ok(UpstreamAction::Release));
        for (text, status) in [("", 400), ("{}", 422), (r#"{"action":"drop"}"#, 422), (r#"{"action":"release","x":1}"#, 422)] {
            assert_eq!(read(text).unwrap_err().status, status, "{text}");
        }
    }
}
