//! Creates, revokes and checks service keys, which are stored as hashes.

use std::collections::HashMap;

use rand::RngCore;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::StoreError;
use super::audit;
use super::database::Reader;
use super::repeated_read::again_if_lost;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::audit::Act;
use crate::domain::{Role, ServiceCaller};

/// The prefix of every key, which identifies a leaked key.
pub const PREFIX: &str = "rck_";
/// Longest name of a key, in characters.
pub const NAME_MAX: usize = 64;

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("a key's name is 1 to {NAME_MAX} characters of A-Z a-z 0-9 . _ -")]
    BadName,
    #[error("a key with this name exists; revoke it first (recado key revoke NAME), or choose another name")]
    NameTaken,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Random bytes of a key.
const SECRET_BYTES: usize = 32;
/// Bytes of the checksum that follows. Keys that were made before there was a checksum lack it, and are valid.
const CHECKSUM_BYTES: usize = 4;

/// Makes a key: the prefix, then 256 random bits and a checksum in hexadecimal. It is shown once.
pub fn mint() -> String {
    let mut secret = [0; SECRET_BYTES];
    rand::rng().fill_bytes(&mut secret);
    let key = format!("{PREFIX}{}", hex(&secret));
    let sum = checksum(&key);
    key + &sum
}

/// Whether this can be a key. A truncated or mistyped key is refused without a query.
pub fn is_well_formed(key: &str) -> bool {
    let Some(digits) = key.strip_prefix(PREFIX) else { return false };
    if !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return false;
    }
    let end = PREFIX.len() + 2 * SECRET_BYTES;
    match digits.len() {
        len if len == 2 * SECRET_BYTES => true,
        len if len == 2 * (SECRET_BYTES + CHECKSUM_BYTES) => key[end..] == checksum(&key[..end]),
        _ => false,
    }
}

fn checksum(key: &str) -> String {
    hex(&Sha256::digest(key)[..CHECKSUM_BYTES])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Hashes a key. A plain hash suffices: a key is random, so no dictionary contains it.
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
    let created = insert(connection, name, role, key).await;
    if let Err(error @ (KeyError::BadName | KeyError::NameTaken)) = &created {
        audit::record_failure(connection, Act::KeyCreate, name, &error.to_string()).await;
    }
    created
}

async fn insert(connection: &mut PgConnection, name: &str, role: Role, key: &str) -> Result<(), KeyError> {
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

/// The message to hubs of an earlier version, on the channel of the log, that a key was revoked. Hubs of this version
/// read the access changes, to which a trigger adds each revocation.
const KEYS_REVOKED: &str = "keys revoked";

/// Revokes a key. Returns whether there was one. Hubs refuse the key at once, and within 5 s if a NOTIFY is lost.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn revoke(connection: &mut PgConnection, name: &str) -> Result<bool, StoreError> {
    let revoked = sqlx::query!("UPDATE recado.service_key SET revoked_at = clock_timestamp() WHERE name = $1 AND revoked_at IS NULL", name)
        .execute(&mut *connection);
    let was_live = limited(ASK_LIMIT, revoked).await?.rows_affected() > 0;
    if !was_live {
        audit::record_failure(connection, Act::KeyRevoke, name, "no valid key has this name").await;
    }
    // After the commit, so that a hub that receives it reads the new state.
    limited(ASK_LIMIT, sqlx::query("SELECT pg_notify('recado', $1)").bind(KEYS_REVOKED).execute(connection)).await?;
    Ok(was_live)
}

/// A key in a list, without the key itself.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ListedKey {
    pub name: String,
    pub role: String,
    pub created_at: chrono::DateTime<chrono::Utc>,
    pub revoked_at: Option<chrono::DateTime<chrono::Utc>>,
}

/// Lists all keys, live ones first.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<ListedKey>, StoreError> {
    let rows = sqlx::query_as!(
        ListedKey,
        "SELECT name, role, created_at, revoked_at FROM recado.service_key ORDER BY revoked_at IS NOT NULL, name, created_at LIMIT 1000"
    )
    .fetch_all(connection);
    limited(ASK_LIMIT, rows).await
}

/// Finds the callers that these keys belong to. Keys that are not valid, or no longer, are left out.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn find_all(reader: &Reader, hashes: &[[u8; 32]]) -> Result<HashMap<[u8; 32], ServiceCaller>, StoreError> {
    let hashes: Vec<Vec<u8>> = hashes.iter().map(|hash| hash.to_vec()).collect();
    again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        let rows = sqlx::query!("SELECT hash, name, role FROM recado.service_key WHERE hash = ANY ($1) AND revoked_at IS NULL", &hashes)
            .fetch_all(checkout.connection());
        let rows = limited(ASK_LIMIT, rows).await?;
        checkout.done();
        let caller = |name, role: &str| Role::parse(role).map(|role| ServiceCaller { name, role });
        Ok(rows.into_iter().filter_map(|row| Some((row.hash.try_into().ok()?, caller(row.name, &row.role)?))).collect())
    })
    .await
}
