//! Service keys: shown once, kept as a hash.

use rand::RngCore;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::StoreError;
use super::database::{ASK_LIMIT, Reader, limited};
use crate::domain::{Caller, Role};

/// How every key begins, so that one that leaked is recognised for what it is.
pub const PREFIX: &str = "rck_";
/// Longest name of a key, in characters.
pub const NAME_MAX: usize = 64;

/// Why there is no new key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("a key's name is 1 to {NAME_MAX} characters of A-Z a-z 0-9 . _ -")]
    BadName,
    #[error("a key with this name exists; revoke it first (recado key revoke NAME), or choose another name")]
    NameTaken,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A new key: 256 random bits in hexadecimal behind the prefix.
pub fn mint() -> String {
    let mut secret = [0; 32];
    rand::rng().fill_bytes(&mut secret);
    let hex: String = secret.iter().map(|b| format!("{b:02x}")).collect();
    format!("{PREFIX}{hex}")
}

/// A plain hash suffices: a key is random, there is nothing to guess from a list of words.
pub fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

pub fn name_is_good(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(allowed)
}

/// Stores a key under a name that no live key has.
///
/// # Errors
/// See [`KeyError`].
pub async fn create(connection: &mut PgConnection, name: &str, role: Role, key: &str) -> Result<(), KeyError> {
    if !name_is_good(name) {
        return Err(KeyError::BadName);
    }
    let made = sqlx::query!("INSERT INTO recado.service_key (name, role, hash) VALUES ($1, $2, $3)", name, role.as_str(), &hash(key)[..])
        .execute(connection);
    match limited(ASK_LIMIT, async { Ok(made.await) }).await? {
        Ok(_) => Ok(()),
        Err(error) if error.as_database_error().and_then(|e| e.constraint()) == Some("one_live_key_a_name") => Err(KeyError::NameTaken),
        Err(error) => Err(KeyError::Store(error.into())),
    }
}

/// Ends a key. Returns whether there was one. Hubs that know it stop taking it within 10 s.
///
/// # Errors
/// When the database is away or slow.
pub async fn revoke(connection: &mut PgConnection, name: &str) -> Result<bool, StoreError> {
    let revoked = sqlx::query!("UPDATE recado.service_key SET revoked_at = clock_timestamp() WHERE name = $1 AND revoked_at IS NULL", name)
        .execute(connection);
    Ok(limited(ASK_LIMIT, revoked).await?.rows_affected() > 0)
}

/// A key as it is listed: never the key itself.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ListedKey {
    pub name: String,
    pub role: String,
    pub created_at: chrono::DateTime<chrono::Utc>,
    pub revoked_at: Option<chrono::DateTime<chrono::Utc>>,
}

/// All keys, live ones first.
///
/// # Errors
/// When the database is away or slow.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<ListedKey>, StoreError> {
    let rows = sqlx::query_as!(
        ListedKey,
        "SELECT name, role, created_at, revoked_at FROM recado.service_key ORDER BY revoked_at IS NOT NULL, name, created_at LIMIT 1000"
    )
    .fetch_all(connection);
    limited(ASK_LIMIT, rows).await
}

/// Whose key this is; `None` for one that is not, or no longer, valid.
///
/// # Errors
/// When the database is away or slow.
pub async fn find(reader: &Reader, hash: &[u8; 32]) -> Result<Option<Caller>, StoreError> {
    let mut checkout = reader.checkout().await?;
    let row = sqlx::query!("SELECT name, role FROM recado.service_key WHERE hash = $1 AND revoked_at IS NULL", &hash[..])
        .fetch_optional(checkout.connection());
    let row = limited(ASK_LIMIT, row).await?;
    checkout.done();
    Ok(row.and_then(|r| Role::parse(&r.role).map(|role| Caller { name: r.name, role })))
}
