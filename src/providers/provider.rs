//! Defines a provider as checked from the provider file; the sessions work from it.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use hyper::header::HeaderName;
use serde_json::{Value, json};

use super::hosts::{Hosts, UrlTemplate};
use super::matcher::{Matcher, Pointer, any_matches};
use super::secret::Secret;
use super::template::{Template, TemplateValues};
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

    /// The provider that accepts commands of this type; the check of the file ensures that there is at most one.
    pub fn taking(&self, kind: &str) -> Option<&Arc<Provider>> {
        self.iter().find(|provider| provider.commands.types.iter().any(|known| known == kind))
    }
}

/// One provider.
#[derive(Debug, Clone)]
pub struct Provider {
    pub name: ProviderName,
    pub hosts: Hosts,
    pub sign_in: SignInRules,
    pub socket: ProviderSocketRules,
    pub keepalive: Keepalive,
    pub messages: ProviderMessages,
    pub commands: ProviderCommands,
    pub backoff: BackoffRules,
    /// The session ends if neither the user nor the provider sends anything for this long.
    pub idle_timeout: Duration,
    /// How long a session is kept after the user's last client disconnected.
    pub linger: Duration,
    pub texts: ProviderTexts,
}

/// The HTTP request that opens a session.
#[derive(Debug, Clone)]
pub struct SignInRules {
    pub method: hyper::Method,
    pub url: UrlTemplate,
    pub headers: Vec<Header>,
    pub body: Option<Template>,
    /// Pointer to the session id in the answer.
    pub session: Pointer,
    /// Pointer to a value that must be `true`, if set.
    pub success: Option<Pointer>,
    /// Pointer to the provider's error message.
    pub error: Option<Pointer>,
    /// Statuses that mean: this user is refused, do not retry.
    pub refused: Vec<u16>,
    /// Whether a `success` of `false` means a refusal as well; otherwise a retry may succeed.
    pub failure_is_final: bool,
    /// Deadline for the whole sign-in, from the name resolution to the last byte.
    pub deadline: Duration,
}

#[derive(Debug, Clone)]
pub struct Header {
    pub name: HeaderName,
    pub value: Template,
}

/// The WebSocket of a session.
#[derive(Debug, Clone)]
pub struct ProviderSocketRules {
    pub url: UrlTemplate,
    pub headers: Vec<Header>,
    pub subprotocol: Option<String>,
    /// Deadline for the whole connect, from the name resolution to the accepted handshake.
    pub connect_deadline: Duration,
    /// Longest message accepted, in bytes; a longer one closes the socket.
    pub max_message: usize,
    /// Statuses of a refused handshake that mean: the session id has expired, sign in again.
    pub expired_statuses: Vec<u16>,
    /// Close codes that mean the same.
    pub expired_codes: Vec<u16>,
}

/// The keep-alive message that is sent regularly, so that both sides know that the socket is alive.
#[derive(Debug, Clone)]
pub struct Keepalive {
    pub text: Template,
    pub form: PingForm,
    pub interval: Duration,
    /// Any message must arrive within this time after a ping; otherwise the socket is dead.
    pub deadline: Duration,
    /// Messages that answer a ping and are not delivered to the user.
    pub answers: Vec<Matcher>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PingForm {
    /// A text message.
    Text,
    /// A WebSocket ping, whose pong the peer's library sends by itself.
    Ping,
}

impl Keepalive {
    pub fn fill(&self, user: &UserId, session: &Secret, timestamp_ms: i64) -> String {
        self.text.fill(&TemplateValues { user: Some(user), session: Some(session), timestamp_ms, ..TemplateValues::default() })
    }

    pub fn is_answer(&self, text: &str) -> bool {
        any_matches(&self.answers, text)
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The type of the notification that marks missing provider messages in the log.
const GAP: &str = "upstream_gap";

impl Provider {
    /// A notification that messages after `since` may be missing; from `until` on they are received again.
    pub fn gap(&self, user: &UserId, since: DateTime<Utc>, until: DateTime<Utc>) -> NewNotification {
        self.gap_notification(user, json!({ "provider": self.name.as_str(), "since": time(since), "until": time(until) }))
    }

    /// Replaces a message of `bytes` bytes of JSON, which is more than [`ProviderMessages::max_bytes`].
    pub fn gap_for_too_large(&self, user: &UserId, at: DateTime<Utc>, bytes: usize) -> NewNotification {
        let (provider, at, most) = (self.name.as_str(), time(at), self.messages.max_bytes);
        self.gap_notification(
            user,
            json!({ "provider": provider, "since": at, "until": at, "reason": "too_large", "bytes": bytes, "maxBytes": most }),
        )
    }

    fn gap_notification(&self, user: &UserId, data: Value) -> NewNotification {
        let data = data.to_string();
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
            inbox: false,
            source: message_source(&self.name),
            key: None,
        }
    }
}

/// How a provider's message becomes a notification to the user.
#[derive(Debug, Clone)]
pub struct ProviderMessages {
    pub kind: String,
    pub title: String,
    pub message: String,
    pub data: DataForm,
    /// Seconds after which the notification is not replayed any more.
    pub ttl_seconds: Option<i32>,
    /// Most bytes of a message's `data` as JSON text. The limit of the socket is not enough, because escapes may make a
    /// text six times as long. Each hub and each addressed client reads a row of the log as a whole.
    pub max_bytes: usize,
    /// Messages that are not replayed to a client that resumes.
    pub replay_false: Vec<Matcher>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataForm {
    /// `data` is a string: the provider's text unchanged.
    Text,
    /// `data` is the provider's JSON. Text that is not JSON for every parser becomes a string.
    Json,
}

impl ProviderMessages {
    /// The notification for this text of the provider.
    pub fn notification(&self, provider: &ProviderName, user: &UserId, text: &str) -> NewNotification {
        let data = match self.data {
            DataForm::Json if json::check(text).is_ok() => text.to_owned(),
            // PostgreSQL rejects NUL within a JSON string.
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
            inbox: false,
            source: format!("upstream/{provider}"),
            key: None,
            body_hash: BodyHash::of(&[text.as_bytes()]),
        }
    }
}

/// Which commands a browser may send to the provider.
#[derive(Debug, Clone)]
pub struct ProviderCommands {
    pub types: Vec<String>,
    /// Pointer to the payload in the browser's frame.
    pub payload: Pointer,
    /// The frame that is sent to the provider.
    pub frame: Template,
}

impl ProviderCommands {
    /// The text that is sent for a command. `payload` is JSON, and stays so.
    pub fn fill(&self, user: &UserId, session: &Secret, kind: &str, id: &str, payload: &str, timestamp_ms: i64) -> String {
        self.frame.fill(&TemplateValues {
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
    /// After this many failures in a row the user is told, and one try is made every five minutes.
    pub tries: u32,
    /// A socket that lasted this long resets the count of failures.
    pub reset_after: Duration,
}

/// Texts that the user reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderTexts {
    pub connected: String,
    pub disconnected: String,
    /// The reason for a refused sign-in if the provider gives none.
    pub refused: String,
    /// Contains `{reason}`.
    pub error: String,
    /// Shown after a break: provider messages from the meantime may be missing.
    pub gap: String,
}

impl ProviderTexts {
    pub fn error_for(&self, reason: &str) -> String {
        self.error.replace("{reason}", reason)
    }
}
