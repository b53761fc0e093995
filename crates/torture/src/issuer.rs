//! Plays an issuer of tokens: publishes keys in a file, forges tokens, and removes a key.
//!
//! The hubs read the key set again every second. The attacks connect to the hubs directly, not through the proxies.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt;
use futures_util::future::join_all;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use recado_torture_check::fact::RunFact;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::RunError;
use crate::book::Recorder;
use crate::hubs::TortureHub;

const ISS: &str = "https://issuer.torture.example/";
const AUD: &str = "torture";
/// Connections with the key that is removed, to each hub.
const CONNECTIONS: usize = 4;
/// Longest time of one request.
const STEP_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait until a hub has a key that was published: the refresh is one second.
const PUBLISHED_LIMIT: Duration = Duration::from_secs(10);
/// Longest life of a connection whose key was removed: the refresh, the drain window of one second, and a margin for a
/// busy machine.
const CLOSED_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// A key pair of the issuer.
struct IssuerKey {
    kid: &'static str,
    signing: EncodingKey,
    jwk: Value,
}

/// The issuer that all hubs of a run believe.
pub struct Issuer {
    /// The identity file of the hubs.
    pub file: PathBuf,
    set: PathBuf,
    stays: IssuerKey,
    goes: IssuerKey,
}

impl IssuerKey {
    fn new(kid: &'static str) -> Result<Self, RunError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())?;
        let signing = EncodingKey::from_ec_der(document.as_ref());
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&signing, Algorithm::ES256)?)?;
        jwk["kid"] = kid.into();
        Ok(Self { kid, signing, jwk })
    }

    fn token(&self, user: &str) -> Result<String, RunError> {
        let header = Header { kid: Some(self.kid.to_owned()), ..Header::new(Algorithm::ES256) };
        Ok(jsonwebtoken::encode(&header, &claims(user)?, &self.signing)?)
    }
}

fn claims(user: &str) -> Result<Value, RunError> {
    let exp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600;
    Ok(json!({"iss": ISS, "aud": AUD, "sub": user, "exp": exp}))
}

impl Issuer {
    /// Writes the identity file and the key set into this folder.
    pub fn begin(folder: &Path) -> Result<Self, RunError> {
        let (file, set) = (folder.join("identity.toml"), folder.join("keys.json"));
        let text = format!(
            "[[issuer]]\nname = \"torture\"\niss = \"{ISS}\"\naud = \"{AUD}\"\njwks_file = \"{}\"\nrefresh = \"1s\"\n",
            set.display()
        );
        std::fs::write(&file, text)?;
        let issuer = Self { file, set, stays: IssuerKey::new("stays")?, goes: IssuerKey::new("goes")? };
        issuer.publish(true)?;
        Ok(issuer)
    }

    /// Replaces the key set in one step.
    fn publish(&self, with_both: bool) -> Result<(), RunError> {
        let keys = if with_both { vec![&self.stays.jwk, &self.goes.jwk] } else { vec![&self.stays.jwk] };
        let aside = self.set.with_extension("new");
        std::fs::write(&aside, json!({"keys": keys}).to_string())?;
        Ok(std::fs::rename(aside, &self.set)?)
    }

    /// Sends forged tokens to all hubs. Returns how many were answered.
    pub async fn forge(&self, hubs: &[TortureHub], book: &Recorder, length: Duration) -> Result<Option<String>, RunError> {
        let http = reqwest::Client::builder().timeout(STEP_LIMIT).build()?;
        let forged = self.forged()?;
        let end = Instant::now() + length;
        let mut answered = 0;
        while Instant::now() < end {
            for hub in hubs {
                let Some(address) = hub.address() else { continue };
                for (what, token) in &forged {
                    // A fault may be active at the same time: no answer says nothing.
                    let Some(status) = whoami(&http, address, token).await else { continue };
                    answered += 1;
                    book.note(RunFact::ForgedToken { hub: hub.number, what: (*what).to_owned(), accepted: status == 200 });
                }
            }
            sleep(PAUSE).await;
        }
        Ok((answered > 0).then(|| format!("{answered} forged tokens were answered")))
    }

