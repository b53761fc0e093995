//! Measures how much of the machine's time went to programs outside this run.
//!
//! No part of the run had a turn in that time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use recado_torture_check::fact::RunFact;
use tokio::time::{sleep, timeout};

use crate::book::Recorder;
use crate::witness;
use crate::world::RunWorld;

const TICK: Duration = Duration::from_millis(50);
/// A tick that is later than this is recorded.
const LATE: Duration = Duration::from_millis(100);
/// Time between two measurements of processor use.
const LOOK: Duration = Duration::from_secs(1);
/// A share of one measurement below this is the machine's own housekeeping.
const LEAST_SHARE: f64 = 0.05;

/// Records when this program got no turn; the hubs, its child processes, got none either.
pub async fn watch_the_clock(book: Arc<Recorder>) {
    loop {
        let begun = Instant::now();
        sleep(TICK).await;
        let late = begun.elapsed().saturating_sub(TICK);
        if late > LATE {
            book.note(RunFact::Stall { ms: u64::try_from(late.as_millis()).unwrap_or(u64::MAX) });
        }
    }
}

/// Records each second the head of the log and the head of each hub, while the database answers.
pub async fn watch_the_hubs(world: Arc<RunWorld>) {
    const ANSWER: Duration = Duration::from_secs(1);
    let http = reqwest::Client::new();
    loop {
        if let Ok(Ok(head)) = timeout(ANSWER, witness::head(&world.postgres.url)).await {
            let mut published = Vec::new();
            for hub in &world.hubs {
                let asked = timeout(ANSWER, published_of(&http, &hub.url())).await;
                published.push(asked.ok().flatten());
            }
            world.book.note(RunFact::Watched { head, published });
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// The head that `/health` reports, whatever its status: a hub that is behind is degraded.
async fn published_of(http: &reqwest::Client, address: &str) -> Option<i64> {
    let text = http.get(format!("http://{address}/health")).send().await.ok()?.text().await.ok()?;
    serde_json::from_str::<serde_json::Value>(&text).ok()?["head"].as_i64()
}

/// Records the processor time that other programs used.
pub async fn watch_the_others(world: Arc<RunWorld>) {
    let mut last: Option<(Instant, Used)> = None;
    loop {
        let roots: HashSet<u32> = world.postgres.postmasters().chain([std::process::id()]).collect();
        let now = Instant::now();
        let used = Used::now(&roots);
        if let (Some((then, before)), Some(used)) = (&last, &used) {
            let share = used.others_since(before);
            if share >= LEAST_SHARE {
                let ms = (now - *then).as_secs_f64() * 1000.0 * share;
                world.book.note(RunFact::Others { ms: ms as u64 });
            }
        }
        last = used.map(|used| (now, used));
        sleep(LOOK).await;
    }
}

/// Processor time since the machine's start, as the kernel counts it: used by all programs, used by this run, and
/// available.
struct Used {
    anybody: u64,
    ours: u64,
    all: u64,
}

impl Used {
    fn now(roots: &HashSet<u32>) -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let times: Vec<u64> = stat.lines().next()?.split_whitespace().skip(1).map_while(|text| text.parse().ok()).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal; the later fields are contained in user.
        let all: u64 = times.iter().take(8).sum();
        let idle: u64 = times.iter().skip(3).take(2).sum();
        Some(Self { anybody: all - idle, ours: ours(roots)?, all })
    }

    /// Share from 0 to 1. Time of a process that died in between is lost from the count of this run once; that never
    /// counts against the hubs.
    fn others_since(&self, before: &Self) -> f64 {
        let (anybody, ours) = (self.anybody.saturating_sub(before.anybody), self.ours.saturating_sub(before.ours));
        let all = self.all.saturating_sub(before.all).max(1);
        anybody.saturating_sub(ours) as f64 / all as f64
    }
}

/// Processor time of these processes and all their descendants; an ended process counts with its parent.
fn ours(roots: &HashSet<u32>) -> Option<u64> {
    let mut processes: HashMap<u32, (u32, u64)> = HashMap::new();
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Some(process) = std::fs::read_to_string(entry.path().join("stat")).ok().and_then(|stat| process(&stat)) else { continue };
        processes.insert(pid, process);
    }
    let is_ours = |mut pid: u32| {
        // Bounded: a chain of parents ends at the first process of the machine.
        for _ in 0..processes.len() {
            if roots.contains(&pid) {
                return true;
            }
            match processes.get(&pid) {
                Some((parent, _)) => pid = *parent,
                None => return false,
            }
        }
        false
    };
    Some(processes.iter().filter(|(pid, _)| is_ours(**pid)).map(|(_, (_, used))| used).sum())
}

/// Parent, and time used by itself and by its children that have ended.
fn process(stat: &str) -> Option<(u32, u64)> {
    // The name, in brackets, may contain anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let used = fields.get(11..15)?.iter().map_while(|text| text.parse::<u64>().ok()).sum();
    Some((fields.get(1)?.parse().ok()?, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let stat = "77 (a) b (c) S 12 77 77 0 -1 4194304 123 0 0 0 5 6 7 8 20 0 1 0 2554080 3133440 410";
        assert_eq!(process(stat), Some((12, 26)));
    }

    #[test]
    fn what_we_use_is_not_taken_for_others() {
        let before = Used { anybody: 1_000, ours: 100, all: 5_000 };
        let after = |anybody, ours| Used { anybody, ours, all: 5_200 }.others_since(&before);
        assert!(after(1_200, 300).abs() < 0.01, "all was ours");
        assert!((after(1_200, 100) - 1.0).abs() < 0.01, "nothing was");
        assert!((after(1_150, 200) - 0.25).abs() < 0.01);
        assert!(after(1_100, 50) < 0.51, "ours that ended");
    }
}
