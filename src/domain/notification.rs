//! Defines a notification as it is posted and as a row of the log.

use std::time::Instant;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Audience, NotificationId, Seq, TraceContext};

/// Identifies one request to append; two appends with the same key make one row. It is a hash of the service's name and
/// its key, so that keys of different services never collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(pub Uuid);

impl IdempotencyKey {
    /// A source's name cannot contain the separator, so no two pairs share a hash input.
    pub fn new(source: &str, key: &str) -> Self {
        let digest = Sha256::new().chain_update(source).chain_update([0]).chain_update(key).finalize();
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Self(Uuid::from_bytes(half))
    }
}

/// Distinguishes two bodies under one key: the first 64 bits of a SHA-256.
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

/// A checked notification that is to be appended.
#[derive(Debug, Clone)]
pub struct NewNotification {
    pub id: NotificationId,
    pub kind: String,
    pub title: String,
    pub message: String,
    /// The posted JSON text, byte for byte; `None` if it was absent or `null`.
    pub data: Option<String>,
    pub audience: Audience,
    /// Seconds after which it is not replayed any more.
    pub ttl_seconds: Option<i32>,
    /// `false`: delivered to open connections only, and not replayed to a client that resumes.
    pub replay: bool,
    /// `false`: it is no item of an inbox. `true` with a `ttl`, or without `replay`, is none either.
    pub inbox: bool,
    /// The name of the service key.
    pub source: String,
    pub key: Option<IdempotencyKey>,
    /// Only meaningful together with a key.
    pub body_hash: BodyHash,
}

impl NewNotification {
    /// Its approximate cost to hold and to send, in bytes.
    pub fn weight(&self) -> usize {
        let users = if let Audience::Users { users, .. } = &self.audience { users.len() } else { 0 };
        256 + self.title.len() + self.message.len() + self.data.as_ref().map_or(0, String::len) + 32 * users
    }

    /// Whether it is an item of an inbox.
    pub const fn is_item(&self) -> bool {
        self.inbox && self.replay && self.ttl_seconds.is_none()
    }

    /// The row that the append created.
    pub fn appended(self, seq: Seq, created_at: DateTime<Utc>, trace: Option<TraceContext>) -> Notification {
        let is_item = self.is_item();
        Notification {
            seq,
            id: self.id,
            created_at,
            kind: self.kind,
            title: self.title,
            message: self.message,
            data: self.data,
            audience: self.audience,
            is_item,
            trace,
            posted: None,
        }
    }
}

/// A row of the log, with the columns that delivery needs.
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
    /// Whether it is an item of an inbox. Known where rows are dispatched, and `false` in pages of the past.
    pub is_item: bool,
    /// The sampled request that posted it. Known where rows are dispatched, and absent from pages of the past.
    pub trace: Option<TraceContext>,
    /// When it was posted to this hub. Unknown for rows that were read from the table: clocks of hubs differ.
    pub posted: Option<Instant>,
}