    fn forged(&self) -> Result<Vec<(&'static str, String)>, RunError> {
        let claims = claims("forged")?;
        let jwk = &self.stays.jwk;
        let x = jwk["x"].as_str().unwrap_or_default();
        let header = |algorithm| Header { kid: Some(self.stays.kid.to_owned()), ..Header::new(algorithm) };
        let by_secret = |algorithm, secret: &[u8]| -> Result<String, RunError> {
            Ok(jsonwebtoken::encode(&header(algorithm), &claims, &EncodingKey::from_secret(secret)?)?)
        };
        let point = URL_SAFE_NO_PAD.decode(x)?;
        let unsigned =
            format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"stays"}"#), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let stranger = IssuerKey::new(self.stays.kid)?;
        Ok(vec![
            ("HS256 by the public key", by_secret(Algorithm::HS256, &point)?),
            ("HS512 by the public key", by_secret(Algorithm::HS512, &point)?),
            ("HS256 by the text of the public key", by_secret(Algorithm::HS256, jwk.to_string().as_bytes())?),
            ("no signature", unsigned),
            ("another key with the same kid", stranger.token("forged")?),
        ])
    }

    /// Opens connections with a key, removes the key, and looks which connections stay. Returns how many there were.
    pub async fn remove_key(&self, hubs: &[TortureHub], book: &Recorder) -> Result<Option<String>, RunError> {
        let removed = self.try_remove(hubs, book).await;
        // Also after a failure: the next strike needs both keys.
        self.publish(true)?;
        removed
    }

    async fn try_remove(&self, hubs: &[TortureHub], book: &Recorder) -> Result<Option<String>, RunError> {
        let http = reqwest::Client::builder().timeout(STEP_LIMIT).build()?;
        let mut open = Vec::new();
        for hub in hubs {
            let Some(address) = hub.address() else { continue };
            let token = self.goes.token("removed-key")?;
            let end = Instant::now() + PUBLISHED_LIMIT;
            while whoami(&http, address, &token).await != Some(200) && Instant::now() < end {
                sleep(PAUSE).await;
            }
            let sockets = join_all((0..CONNECTIONS).map(|_| timeout(STEP_LIMIT, connect(address, &token)))).await;
            let sockets: Vec<_> = sockets.into_iter().filter_map(|opened| opened.ok()?.ok()).collect();
            open.push((hub.number, sockets));
        }
        self.publish(false)?;
        let count: usize = open.iter().map(|(_, sockets)| sockets.len()).sum();
        let looked = open.into_iter().map(async |(hub, sockets)| {
            let ended = join_all(sockets.into_iter().map(|socket| timeout(CLOSED_LIMIT, until_closed(socket)))).await;
            let (connections, left) = (ended.len() as u64, ended.iter().filter(|ended| ended.is_err()).count() as u64);
            book.note(RunFact::KeyRemoved { hub, connections, left });
        });
        join_all(looked).await;
        Ok((count > 0).then(|| format!("{count} connections had the key that was removed")))
    }
}

async fn whoami(http: &reqwest::Client, address: SocketAddr, token: &str) -> Option<u16> {
    let answer = http.get(format!("http://{address}/api/whoami")).bearer_auth(token).send().await;
    answer.ok().map(|answer| answer.status().as_u16())
}

async fn connect(address: SocketAddr, token: &str) -> Result<WebSocketStream<TcpStream>, RunError> {
    let mut request = format!("ws://{address}/ws?client_id=removed-key&since=live&ack=client").into_client_request()?;
    request.headers_mut().insert("authorization", HeaderValue::from_str(&format!("Bearer {token}"))?);
    let (mut socket, _) = tokio_tungstenite::client_async(request, TcpStream::connect(address).await?).await?;
    // The first frame: a socket that is refused has none.
    match socket.next().await {
        Some(Ok(message)) if message.is_text() => Ok(socket),
        _ => Err("the socket was refused".into()),
    }
}

async fn until_closed(mut socket: WebSocketStream<TcpStream>) {
    while let Some(Ok(message)) = socket.next().await {
        if message.is_close() {
            return;
        }
    }
}
