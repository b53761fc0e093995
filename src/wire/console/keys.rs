//! Defines the body of `GET /api/admin/keys`.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::domain::Scopes;
use crate::wire::server_frame::timestamp;

#[derive(Debug, Serialize)]
pub struct KeysBody {
    pub keys: Vec<ShownKey>,
}

/// A service key, without the key itself.
#[derive(Debug, Serialize)]
pub struct ShownKey {
    pub name: String,
    pub role: String,
    pub scopes: ShownScopes,
    pub created_at: String,
    pub last_used_at: Option<String>,
    pub revoked_at: Option<String>,
}

/// What the key may do. A list that is `null` does not limit.
#[derive(Debug, Serialize)]
pub struct ShownScopes {
    pub types: Option<Vec<String>>,
    pub accounts: Option<Vec<String>>,
    pub users: Option<Vec<String>>,
    pub broadcast: bool,
    pub members: bool,
    pub read: bool,
    pub rate: Option<u32>,
    pub expires_at: Option<String>,
    pub networks: Option<Vec<String>>,
    /// Consumers that the key may use. Empty: none.
    pub consumers: Vec<String>,
}

/// When a key was made, used and revoked.
#[derive(Debug, Clone, Copy)]
pub struct KeyTimes {
    pub created_at: DateTime<Utc>,
    pub last_used_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

impl ShownKey {
    pub fn of(name: String, role: String, scopes: Scopes, times: KeyTimes) -> Self {
        let KeyTimes { created_at, last_used_at, revoked_at } = times;
        Self {
            name,
            role,
            scopes: ShownScopes::of(scopes),
            created_at: timestamp(created_at),
            last_used_at: last_used_at.map(timestamp),
            revoked_at: revoked_at.map(timestamp),
        }
    }
}

impl ShownScopes {
    fn of(scopes: Scopes) -> Self {
        let Scopes { types, accounts, users, broadcast, members, read, rate, expires_at, networks, consumers } = scopes;
        Self { types, accounts, users, broadcast, members, read, rate, expires_at: expires_at.map(timestamp), networks, consumers }
    }
}
