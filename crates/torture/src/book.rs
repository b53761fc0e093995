//! Records every fact of a run, in order, on one monotonic clock.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use recado_torture_check::fact::{FactEntry, Nanos, RunFact};

pub struct Recorder {
    begun: Instant,
    entries: Mutex<Vec<FactEntry>>,
    next: AtomicU64,
}

impl Recorder {
    pub fn new() -> Self {
        let book = Self { begun: Instant::now(), entries: Mutex::default(), next: AtomicU64::new(1) };
        book.note(RunFact::Begun { at: wall_ms() });
        book
    }

    /// Takes the time under the lock, so that the facts are in the order of their times.
    pub fn note(&self, fact: RunFact) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let t = Nanos::try_from(self.begun.elapsed().as_nanos()).unwrap_or(Nanos::MAX);
        entries.push(FactEntry { t, fact });
    }

    /// A unique number, for a connection or an attempt.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    pub fn count(&self, which: impl Fn(&RunFact) -> bool) -> u64 {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().filter(|entry| which(&entry.fact)).count() as u64
    }

    pub fn sum(&self, of: impl Fn(&RunFact) -> u64) -> u64 {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|entry| of(&entry.fact)).sum()
    }

    pub fn take(&self) -> Vec<FactEntry> {
        std::mem::take(&mut *self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The machine's clock, in milliseconds since 1970.
pub fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Writes one JSON text a line.
pub fn write(history: &[FactEntry], path: &Path) -> std::io::Result<()> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    for entry in history {
        serde_json::to_writer(&mut file, entry)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

pub fn read(path: &Path) -> std::io::Result<Vec<FactEntry>> {
    let text = std::fs::read_to_string(path)?;
    text.lines().map(|line| serde_json::from_str(line).map_err(std::io::Error::from)).collect()
}
