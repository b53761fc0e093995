//! A notification: as it is asked for, and as it stands in the log.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Audience, NotificationId, Seq};

/// Names one wish to append. Two appends with the same key make one row.
/// A hash of the service and the key that it gave, so that keys of different services never meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(pub Uuid);

impl IdempotencyKey {
    /// The separator cannot stand in a source's name, so no two pairs share a hash input.
    pub fn new(source: &str, key: &str) -> Self {
        let digest = Sha256::new().chain_update(source).chain_update([0]).chain_update(key).finalize();
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Self(Uuid::from_bytes(half))
    }
}

/// Tells two bodies under one key apart: the first 64 bits of a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyHash(pub i64);

impl BodyHash {
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize()[..8]);
        Self(i64::from_be_bytes(first))
    }
}

/// What a service asks to be appended, checked.
#[derive(Debug, Clone)]
pub struct NewNotification {
    pub id: NotificationId,
    pub kind: String,
    pub title: String,
    pub message: String,
    /// The posted JSON text, byte for byte; `None` where it was absent or `null`.
    pub data: Option<String>,
    pub audience: Audience,
    /// Seconds after which it is not replayed any more.
    pub ttl_seconds: Option<i32>,
    /// `false`: delivered to who is connected, not given to a client that resumes.
    pub replay: bool,
    /// The name of the service key.
    pub source: String,
    pub key: Option<IdempotencyKey>,
    /// Means something beside a key only.
    pub body_hash: BodyHash,
}

impl NewNotification {
    /// Roughly what it costs to hold and to send, in bytes.
    pub fn weight(&self) -> usize {
        let users = if let Audience::Users { users, .. } = &self.audience { users.len() } else { 0 };
        256 + self.title.len() + self.message.len() + self.data.as_ref().map_or(0, String::len) + 32 * users
    }

    /// The row that the log made of it.
    pub fn appended(self, seq: Seq, created_at: DateTime<Utc>) -> Notification {
        Notification {
            seq,
            id: self.id,
            created_at,
            kind: self.kind,
            title: self.title,
            message: self.message,
            data: self.data,
            audience: self.audience,
        }
    }
}

/// A row of the log, as readers need it.
#[derive(Debug, Clone)]
pub struct Notification {
    pub seq: Seq,
    pub id: NotificationId,
    pub created_at: DateTime<Utc>,
    pub kind: String,
    pub title: String,
    pub message: String,
    pub data: Option<String>,
    pub audience: Audience,
}
