//! Signs posts as Standard Webhooks describes: HMAC-SHA256 over id, time and body.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::secret::WebhookSecret;

/// The value of `webhook-signature`: one signature for each secret, the current one first.
pub fn sign(secrets: &[WebhookSecret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signature = |secret: &WebhookSecret| {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.key()));
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    };
    secrets.iter().map(signature).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// HMAC as RFC 2104 writes it, with another library's hash.
    fn hmac_of(key: &[u8], text: &[u8]) -> Vec<u8> {
        let pad = |byte: u8| -> Vec<u8> { (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ byte).collect() };
        let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
        Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
    }

    #[test]
    fn each_secret_signs_the_id_the_time_and_the_body() {
        let (new, old) = (WebhookSecret::make().unwrap(), WebhookSecret::make().unwrap());
        let expected = |secret: &WebhookSecret| format!("v1,{}", STANDARD.encode(hmac_of(secret.key(), br#"msg_1.1700000000.{"a":1}"#)));
        assert_eq!(sign(std::slice::from_ref(&new), "msg_1", 1_700_000_000, br#"{"a":1}"#), expected(&new));
        let both = sign(&[new.clone(), old.clone()], "msg_1", 1_700_000_000, br#"{"a":1}"#);
        assert_eq!(both, format!("{} {}", expected(&new), expected(&old)));
    }
}
