//! Creates, limits, revokes and checks service keys, which are stored as hashes.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rand::RngCore;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::StoreError;
use super::audit;
use super::database::Reader;
use super::repeated_read::again_if_lost;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::audit::Act;
use crate::domain::{Role, ScopeJudge, Scopes, ServiceCaller};

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

/// Stores a key without scopes under a name that no live key has.
///
/// # Errors
/// See [`KeyError`].
pub async fn create(connection: &mut PgConnection, name: &str, role: Role, key: &str) -> Result<(), KeyError> {
    create_scoped(connection, name, role, key, &Scopes::everything()).await
}

/// Stores a key with its scopes under a name that no live key has.
///
/// # Errors
/// See [`KeyError`].
pub async fn create_scoped(connection: &mut PgConnection, name: &str, role: Role, key: &str, scopes: &Scopes) -> Result<(), KeyError> {
    let created = insert(connection, name, role, key, scopes).await;
    if let Err(error @ (KeyError::BadName | KeyError::NameTaken)) = &created {
        audit::record_failure(connection, Act::KeyCreate, name, &error.to_string()).await;
    }
    created
}

async fn insert(connection: &mut PgConnection, name: &str, role: Role, key: &str, scopes: &Scopes) -> Result<(), KeyError> {
    if !name_is_good(name) {
        return Err(KeyError::BadName);
    }
    let made = sqlx::query!(
        "INSERT INTO recado.service_key (name, role, hash, types, accounts, users, broadcast, members, read, rate, expires_at, networks, consumers)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::text[]::cidr[], $13)",
        name,
        role.as_str(),
        &hash(key)[..],
        scopes.types.as_deref(),
        scopes.accounts.as_deref(),
        scopes.users.as_deref(),
        scopes.broadcast,
        scopes.members,
        scopes.read,
        stored_rate(scopes),
        scopes.expires_at,
        scopes.networks.as_deref(),
        &scopes.consumers,
    )
    .execute(connection);
    match limited(ASK_LIMIT, async { Ok(made.await) }).await? {
        Ok(_) => Ok(()),
        Err(error) if error.as_database_error().and_then(|e| e.constraint()) == Some("one_live_key_a_name") => Err(KeyError::NameTaken),
        Err(error) => Err(KeyError::Store(error.into())),
    }
}

fn stored_rate(scopes: &Scopes) -> Option<i32> {
    scopes.rate.map(|rate| i32::try_from(rate).unwrap_or(i32::MAX))
}

/// Replaces the scopes of a live key. Returns whether there is one. Hubs follow as they do after [`revoke`].
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn limit(connection: &mut PgConnection, name: &str, scopes: &Scopes) -> Result<bool, StoreError> {
    let changed = sqlx::query!(
        "UPDATE recado.service_key
            SET types = $2, accounts = $3, users = $4, broadcast = $5, members = $6, read = $7, rate = $8, expires_at = $9,
                networks = $10::text[]::cidr[], consumers = $11
          WHERE name = $1 AND revoked_at IS NULL",
        name,
        scopes.types.as_deref(),
        scopes.accounts.as_deref(),
        scopes.users.as_deref(),
        scopes.broadcast,
        scopes.members,
        scopes.read,
        stored_rate(scopes),
        scopes.expires_at,
        scopes.networks.as_deref(),
        &scopes.consumers,
    )
    .execute(&mut *connection);
    let was_live = limited(ASK_LIMIT, changed).await?.rows_affected() > 0;
    if !was_live {
        audit::record_failure(connection, Act::KeyChange, name, "no valid key has this name").await;
    }
    tell_hubs(connection).await?;
    Ok(was_live)
}

/// The message to hubs of an earlier version, on the channel of the log, that a key was revoked. Hubs of this version
/// read the access changes, to which a trigger adds each revocation and each change of scopes.
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
    tell_hubs(connection).await?;
    Ok(was_live)
}

/// Called after the commit, so that a hub that receives it reads the new state.
async fn tell_hubs(connection: &mut PgConnection) -> Result<(), StoreError> {
    limited(ASK_LIMIT, sqlx::query("SELECT pg_notify('recado', $1)").bind(KEYS_REVOKED).execute(connection)).await?;
    Ok(())
}

/// Records that the live keys with these names were used, at most once a minute for each key.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn note_use(connection: &mut PgConnection, names: &[String]) -> Result<(), StoreError> {
    limited(ASK_LIMIT, sqlx::query!("SELECT recado.note_key_use($1)", names).execute(connection)).await?;
    Ok(())
}

/// A key in a list, without the key itself.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ListedKey {
    pub name: String,
    pub role: String,
    pub created_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
    #[serde(flatten)]
    pub scopes: Scopes,
    /// Written once a minute at most, so it may be up to two minutes late.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// The scopes in a row. A macro, because each query has a row type of its own.
macro_rules! scopes_of {
    ($row:ident) => {
        Scopes {
            types: $row.types,
            accounts: $row.accounts,
            users: $row.users,
            broadcast: $row.broadcast,
            members: $row.members,
            read: $row.read,
            rate: $row.rate.and_then(|rate| u32::try_from(rate).ok()),
            expires_at: $row.expires_at,
            networks: $row.networks,
            consumers: $row.consumers,
        }
    };
}

/// Lists all keys, live ones first.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<ListedKey>, StoreError> {
    let rows = sqlx::query!(
        "SELECT name, role, created_at, revoked_at, types, accounts, users, broadcast, members, read, rate, expires_at,
                networks::text[] AS networks, last_used_at, consumers
           FROM recado.service_key
          ORDER BY revoked_at IS NOT NULL, name, created_at
          LIMIT 1000"
    )
    .fetch_all(connection);
    let listed = limited(ASK_LIMIT, rows).await?.into_iter().map(|row| ListedKey {
        scopes: scopes_of!(row),
        name: row.name,
        role: row.role,
        created_at: row.created_at,
        revoked_at: row.revoked_at,
        last_used_at: row.last_used_at,
    });
    Ok(listed.collect())
}

/// As [`list`], with a connection of a pool.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn list_all(reader: &Reader) -> Result<Vec<ListedKey>, StoreError> {
    let mut checkout = reader.checkout().await?;
    let listed = list(checkout.connection()).await?;
    checkout.done();
    Ok(listed)
}

/// Finds the callers that these keys belong to, with their scopes. Keys that are not valid, or no longer, are left out.
/// An expired key is not left out, so that the refusal can say why.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn find_all(reader: &Reader, hashes: &[[u8; 32]]) -> Result<HashMap<[u8; 32], ServiceCaller>, StoreError> {
    let hashes: Vec<Vec<u8>> = hashes.iter().map(|hash| hash.to_vec()).collect();
    again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        let rows = sqlx::query!(
            "SELECT hash, name, role, types, accounts, users, broadcast, members, read, rate, expires_at, networks::text[] AS networks,
                    consumers
               FROM recado.service_key
              WHERE hash = ANY ($1) AND revoked_at IS NULL",
            &hashes
        )
        .fetch_all(checkout.connection());
        let rows = limited(ASK_LIMIT, rows).await?;
        checkout.done();
        let found = rows.into_iter().filter_map(|row| {
            let scopes = ScopeJudge::new(&scopes_of!(row)).map(Arc::new);
            Some((row.hash.try_into().ok()?, ServiceCaller { role: Role::parse(&row.role)?, name: row.name, scopes }))
        });
        Ok(found.collect())
    })
    .await
}
