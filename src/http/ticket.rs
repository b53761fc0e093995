//! Makes and redeems single-use tickets, which open a stream instead of a token.
//!
//! A ticket opens one stream, once, within 30 s, on any instance. Browsers and proxies record addresses in their
//! histories and logs; a used ticket in an address is worthless.
//!
//! A ticket is its end in seconds, 96 bits, and a MAC of both under a key that all hubs derive from the secret of the
//! tokens. So a guess is refused without the database. For a ticket of ours the row in the database decides, and its
//! end is by the database's clock. The end in the ticket only serves the answer after the row was removed: it
//! distinguishes a late ticket (make another) from a used one (stop).
//!
//! The bits are random. If a published key checked the token, 32 of them are the tag of that key, so that the
//! connection ends when the issuer removes the key. During a rotation of the secret, the current secret makes MACs, and
//! all accepted secrets check them.
//!
//! Hubs from before the MAC made 192 random bits instead, and may run at the same time as this one during an update.
//! Their tickets look like guesses, so they are looked up, a few a second.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};
use chrono::{DateTime, SubsecRound, Utc};
use rand::RngCore;

use super::problems::RefusedRequest;
use super::rate_limits::TokenBucket;
use crate::domain::{KeyTag, TokenOrigin};
use crate::identity::{Claims, OwnSecrets, TokenError};
use crate::metrics;
use crate::store::tickets::{self, TakenTicket, TicketGrant};
use crate::store::{Reader, StoreError, keys};
use crate::wire::problem::Problem;

/// Long enough to connect with the ticket, too short to find it in a log.
const TICKET_LIFE: Duration = Duration::from_secs(30);
/// The prefix of every ticket, so that a leaked ticket is recognised as one.
const PREFIX: &str = "rct_";
/// The end, in seconds since 1970, in hexadecimal.
const END_DIGITS: usize = 10;
const RANDOM_BYTES: usize = 12;
/// The part of the random bytes that may be the tag of a key.
const TAG_BYTES: usize = 4;
/// Length of the HMAC-SHA256 after truncation: as many bits as are random.
const MAC_BYTES: usize = 12;
/// The purpose of the MAC's key, so that no other use of the secret gives the same key.
const KEY_LABEL: &[u8] = b"recado ws-ticket v1";
/// Tickets without our MAC that are looked up: a burst of this many, then [`STRANGERS_PER_SECOND`].
const STRANGERS: u32 = 10;
const STRANGERS_PER_SECOND: f64 = 2.0;
/// Maximum number of used tickets that are remembered, so that one is not looked up over and over.
const SPENT_REMEMBERED: usize = 10_000;

/// Makes and redeems tickets. It has database connections of its own, so that clients with only a ticket, or a guess,
/// block no others.
pub struct Tickets {
    /// Of the current secret, then of the accepted ones.
    keys: Vec<hmac::Key>,
    reader: Reader,
    strangers: Mutex<TokenBucket>,
    spent: Mutex<HashMap<[u8; 32], DateTime<Utc>>>,
}

