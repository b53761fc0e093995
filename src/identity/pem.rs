//! Reads a public key from PEM text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::verification_key::PublicKey;

/// The beginning of a SubjectPublicKeyInfo (RFC 5480, RFC 8410), before the bytes of the key. Only the uncompressed
/// form of a point is read, which every tool writes.
const P256: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01,
    0x07, 0x03, 0x42, 0x00, 0x04,
];
const P384: &[u8] = &[
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22, 0x03, 0x62,
    0x00, 0x04,
];
const ED25519: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The algorithm identifier of RSA (RFC 3279 section 2.3.1).
const RSA: &[u8] = &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// Reads the one public key of a PEM text.
///
/// # Errors
/// Says what the text is instead, and how to get the public key.
pub fn public_key(text: &str) -> Result<PublicKey, String> {
    const WANTED: &str = "a PEM text that begins with -----BEGIN PUBLIC KEY-----";
    let text = text.trim();
    let label = text.strip_prefix("-----BEGIN ").and_then(|rest| rest.split_once("-----"));
    let (label, rest) = label.ok_or_else(|| format!("must be {WANTED}"))?;
    match label {
        "PUBLIC KEY" => {}
        "CERTIFICATE" => {
            return Err("is a certificate; give its public key: openssl x509 -in FILE -pubkey -noout".to_owned());
        }
        _ if label.ends_with("PRIVATE KEY") => {
            return Err("is a private key, which only the issuer may have; give the public key: openssl pkey -in FILE -pubout".to_owned());
        }
        _ => return Err(format!("is {label}, not {WANTED} (openssl pkey -in FILE -pubout)")),
    }
    let (body, after) = rest.split_once("-----END PUBLIC KEY-----").ok_or("has no line -----END PUBLIC KEY-----")?;
    if !after.trim().is_empty() {
        return Err("holds more than one PEM text; give each key an entry of its own".to_owned());
    }
    let body: String = body.split_whitespace().collect();
    let der = STANDARD.decode(body).map_err(|_| "is not base64 between its two lines")?;
    of_der(&der).ok_or_else(|| "is not an RSA, P-256, P-384 or Ed25519 key".to_owned())
}

fn of_der(der: &[u8]) -> Option<PublicKey> {
    if let Some(point) = der.strip_prefix(P256).filter(|point| point.len() == 64) {
        return Some(PublicKey::P256 { x: point[..32].to_vec(), y: point[32..].to_vec() });
    }
    if let Some(point) = der.strip_prefix(P384).filter(|point| point.len() == 96) {
        return Some(PublicKey::P384 { x: point[..48].to_vec(), y: point[48..].to_vec() });
    }
    if let Some(x) = der.strip_prefix(ED25519).filter(|x| x.len() == 32) {
        return Some(PublicKey::Ed25519 { x: x.to_vec() });
    }
    let (info, after) = element(der, 0x30)?;
    let (bits, rest) = element(info.strip_prefix(RSA)?, 0x03)?;
    let (key, left) = element(bits.strip_prefix(&[0])?, 0x30)?;
    let (modulus, exponent) = element(key, 0x02)?;
    let (exponent, end) = element(exponent, 0x02)?;
    let is_whole = [after, rest, left, end].iter().all(|rest| rest.is_empty());
    is_whole.then(|| PublicKey::Rsa { modulus: modulus.to_vec(), exponent: exponent.to_vec() })
}

/// The content of a DER element with this tag, and the bytes after it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (head, rest) = der.split_at_checked(2)?;
    if head[0] != tag {
        return None;
    }
    let (length, rest) = match head[1] {
        short @ 0..=0x7f => (usize::from(short), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), &rest[2..]),
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EC: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9\nq9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==\n-----END PUBLIC KEY-----\n";
    const ED: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----";

    #[test]
    fn a_public_key_of_each_kind_is_read() {
        assert!(matches!(public_key(EC), Ok(PublicKey::P256 { .. })));
        assert!(matches!(public_key(ED), Ok(PublicKey::Ed25519 { .. })));
        assert!(matches!(public_key(&EC.replace('\n', "\r\n")), Ok(PublicKey::P256 { .. })));
    }

    #[test]
    fn another_text_is_refused_with_what_to_give() {
        for (text, expected) in [
            ("", "BEGIN PUBLIC KEY"),
            ("MFkw", "BEGIN PUBLIC KEY"),
            ("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----", "openssl x509"),
            ("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----", "private key"),
            ("-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----", "private key"),
            ("-----BEGIN RSA PUBLIC KEY-----\nAA==\n-----END RSA PUBLIC KEY-----", "openssl pkey"),
            ("-----BEGIN PUBLIC KEY-----\nAA==\n", "END PUBLIC KEY"),
            ("-----BEGIN PUBLIC KEY-----\n%\n-----END PUBLIC KEY-----", "base64"),
            ("-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----", "P-256"),
            (&format!("{EC}{EC}"), "more than one"),
        ] {
            let error = public_key(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let der = STANDARD.decode(EC.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap();
        for length in 0..der.len() {
            assert_eq!(of_der(&der[..length]), None, "{length}");
        }
    }
}
