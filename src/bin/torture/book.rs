//! The recorder: every fact of a run, in order, on one monotonic clock.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::fact::{Entry, Fact, Nanos, wall_ms};

pub struct Book {
    begun: Instant,
    entries: Mutex<Vec<Entry>>,
    next: AtomicU64,
}

impl Book {
    pub fn new() -> Self {
        let book = Self { begun: Instant::now(), entries: Mutex::default(), next: AtomicU64::new(1) };
        book.note(Fact::Begun { at: wall_ms() });
        book
    }

    /// The moment is taken under the lock, so that the facts stand in the order of their moments.
    pub fn note(&self, fact: Fact) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let t = Nanos::try_from(self.begun.elapsed().as_nanos()).unwrap_or(Nanos::MAX);
        entries.push(Entry { t, fact });
    }

    /// A number that nobody else has: of a connection, of an attempt.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    pub fn count(&self, which: impl Fn(&Fact) -> bool) -> u64 {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().filter(|entry| which(&entry.fact)).count() as u64
    }

    pub fn sum(&self, of: impl Fn(&Fact) -> u64) -> u64 {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|entry| of(&entry.fact)).sum()
    }

    pub fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut *self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One JSON text a line.
pub fn write(history: &[Entry], path: &Path) -> std::io::Result<()> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    for entry in history {
        serde_json::to_writer(&mut file, entry)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

pub fn read(path: &Path) -> std::io::Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path)?;
    text.lines().map(|line| serde_json::from_str(line).map_err(std::io::Error::from)).collect()
}
