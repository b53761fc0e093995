//! Defines the domain types: identifiers, numbers, audiences, principals, commands, resume rules and delivery verdicts.
//!
//! This module depends on no other. Nothing here waits or does I/O, and only new ids read the clock.

mod audience;
pub mod audit;
mod command;
mod consumer;
pub mod device_lag;
mod ids;
mod inbox;
mod membership;
mod network;
mod notification;
mod origin;
mod principal;
mod provider;
pub mod resume;
pub mod scopes;
mod seq;
mod session_filter;
mod start_time;
mod topic;
mod trace_context;
mod webhook;
pub mod why;

pub use audience::Audience;
pub use command::{CommandState, Term, message_source};
pub use consumer::{CONSUMER_START_RULE, CONSUMER_TYPES_MAX, ConsumerFilter, ConsumerName, ConsumerNameError, ConsumerStart};
pub use ids::{AccountId, ClientId, CommandId, CommandTag, IdError, InstanceId, LogId, NotificationId, SessionId, UserId, id_by_time};
pub use inbox::{
    AskedChange, CHANGE_SEQS_MAX, COUNT_MAX, Changed, INBOX_TYPE, InboxChange, InboxCounts, InboxFacts, InboxSince, InboxState, ItemOp,
    MUTED_MAX, MutePattern, PREFERENCES_TYPE, Recount, RecountMark, UpToOp, is_inbox_type,
};
pub use membership::{MEMBER_TYPE, MemberChange, MemberInterval, MemberOp};
pub use network::{Network, NetworkError};
pub use notification::{BodyHash, IdempotencyKey, NewNotification, Notification};
pub use origin::CommitOrigin;
pub use principal::{KeyTag, Principal, Role, ServiceCaller, TokenOrigin};
pub use provider::{ProviderName, ProviderNameError};
pub use scopes::{MissingScope, ScopeJudge, Scopes};
pub use seq::Seq;
pub use session_filter::{FilteredSession, SessionFilter, Transport};
pub use start_time::StartTime;
pub use topic::{EVERYONE_TOPIC, LIST_TOPIC};
pub use trace_context::TraceContext;
pub use webhook::{RETRY_WAITS, WebhookAudience, WebhookFilter, WebhookName, retry_wait};
