//! Keeps the keys that an issuer publishes (JWKS), and says when one was removed.
//!
//! One task fetches; checks of tokens only read. They take an `Arc` of the parsed set, so that no check waits for a
//! fetch, with one exception: a token names a key that the set does not have. Then the issuer may have rotated its
//! keys a moment ago. The task fetches once for all who ask, at most once in [`SPACING`], and they wait for it at
//! most [`ASK_LIMIT`]. Whether the answer is "refused" or "come back" depends on the last attempt: after a fresh set
//! the key does not exist; after a failure the issuer could not be asked.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use reqwest::redirect::Policy;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use url::{Host, Url};

use super::verification_key::{VerificationKey, of_jwk};
use crate::backoff::Backoff;
use crate::domain::KeyTag;
use crate::metrics;
use crate::tasks::Stop;
use crate::wire::json;

/// Time limit of one fetch.
const FETCH_LIMIT: Duration = Duration::from_secs(5);
/// Most bytes of a set. Sets of large issuers have some ten kilobytes.
const SET_MAX_BYTES: usize = 256 << 10;
/// Most keys of a set.
const KEYS_MAX: usize = 100;
/// Shortest time between two fetches that tokens with unknown keys cause. Anyone can send such a token.
const SPACING: Duration = Duration::from_secs(10);
/// Longest wait of a client whose token names an unknown key.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Bounds of a `max-age` that an issuer sends: below, it would be asked all the time; above, a removed key would live
/// on for days.
const MAX_AGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(86_400);
/// Waits after failures.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Shortest time between two warnings about one issuer.
const WARNING_EVERY: Duration = Duration::from_secs(60);

/// How often a set is fetched, and for how long it may serve when that fails.
#[derive(Debug, Clone, Copy)]
pub struct KeySetRules {
    pub refresh: Duration,
    pub max_stale: Duration,
}

/// Where a set is published.
#[derive(Debug, Clone)]
enum KeySource {
    Address { url: Url, http: reqwest::Client },
    File(PathBuf),
}

/// Why there is no new set. The names are values of a metric's label.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}")]
    Unreachable(String),
    #[error("no answer within {FETCH_LIMIT:?}")]
    TimedOut,
    #[error("the answer has the status {0}; it must be 200, and redirects are not followed")]
    Status(u16),
    #[error("the set is larger than {SET_MAX_BYTES} bytes")]
    TooLarge,
    #[error("the set is malformed: {0}")]
    Malformed(String),
    #[error("the set has no key that can check a token: {0}")]
    NoUsableKey(String),
}

impl FetchError {
    const fn outcome(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut => "timeout",
            Self::Status(_) => "status",
            Self::TooLarge => "too_large",
            Self::Malformed(_) => "malformed",
            Self::NoUsableKey(_) => "no_usable_key",
        }
    }
}

/// The keys that a new set no longer has, and those that it has for the first time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyChange {
    pub removed: Vec<KeyTag>,
    pub added: Vec<KeyTag>,
}

/// What a token with an unknown key is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownKey {
    /// The set is fresh: the key does not exist.
    Refused,
    /// A fetch may find the key: wait with [`KeySet::ask`].
    Ask,
    /// The last fetch failed, and it is too early for another one.
    Unavailable,
}

/// The published keys of one issuer.
#[derive(Debug)]
pub struct KeySet {
    /// The name of the issuer, for the log.
    issuer: String,
    source: KeySource,
    rules: KeySetRules,
    state: Mutex<KeySetState>,
    /// A token named an unknown key.
    wanted: Notify,
    /// Changes after each attempt.
    attempts: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct KeySetState {
    keys: Option<Arc<[VerificationKey]>>,
    fetched: Option<Instant>,
    /// When the last attempt began, and whether it succeeded; `None` inside while it goes on.
    attempt: Option<(Instant, Option<bool>)>,
    warned: Option<Instant>,
}

impl std::fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VerificationKey({:?}, {:?})", self.algorithm, self.kid)
    }
}

/// Checks the address of a key set.
///
/// # Errors
/// When keys from there could be forged on the way.
pub fn check_address(address: &str) -> Result<Url, String> {
    let url = Url::parse(address).map_err(|error| format!("is not an address ({error}); write https://HOST/PATH"))?;
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => {}
        "http" if is_loopback => {}
        "http" => return Err("must begin with https://: whoever can change the keys on their way can forge every token".to_owned()),
        _ => return Err("must begin with https://".to_owned()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user name or a password".to_owned());
    }
    Ok(url)
}

impl KeySet {
    /// The set at a checked address.
    ///
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn at(issuer: &str, url: Url, rules: KeySetRules) -> Result<Arc<Self>, String> {
        let http = reqwest::Client::builder().timeout(FETCH_LIMIT).redirect(Policy::none()).no_proxy().build();
        let http = http.map_err(|error| format!("TLS cannot be set up: {error}"))?;
        Ok(Self::new(issuer, KeySource::Address { url, http }, rules))
    }

