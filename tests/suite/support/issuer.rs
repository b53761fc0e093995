//! Plays an identity provider: keys that sign tokens, and a server that publishes them and can misbehave.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub const ISS: &str = "https://id.example.com/";
pub const AUD: &str = "https://hub.example.com";

/// The algorithms of public keys.
pub const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

pub fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// Base64url without padding, as in tokens.
pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A key pair of an issuer.
#[derive(Clone)]
pub struct IssuerKey {
    pub kid: Option<String>,
    pub algorithm: Algorithm,
    pub signing: EncodingKey,
    /// The public part, as an entry of a key set.
    pub jwk: Value,
    /// The public part, as PEM text.
    pub pem: String,
}

impl IssuerKey {
    /// A new key. RSA keys are made once, because that takes long.
    pub fn new(algorithm: Algorithm, kid: &str) -> Self {
        static RSA: OnceLock<(EncodingKey, String)> = OnceLock::new();
        let random = SystemRandom::new();
        let (signing, public) = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => {
                let curve = if algorithm == Algorithm::ES256 { &ECDSA_P256_SHA256_FIXED_SIGNING } else { &ECDSA_P384_SHA384_FIXED_SIGNING };
                let document = EcdsaKeyPair::generate_pkcs8(curve, &random).unwrap();
                let pair = EcdsaKeyPair::from_pkcs8(curve, document.as_ref()).unwrap();
                let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
                (EncodingKey::from_ec_der(document.as_ref()), pem("PUBLIC KEY", public.as_ref()))
            }
            Algorithm::EdDSA => {
                let document = Ed25519KeyPair::generate_pkcs8v1(&random).unwrap();
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(document.as_ref()).unwrap();
                let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
                (EncodingKey::from_ed_der(document.as_ref()), pem("PUBLIC KEY", public.as_ref()))
            }
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => panic!("a secret is no key pair"),
            _ => RSA.get_or_init(Self::rsa).clone(),
        };
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&signing, algorithm).unwrap()).unwrap();
        jwk["kid"] = kid.into();
        jwk["use"] = "sig".into();
        Self { kid: Some(kid.to_owned()), algorithm, signing, jwk, pem: public }
    }

    fn rsa() -> (EncodingKey, String) {
        let pair = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        let private: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        (EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes()).unwrap(), pem("PUBLIC KEY", public.as_ref()))
    }

    /// Signs any header and claims with this key and its algorithm.
    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64url(header), base64url(claims));
        let signature = crypto::sign(message.as_bytes(), &self.signing, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }

    /// A token with this key's usual header.
    pub fn sign(&self, claims: &Value) -> String {
        let mut header = json!({"typ": "JWT", "alg": format!("{:?}", self.algorithm)});
        if let Some(kid) = &self.kid {
            header["kid"] = kid.as_str().into();
        }
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// A good token of this user.
    pub fn token(&self, user: &str) -> String {
        self.sign(&claims(user))
    }
}

/// Good claims of the issuer of these tests.
pub fn claims(user: &str) -> Value {
    json!({"iss": ISS, "aud": AUD, "sub": user, "iat": now(), "exp": now() + 600})
}

/// What the key server answers.
#[derive(Clone)]
pub enum KeyAnswer {
    Set(Vec<Value>),
    /// A status, headers, and a body.
    Raw(u16, String, Vec<u8>),
    /// Accepts the request and never answers.
    Hang,
}

/// A server that publishes keys at `/jwks`.
pub struct KeyServer {
    port: u16,
    answer: Arc<Mutex<KeyAnswer>>,
    hits: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl KeyServer {
    pub async fn start(keys: &[&IssuerKey]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = Arc::new(Mutex::new(KeyAnswer::Set(keys.iter().map(|key| key.jwk.clone()).collect())));
        let hits = Arc::new(AtomicUsize::new(0));
        let (given, counted) = (Arc::clone(&answer), Arc::clone(&hits));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (given, counted) = (Arc::clone(&given), Arc::clone(&counted));
                tokio::spawn(async move { serve(stream, &given, &counted).await });
            }
        });
        Self { port, answer, hits, task }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/jwks", self.port)
    }

    pub fn answer(&self, answer: KeyAnswer) {
        *self.answer.lock().unwrap() = answer;
    }

    pub fn publish(&self, keys: &[&IssuerKey]) {
        self.answer(KeyAnswer::Set(keys.iter().map(|key| key.jwk.clone()).collect()));
    }

    /// Requests so far.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    /// Waits until a request that begins after now has been answered.
    pub async fn asked_again(&self) {
        let before = self.hits();
        super::eventually("the keys are fetched again", super::PATIENCE, async || (self.hits() > before + 1).then_some(())).await;
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, answer: &Mutex<KeyAnswer>, hits: &AtomicUsize) {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut piece).await {
            Ok(read) if read > 0 => request.extend_from_slice(&piece[..read]),
            _ => return,
        }
    }
    hits.fetch_add(1, Ordering::SeqCst);
    let answer = answer.lock().unwrap().clone();
    let (status, headers, body) = match answer {
        KeyAnswer::Set(keys) => (200, "Content-Type: application/json\r\n".to_owned(), json!({"keys": keys}).to_string().into_bytes()),
        KeyAnswer::Raw(status, headers, body) => (status, headers, body),
        KeyAnswer::Hang => return tokio::time::sleep(Duration::from_secs(60)).await,
    };
    let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body).await;
}
