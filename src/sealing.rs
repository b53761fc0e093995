//! Seals bytes with AES-256-GCM, bound to what they belong to.
//!
//! The sealed form is a version, a random nonce, and the ciphertext with its tag.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use zeroize::Zeroizing;

/// The first byte, so that another algorithm can be added later.
const VERSION: u8 = 1;
const TAG_LEN: usize = 16;
/// How many bytes the sealed form has more than its text.
pub const OVERHEAD: usize = 1 + NONCE_LEN + TAG_LEN;

/// Seals a text. It opens only with the same key and the same `bound_to`.
///
/// # Errors
/// When the machine cannot provide random bytes.
pub fn seal(key: &RandomizedNonceKey, bound_to: &[u8], mut text: Vec<u8>) -> Result<Vec<u8>, Unspecified> {
    let nonce = key.seal_in_place_append_tag(Aad::from(bound_to), &mut text)?;
    let mut sealed = Vec::with_capacity(1 + NONCE_LEN + text.len());
    sealed.push(VERSION);
    sealed.extend_from_slice(nonce.as_ref());
    sealed.append(&mut text);
    Ok(sealed)
}

/// Opens a sealed text. `None` if it was sealed with another key, for something else, in another version, or was
/// changed.
pub fn open(key: &RandomizedNonceKey, bound_to: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (version, rest) = sealed.split_first()?;
    let (nonce, text) = rest.split_at_checked(NONCE_LEN)?;
    if *version != VERSION {
        return None;
    }
    // Opening in place destroys the text, also if it fails.
    let mut text = Zeroizing::new(text.to_vec());
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let length = key.open_in_place(nonce, Aad::from(bound_to), &mut text).ok()?.len();
    text.truncate(length);
    Some(text)
}

/// Keys of which the first one seals and all of them open. Cheap to clone.
#[derive(Clone)]
pub struct Keyring(Arc<[RandomizedNonceKey]>);

/// A text that a [`Keyring`] opened.
#[derive(Debug)]
pub struct Opened {
    pub text: Zeroizing<Vec<u8>>,
    /// It was sealed with the first key, so it need not be sealed again.
    pub is_current: bool,
}

impl Keyring {
    /// # Errors
    /// Without a key. And when the crypto library rejects a key of this length, which does not happen.
    pub fn new(keys: &[[u8; 32]]) -> Result<Self, Unspecified> {
        let keys: Arc<[RandomizedNonceKey]> =
            keys.iter().map(|key| RandomizedNonceKey::new(&AES_256_GCM, key)).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(Unspecified) } else { Ok(Self(keys)) }
    }

    /// Seals with the first key, as [`seal`] does.
    ///
    /// # Errors
    /// When the machine cannot provide random bytes.
    pub fn seal(&self, bound_to: &[u8], text: Vec<u8>) -> Result<Vec<u8>, Unspecified> {
        seal(&self.0[0], bound_to, text)
    }

    /// Opens with any key, as [`open`] does.
    pub fn open(&self, bound_to: &[u8], sealed: &[u8]) -> Option<Opened> {
        let opened = |(at, key)| open(key, bound_to, sealed).map(|text| Opened { text, is_current: at == 0 });
        self.0.iter().enumerate().find_map(opened)
    }
}
