//! Makes, seals and opens the secrets of webhooks.
//!
//! A secret is 32 random bytes, shown once as `whsec_` and base64. The database has it sealed with the keys of provider
//! session ids (`RECADO_UPSTREAM_KEY`), bound to the name of its webhook.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::sealing::Keyring;

/// What a secret begins with, as Standard Webhooks has it.
const PREFIX: &str = "whsec_";
const LENGTH: usize = 32;

/// The secret of a webhook. `Debug` shows only that it exists.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(Zeroizing<Vec<u8>>);

impl WebhookSecret {
    /// Makes a random secret.
    ///
    /// # Errors
    /// When the machine cannot provide random bytes.
    pub fn make() -> Result<Self, Unspecified> {
        let mut bytes = Zeroizing::new(vec![0; LENGTH]);
        rand::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The text for the receiver. Shown once, when the secret is made.
    pub fn shown(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}", STANDARD.encode(&*self.0)))
    }

    /// The key that signs.
    pub fn key(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

/// Names of webhooks have no NUL, and nothing else is sealed with this beginning.
fn bound_to(name: &str) -> Vec<u8> {
    format!("recado webhook secret\0{name}").into_bytes()
}

/// Seals a secret for its webhook.
///
/// # Errors
/// When the machine cannot provide random bytes.
pub fn seal(keys: &Keyring, name: &str, secret: &WebhookSecret) -> Result<Vec<u8>, Unspecified> {
    keys.seal(&bound_to(name), secret.0.to_vec())
}

/// Opens a sealed secret, and says whether it was sealed with the current key. `None`: it was sealed with another key,
/// for another webhook, or was changed.
pub fn open(keys: &Keyring, name: &str, sealed: &[u8]) -> Option<(WebhookSecret, bool)> {
    let opened = keys.open(&bound_to(name), sealed)?;
    (opened.text.len() == LENGTH).then(|| (WebhookSecret(opened.text), opened.is_current))
}

/// Reads the keys that seal secrets: an administrator's command may have made them after the hub has started. `None`:
/// there are none yet.
#[derive(Clone)]
pub struct SecretKeys(Arc<dyn Fn() -> Option<Keyring> + Send + Sync>);

impl SecretKeys {
    pub fn new(read: impl Fn() -> Option<Keyring> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Reads them now. May read a small file.
    pub fn read(&self) -> Option<Keyring> {
        (self.0)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(of: &[u8]) -> Keyring {
        Keyring::new(&of.iter().map(|byte| [*byte; 32]).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_secret_opens_for_its_webhook_with_its_key_alone() {
        let secret = WebhookSecret::make().unwrap();
        assert_ne!(secret, WebhookSecret::make().unwrap());
        let sealed = seal(&keys(&[7]), "sms", &secret).unwrap();
        assert_eq!(open(&keys(&[7]), "sms", &sealed), Some((secret.clone(), true)));
        assert_eq!(open(&keys(&[8, 7]), "sms", &sealed), Some((secret.clone(), false)), "it is to be sealed again");
        assert_eq!(open(&keys(&[8]), "sms", &sealed), None);
        assert_eq!(open(&keys(&[7]), "mail", &sealed), None);
        assert!(!sealed.windows(8).any(|piece| secret.key().windows(8).any(|part| part == piece)));
    }

    #[test]
    fn a_secret_is_shown_as_receivers_expect_it_and_never_by_accident() {
        let secret = WebhookSecret::make().unwrap();
        let shown = secret.shown();
        assert_eq!(STANDARD.decode(shown.strip_prefix("whsec_").unwrap()).unwrap(), secret.key());
        assert_eq!(format!("{secret:?}"), "WebhookSecret");
    }
}
