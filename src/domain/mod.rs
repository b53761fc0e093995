//! The words of the business, pure: identifiers, numbers, audiences, who is asking, what is sent, and why it arrived or did not.
//!
//! This room knows no other. Nothing here waits or talks to anyone, and new ids alone ask for the time.

mod audience;
mod command;
mod ids;
mod notification;
mod principal;
mod provider;
mod seq;
pub mod why;

pub use audience::{Audience, EVERYONE_TOPIC, LIST_TOPIC};
pub use command::{CommandState, Term, message_source};
pub use ids::{AccountId, ClientId, CommandId, CommandTag, IdError, InstanceId, LogId, NotificationId, SessionId, UserId, id_by_time};
pub use notification::{BodyHash, IdempotencyKey, NewNotification, Notification};
pub use principal::{Caller, Principal, Role};
pub use provider::{ProviderName, ProviderNameError};
pub use seq::Seq;
