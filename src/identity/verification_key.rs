//! Checks signatures with one key, which alone decides the algorithm.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::domain::KeyTag;

/// The algorithms of public keys and of secrets. `none` is not one of them.
pub const ALGORITHMS: [(&str, Algorithm); 12] = [
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// Bits of an RSA modulus: below, the key can be factored or will be; above, the crypto library refuses it.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The algorithm with this name.
pub fn algorithm(name: &str) -> Option<Algorithm> {
    ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
}

/// The name of an algorithm.
pub fn name_of(algorithm: Algorithm) -> &'static str {
    ALGORITHMS.iter().find(|(_, known)| *known == algorithm).map_or("other", |(name, _)| name)
}

/// Whether tokens of this algorithm are checked with a secret.
pub const fn is_secret(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

/// The material of a public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    P256 { x: Vec<u8>, y: Vec<u8> },
    P384 { x: Vec<u8>, y: Vec<u8> },
    Ed25519 { x: Vec<u8> },
}

/// One key with its one algorithm.
#[derive(Clone)]
pub struct VerificationKey {
    pub kid: Option<String>,
    pub algorithm: Algorithm,
    pub tag: KeyTag,
    key: DecodingKey,
    /// The library's check of the signature. It allows the key's algorithm and no other; all other checks are ours.
    signature: Validation,
    #[cfg(feature = "mutants")]
    material: Vec<u8>,
}

impl VerificationKey {
    /// A secret that both sides know.
    ///
    /// # Errors
    /// When the secret is shorter than the hash (RFC 7518 section 3.2).
    pub fn of_secret(kid: Option<String>, algorithm: Algorithm, secret: &str) -> Result<Self, String> {
        let least = match algorithm {
            Algorithm::HS256 => 32,
            Algorithm::HS384 => 48,
            Algorithm::HS512 => 64,
            other => return Err(format!("a secret cannot check {}", name_of(other))),
        };
        let length = secret.len();
        if length < least {
            return Err(format!("has {length} bytes; {} needs {least} or more (openssl rand -hex {least})", name_of(algorithm)));
        }
        let key = DecodingKey::from_secret(secret.as_bytes()).map_err(|_| "is empty".to_owned())?;
        Ok(Self::new(kid, algorithm, key, secret.as_bytes()))
    }

    /// A public key. Without an algorithm it gets the usual one of its kind.
    ///
    /// # Errors
    /// When the algorithm is not one of the key's kind, or the key is malformed or weak.
    pub fn of_public(kid: Option<String>, wanted: Option<Algorithm>, public: &PublicKey) -> Result<Self, String> {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        let (possible, key, material): (&[Algorithm], DecodingKey, &[u8]) = match public {
            PublicKey::Rsa { modulus, exponent } => {
                let modulus = &modulus[modulus.iter().take_while(|byte| **byte == 0).count()..];
                let bits = modulus.len() * 8 - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
                if !RSA_BITS.contains(&bits) {
                    return Err(format!("is an RSA key of {bits} bits; it must have {} to {}", RSA_BITS.start(), RSA_BITS.end()));
                }
                // The library takes any exponent; with 1 every signature would be valid.
                let value = exponent.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
                if exponent.len() > 8 || value < 3 || value % 2 == 0 {
                    return Err("is an RSA key with an unusable exponent".to_owned());
                }
                let key = DecodingKey::from_rsa_raw_components(modulus, exponent);
                (&[RS256, RS384, RS512, PS256, PS384, PS512], key, modulus)
            }
            PublicKey::P256 { x, y } => (&[ES256], point(x, y, 32)?, x),
            PublicKey::P384 { x, y } => (&[ES384], point(x, y, 48)?, x),
            PublicKey::Ed25519 { x } if x.len() == 32 => (&[EdDSA], DecodingKey::from_ed_der(x), x),
            PublicKey::Ed25519 { .. } => return Err("is an Ed25519 key that has not 32 bytes".to_owned()),
        };
        let algorithm = wanted.unwrap_or(possible[0]);
        if !possible.contains(&algorithm) {
            let names: Vec<_> = possible.iter().map(|possible| name_of(*possible)).collect();
            return Err(format!("cannot check {}; a key of its kind checks {}", name_of(algorithm), names.join(", ")));
        }
        Ok(Self::new(kid, algorithm, key, material))
    }

