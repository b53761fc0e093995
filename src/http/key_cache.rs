//! Caches the service keys that this hub has looked up.
//!
//! One task looks the keys up; requests ask it and wait for its answer. It asks the database about all waiting keys
//! in one statement, and pauses between two statements, so guessed keys cost some statements a second, however many
//! there are. A key in use is refreshed in the background before its time is over: no request waits for that, and
//! none has to wait to find out that the database hangs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use crate::domain::ServiceCaller;
use crate::metrics;
use crate::store::key_uses::KeyUses;
use crate::store::{Reader, StoreError, keys};
use crate::tasks::Stop;

/// How long a known key is accepted without asking the database again. A revoked key may live on for as long.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// A known key in use is refreshed in the background after this time.
const REFRESH_AFTER: Duration = Duration::from_secs(5);
/// While the database is away, a key that was known this recently is still accepted: a service should not be told
/// that its key is unknown because the database could not be asked. A revoked key may live on for as long.
const KNOWN_AWAY_FOR: Duration = Duration::from_secs(300);
/// Maximum wait for the database's answer about a key. A request has five seconds in all, and the append needs its
/// part.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(2);
/// How long a failure is assumed to last. Above the limit, so that requests do not wait one by one.
const FAILING_FOR: Duration = Duration::from_secs(5);
/// How long an unknown key is refused without asking the database.
const UNKNOWN_FOR: Duration = Duration::from_secs(2);
/// Maximum number of remembered keys, so that guesses cannot fill the memory.
const REMEMBERED: usize = 10_000;
/// Maximum number of keys that wait for a look-up. Full: the request fails with a temporary refusal.
const WAITING: usize = 4096;
/// Maximum number of keys in one statement.
const KEYS_AT_ONCE: usize = 1000;
/// Minimum time from one statement to the next.
const SPACING: Duration = Duration::from_millis(25);

type Hash = [u8; 32];

/// The handle that requests use. Cheap to clone.
#[derive(Clone)]
pub struct KeyCache {
    shared: Arc<KeyCacheState>,
    asks: mpsc::Sender<KeyLookup>,
    /// The keys that were used, for maintenance to write.
    pub uses: KeyUses,
}

/// The task that looks keys up.
pub struct KeyLooker {
    shared: Arc<KeyCacheState>,
    asks: mpsc::Receiver<KeyLookup>,
    reader: Reader,
}

#[derive(Default)]
struct KeyCacheState {
    seen: Mutex<HashMap<Hash, CachedKey>>,
    /// When the last statement failed; `None` if it succeeded.
    failed_at: Mutex<Option<Instant>>,
    /// Counts revocations and changes of scopes. A result that was looked up before one is not stored after it.
    revocations: AtomicU64,
}

struct KeyLookup {
    hash: Hash,
    /// `None`: refreshes only the cached key.
    answer: Option<oneshot::Sender<LookupAnswer>>,
}

/// `None` inside: the key is not, or no longer, valid. `Err`: the database did not answer.
type LookupAnswer = Result<Option<ServiceCaller>, ()>;

#[derive(Clone)]
struct CachedKey {
    caller: Option<ServiceCaller>,
    at: Instant,
    /// Whether the task has been asked to refresh the key.
    is_asked: bool,
    /// A key was revoked or limited since the look-up, perhaps this one, so the next request asks the database. If the
    /// database does not answer, the key still counts as known.
    is_doubted: bool,
}

impl KeyCacheState {
    fn seen(&self) -> MutexGuard<'_, HashMap<Hash, CachedKey>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_failing(&self) -> bool {
        self.failed_at().is_some_and(|at| at.elapsed() < FAILING_FOR)
    }
}

impl KeyCache {
    /// `reader` is for keys alone: posts must not wait behind connections that resume.
    pub fn new(reader: Reader) -> (Self, KeyLooker) {
        let (sender, asks) = mpsc::channel(WAITING);
        let shared = Arc::new(KeyCacheState::default());
        (Self { shared: Arc::clone(&shared), asks: sender, uses: KeyUses::default() }, KeyLooker { shared, asks, reader })
    }

