//! Builds what a service posts, and holds the answer.

use std::time::Duration;

use serde_json::Value;

/// A body of `POST /api/internal/notify`, each field as JSON text, so that it is sent byte for byte as it was written.
#[derive(Clone)]
pub struct Note {
    fields: Vec<(&'static str, String)>,
    pub header_key: Option<String>,
}

/// A notification without recipients.
pub fn note(title: &str) -> Note {
    let note = Note { fields: Vec::new(), header_key: None };
    note.field("type", Value::from("order_created")).field("title", title.into()).field("message", "m".into())
}

#[expect(clippy::wrong_self_convention, reason = "read aloud: note(..).to_user(..)")]
impl Note {
    fn field(self, name: &'static str, value: Value) -> Self {
        self.raw(name, &value.to_string())
    }

    #[must_use]
    pub fn raw(mut self, name: &'static str, json: &str) -> Self {
        self.fields.retain(|(known, _)| *known != name);
        self.fields.push((name, json.to_owned()));
        self
    }

    #[must_use]
    pub fn to_user(self, user: &str) -> Self {
        self.field("user_id", user.into())
    }

    #[must_use]
    pub fn to_users(self, users: &[&str]) -> Self {
        self.field("user_ids", users.into())
    }

    #[must_use]
    pub fn account(self, account: &str) -> Self {
        self.field("account_id", account.into())
    }

    #[must_use]
    pub fn to_everyone(self) -> Self {
        self.field("broadcast", true.into())
    }

    #[must_use]
    pub fn message(self, text: &str) -> Self {
        self.field("message", text.into())
    }

    #[must_use]
    pub fn data(self, json: &str) -> Self {
        self.raw("data", json)
    }

    #[must_use]
    pub fn ttl(self, seconds: u32) -> Self {
        self.field("ttl", seconds.into())
    }

    #[must_use]
    pub fn never_replayed(self) -> Self {
        self.field("replay", false.into())
    }

    /// Sets the idempotency key in the header.
    #[must_use]
    pub fn key(mut self, key: &str) -> Self {
        self.header_key = Some(key.to_owned());
        self
    }

    /// Sets the idempotency key in the body.
    #[must_use]
    pub fn body_key(self, key: &str) -> Self {
        self.field("idempotency_key", key.into())
    }

    pub fn body(&self) -> String {
        let fields: Vec<String> = self.fields.iter().map(|(name, json)| format!("\"{name}\":{json}")).collect();
        format!("{{{}}}", fields.join(","))
    }
}

/// The answer to a post.
#[derive(Debug, Clone)]
pub struct PostAnswer {
    pub status: u16,
    pub body: Value,
    pub took: Duration,
}

impl PostAnswer {
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("")
    }

    pub fn is_receipt(&self) -> bool {
        matches!(self.status, 200 | 201)
    }

    pub fn receipt(&self) -> PostReceipt {
        assert!(self.is_receipt(), "{} {}", self.status, self.body);
        assert_eq!(self.body["success"], true);
        PostReceipt {
            seq: self.body["seq"].as_i64().unwrap(),
            id: self.body["id"].as_str().unwrap().to_owned(),
            created_at: self.body["created_at"].as_str().unwrap().to_owned(),
            duplicate: self.body["duplicate"].as_bool().unwrap(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostReceipt {
    pub seq: i64,
    pub id: String,
    pub created_at: String,
    pub duplicate: bool,
}
