//! Stores one-time tickets, as hashes, until they are used or have expired.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoreError;
use super::append::array_text;
use super::database::Reader;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::{AccountId, Principal, UserId};

/// Most expired tickets that one sweep removes. The next sweep follows 15 s later.
const SWEEP_ROWS: i64 = 30_000;

/// The identity that a ticket grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketGrant {
    pub who: Principal,
    /// When the token that the ticket was made with expires.
    pub token_expires_at: DateTime<Utc>,
    /// When that token was issued, if it says so.
    pub token_issued_at: Option<DateTime<Utc>>,
    /// Whether that token was made for the playground of the console.
    pub is_playground: bool,
}

/// The result of using a ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TakenTicket {
    Good(TicketGrant),
    /// Unused, and expired.
    Late,
    /// Used before, or never issued.
    Unknown,
}

/// Stores a new ticket. Its lifetime is measured by the database's clock alone, because the clocks of two hubs may
/// differ.
///
/// # Errors
/// When the database is unavailable or slow. The ticket must not be issued then.
pub async fn keep(reader: &Reader, hash: &[u8; 32], grant: &TicketGrant, life: Duration) -> Result<(), StoreError> {
    let mut checkout = reader.checkout().await?;
    let kept = sqlx::query!(
        "INSERT INTO recado.ticket (hash, user_id, account_ids, token_expires_at, expires_at, token_issued_at,
                                     is_playground)
         VALUES ($1, $2, $3::text::text[], $4, clock_timestamp() + make_interval(secs => $5), $6, $7)",
        &hash[..],
        grant.who.user.as_str(),
        array_text(&grant.who.accounts),
        grant.token_expires_at,
        life.as_secs_f64(),
        grant.token_issued_at,
        grant.is_playground,
    )
    .execute(checkout.connection());
    limited(ASK_LIMIT, kept).await?;
    checkout.done();
    Ok(())
}

/// Uses a ticket. When it is used twice at the same time, both calls delete the row: the database makes the second wait
/// for the first, and then find nothing. So one of them gets the grant, on whichever instances they run.
///
/// # Errors
/// When the database is unavailable or slow. Whether the ticket was used is then unknown.
pub async fn take(reader: &Reader, hash: &[u8; 32]) -> Result<TakenTicket, StoreError> {
    let mut checkout = reader.checkout().await?;
    let taken = sqlx::query!(
        r#"DELETE FROM recado.ticket WHERE hash = $1
           RETURNING user_id, account_ids, token_expires_at, token_issued_at, is_playground, expires_at > clock_timestamp() AS "is_good!""#,
        &hash[..]
    )
    .fetch_optional(checkout.connection());
    let taken = limited(ASK_LIMIT, taken).await?;
    checkout.done();
    let Some(row) = taken else { return Ok(TakenTicket::Unknown) };
    if !row.is_good {
        return Ok(TakenTicket::Late);
    }
    let accounts: Option<Vec<AccountId>> = row.account_ids.iter().map(|account| AccountId::parse(account).ok()).collect();
    let who = UserId::parse(&row.user_id).ok().zip(accounts);
    // Stored values were parsed before. A row from any other writer grants nothing.
    let grant = who.map(|(user, accounts)| TicketGrant {
        who: Principal { user, accounts },
        token_expires_at: row.token_expires_at,
        token_issued_at: row.token_issued_at,
        is_playground: row.is_playground,
    });
    Ok(grant.map_or(TakenTicket::Unknown, TakenTicket::Good))
}

/// Removes tickets that were not used in time.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn sweep(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let swept = sqlx::query!(
        "DELETE FROM recado.ticket
          WHERE hash = ANY (ARRAY(SELECT hash FROM recado.ticket WHERE expires_at < statement_timestamp()
                                   ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))",
        SWEEP_ROWS
    )
    .execute(connection);
    Ok(limited(ASK_LIMIT, swept).await?.rows_affected())
}