    /// The set in a file, which is read again at each refresh.
    pub fn in_file(issuer: &str, file: PathBuf, rules: KeySetRules) -> Arc<Self> {
        Self::new(issuer, KeySource::File(file), rules)
    }

    fn new(issuer: &str, source: KeySource, rules: KeySetRules) -> Arc<Self> {
        let (attempts, _) = watch::channel(());
        Arc::new(Self { issuer: issuer.to_owned(), source, rules, state: Mutex::default(), wanted: Notify::new(), attempts })
    }

    /// Held briefly, never across an await.
    fn state(&self) -> MutexGuard<'_, KeySetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys; `None` before the first set, and when the set is older than allowed.
    pub fn keys(&self) -> Option<Arc<[VerificationKey]>> {
        let state = self.state();
        let is_usable = state.fetched.is_some_and(|at| at.elapsed() < self.rules.max_stale);
        state.keys.clone().filter(|_| is_usable)
    }

    /// Whether the first set was fetched.
    pub fn has_begun(&self) -> bool {
        self.state().fetched.is_some()
    }

    /// What to do about a token with an unknown key, or without a usable set.
    pub fn unknown_key(&self) -> UnknownKey {
        let state = self.state();
        match state.attempt {
            None | Some((_, None)) => UnknownKey::Ask,
            Some((begun, _)) if begun.elapsed() >= SPACING => UnknownKey::Ask,
            Some((_, Some(true))) => UnknownKey::Refused,
            Some((_, Some(false))) => UnknownKey::Unavailable,
        }
    }

    /// Waits for the end of a fetch, which many callers share.
    pub async fn ask(&self) {
        let mut attempts = self.attempts.subscribe();
        if self.unknown_key() != UnknownKey::Ask {
            // It ended a moment ago.
            return;
        }
        self.wanted.notify_one();
        let _ = timeout(ASK_LIMIT, attempts.changed()).await;
    }

    /// Fetches the set until stopped, and reports each change of the keys.
    pub async fn keep(self: Arc<Self>, changes: mpsc::Sender<KeyChange>, mut stop: Stop) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1.min(self.rules.refresh.max(RETRY.0)));
        loop {
            let attempt = tokio::select! {
                attempt = self.attempt() => attempt,
                () = stop.wait() => return,
            };
            let pause = match attempt {
                Ok((change, pause)) => {
                    backoff.succeeded();
                    if change != KeyChange::default() {
                        // An error means that the hub stops.
                        let _ = changes.send(change).await;
                    }
                    pause
                }
                Err(()) => backoff.failed(),
            };
            let due = Instant::now() + pause;
            loop {
                tokio::select! {
                    () = sleep_until(due) => break,
                    () = self.wanted.notified() => if self.is_rested() { break },
                    () = stop.wait() => return,
                }
            }
        }
    }

    /// Whether a token with an unknown key may cause a fetch.
    fn is_rested(&self) -> bool {
        self.state().attempt.is_none_or(|(begun, _)| begun.elapsed() >= SPACING)
    }

    /// Fetches the set once, for a check. Returns whether that succeeded; the reason of a failure is in the log.
    pub async fn fetch_once(&self) -> bool {
        self.attempt().await.is_ok()
    }

    /// The name of the issuer.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Fetches once. Returns what changed, and the time to the next fetch.
    async fn attempt(&self) -> Result<(KeyChange, Duration), ()> {
        let begun = Instant::now();
        self.state().attempt = Some((begun, None));
        let fetched = match &self.source {
            KeySource::Address { url, http } => timeout(FETCH_LIMIT, get(http, url.clone())).await.unwrap_or(Err(FetchError::TimedOut)),
            KeySource::File(file) => read(file.clone()).await.map(|body| (body, None)),
        };
        let parsed = fetched.and_then(|(body, max_age)| Ok((parse(&body)?, max_age)));
        metrics::JWKS_FETCHES.add(parsed.as_ref().map_or_else(FetchError::outcome, |_| "ok"), 1);
        let result = match parsed {
            Ok((keys, max_age)) => Ok((self.swap(keys, begun), self.pause(max_age))),
            Err(error) => {
                self.failed(begun, &error);
                Err(())
            }
        };
        self.attempts.send_replace(());
        result
    }

    fn swap(&self, keys: Vec<VerificationKey>, begun: Instant) -> KeyChange {
        let mut state = self.state();
        let old: Vec<KeyTag> = state.keys.iter().flat_map(|keys| keys.iter()).map(|key| key.tag).collect();
        let new: Vec<KeyTag> = keys.iter().map(|key| key.tag).collect();
        let change = KeyChange {
            removed: old.iter().filter(|tag| !new.contains(tag)).copied().collect(),
            added: new.iter().filter(|tag| !old.contains(tag)).copied().collect(),
        };
        if change != KeyChange::default() {
            tracing::info!(
                issuer = self.issuer,
                keys = keys.len(),
                removed = change.removed.len(),
                added = change.added.len(),
                "key set changed"
            );
        }
        // The age counts from the request: the answer may have been true only then.
        *state = KeySetState { keys: Some(keys.into()), fetched: Some(begun), attempt: Some((begun, Some(true))), warned: None };
        metrics::JWKS_FETCHED.fetched(&self.issuer);
        change
    }

    fn failed(&self, begun: Instant, error: &FetchError) {
        let mut state = self.state();
        state.attempt = Some((begun, Some(false)));
        if state.warned.is_none_or(|at| at.elapsed() >= WARNING_EVERY) {
            state.warned = Some(Instant::now());
            let age_s = state.fetched.map(|at| at.elapsed().as_secs());
            tracing::warn!(issuer = self.issuer, %error, age_s, "key set could not be fetched; the last one stays in use");
        }
    }

    /// The time to the next fetch, spread by a tenth so that hubs do not ask together.
    fn pause(&self, max_age: Option<Duration>) -> Duration {
        let base = max_age.map_or(self.rules.refresh, |age| age.clamp(*MAX_AGE.start(), *MAX_AGE.end()));
        base.mul_f64(rand::rng().random_range(0.9..=1.1))
    }
}

