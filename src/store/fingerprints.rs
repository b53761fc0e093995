//! Compares salted fingerprints of the secrets that all hubs of a database must share.
//!
//! Two hubs with different secrets each look healthy, and refuse each other's users. So the first hub stores a
//! fingerprint, and a hub with another secret does not start while a hub with the first one is alive.

use rand::RngCore;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::StoreError;
use super::time_limit::{ASK_LIMIT, limited};

/// One of the shared secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedSecret {
    Jwt,
    Upstream,
}

impl SharedSecret {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Upstream => "upstream",
        }
    }

    pub const fn setting(self) -> &'static str {
        match self {
            Self::Jwt => "RECADO_JWT_SECRET",
            Self::Upstream => "RECADO_UPSTREAM_KEY",
        }
    }
}

/// The result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FingerprintMatch {
    Same,
    /// Another secret was used before, and no live hub can be using it.
    Replaced,
    /// A live hub uses another secret.
    Other,
}

/// Compares the secrets of a hub, the current one first, with the stored fingerprint. Any of them may match: hubs whose
/// lists overlap accept each other's tokens during a rotation. Stores the current one when there is none, when another
/// one of the list matched, or when no live hub uses the stored one.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn compare(connection: &mut PgConnection, shared: SharedSecret, secrets: &[&[u8]]) -> Result<FingerprintMatch, StoreError> {
    let Some((secret, accepted)) = secrets.split_first() else { return Ok(FingerprintMatch::Same) };
    let mut salt = [0; 16];
    rand::rng().fill_bytes(&mut salt);
    // An existing fingerprint stays.
    let kept = sqlx::query!(
        "INSERT INTO recado.secret_fingerprint (secret, salt, fingerprint) VALUES ($1, $2, $3) ON CONFLICT (secret) DO NOTHING",
        shared.as_str(),
        &salt[..],
        &fingerprint(&salt, secret)[..],
    )
    .execute(&mut *connection);
    limited(ASK_LIMIT, kept).await?;
    let known = sqlx::query!(
        r#"SELECT salt, fingerprint,
                  (f.set_at > statement_timestamp() - interval '15 seconds'
                   OR EXISTS (SELECT FROM recado.instance i
                               WHERE i.ended_at IS NULL AND i.seen_at > statement_timestamp() - interval '15 seconds')) AS "in_use!"
             FROM recado.secret_fingerprint f
            WHERE secret = $1"#,
        shared.as_str()
    )
    .fetch_one(&mut *connection);
    let known = limited(ASK_LIMIT, known).await?;
    if fingerprint(&known.salt, secret)[..] == known.fingerprint[..] {
        return Ok(FingerprintMatch::Same);
    }
    let is_accepted = accepted.iter().any(|secret| fingerprint(&known.salt, secret)[..] == known.fingerprint[..]);
    if known.in_use && !is_accepted {
        return Ok(FingerprintMatch::Other);
    }
    let replaced = sqlx::query!(
        "UPDATE recado.secret_fingerprint SET salt = $2, fingerprint = $3, set_at = clock_timestamp() WHERE secret = $1 AND salt = $4",
        shared.as_str(),
        &salt[..],
        &fingerprint(&salt, secret)[..],
        &known.salt,
    )
    .execute(connection);
    let replaced = limited(ASK_LIMIT, replaced).await?.rows_affected();
    // No row: another hub was quicker, perhaps with a third secret.
    Ok(if replaced == 1 { FingerprintMatch::Replaced } else { FingerprintMatch::Other })
}

/// Hashes in one round, which is enough: the secrets have 32 random bytes or more.
fn fingerprint(salt: &[u8], secret: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(b"recado fingerprint").chain_update(salt).chain_update(secret).finalize().into()
}