impl Tickets {
    /// `secrets` are the secrets of the tokens, which all hubs share.
    pub fn new(secrets: &OwnSecrets, reader: Reader) -> Self {
        let derived = |secret: &str| {
            let root = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, KEY_LABEL).as_ref())
        };
        let keys = secrets.all().map(|own| derived(&own.secret)).collect();
        Self { keys, reader, strangers: Mutex::new(TokenBucket::new(STRANGERS, STRANGERS_PER_SECOND)), spent: Mutex::default() }
    }

    /// Closes the database connections of the tickets.
    pub async fn close(&self) {
        self.reader.close().await;
    }

    /// Makes a ticket for the holder of a token, and stores it. Returns it with its end.
    ///
    /// # Errors
    /// When the database is unavailable or slow.
    pub async fn issue(&self, claims: Claims) -> Result<(String, DateTime<Utc>), StoreError> {
        // Whole seconds, because the ticket contains the end.
        let expires_at = claims.expires_at.min((Utc::now() + TICKET_LIFE).trunc_subsecs(0));
        let ticket = self.mint(expires_at, claims.origin.key);
        let pass = TicketGrant {
            who: claims.who,
            token_expires_at: claims.expires_at,
            token_issued_at: claims.origin.issued_at,
            is_playground: claims.origin.is_playground,
        };
        tickets::keep(&self.reader, &keys::hash(&ticket), &pass, TICKET_LIFE).await?;
        Ok((ticket, expires_at))
    }

    /// Redeems a ticket, and returns the claims of the token that it was made with.
    ///
    /// # Errors
    /// 429 for a ticket that an older hub may have made, when too many of that kind were looked up; 503 when the
    /// database cannot be asked. The inner error tells why the ticket is invalid.
    pub async fn redeem(&self, ticket: &str) -> Result<Result<Claims, TokenError>, RefusedRequest> {
        let redeemed = self.redeem_at(ticket, Utc::now()).await?;
        if let Err(error) = redeemed {
            let is_ours = end(ticket).is_some() && self.is_ours(ticket);
            let reason = match error {
                TokenError::Expired => "ticket_expired",
                _ if is_ours => "ticket_used",
                _ => "ticket_forged",
            };
            metrics::SIGN_INS_REFUSED.add(reason, 1);
        }
        Ok(redeemed)
    }

    async fn redeem_at(&self, ticket: &str, now: DateTime<Utc>) -> Result<Result<Claims, TokenError>, RefusedRequest> {
        let Some(end) = end(ticket) else { return Ok(Err(TokenError::Invalid("malformed ticket"))) };
        let used = if end <= now { TokenError::Expired } else { TokenError::Invalid("the ticket was used before or never issued") };
        let hash = keys::hash(ticket);
        let is_ours = self.is_ours(ticket);
        if is_ours {
            if self.spent().contains_key(&hash) {
                return Ok(Err(used));
            }
        } else if !self.strangers.lock().unwrap_or_else(PoisonError::into_inner).take() {
            metrics::OVER_BUDGET.add("unknown_ticket", 1);
            let detail = "too many unknown tickets; make a new ticket and connect again";
            return Err(Problem::new(429, "rate_limited", detail).retry_after(1).into());
        }
        metrics::CREDENTIAL_LOOKUPS.add(if is_ours { "ticket" } else { "unknown_ticket" }, 1);
        let taken = tickets::take(&self.reader, &hash).await?;
        if is_ours {
            self.remember(hash, now);
        }
        let TicketGrant { who, token_expires_at, token_issued_at, is_playground } = match taken {
            TakenTicket::Good(pass) => pass,
            TakenTicket::Late => return Ok(Err(TokenError::Expired)),
            TakenTicket::Unknown => return Ok(Err(used)),
        };
        if token_expires_at <= now {
            return Ok(Err(TokenError::Expired));
        }
        // A ticket of an older hub has random bits there, which are the tag of no key.
        let key = if is_ours { tag(ticket) } else { None };
        let origin = TokenOrigin { key, issued_at: token_issued_at, is_playground };
        Ok(Ok(Claims { who, expires_at: token_expires_at, role: None, origin }))
    }

    fn spent(&self) -> MutexGuard<'_, HashMap<[u8; 32], DateTime<Utc>>> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, hash: [u8; 32], now: DateTime<Utc>) {
        let mut spent = self.spent();
        if spent.len() >= SPENT_REMEMBERED {
            spent.retain(|_, at| now - *at < chrono::TimeDelta::seconds(60));
        }
        if spent.len() < SPENT_REMEMBERED {
            spent.insert(hash, now);
        }
    }

    fn mint(&self, expires_at: DateTime<Utc>, key: Option<KeyTag>) -> String {
        let mut random = [0; RANDOM_BYTES];
        rand::rng().fill_bytes(&mut random);
        if let Some(KeyTag(tag)) = key {
            random[..TAG_BYTES].copy_from_slice(&tag.to_be_bytes());
        }
        let ticket = format!("{PREFIX}{:0END_DIGITS$x}{}", expires_at.timestamp(), hex(&random));
        let mac = mac(&self.keys[0], &ticket);
        ticket + &mac
    }

    /// Whether a hub with this secret made the ticket. `ticket` must have the form of one.
    fn is_ours(&self, ticket: &str) -> bool {
        let (text, mac) = ticket.split_at(ticket.len() - 2 * MAC_BYTES);
        let is_by = |key: &hmac::Key| constant_time::verify_slices_are_equal(self::mac(key, text).as_bytes(), mac.as_bytes()).is_ok();
        self.keys.iter().any(is_by)
    }
}