    fn new(kid: Option<String>, algorithm: Algorithm, key: DecodingKey, material: &[u8]) -> Self {
        let digest: [u8; 32] = Sha256::new().chain_update(name_of(algorithm)).chain_update(material).finalize().into();
        let tag = KeyTag(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]));
        Self {
            kid,
            algorithm,
            tag,
            key,
            signature: only(algorithm),
            #[cfg(feature = "mutants")]
            material: material.to_vec(),
        }
    }

    /// The text of the claims, if this key signed the token with its algorithm.
    pub fn verify(&self, token: &str) -> Option<Box<RawValue>> {
        #[cfg(feature = "mutants")]
        if crate::mutants::is("alg-from-header") {
            return self.verify_as_the_header_says(token);
        }
        jsonwebtoken::decode::<Box<RawValue>>(token, &self.key, &self.signature).ok().map(|decoded| decoded.claims)
    }

    /// The classic fault: a public key serves as the secret of a token that says HS256.
    #[cfg(feature = "mutants")]
    fn verify_as_the_header_says(&self, token: &str) -> Option<Box<RawValue>> {
        let named = jsonwebtoken::decode_header(token).ok()?.alg;
        let key = if is_secret(named) { DecodingKey::from_secret(&self.material).ok()? } else { self.key.clone() };
        jsonwebtoken::decode::<Box<RawValue>>(token, &key, &only(named)).ok().map(|decoded| decoded.claims)
    }

    /// Whether the key checks tokens whose header names this algorithm.
    pub fn checks(&self, named: Algorithm) -> bool {
        #[cfg(feature = "mutants")]
        if crate::mutants::is("alg-from-header") {
            return true;
        }
        self.algorithm == named
    }
}

/// The library's check of a signature by exactly one algorithm, and of nothing else.
fn only(algorithm: Algorithm) -> Validation {
    let mut signature = Validation::new(algorithm);
    signature.validate_exp = false;
    signature.validate_nbf = false;
    signature.validate_aud = false;
    signature.required_spec_claims.clear();
    signature
}

fn point(x: &[u8], y: &[u8], length: usize) -> Result<DecodingKey, String> {
    if x.len() != length || y.len() != length {
        return Err(format!("has coordinates that are not {length} bytes long"));
    }
    DecodingKey::from_ec_components(&URL_SAFE_NO_PAD.encode(x), &URL_SAFE_NO_PAD.encode(y)).map_err(|error| error.to_string())
}

