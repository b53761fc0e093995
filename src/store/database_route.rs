//! Chooses the server and the password of the next connection.
//!
//! Of several hosts, the one of the last connection is tried first. A URL from a file is read again before each new
//! connection, so a rotated password needs no restart.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use sqlx::postgres::PgConnectOptions;

use super::address::DatabaseAddress;
use super::address_list::split_list;
use super::cleartext::{self, Asked};

/// Shared by all connections to one address.
#[derive(Debug)]
pub(super) struct Route {
    address: RwLock<Arc<DatabaseAddress>>,
    file: Option<PathBuf>,
    /// The file is a list of standbys, of which this is the entry; `None`: it holds one URL of the primary.
    entry: Option<usize>,
    at: AtomicUsize,
    /// Rises whenever the first choice changes.
    turns: AtomicU64,
}

impl Route {
    pub(super) fn new(address: DatabaseAddress, file: Option<PathBuf>) -> Self {
        Self { address: RwLock::new(Arc::new(address)), file, entry: None, at: AtomicUsize::new(0), turns: AtomicU64::new(0) }
    }

    /// The route to a standby: entry `entry` of the list in `file`, counted from 0.
    pub(super) fn standby(address: DatabaseAddress, file: Option<PathBuf>, entry: usize) -> Self {
        Self { entry: Some(entry), ..Self::new(address, file) }
    }

    fn parse(&self, text: &str) -> Result<DatabaseAddress, String> {
        // Some editors put a byte order mark before the text.
        let text = text.trim_start_matches('\u{feff}');
        let Some(entry) = self.entry else { return DatabaseAddress::parse(text).map_err(|error| error.to_string()) };
        match split_list(text).get(entry) {
            Some(url) => DatabaseAddress::parse_standby(url).map_err(|error| error.to_string()),
            None => Err(format!("it has no URL {} any more; restart the hub to change the number of standbys", entry + 1)),
        }
    }

    /// What is known, after a look into the file.
    pub(super) async fn renewed(&self) -> Arc<DatabaseAddress> {
        let known = self.known();
        let Some(file) = &self.file else { return known };
        // A few bytes, read before a connection is opened, which takes longer.
        let read = std::fs::read_to_string(file).map_err(|error| error.to_string());
        let read = read.and_then(|text| self.parse(&text));
        match read {
            Ok(now) if now.is_same(&known) => known,
            Ok(now) => self.follow(now, known, file).await,
            Err(error) => {
                tracing::warn!(file = %file.display(), error, "cannot read the file of the database URL; using the last one");
                known
            }
        }
    }

    /// Returns the new address, or the known one if the new server cannot be trusted with a password. The next
    /// connection checks again.
    async fn follow(&self, now: DatabaseAddress, known: Arc<DatabaseAddress>, file: &Path) -> Arc<DatabaseAddress> {
        let trouble = match cleartext::asked_at(&now).await {
            Asked::Nothing => {
                tracing::info!(file = %file.display(), "the database's URL has changed; new connections follow it");
                let now = Arc::new(now);
                *self.address.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&now);
                self.turns.fetch_add(1, Ordering::Relaxed);
                return now;
            }
            Asked::Cleartext => "its server asks for the password in clear text, and sslmode=disable sends it so",
            Asked::Unknown => "its server does not answer, and with sslmode=disable it must first show what it asks for",
        };
        tracing::warn!(file = %file.display(), trouble, "the database's URL has changed and is not followed; the last one is used");
        known
    }

    pub(super) fn known(&self) -> Arc<DatabaseAddress> {
        Arc::clone(&self.address.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The host to try first.
    pub(super) fn first(&self) -> usize {
        self.at.load(Ordering::Relaxed)
    }

    /// Records the host of a new connection, or the host to try next.
    pub(super) fn prefer(&self, at: usize) {
        if self.at.swap(at, Ordering::Relaxed) != at {
            self.turns.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often the first choice has changed, and the options of the present one.
    pub(super) fn choice(&self) -> (u64, PgConnectOptions) {
        let (turns, address) = (self.turns.load(Ordering::Relaxed), self.known());
        (turns, address.hosts[self.first() % address.hosts.len()].clone())
    }
}
