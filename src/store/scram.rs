//! Derives the SCRAM-SHA-256 verifier of a password (RFC 5802 and 7677).
//!
//! PostgreSQL stores the verifier. The hub derives it, so that the server, whose logs and statistics may hold
//! statements with their arguments, never sees the password itself.

use std::num::NonZeroU32;

use aws_lc_rs::{hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngCore;
use sha2::{Digest, Sha256};

/// PostgreSQL's own number of rounds. More would protect a password that can be guessed, and ours are random.
const ROUNDS: NonZeroU32 = NonZeroU32::new(4096).expect("not zero");

/// Makes the text that `CREATE ROLE … PASSWORD` accepts in place of an ASCII password.
pub fn verifier(password: &str) -> String {
    let mut salt = [0; 16];
    rand::rng().fill_bytes(&mut salt);
    with_salt(password, &salt)
}

fn with_salt(password: &str, salt: &[u8]) -> String {
    let mut salted = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, password.as_bytes(), &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let stored = Sha256::digest(hmac::sign(&key, b"Client Key"));
    let server = hmac::sign(&key, b"Server Key");
    format!("SCRAM-SHA-256${ROUNDS}:{}${}:{}", STANDARD.encode(salt), STANDARD.encode(stored), STANDARD.encode(server))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_postgresql_makes_of_the_example_of_rfc_7677() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        assert_eq!(
            with_salt("pencil", &salt),
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
        assert_ne!(verifier("pencil"), verifier("pencil"));
    }
}