/// The key of one entry of a key set (RFC 7517, RFC 7518 section 6, RFC 8037).
///
/// # Errors
/// Why the entry cannot check tokens. A secret in a public set could be used by anyone, so it never can.
pub fn of_jwk(entry: &Value) -> Result<VerificationKey, String> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    if entry.get("use").is_some_and(|purpose| purpose != "sig") {
        return Err("its use is not sig".to_owned());
    }
    if let Some(operations) = entry.get("key_ops")
        && !operations.as_array().is_some_and(|list| list.iter().any(|operation| operation == "verify"))
    {
        return Err("its key_ops do not contain verify".to_owned());
    }
    let kid = match entry.get("kid") {
        None => None,
        Some(kid) => Some(kid.as_str().ok_or("its kid is not a string")?.to_owned()),
    };
    let wanted = match entry.get("alg") {
        None => None,
        Some(alg) => Some(alg.as_str().and_then(algorithm).ok_or("its alg is not supported")?),
    };
    let bytes = |name: &str| -> Result<Vec<u8>, String> {
        let value = text(name).ok_or_else(|| format!("{name} is missing"))?;
        URL_SAFE_NO_PAD.decode(value.trim_end_matches('=')).map_err(|_| format!("{name} is not base64url"))
    };
    let public = match (text("kty"), text("crv")) {
        (Some("RSA"), _) => PublicKey::Rsa { modulus: bytes("n")?, exponent: bytes("e")? },
        (Some("EC"), Some("P-256")) => PublicKey::P256 { x: bytes("x")?, y: bytes("y")? },
        (Some("EC"), Some("P-384")) => PublicKey::P384 { x: bytes("x")?, y: bytes("y")? },
        (Some("OKP"), Some("Ed25519")) => PublicKey::Ed25519 { x: bytes("x")? },
        (Some("oct"), _) => return Err("it is a secret (oct), which a public set must not hold".to_owned()),
        _ => return Err("its kty or crv is not supported".to_owned()),
    };
    if entry.get("d").is_some() {
        return Err("it is a private key, which the issuer must replace".to_owned());
    }
    VerificationKey::of_public(kid, wanted, &public)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rsa(bits: usize) -> Value {
        let modulus: Vec<u8> = std::iter::once(0x80).chain(std::iter::repeat_n(1, bits / 8 - 1)).collect();
        json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode(modulus), "e": "AQAB"})
    }

    fn with(mut entry: Value, more: &Value) -> Value {
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        entry
    }

    #[test]
    fn the_kind_of_a_key_or_its_alg_decides_the_algorithm() {
        let (x, y, long) = ("A".repeat(43), "A".repeat(43), "A".repeat(64));
        for (entry, expected) in [
            (rsa(2048), Algorithm::RS256),
            (with(rsa(2048), &json!({"alg": "PS512", "use": "sig", "key_ops": ["verify"]})), Algorithm::PS512),
            (json!({"kty": "EC", "crv": "P-256", "x": x, "y": y}), Algorithm::ES256),
            (json!({"kty": "EC", "crv": "P-384", "x": long, "y": long, "kid": "k"}), Algorithm::ES384),
            (json!({"kty": "OKP", "crv": "Ed25519", "x": x}), Algorithm::EdDSA),
        ] {
            assert_eq!(of_jwk(&entry).map(|key| key.algorithm), Ok(expected), "{entry}");
        }
    }

    #[test]
    fn an_entry_that_must_not_check_tokens_is_left_out() {
        let x = "A".repeat(43);
        for entry in [
            json!({"kty": "oct", "k": x}),
            json!({"kty": "oct", "k": x, "alg": "HS256", "use": "sig"}),
            with(rsa(2048), &json!({"use": "enc"})),
            with(rsa(2048), &json!({"use": null})),
            with(rsa(2048), &json!({"key_ops": ["encrypt"]})),
            with(rsa(2048), &json!({"key_ops": "verify"})),
            with(rsa(2048), &json!({"alg": "RSA-OAEP"})),
            with(rsa(2048), &json!({"alg": "HS256"})),
            with(rsa(2048), &json!({"alg": "ES256"})),
            with(rsa(2048), &json!({"alg": "none"})),
            with(rsa(2048), &json!({"kid": 7})),
            with(rsa(2048), &json!({"d": "AQAB"})),
            with(rsa(2048), &json!({"e": "AQ"})),
            with(rsa(2048), &json!({"e": "Ag"})),
            with(rsa(2048), &json!({"e": ""})),
            with(rsa(2048), &json!({"n": "%"})),
            rsa(1024),
            rsa(16384),
            json!({"kty": "RSA", "e": "AQAB"}),
            json!({"kty": "EC", "crv": "P-256", "x": x}),
            json!({"kty": "EC", "crv": "P-256", "x": x, "y": "AAAA"}),
            json!({"kty": "EC", "crv": "P-521", "x": x, "y": x}),
            json!({"kty": "EC", "crv": "secp256k1", "x": x, "y": x}),
            json!({"kty": "EC", "crv": "P-256", "x": x, "y": x, "alg": "ES384"}),
            json!({"kty": "OKP", "crv": "X25519", "x": x}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}),
            json!({"kty": "AKP", "pub": x}),
            json!({"x": x}),
            json!("RSA"),
            json!(null),
        ] {
            assert!(of_jwk(&entry).is_err(), "{entry}");
        }
    }

    #[test]
    fn a_secret_is_as_long_as_its_hash() {
        for (algorithm, least) in [(Algorithm::HS256, 32), (Algorithm::HS384, 48), (Algorithm::HS512, 64)] {
            assert!(VerificationKey::of_secret(None, algorithm, &"ab".repeat(least / 2)).is_ok());
            assert!(VerificationKey::of_secret(None, algorithm, &"ab".repeat(least / 2)[1..]).is_err());
        }
        assert!(VerificationKey::of_secret(None, Algorithm::RS256, &"ab".repeat(64)).is_err());
    }
}