    /// The owner of a key; `None` for a key that is not, or no longer, valid.
    ///
    /// # Errors
    /// When the database did not answer, and the key was not known before.
    pub async fn caller(&self, key: &str) -> Result<Option<ServiceCaller>, StoreError> {
        if !keys::is_well_formed(key) {
            return Ok(None);
        }
        let hash = keys::hash(key);
        let known = match self.look(&hash) {
            CacheLookup::Answer(caller) => return Ok(caller),
            CacheLookup::Ask(known) => known,
        };
        let (answer, answered) = oneshot::channel();
        let asked = self.asks.try_send(KeyLookup { hash, answer: Some(answer) }).is_ok();
        match if asked { timeout(LOOK_UP_LIMIT, answered).await } else { Ok(Ok(Err(()))) } {
            Ok(Ok(Ok(caller))) => return Ok(caller),
            // The task may get the answer a moment later; the next request must not wait for it.
            Err(_) => *self.shared.failed_at() = Some(Instant::now()),
            Ok(_) => {}
        }
        known.map(Some).ok_or(StoreError::TimedOut(LOOK_UP_LIMIT))
    }

    fn look(&self, hash: &Hash) -> CacheLookup {
        let mut seen = self.shared.seen();
        let Some(seen) = seen.get_mut(hash) else { return CacheLookup::Ask(None) };
        let age = seen.at.elapsed();
        let Some(caller) = seen.caller.clone() else {
            return if age < UNKNOWN_FOR { CacheLookup::Answer(None) } else { CacheLookup::Ask(None) };
        };
        if age >= KNOWN_AWAY_FOR {
            return CacheLookup::Ask(None);
        }
        let is_fresh = age < KNOWN_FOR && !seen.is_doubted || self.shared.is_failing();
        // If the channel is full, a later request asks the database itself.
        if is_fresh && age >= REFRESH_AFTER && !seen.is_asked {
            seen.is_asked = self.asks.try_send(KeyLookup { hash: *hash, answer: None }).is_ok();
        }
        // While the database does not answer, a wait would cost each request the whole limit.
        if is_fresh { CacheLookup::Answer(Some(caller)) } else { CacheLookup::Ask(Some(caller)) }
    }

    /// Requires a look-up for every key: one was revoked or limited, or may have been while this hub was not listening.
    pub fn doubt_all(&self) {
        self.shared.revocations.fetch_add(1, Ordering::SeqCst);
        self.shared.seen().values_mut().for_each(|seen| seen.is_doubted = true);
    }
}

enum CacheLookup {
    Answer(Option<ServiceCaller>),
    /// Inside: the owner of the key, in case the database does not answer.
    Ask(Option<ServiceCaller>),
}

impl KeyLooker {
    /// Looks keys up until stopped.
    pub async fn run(mut self, mut stop: Stop) {
        loop {
            let first = tokio::select! {
                Some(first) = self.asks.recv() => first,
                () = stop.wait() => break,
            };
            let next = Instant::now() + SPACING;
            self.look_up(first).await;
            // The pause follows a failure as well: keys that arrive during it share the next statement.
            sleep_until(next).await;
        }
        self.reader.close().await;
    }

    async fn look_up(&mut self, first: KeyLookup) {
        let mut asks: HashMap<Hash, Vec<oneshot::Sender<LookupAnswer>>> = HashMap::new();
        let mut next = Some(first);
        while let Some(KeyLookup { hash, answer }) = next {
            asks.entry(hash).or_default().extend(answer);
            next = if asks.len() < KEYS_AT_ONCE { self.asks.try_recv().ok() } else { None };
        }
        let hashes: Vec<Hash> = asks.keys().copied().collect();
        metrics::CREDENTIAL_LOOKUPS.add("key", 1);
        let revocations = self.shared.revocations.load(Ordering::SeqCst);
        let found = timeout(LOOK_UP_LIMIT, keys::find_all(&self.reader, &hashes)).await.unwrap_or(Err(StoreError::TimedOut(LOOK_UP_LIMIT)));
        *self.shared.failed_at() = found.is_err().then(Instant::now);
        match found {
            Ok(mut found) => {
                self.note(&hashes, &found, revocations);
                for (hash, answers) in asks {
                    let caller = found.remove(&hash);
                    // The request that asked may have ended.
                    answers.into_iter().for_each(|answer| drop(answer.send(Ok(caller.clone()))));
                }
            }
            Err(error) => {
                tracing::warn!(%error, keys = hashes.len(), "service key lookup failed; known keys are still accepted");
                let mut seen = self.shared.seen();
                for (hash, answers) in asks {
                    if let Some(seen) = seen.get_mut(&hash) {
                        seen.is_asked = false;
                    }
                    answers.into_iter().for_each(|answer| drop(answer.send(Err(()))));
                }
            }
        }
    }

