//! Decides who a user is: checks tokens by the hub's own secrets and by the keys of configured issuers.
//!
//! The words:
//!
//! - An *issuer* signs tokens. It has rules (which `iss` and `aud`, where the user id stands) and keys.
//! - The hub itself is the first issuer. Its keys are its *own secrets*: the current one signs, all of them verify.
//! - A *key* has exactly one algorithm. The header of a token must name that algorithm; it never chooses one.
//! - A *key set* is the list of keys that an issuer publishes (JWKS). It is fetched again and again.
//!
//! A check goes: the header names an algorithm and perhaps a `kid`; the unproved `iss` selects issuers; their keys with
//! that algorithm and that `kid` are tried; the first key that fits proves the claims; the rules of its issuer decide
//! about them. At last, a token is refused if an admin has revoked its user's tokens of that time. What happens when a
//! key is unknown, or an issuer cannot be reached, is told in `key_set.rs`.
//!
//! The invariants: a secret never checks a token of a public algorithm, and a public key never one of a secret's. A key
//! of one issuer proves nothing about tokens of another. A token of an issuer that is not trusted for roles is refused
//! if it claims one. A connection ends when the key that admitted it is removed.

mod claim_path;
mod claims;
mod file;
mod issuer;
mod key_set;
mod mint;
mod pem;
mod revocations;
pub mod sign_in_link;
mod token;
mod verification_key;

use std::sync::Arc;

use jsonwebtoken::Algorithm;

pub use claim_path::ClaimPath;
pub use claims::{ACCOUNTS_MAX, Claims, TokenError};
pub use file::{FileReaders, IdentityFile, IdentityFileError, parse};
pub use issuer::{Issuer, IssuerRules, TOKEN_MAX_BYTES};
pub use key_set::{KeyChange, KeySet, KeySetRules, check_address};
pub use mint::{MintError, MintedToken, TokenMinter, mint, mint_with};
pub use revocations::Revocations;
pub use token::{COMMAND_LINE_SUBJECT, TokenRules};
pub use verification_key::VerificationKey;

use crate::config::JwtRules;

/// One of the hub's own secrets.
#[derive(Clone)]
pub struct OwnSecret {
    /// Its name, which tokens carry as `kid`.
    pub kid: Option<String>,
    pub secret: String,
}

/// The hub's own secrets, the current one first. There is always one.
#[derive(Clone)]
pub struct OwnSecrets {
    pub current: OwnSecret,
    /// Secrets that verify and never sign.
    pub accepted: Vec<OwnSecret>,
}

impl OwnSecrets {
    pub fn single(secret: &str) -> Self {
        Self { current: OwnSecret { kid: None, secret: secret.to_owned() }, accepted: Vec::new() }
    }

    /// All secrets, the current one first.
    pub fn all(&self) -> impl Iterator<Item = &OwnSecret> {
        std::iter::once(&self.current).chain(&self.accepted)
    }
}

/// Everything by which this hub decides who a user is.
#[derive(Clone)]
pub struct Identity {
    pub secrets: OwnSecrets,
    tokens: TokenRules,
    key_sets: Vec<Arc<KeySet>>,
}

impl Identity {
    /// The hub's own secrets with the rules of the single settings, and further issuers.
    ///
    /// # Errors
    /// When a secret is too short.
    pub fn new(secrets: OwnSecrets, rules: JwtRules, others: Vec<Issuer>) -> Result<Self, String> {
        let keys = secrets.all().map(|own| VerificationKey::of_secret(own.kid.clone(), Algorithm::HS256, &own.secret));
        let own = Issuer { rules: IssuerRules::of_settings("own", &rules, true), keys: keys.collect::<Result<_, _>>()?, published: None };
        let mut issuers: Vec<Issuer> = std::iter::once(own).chain(others).collect();
        for issuer in &mut issuers {
            issuer.rules.reads_accounts = rules.reads_accounts;
        }
        let key_sets = issuers.iter().filter_map(|issuer| issuer.published.clone()).collect();
        Ok(Self { secrets, tokens: TokenRules::of(issuers), key_sets })
    }

    pub fn tokens(&self) -> TokenRules {
        self.tokens.clone()
    }

    /// The key sets that must be fetched.
    pub fn key_sets(&self) -> &[Arc<KeySet>] {
        &self.key_sets
    }
}
