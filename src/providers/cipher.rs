//! Encrypts stored session ids with AES-256-GCM.
//!
//! Each ciphertext is bound to its provider and user, so that a row copied to another user cannot be decrypted there.

use aws_lc_rs::error::Unspecified;

use super::secret::Secret;
use crate::domain::{ProviderName, UserId};
use crate::sealing::Keyring;

/// Seals session ids with the first key and opens them with any. Cheap to clone.
#[derive(Clone)]
pub struct Cipher(Keyring);

impl Cipher {
    /// # Errors
    /// Without a key. And when the crypto library rejects a key of this length, which does not happen.
    pub fn new(keys: &[[u8; 32]]) -> Result<Self, Unspecified> {
        Keyring::new(keys).map(Self)
    }

    /// Seals a session id.
    ///
    /// # Errors
    /// When the machine cannot provide random bytes.
    pub fn seal(&self, provider: &ProviderName, user: &UserId, session: &Secret) -> Result<Vec<u8>, Unspecified> {
        self.0.seal(&bound_to(provider, user), session.expose().as_bytes().to_vec())
    }

    /// Opens a sealed session id. Returns `None` if it was sealed with a key that is not here, for another user, or was
    /// changed. The user is then signed in again: a lost key costs a sign-in and nothing else.
    pub fn open(&self, provider: &ProviderName, user: &UserId, sealed: &[u8]) -> Option<Secret> {
        let opened = self.0.open(&bound_to(provider, user), sealed)?;
        std::str::from_utf8(&opened.text).ok().map(Secret::new)
    }
}

/// Neither a provider name nor a user id contains a NUL, so two different pairs are never encoded alike.
fn bound_to(provider: &ProviderName, user: &UserId) -> Vec<u8> {
    format!("recado upstream session\0{provider}\0{user}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(name: &str) -> ProviderName {
        ProviderName::parse(name).unwrap()
    }

    fn user(id: &str) -> UserId {
        UserId::parse(id).unwrap()
    }

    #[test]
    fn a_session_id_opens_only_with_its_key_for_its_user_and_unchanged() {
        let cipher = Cipher::new(&[[7; 32]]).unwrap();
        let secret = Secret::new("A1B2.node0");
        let sealed = cipher.seal(&provider("p"), &user("42"), &secret).unwrap();
        assert_eq!(cipher.open(&provider("p"), &user("42"), &sealed), Some(secret.clone()));

        assert_eq!(Cipher::new(&[[8; 32]]).unwrap().open(&provider("p"), &user("42"), &sealed), None);
        assert_eq!(cipher.open(&provider("p"), &user("43"), &sealed), None);
        assert_eq!(cipher.open(&provider("q"), &user("42"), &sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(cipher.open(&provider("p"), &user("42"), &changed), None, "byte {at}");
        }
        for length in 0..sealed.len() {
            assert_eq!(cipher.open(&provider("p"), &user("42"), &sealed[..length]), None, "length {length}");
        }
    }

    #[test]
    fn after_a_rotation_the_new_key_seals_and_both_open() {
        let secret = Secret::new("A1B2.node0");
        let (old, new, both) = (Cipher::new(&[[7; 32]]), Cipher::new(&[[8; 32]]), Cipher::new(&[[8; 32], [7; 32]]));
        let (old, new, both) = (old.unwrap(), new.unwrap(), both.unwrap());
        let sealed = old.seal(&provider("p"), &user("42"), &secret).unwrap();
        assert_eq!(both.open(&provider("p"), &user("42"), &sealed), Some(secret.clone()));
        assert_eq!(both.open(&provider("p"), &user("43"), &sealed), None);
        let resealed = both.seal(&provider("p"), &user("42"), &secret).unwrap();
        assert_eq!(new.open(&provider("p"), &user("42"), &resealed), Some(secret));
        assert_eq!(old.open(&provider("p"), &user("42"), &resealed), None);
        assert!(Cipher::new(&[]).is_err());
    }

    #[test]
    fn a_sealed_id_shows_nothing_and_never_looks_the_same_twice() {
        let cipher = Cipher::new(&[[7; 32]]).unwrap();
        let seal = || cipher.seal(&provider("p"), &user("42"), &Secret::new("A1B2.node0")).unwrap();
        let (one, two) = (seal(), seal());
        assert_ne!(one, two);
        assert!(!one.windows(4).any(|piece| piece == b"A1B2"));
    }
}
