//! Encodes the bodies that webhooks post.

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::LogId;

/// Most users that `unacked` lists.
pub const UNACKED_MAX: usize = 1000;
/// The type of the message that `recado webhook test` posts.
pub const TEST_TYPE: &str = "webhook_test";

/// The body of one post, as Standard Webhooks has it.
#[derive(Debug, Serialize)]
pub struct WebhookBody<'a, D> {
    pub r#type: &'a str,
    /// When the notification was appended.
    pub timestamp: String,
    pub data: D,
}

/// The notification of a post.
#[derive(Debug, Serialize)]
pub struct WebhookData<'a> {
    pub log_id: LogId,
    pub seq: i64,
    pub id: Uuid,
    pub title: &'a str,
    pub message: &'a str,
    pub data: Option<&'a RawValue>,
    pub user_ids: &'a [String],
    pub account_id: Option<&'a str>,
    pub broadcast: bool,
    pub source: &'a str,
    pub expires_at: Option<String>,
    pub replay: bool,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub unacked: Option<Unacked<'a>>,
}

/// The users who have not acknowledged the notification. Only for webhooks that wait for acknowledgements.
#[derive(Debug, Serialize)]
pub struct Unacked<'a> {
    /// At most [`UNACKED_MAX`] of them.
    pub unacked: &'a [String],
    pub unacked_count: usize,
}

impl<'a> Unacked<'a> {
    pub fn of(users: &'a [String]) -> Self {
        Self { unacked: &users[..users.len().min(UNACKED_MAX)], unacked_count: users.len() }
    }
}

/// What `recado webhook test` posts.
#[derive(Debug, Serialize)]
pub struct TestData<'a> {
    pub webhook: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_keeps_the_posted_data_and_caps_the_list_of_users() {
        let users: Vec<String> = (0..1005).map(|n| n.to_string()).collect();
        let data: &RawValue = serde_json::from_str(r#"{"n": 1.50}"#).unwrap();
        let body = |unacked| {
            let data = WebhookData {
                log_id: LogId(Uuid::nil()),
                seq: 7,
                id: Uuid::nil(),
                title: "t",
                message: "m",
                data: Some(data),
                user_ids: &users[..1],
                account_id: None,
                broadcast: false,
                source: "shop",
                expires_at: None,
                replay: true,
                unacked,
            };
            serde_json::to_string(&WebhookBody { r#type: "order", timestamp: "now".to_owned(), data }).unwrap()
        };
        assert!(body(None).contains(r#""data":{"n": 1.50}"#) && !body(None).contains("unacked"), "{}", body(None));
        let read: serde_json::Value = serde_json::from_str(&body(Some(Unacked::of(&users)))).unwrap();
        assert_eq!(read["data"]["unacked"].as_array().unwrap().len(), UNACKED_MAX);
        assert_eq!(read["data"]["unacked_count"], 1005);
    }
}