    fn note(&self, hashes: &[Hash], found: &HashMap<Hash, ServiceCaller>, revocations: u64) {
        let mut seen = self.shared.seen();
        // Checked under the lock: a revocation first counts, then marks the keys.
        if self.shared.revocations.load(Ordering::SeqCst) != revocations {
            return;
        }
        if seen.len() + hashes.len() > REMEMBERED {
            seen.retain(|_, seen| seen.caller.is_some() && seen.at.elapsed() < KNOWN_AWAY_FOR);
        }
        for hash in hashes {
            let caller = found.get(hash).cloned();
            if caller.is_some() || seen.len() < REMEMBERED {
                seen.insert(*hash, CachedKey { caller, at: Instant::now(), is_asked: false, is_doubted: false });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Role;
    use crate::store::Database;
    use crate::tasks::Stopper;

    fn caller() -> ServiceCaller {
        ServiceCaller { name: "shop".to_owned(), role: Role::Service, scopes: None }
    }

    /// A database that accepts connections and never answers.
    async fn silent() -> (Reader, tokio::net::TcpListener) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://nobody@127.0.0.1:{}/none?sslmode=disable", listener.local_addr().unwrap().port());
        (Database::parse(&url, None).unwrap().reader("test", 1), listener)
    }

    #[tokio::test]
    async fn a_database_that_hangs_costs_one_wait_and_not_one_for_each_request() {
        let (reader, _listener) = silent().await;
        let (book, looker) = KeyCache::new(reader);
        let (stopper, stop) = Stopper::new();
        let key = keys::mint();
        let long_ago = Instant::now().checked_sub(KNOWN_FOR * 2).expect("the machine runs for longer");
        book.shared.seen().insert(keys::hash(&key), CachedKey { caller: Some(caller()), at: long_ago, is_asked: false, is_doubted: false });
        let story = async {
            let begun = Instant::now();
            for _ in 0..50 {
                assert_eq!(book.caller(&key).await.unwrap(), Some(caller()));
            }
            let took = begun.elapsed();
            assert!(took < LOOK_UP_LIMIT * 2, "{took:?}");
            book.doubt_all();
            assert_eq!(book.caller(&key).await.unwrap(), Some(caller()), "nothing can be appended with it while the database hangs");
            *book.shared.failed_at() = None;
            assert!(matches!(book.look(&keys::hash(&key)), CacheLookup::Ask(Some(_))), "after a revocation nothing is taken unasked");
            stopper.stop();
        };
        tokio::join!(looker.run(stop), story);
    }

    #[tokio::test]
    async fn a_key_in_use_is_refreshed_once_and_without_a_wait_and_no_nonsense_is_asked_about() {
        let (reader, _listener) = silent().await;
        let (book, mut looker) = KeyCache::new(reader);
        let key = keys::mint();
        let before = Instant::now().checked_sub(REFRESH_AFTER).expect("the machine runs for longer");
        book.shared.seen().insert(keys::hash(&key), CachedKey { caller: Some(caller()), at: before, is_asked: false, is_doubted: false });
        for _ in 0..10 {
            assert_eq!(book.caller(&key).await.unwrap(), Some(caller()));
        }
        assert!(looker.asks.try_recv().is_ok() && looker.asks.try_recv().is_err(), "one flight");
        for nonsense in ["rck_", "rck_x", &key[..key.len() - 1]] {
            assert_eq!(book.caller(nonsense).await.unwrap(), None);
        }
        assert!(looker.asks.try_recv().is_err());
    }
}
