//! Makes the id and the body of a post.

use bytes::Bytes;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::domain::{LogId, WebhookName};
use crate::store::webhooks::DuePost;
use crate::wire::console::users::optional_time;
use crate::wire::server_frame::timestamp;
use crate::wire::webhook::{TEST_TYPE, TestData, Unacked, WebhookBody, WebhookData};

/// A message. Its id is the same over all attempts; its body differs only in the users who have not acknowledged.
#[derive(Debug, Clone)]
pub struct Message {
    /// The value of `webhook-id`.
    pub id: String,
    pub body: Bytes,
}

impl Message {
    /// The message of a row.
    pub fn of(webhook: &str, log_id: LogId, due: &DuePost) -> Self {
        let row = &due.row;
        let data = WebhookData {
            log_id,
            seq: row.seq,
            id: row.id,
            title: &row.title,
            message: &row.message,
            // A column of JSON: the database has checked it.
            data: row.data.as_deref().and_then(|data| serde_json::from_str::<&RawValue>(data).ok()),
            user_ids: &row.user_ids,
            account_id: row.account_id.as_deref(),
            broadcast: row.broadcast,
            source: &row.source,
            expires_at: optional_time(row.expires_at),
            replay: row.replay,
            unacked: due.unacked.as_deref().map(Unacked::of),
        };
        let body = WebhookBody { r#type: &row.kind, timestamp: timestamp(row.created_at), data };
        Self { id: message_id(webhook, &row.id.to_string()), body: encoded(&body) }
    }

    /// The message of `recado webhook test`.
    pub fn test(webhook: &WebhookName) -> Self {
        let data = TestData { webhook: webhook.as_str() };
        let body = WebhookBody { r#type: TEST_TYPE, timestamp: timestamp(chrono::Utc::now()), data };
        Self { id: message_id(webhook.as_str(), &uuid::Uuid::new_v4().to_string()), body: encoded(&body) }
    }
}

/// One webhook posts one notification under one id. Two webhooks that post it to the same receiver use two ids, so the
/// receiver does not drop one of them as a repeat. Without `.`, which separates the signed parts.
fn message_id(webhook: &str, notification: &str) -> String {
    let digest = Sha256::new().chain_update(webhook).chain_update([0]).chain_update(notification).finalize();
    format!("msg_{}", digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn encoded<D: serde::Serialize>(body: &WebhookBody<'_, D>) -> Bytes {
    // Plain structs of strings and numbers, and JSON that was checked.
    Bytes::from(serde_json::to_vec(body).expect("a body is always JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_that_of_the_webhook_and_the_notification() {
        let id = message_id("sms", "1");
        assert_eq!(id, message_id("sms", "1"));
        assert!(id != message_id("mail", "1") && id != message_id("sms", "2"));
        assert!(id.len() == 36 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{id}");
    }
}
