//! One-time tickets: a row from when one is made until it is used, or has expired. Only a hash of it is kept.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoreError;
use super::append::array_text;
use super::database::{ASK_LIMIT, Reader, limited};
use crate::domain::{AccountId, Principal, UserId};

/// Most expired tickets that one look removes; the next one is seconds away.
const SWEEP_ROWS: i64 = 10_000;

/// What a ticket stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    pub who: Principal,
    /// The end of the token that the ticket was made with.
    pub token_expires_at: DateTime<Utc>,
}

/// What a ticket that somebody shows turns out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    Good(Pass),
    /// Nobody has used it, and its time is over.
    Late,
    /// Used before, or never given out.
    Unknown,
}

/// Keeps a new ticket. Its time is measured by the database's clock alone: those of two hubs may differ.
///
/// # Errors
/// When the database is away or slow. The ticket must not be given out then.
pub async fn keep(reader: &Reader, hash: &[u8; 32], pass: &Pass, life: Duration) -> Result<(), StoreError> {
    let mut checkout = reader.checkout().await?;
    let kept = sqlx::query!(
        "INSERT INTO recado.ticket (hash, user_id, account_ids, token_expires_at, expires_at)
         VALUES ($1, $2, $3::text::text[], $4, clock_timestamp() + make_interval(secs => $5))",
        &hash[..],
        pass.who.user.as_str(),
        array_text(&pass.who.accounts),
        pass.token_expires_at,
        life.as_secs_f64(),
    )
    .execute(checkout.connection());
    limited(ASK_LIMIT, kept).await?;
    checkout.done();
    Ok(())
}

/// Uses a ticket up. Two uses at the same time: both delete the row, the database lets the second wait for the first
/// and then find nothing; so one of them gets the pass, on whatever instances they are.
///
/// # Errors
/// When the database is away or slow. Whether the ticket is used up then is not known.
pub async fn take(reader: &Reader, hash: &[u8; 32]) -> Result<Taken, StoreError> {
    let mut checkout = reader.checkout().await?;
    let taken = sqlx::query!(
        r#"DELETE FROM recado.ticket WHERE hash = $1
           RETURNING user_id, account_ids, token_expires_at, expires_at > clock_timestamp() AS "is_good!""#,
        &hash[..]
    )
    .fetch_optional(checkout.connection());
    let taken = limited(ASK_LIMIT, taken).await?;
    checkout.done();
    let Some(row) = taken else { return Ok(Taken::Unknown) };
    if !row.is_good {
        return Ok(Taken::Late);
    }
    let accounts: Option<Vec<AccountId>> = row.account_ids.iter().map(|account| AccountId::parse(account).ok()).collect();
    let who = UserId::parse(&row.user_id).ok().zip(accounts);
    // What was kept was parsed before; a row that somebody else wrote opens nothing.
    let pass = who.map(|(user, accounts)| Pass { who: Principal { user, accounts }, token_expires_at: row.token_expires_at });
    Ok(pass.map_or(Taken::Unknown, Taken::Good))
}

/// Removes tickets that nobody used in time.
///
/// # Errors
/// When the database is away or slow.
pub async fn sweep(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let swept = sqlx::query!(
        "DELETE FROM recado.ticket
          WHERE hash = ANY (ARRAY(SELECT hash FROM recado.ticket WHERE expires_at < clock_timestamp()
                                   ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))",
        SWEEP_ROWS
    )
    .execute(connection);
    Ok(limited(ASK_LIMIT, swept).await?.rows_affected())
}
