//! `POST /api/ws-ticket`: a token is changed for a ticket that opens one stream, once, within 30 s, on any instance.
//!
//! An address is kept in histories and in the logs of proxies; a used ticket in it is worth nothing. A ticket is its end
//! in seconds and 192 random bits. What counts is the row, which has its end by the database's clock. The end in the ticket
//! only serves the answer once the row is removed: it tells one that came too late (make another) from one that was used or
//! never given (stop).

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SubsecRound, Utc};
use rand::RngCore;
use serde_json::json;

use super::ask::check_origin;
use super::history::{Pairs, no_store, pairs, token};
use super::hub::Hub;
use super::problems::Refused;
use super::token::{Claims, TokenError};
use crate::store::tickets::{self, Pass, Taken};
use crate::store::{Reader, StoreError, keys};
use crate::wire::problem::Problem;
use crate::wire::server::timestamp;

/// Long enough to connect with it, too short to be found in a log.
const TICKET_LIFE: Duration = Duration::from_secs(30);
/// How every ticket begins, so that one that turns up somewhere is recognised for what it is.
const PREFIX: &str = "rct_";
/// The end, in hexadecimal seconds since 1970.
const END_DIGITS: usize = 10;
const RANDOM_BYTES: usize = 24;

pub async fn ws_ticket(State(hub): State<Arc<Hub>>, headers: HeaderMap, query: Pairs) -> Result<Response, Refused> {
    check_origin(&hub, &headers)?;
    let claims = hub.auth.listener(&headers, token(&pairs(query)?))?;
    if !hub.ticket_rates.allow(claims.who.user.as_str()) {
        let detail = "this user asks for tickets too often; one a second is enough for all pages of a person";
        return Err(Problem::new(429, "rate_limited", detail).retry_after(1).into());
    }
    // Whole seconds: the end stands in the ticket.
    let expires_at = claims.expires_at.min((Utc::now() + TICKET_LIFE).trunc_subsecs(0));
    let ticket = mint(expires_at);
    let pass = Pass { who: claims.who, token_expires_at: claims.expires_at };
    tickets::keep(&hub.reader, &keys::hash(&ticket), &pass, TICKET_LIFE).await?;
    Ok((no_store(), Json(json!({ "ticket": ticket, "expires_at": timestamp(expires_at) }))).into_response())
}

/// Uses a ticket up, and gives the claims of the token that it was made with.
///
/// # Errors
/// The database's, when it cannot be asked; inside, why the ticket opens nothing.
pub async fn redeem(reader: &Reader, ticket: &str) -> Result<Result<Claims, TokenError>, StoreError> {
    let now = Utc::now();
    let Some(end) = end(ticket) else { return Ok(Err(TokenError::Invalid("this is no ticket"))) };
    let Pass { who, token_expires_at } = match tickets::take(reader, &keys::hash(ticket)).await? {
        Taken::Good(pass) => pass,
        Taken::Late => return Ok(Err(TokenError::Expired)),
        Taken::Unknown if end <= now => return Ok(Err(TokenError::Expired)),
        Taken::Unknown => return Ok(Err(TokenError::Invalid("the ticket was used before, or was never given out"))),
    };
    if token_expires_at <= now {
        return Ok(Err(TokenError::Expired));
    }
    Ok(Ok(Claims { who, expires_at: token_expires_at, role: None }))
}

fn mint(expires_at: DateTime<Utc>) -> String {
    let mut random = [0; RANDOM_BYTES];
    rand::rng().fill_bytes(&mut random);
    let random: String = random.iter().map(|b| format!("{b:02x}")).collect();
    format!("{PREFIX}{:0END_DIGITS$x}{random}", expires_at.timestamp())
}

/// When a ticket says that it ends; `None` for what does not look like one.
pub fn end(ticket: &str) -> Option<DateTime<Utc>> {
    let digits = ticket.strip_prefix(PREFIX)?;
    let is_hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if digits.len() != END_DIGITS + 2 * RANDOM_BYTES || !is_hex {
        return None;
    }
    DateTime::from_timestamp(i64::from_str_radix(&digits[..END_DIGITS], 16).ok()?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_says_when_it_ends_and_nothing_else_looks_like_one() {
        let at = DateTime::from_timestamp(1_795_300_000, 0).unwrap();
        let ticket = mint(at);
        assert_eq!((end(&ticket), ticket.len()), (Some(at), 62));
        assert_ne!(mint(at), ticket);
        for bad in ["", "rct_", &ticket[1..], &ticket[..61], &format!("{ticket}0"), &ticket.to_uppercase(), &ticket.replace("rct_", "rck_")]
        {
            assert_eq!(end(bad), None, "{bad}");
        }
        assert_eq!(end(&format!("rct_{}", "é".repeat(29))), None);
    }
}
