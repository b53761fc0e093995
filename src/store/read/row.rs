//! Makes a notification from the columns of its row.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::domain::{AccountId, Audience, EVERYONE_TOPIC, Notification, NotificationId, Seq, UserId};
use crate::store::StoreError;

/// The columns of a row that make a notification.
pub(in crate::store) struct LogRowColumns {
    pub seq: i64,
    pub id: Uuid,
    pub created_at: DateTime<Utc>,
    pub kind: String,
    pub title: String,
    pub message: String,
    pub data: Option<String>,
    pub topic: String,
    pub user_id: Option<String>,
    pub account_id: Option<String>,
    pub user_ids: Option<Vec<String>>,
}

impl LogRowColumns {
    /// Leaves out a row that breaks our rules, as the tailer does, which also logs it.
    pub(in crate::store) fn readable(self) -> Option<Notification> {
        let seq = self.seq;
        self.notification().inspect_err(|error| tracing::debug!(seq, %error, "unreadable row left out of a page")).ok()
    }

    pub(super) fn notification(self) -> Result<Notification, StoreError> {
        let audience = audience(&self.topic, self.user_id.as_deref(), self.account_id.as_deref(), self.user_ids)?;
        Ok(Notification {
            seq: Seq::from_db(self.seq),
            id: NotificationId(self.id),
            created_at: self.created_at,
            kind: self.kind,
            title: self.title,
            message: self.message,
            data: self.data,
            audience,
            // Only the tailer reads these two, see `tail_page`.
            is_item: false,
            trace: None,
            posted: None,
        })
    }
}

/// Rebuilds the audience. The constraint `topic_agrees_with_audience` allows exactly these forms.
fn audience(topic: &str, user: Option<&str>, account: Option<&str>, users: Option<Vec<String>>) -> Result<Audience, StoreError> {
    let broken = |error| StoreError::Broken(sqlx::Error::Decode(Box::new(error)));
    let account = account.map(AccountId::parse).transpose().map_err(broken)?;
    if topic == EVERYONE_TOPIC {
        return Ok(Audience::Everyone);
    }
    if let Some(users) = users {
        let users = users.iter().map(|u| UserId::parse(u)).collect::<Result<_, _>>().map_err(broken)?;
        return Ok(Audience::Users { users, account });
    }
    match (user, account) {
        (Some(user), account) => Ok(Audience::User { user: UserId::parse_stored(user).map_err(broken)?, account }),
        (None, Some(account)) => Ok(Audience::Account(account)),
        (None, None) => Err(StoreError::Broken(sqlx::Error::RowNotFound)),
    }
}
