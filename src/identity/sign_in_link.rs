//! Makes and reads the tokens of links that sign in to the console.
//!
//! Such a token is its time, the length of the session, 96 random bits, and a MAC of these under a key that is derived
//! from the hub's secret. It is not a JSON Web Token, and its key signs nothing else. So no other route takes it, and
//! neither does a hub of an earlier version or another program that has the secret. That it is used only once is
//! decided by a row of the database: see `recado.use_sign_in_link`.

use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};
use chrono::{DateTime, TimeDelta, Utc};
use rand::RngCore;

use super::OwnSecret;
use super::issuer::LEEWAY;

/// How long a link can be used. Long enough to copy it into a browser. The history of the browser keeps the link.
pub const LINK_LIFE: Duration = Duration::from_secs(5 * 60);
/// The subject of the tokens that links are exchanged for. `recado revoke console` ends all of them.
pub const CONSOLE_SUBJECT: &str = "console";
/// The prefix of every link's token, so that a leaked one is recognised.
const PREFIX: &str = "rcl_";
/// The time in seconds since 1970, in hexadecimal.
const TIME_DIGITS: usize = 10;
/// The length of the session in seconds, in hexadecimal.
const SESSION_DIGITS: usize = 8;
const RANDOM_BYTES: usize = 12;
/// Length of the HMAC-SHA256 after truncation.
const MAC_BYTES: usize = 16;
/// The purpose of the MAC's key, so that no other use of the secret gives the same key.
const KEY_LABEL: &[u8] = b"recado console link v1";

/// Reads links that were made with one of these secrets.
pub struct SignInLinks {
    keys: Vec<hmac::Key>,
}

/// A link of this hub that can be used now, as far as its time tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignInLink {
    /// A token that the link is exchanged for counts as issued at this time: a revocation that refuses the link refuses
    /// the token as well.
    pub issued_at: DateTime<Utc>,
    /// How long the token is to live.
    pub session: Duration,
}

/// Why a link is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkError {
    /// It is not of a hub with one of these secrets.
    NotOurs,
    Expired,
    /// The clock of the machine that made it is ahead.
    Early,
}

/// Makes the token of a link, with a session of this length.
pub fn make(secret: &OwnSecret, now: DateTime<Utc>, session: Duration) -> String {
    let mut random = [0; RANDOM_BYTES];
    rand::rng().fill_bytes(&mut random);
    let seconds = u32::try_from(session.as_secs()).unwrap_or(u32::MAX);
    let text = format!("{PREFIX}{:0TIME_DIGITS$x}{seconds:0SESSION_DIGITS$x}{}", now.timestamp(), hex(&random));
    let mac = mac(&key(secret), &text);
    text + &mac
}

impl SignInLinks {
    pub fn of<'a>(secrets: impl Iterator<Item = &'a OwnSecret>) -> Self {
        Self { keys: secrets.map(key).collect() }
    }

    /// Reads the token of a link.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn read(&self, token: &str, now: DateTime<Utc>) -> Result<SignInLink, LinkError> {
        let digits = token.strip_prefix(PREFIX).ok_or(LinkError::NotOurs)?;
        let is_hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if digits.len() != TIME_DIGITS + SESSION_DIGITS + 2 * (RANDOM_BYTES + MAC_BYTES) || !is_hex {
            return Err(LinkError::NotOurs);
        }
        let (text, mac) = token.split_at(token.len() - 2 * MAC_BYTES);
        let is_by = |key: &hmac::Key| constant_time::verify_slices_are_equal(self::mac(key, text).as_bytes(), mac.as_bytes()).is_ok();
        if !self.keys.iter().any(is_by) {
            return Err(LinkError::NotOurs);
        }
        let number = |from: usize, count: usize| i64::from_str_radix(&digits[from..from + count], 16).ok();
        let issued_at = number(0, TIME_DIGITS).and_then(|seconds| DateTime::from_timestamp(seconds, 0)).ok_or(LinkError::NotOurs)?;
        let session = number(TIME_DIGITS, SESSION_DIGITS).and_then(|seconds| u64::try_from(seconds).ok()).ok_or(LinkError::NotOurs)?;
        if issued_at > now + LEEWAY {
            return Err(LinkError::Early);
        }
        if now - issued_at >= TimeDelta::from_std(LINK_LIFE).unwrap_or_default() {
            return Err(LinkError::Expired);
        }
        Ok(SignInLink { issued_at, session: Duration::from_secs(session) })
    }
}

fn key(secret: &OwnSecret) -> hmac::Key {
    let root = hmac::Key::new(hmac::HMAC_SHA256, secret.secret.as_bytes());
    hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, KEY_LABEL).as_ref())
}

fn mac(key: &hmac::Key, text: &str) -> String {
    hex(&hmac::sign(key, text.as_bytes()).as_ref()[..MAC_BYTES])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> OwnSecret {
        OwnSecret { kid: None, secret: text.to_owned() }
    }

    #[test]
    fn a_link_is_good_for_minutes_by_the_secrets_that_count() {
        let at = DateTime::from_timestamp(1_795_300_000, 0).unwrap();
        let after = |seconds| at + TimeDelta::seconds(seconds);
        let (old, new) = (secret("an older secret"), secret("a newer secret"));
        let token = make(&old, at, Duration::from_secs(28_800));
        let links = SignInLinks::of([&new, &old].into_iter());
        let good = SignInLink { issued_at: at, session: Duration::from_secs(28_800) };
        for (seconds, read) in [(-6, Err(LinkError::Early)), (-5, Ok(good)), (0, Ok(good)), (299, Ok(good)), (300, Err(LinkError::Expired))]
        {
            assert_eq!(links.read(&token, after(seconds)), read, "{seconds}");
        }
        assert_eq!(SignInLinks::of([&new].into_iter()).read(&token, at), Err(LinkError::NotOurs));
        assert_ne!(make(&old, at, good.session), token);
    }

    #[test]
    fn each_changed_digit_makes_a_link_of_no_hub() {
        let at = DateTime::from_timestamp(1_795_300_000, 0).unwrap();
        let (own, links) = (secret("one"), SignInLinks::of([&secret("one")].into_iter()));
        let token = make(&own, at, Duration::from_secs(60));
        for place in PREFIX.len()..token.len() {
            let other = if &token[place..=place] == "0" { "1" } else { "0" };
            let wrong = format!("{}{other}{}", &token[..place], &token[place + 1..]);
            assert_eq!(links.read(&wrong, at), Err(LinkError::NotOurs), "{wrong}");
        }
        let jwt = "eyJhbGciOiJIUzI1NiJ9.e30.c2ln";
        for bad in ["", PREFIX, &token[1..], &token[..token.len() - 1], &format!("{token}0"), &token.to_uppercase(), jwt, &"é".repeat(39)]
        {
            assert_eq!(links.read(bad, at), Err(LinkError::NotOurs), "{bad}");
        }
    }
}
