//! A provider as its file describes it, checked: what every part of this room and the sessions work from.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use hyper::header::HeaderName;
use serde_json::{Value, json};

use super::hosts::{Hosts, UrlTemplate};
use super::rule::{Pointer, Rule, any_matches};
use super::secret::Secret;
use super::template::{Filling, Template};
use crate::domain::{Audience, BodyHash, NewNotification, NotificationId, ProviderName, UserId, message_source};
use crate::wire::json;

/// All providers of the file, in its order. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Providers(Arc<Vec<Arc<Provider>>>);

impl Providers {
    pub fn new(all: Vec<Provider>) -> Self {
        Self(Arc::new(all.into_iter().map(Arc::new).collect()))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Provider>> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn names(&self) -> Vec<ProviderName> {
        self.iter().map(|provider| provider.name.clone()).collect()
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Provider>> {
        self.iter().find(|provider| provider.name.as_str() == name)
    }

    /// The one provider that takes commands of this type; the file's check lets no two have one.
    pub fn taking(&self, kind: &str) -> Option<&Arc<Provider>> {
        self.iter().find(|provider| provider.commands.types.iter().any(|known| known == kind))
    }
}

/// One provider.
#[derive(Debug, Clone)]
pub struct Provider {
    pub name: ProviderName,
    pub hosts: Hosts,
    pub sign_in: SignIn,
    pub socket: SocketRules,
    pub keepalive: Keepalive,
    pub messages: Messages,
    pub commands: Commands,
    pub backoff: BackoffRules,
    /// A session on which neither the user nor the provider says anything for this long is ended.
    pub idle_timeout: Duration,
    /// How long a session is kept after the user's last client left.
    pub linger: Duration,
    pub texts: Texts,
}

/// The HTTP request that opens a session.
#[derive(Debug, Clone)]
pub struct SignIn {
    pub method: hyper::Method,
    pub url: UrlTemplate,
    pub headers: Vec<Header>,
    pub body: Option<Template>,
    /// Where the session id stands in the answer.
    pub session: Pointer,
    /// Must be `true` where it is given.
    pub success: Option<Pointer>,
    /// Where the provider's own words on a failure stand.
    pub error: Option<Pointer>,
    /// Statuses that mean: this user is refused, do not ask again.
    pub refused: Vec<u16>,
    /// What a `success` of `false` means: the same, or that another try may do.
    pub failure_is_final: bool,
    /// For all of it, from the name to the last byte.
    pub deadline: Duration,
}

#[derive(Debug, Clone)]
pub struct Header {
    pub name: HeaderName,
    pub value: Template,
}

/// The WebSocket of a session.
#[derive(Debug, Clone)]
pub struct SocketRules {
    pub url: UrlTemplate,
    pub headers: Vec<Header>,
    pub subprotocol: Option<String>,
    /// For all of it, from the name to the accepted handshake.
    pub connect_deadline: Duration,
    /// Longest message taken, in bytes; a longer one ends the socket.
    pub max_message: usize,
    /// Statuses of a refused handshake that mean: sign in anew, this session id is spent.
    pub expired_statuses: Vec<u16>,
    /// Close codes that mean the same.
    pub expired_codes: Vec<u16>,
}

/// What is said to the provider again and again, so that both sides know the socket lives.
#[derive(Debug, Clone)]
pub struct Keepalive {
    pub text: Template,
    pub form: PingForm,
    pub interval: Duration,
    /// Something must come this long after a ping, whatever it is; else the socket is dead.
    pub deadline: Duration,
    /// What answers a ping: not a message to anyone.
    pub answers: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PingForm {
    /// A text message.
    Text,
    /// A ping of the WebSocket protocol, whose pong the library's peer answers by itself.
    Ping,
}

impl Keepalive {
    pub fn fill(&self, user: &UserId, session: &Secret, timestamp_ms: i64) -> String {
        self.text.fill(&Filling { user: Some(user), session: Some(session), timestamp_ms, ..Filling::default() })
    }

    pub fn is_answer(&self, text: &str) -> bool {
        any_matches(&self.answers, text)
    }
}

/// The type of the notification that stands in the log where a connection broke.
const GAP: &str = "upstream_gap";

impl Provider {
    /// Tells the user that what the provider said after `since` may be missing; from `until` on it is heard again.
    pub fn gap(&self, user: &UserId, since: DateTime<Utc>, until: DateTime<Utc>) -> NewNotification {
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
        let data = json!({ "provider": self.name.as_str(), "since": time(since), "until": time(until) }).to_string();
        NewNotification {
            id: NotificationId::new(),
            kind: GAP.to_owned(),
            title: self.messages.title.clone(),
            message: self.texts.gap.clone(),
            body_hash: BodyHash::of(&[GAP.as_bytes(), data.as_bytes()]),
            data: Some(data),
            audience: Audience::User { user: user.clone(), account: None },
            ttl_seconds: self.messages.ttl_seconds,
            replay: true,
            source: message_source(&self.name),
            key: None,
        }
    }
}

/// How a provider's message becomes a notification to the user.
#[derive(Debug, Clone)]
pub struct Messages {
    pub kind: String,
    pub title: String,
    pub message: String,
    pub data: DataForm,
    /// Seconds after which it is not replayed any more.
    pub ttl_seconds: Option<i32>,
    /// Messages that are not to be replayed to a client that resumes.
    pub replay_false: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataForm {
    /// `data` is a string: the provider's text as it came.
    Text,
    /// `data` is the provider's JSON; what is no JSON that every reader takes becomes a string.
    Json,
}

impl Messages {
    /// The notification that this text of the provider's makes.
    pub fn notification(&self, provider: &ProviderName, user: &UserId, text: &str) -> NewNotification {
        let data = match self.data {
            DataForm::Json if json::check(text).is_ok() => text.to_owned(),
            // PostgreSQL takes no NUL within a JSON string.
            DataForm::Json | DataForm::Text => Value::from(text.replace('\0', "\u{fffd}")).to_string(),
        };
        NewNotification {
            id: NotificationId::new(),
            kind: self.kind.clone(),
            title: self.title.clone(),
            message: self.message.clone(),
            data: Some(data),
            audience: Audience::User { user: user.clone(), account: None },
            ttl_seconds: self.ttl_seconds,
            replay: !any_matches(&self.replay_false, text),
            source: format!("upstream/{provider}"),
            key: None,
            body_hash: BodyHash::of(&[text.as_bytes()]),
        }
    }
}

/// What a browser may send up.
#[derive(Debug, Clone)]
pub struct Commands {
    pub types: Vec<String>,
    /// What of the browser's frame is the payload.
    pub payload: Pointer,
    /// What is sent.
    pub frame: Template,
}

impl Commands {
    /// The text that goes up for a command. `payload` is JSON, and stays so.
    pub fn fill(&self, user: &UserId, session: &Secret, kind: &str, id: &str, payload: &str, timestamp_ms: i64) -> String {
        self.frame.fill(&Filling {
            user: Some(user),
            session: Some(session),
            timestamp_ms,
            kind: Some(kind),
            id: Some(id),
            payload: Some(payload),
        })
    }
}

/// How long to wait between tries, and when to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffRules {
    pub first: Duration,
    pub most: Duration,
    /// After so many failures in a row the user is told, and one try is made each five minutes.
    pub tries: u32,
    /// A socket that lived for this long has earned a new count.
    pub reset_after: Duration,
}

/// What the user reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    pub connected: String,
    pub disconnected: String,
    /// The reason where a sign-in is refused and the provider gives none.
    pub refused: String,
    /// With `{reason}`.
    pub error: String,
    /// After a break: what the provider said meanwhile may be missing.
    pub gap: String,
}

impl Texts {
    pub fn error_for(&self, reason: &str) -> String {
        self.error.replace("{reason}", reason)
    }
}
