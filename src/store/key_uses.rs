//! Collects which service keys were used, until maintenance writes it to the table.
//!
//! A request notes its key here, in memory. Maintenance takes what was noted and writes it in one statement, so that no
//! request waits for it, and a failure of it refuses none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

/// A key that is used all the time is noted this often.
const SPACING: Duration = Duration::from_secs(60);
/// Maximum remembered names. There are more keys only by mistake, and then the times of some are not written.
const REMEMBERED: usize = 10_000;

/// The uses of this instance. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct KeyUses(Arc<Mutex<HashMap<String, KeyUse>>>);

#[derive(Debug)]
struct KeyUse {
    noted_at: Instant,
    is_written: bool,
}

impl KeyUses {
    /// The lock is held for moments, never across an await.
    fn uses(&self) -> MutexGuard<'_, HashMap<String, KeyUse>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the key with this name was used now.
    pub fn note(&self, name: &str) {
        self.note_at(name, Instant::now());
    }

    fn note_at(&self, name: &str, now: Instant) {
        let mut uses = self.uses();
        match uses.get_mut(name) {
            Some(noted) if now.duration_since(noted.noted_at) < SPACING => {}
            Some(noted) => *noted = KeyUse { noted_at: now, is_written: false },
            None => {
                if uses.len() >= REMEMBERED {
                    uses.retain(|_, noted| !noted.is_written || now.duration_since(noted.noted_at) < SPACING);
                }
                if uses.len() < REMEMBERED {
                    uses.insert(name.to_owned(), KeyUse { noted_at: now, is_written: false });
                }
            }
        }
    }

    /// Takes the names that are to be written.
    pub fn take(&self) -> Vec<String> {
        let mut uses = self.uses();
        let unwritten = uses.iter_mut().filter(|(_, noted)| !noted.is_written);
        unwritten
            .map(|(name, noted)| {
                noted.is_written = true;
                name.clone()
            })
            .collect()
    }

    /// Returns names that could not be written.
    pub fn put_back(&self, names: &[String]) {
        let mut uses = self.uses();
        for name in names {
            if let Some(noted) = uses.get_mut(name) {
                noted.is_written = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_use_is_taken_once_a_minute_and_again_after_a_failure() {
        let (uses, begun) = (KeyUses::default(), Instant::now());
        assert!(uses.take().is_empty());
        uses.note_at("shop", begun);
        uses.note_at("shop", begun);
        assert_eq!(uses.take(), ["shop"]);
        uses.note_at("shop", begun + SPACING / 2);
        assert!(uses.take().is_empty(), "a minute is not over");
        uses.put_back(&["shop".to_owned(), "unknown".to_owned()]);
        assert_eq!(uses.take(), ["shop"]);
        assert!(uses.take().is_empty(), "it was not used again");
        uses.note_at("shop", begun + SPACING);
        assert_eq!(uses.take(), ["shop"]);
    }

    #[test]
    fn remembered_names_are_bounded() {
        let (uses, begun) = (KeyUses::default(), Instant::now());
        for n in 0..REMEMBERED + 5 {
            uses.note_at(&n.to_string(), begun);
        }
        assert_eq!(uses.take().len(), REMEMBERED);
        uses.note_at("new", begun + SPACING);
        assert_eq!((uses.take(), uses.uses().len()), (vec!["new".to_owned()], 1));
    }
}