async fn get(http: &reqwest::Client, url: Url) -> Result<(Vec<u8>, Option<Duration>), FetchError> {
    let request = http.get(url).header("accept", "application/jwk-set+json, application/json");
    // The library's text for an error holds only the address, which is no secret; the chain tells the cause.
    let unreachable =
        |error: reqwest::Error| if error.is_timeout() { FetchError::TimedOut } else { FetchError::Unreachable(chain(&error)) };
    let mut response = request.send().await.map_err(unreachable)?;
    if response.status() != 200 {
        return Err(FetchError::Status(response.status().as_u16()));
    }
    let max_age = response.headers().get("cache-control").and_then(|value| max_age(value.to_str().ok()?));
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(unreachable)? {
        if body.len() + piece.len() > SET_MAX_BYTES {
            return Err(FetchError::TooLarge);
        }
        body.extend_from_slice(&piece);
    }
    Ok((body, max_age))
}

fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// The `max-age` of a `Cache-Control` (RFC 9111 section 5.2.2.1).
fn max_age(text: &str) -> Option<Duration> {
    let directive = |part: &str| part.trim().strip_prefix("max-age=").and_then(|seconds| seconds.trim_matches('"').parse().ok());
    text.to_ascii_lowercase().split(',').find_map(directive).map(Duration::from_secs)
}

async fn read(file: PathBuf) -> Result<Vec<u8>, FetchError> {
    use tokio::io::AsyncReadExt;
    let unreadable = |error: std::io::Error| FetchError::Unreachable(format!("{}: {error}", file.display()));
    let opened = tokio::fs::File::open(&file).await.map_err(unreadable)?;
    let mut body = Vec::new();
    opened.take(SET_MAX_BYTES as u64 + 1).read_to_end(&mut body).await.map_err(unreadable)?;
    if body.len() > SET_MAX_BYTES { Err(FetchError::TooLarge) } else { Ok(body) }
}

/// The usable keys of a set (RFC 7517 section 5).
fn parse(body: &[u8]) -> Result<Vec<VerificationKey>, FetchError> {
    let malformed = |why: &str| FetchError::Malformed(why.to_owned());
    let text = std::str::from_utf8(body).map_err(|_| malformed("it is not UTF-8"))?;
    // Two readers may take different ones of two members with the same name.
    json::check(text).map_err(|_| malformed("it is not JSON with each name once"))?;
    let set: Value = serde_json::from_str(text).map_err(|_| malformed("it is not JSON"))?;
    let entries = set.get("keys").and_then(Value::as_array).ok_or_else(|| malformed("it has no list \"keys\""))?;
    if entries.len() > KEYS_MAX {
        return Err(FetchError::Malformed(format!("it has {} keys; at most {KEYS_MAX} are read", entries.len())));
    }
    let (mut keys, mut unusable) = (Vec::new(), Vec::new());
    for (at, entry) in entries.iter().enumerate() {
        match of_jwk(entry) {
            Ok(key) => keys.push(key),
            Err(why) => unusable.push(format!("key {}: {why}", at + 1)),
        }
    }
    if !unusable.is_empty() {
        tracing::debug!(unusable = unusable.join("; "), "keys of a set are not used");
    }
    if keys.is_empty() { Err(FetchError::NoUsableKey(unusable.join("; "))) } else { Ok(keys) }
}

#[cfg(test)]
mod tests;