fn mac(key: &hmac::Key, text: &str) -> String {
    hex(&hmac::sign(key, text.as_bytes()).as_ref()[..MAC_BYTES])
}

/// The tag of the key that may be in a ticket. In a ticket without one it is random, so it is hardly ever that of a
/// removed key.
fn tag(ticket: &str) -> Option<KeyTag> {
    let from = PREFIX.len() + END_DIGITS;
    u32::from_str_radix(ticket.get(from..from + 2 * TAG_BYTES)?, 16).ok().map(KeyTag)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The end that a ticket contains; `None` for a text that does not have the form of a ticket.
pub fn end(ticket: &str) -> Option<DateTime<Utc>> {
    let digits = ticket.strip_prefix(PREFIX)?;
    let is_hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if digits.len() != END_DIGITS + 2 * (RANDOM_BYTES + MAC_BYTES) || !is_hex {
        return None;
    }
    DateTime::from_timestamp(i64::from_str_radix(&digits[..END_DIGITS], 16).ok()?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(secret: &str) -> Tickets {
        Tickets::new(
            &OwnSecrets::single(secret),
            crate::store::Database::parse("postgres://nobody@localhost/none", None).unwrap().reader("test", 1),
        )
    }

    #[tokio::test]
    async fn a_ticket_says_when_it_ends_and_nothing_else_looks_like_one() {
        let (ours, others) = (tickets("one secret"), tickets("another secret"));
        let at = DateTime::from_timestamp(1_795_300_000, 0).unwrap();
        let ticket = ours.mint(at, None);
        assert_eq!((end(&ticket), ticket.len()), (Some(at), 62), "hubs of before the MAC take this length only");
        assert_ne!(ours.mint(at, None), ticket);
        assert!(ours.is_ours(&ticket) && !others.is_ours(&ticket));
        assert_eq!(tag(&ours.mint(at, Some(KeyTag(0xdead_beef)))), Some(KeyTag(0xdead_beef)));
        let rotated = OwnSecrets { accepted: vec![OwnSecrets::single("one secret").current], ..OwnSecrets::single("another secret") };
        let rotated = Tickets::new(&rotated, ours.reader.clone());
        assert!(rotated.is_ours(&ticket) && others.is_ours(&rotated.mint(at, None)) && !ours.is_ours(&rotated.mint(at, None)));
        for at in [4, 14, 61] {
            let other = if &ticket[at..=at] == "0" { "1" } else { "0" };
            let wrong = format!("{}{other}{}", &ticket[..at], &ticket[at + 1..]);
            assert!(end(&wrong).is_some() && !ours.is_ours(&wrong), "{wrong}");
        }
        for bad in ["", "rct_", &ticket[1..], &ticket[..61], &format!("{ticket}0"), &ticket.to_uppercase(), &ticket.replace("rct_", "rck_")]
        {
            assert_eq!(end(bad), None, "{bad}");
        }
        assert_eq!(end(&format!("rct_{}", "é".repeat(29))), None);
    }
}
