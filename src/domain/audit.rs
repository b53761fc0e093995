//! Defines administrative acts: what was done, by whom, and how it ended.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::StartTime;

/// What was done. The names are stable: `docs/reference/audit.md` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    AdminRequest,
    AdminSignIn,
    AnalystBar,
    AnalystCreate,
    AnalystDrop,
    AnalystLimit,
    AuditRetain,
    ConsumerCreate,
    ConsumerDelete,
    ConsumerGrant,
    ConsumerRevoke,
    ConsumerSeek,
    DeviceAck,
    HubStart,
    InstanceDrain,
    KeyChange,
    KeyCreate,
    KeyDelete,
    KeyRevoke,
    LogNewId,
    LogRetain,
    MemberAdd,
    MemberRemove,
    NotificationErase,
    ProducerGrant,
    ProducerLimit,
    ProducerRevoke,
    ProducerUnlimit,
    SecretChange,
    SecretForget,
    SecretRotate,
    SessionClose,
    TokenMint,
    UpstreamReconnect,
    UpstreamRelease,
    UserErase,
    UserLift,
    UserRevoke,
    WebhookCreate,
    WebhookDelete,
    WebhookDisable,
    WebhookPause,
    WebhookResume,
    WebhookRetry,
    WebhookRotate,
}

impl Act {
    pub const ALL: &[Self] = &[
        Self::AdminRequest,
        Self::AdminSignIn,
        Self::AnalystBar,
        Self::AnalystCreate,
        Self::AnalystDrop,
        Self::AnalystLimit,
        Self::AuditRetain,
        Self::ConsumerCreate,
        Self::ConsumerDelete,
        Self::ConsumerGrant,
        Self::ConsumerRevoke,
        Self::ConsumerSeek,
        Self::DeviceAck,
        Self::HubStart,
        Self::InstanceDrain,
        Self::KeyChange,
        Self::KeyCreate,
        Self::KeyDelete,
        Self::KeyRevoke,
        Self::LogNewId,
        Self::LogRetain,
        Self::MemberAdd,
        Self::MemberRemove,
        Self::NotificationErase,
        Self::ProducerGrant,
        Self::ProducerLimit,
        Self::ProducerRevoke,
        Self::ProducerUnlimit,
        Self::SecretChange,
        Self::SecretForget,
        Self::SecretRotate,
        Self::SessionClose,
        Self::TokenMint,
        Self::UpstreamReconnect,
        Self::UpstreamRelease,
        Self::UserErase,
        Self::UserLift,
        Self::UserRevoke,
        Self::WebhookCreate,
        Self::WebhookDelete,
        Self::WebhookDisable,
        Self::WebhookPause,
        Self::WebhookResume,
        Self::WebhookRetry,
        Self::WebhookRotate,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AdminRequest => "admin.request",
            Self::AdminSignIn => "admin.sign_in",
            Self::AnalystBar => "analyst.bar",
            Self::AnalystCreate => "analyst.create",
            Self::AnalystDrop => "analyst.drop",
            Self::AnalystLimit => "analyst.limit",
            Self::AuditRetain => "audit.retain",
            Self::ConsumerCreate => "consumer.create",
            Self::ConsumerDelete => "consumer.delete",
            Self::ConsumerGrant => "consumer.grant",
            Self::ConsumerRevoke => "consumer.revoke",
            Self::ConsumerSeek => "consumer.seek",
            Self::DeviceAck => "device.ack",
            Self::HubStart => "hub.start",
            Self::InstanceDrain => "instance.drain",
            Self::KeyChange => "key.change",
            Self::KeyCreate => "key.create",
            Self::KeyDelete => "key.delete",
            Self::KeyRevoke => "key.revoke",
            Self::LogNewId => "log.new_id",
            Self::LogRetain => "log.retain",
            Self::MemberAdd => "member.add",
            Self::MemberRemove => "member.remove",
            Self::NotificationErase => "notification.erase",
            Self::ProducerGrant => "producer.grant",
            Self::ProducerLimit => "producer.limit",
            Self::ProducerRevoke => "producer.revoke",
            Self::ProducerUnlimit => "producer.unlimit",
            Self::SecretChange => "secret.change",
            Self::SecretForget => "secret.forget",
            Self::SecretRotate => "secret.rotate",
            Self::SessionClose => "session.close",
            Self::TokenMint => "token.mint",
            Self::UpstreamReconnect => "upstream.reconnect",
            Self::UpstreamRelease => "upstream.release",
            Self::UserErase => "user.erase",
            Self::UserLift => "user.lift",
            Self::UserRevoke => "user.revoke",
            Self::WebhookCreate => "webhook.create",
            Self::WebhookDelete => "webhook.delete",
            Self::WebhookDisable => "webhook.disable",
            Self::WebhookPause => "webhook.pause",
            Self::WebhookResume => "webhook.resume",
            Self::WebhookRetry => "webhook.retry",
            Self::WebhookRotate => "webhook.rotate",
        }
    }
}

/// How an act ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An act of several transactions has begun. Another row says how it ended.
    Started,
    Done,
    /// The caller may not do this.
    Refused,
    /// Nothing was done.
    Failed,
}

impl Outcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Who acts, how, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// `key:NAME`, `token:SUB`, `os:USER`, `hub`, `user` or `unknown`.
    pub who: String,
    pub via: Via,
    /// A client's address, or the name of this machine.
    pub address: Option<String>,
}

/// The way of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    Rest,
    Cli,
    Hub,
}

impl Via {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Cli => "cli",
            Self::Hub => "hub",
        }
    }
}

/// Which rows are listed. `None` lists all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    pub since: Option<StartTime>,
    pub who: Option<Pattern>,
    pub what: Option<Pattern>,
    /// Only rows with a lower number.
    pub before: Option<i64>,
}

/// A text, or the texts with a prefix: `key.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    pub text: String,
    pub is_prefix: bool,
}

impl Pattern {
    /// Reads a pattern. `None`: it is empty, too long, or has a `*` before its end.
    pub fn parse(text: &str) -> Option<Self> {
        let (text, is_prefix) = text.strip_suffix('*').map_or((text, false), |prefix| (prefix, true));
        let fits = text.len() <= 200 && !text.contains('*') && (is_prefix || !text.is_empty());
        fits.then(|| Self { text: text.to_owned(), is_prefix })
    }
}

/// A recorded act.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct AuditRow {
    pub audit_id: i64,
    pub at: DateTime<Utc>,
    pub who: String,
    pub login: String,
    pub via: String,
    pub address: Option<String>,
    pub what: String,
    pub object: Option<String>,
    pub user_id: Option<String>,
    pub outcome: String,
    pub reason: Option<String>,
    pub count: i32,
    pub details: Value,
    /// The place in the hash chain; `None`: not chained yet.
    pub link: Option<i64>,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_act_has_a_name_of_its_own_that_the_table_accepts() {
        let names: HashSet<&str> = Act::ALL.iter().map(|act| act.as_str()).collect();
        assert_eq!(names.len(), Act::ALL.len());
        let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(names.iter().all(|name| name.split_once('.').is_some_and(|(noun, verb)| is_word(noun) && is_word(verb))));
    }

    #[test]
    fn a_pattern_has_its_star_at_the_end() {
        assert_eq!(Pattern::parse("key.*"), Some(Pattern { text: "key.".into(), is_prefix: true }));
        assert_eq!(Pattern::parse("key.create"), Some(Pattern { text: "key.create".into(), is_prefix: false }));
        assert_eq!(Pattern::parse("*"), Some(Pattern { text: String::new(), is_prefix: true }));
        for wrong in ["", "*.create", "k*y", "key.**", &"x".repeat(201)] {
            assert_eq!(Pattern::parse(wrong), None, "{wrong}");
        }
    }
}
