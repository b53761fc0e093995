//! Reads what processes cost from `/proc`: processor time, memory, and how often they waited.
//!
//! The kernel counts processor time in nanoseconds and prints it in ticks of 10 ms (`/proc/PID/stat`), rounded down.
//! For a process with a single thread, such as each of PostgreSQL's, `/proc/PID/schedstat` has the nanoseconds. A child
//! that has ended is in the ticks of the parent that waited for it.

use std::collections::{HashMap, HashSet};
use std::ops::{Add, Sub};
use std::time::Duration;

/// One tick of `/proc/PID/stat`. `USER_HZ` is 100 on every architecture that Linux supports today.
const TICK: Duration = Duration::from_millis(10);

/// Costs of some processes since they started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessCosts {
    /// User and system time.
    pub cpu: Duration,
    /// How often a thread gave up its processor to wait. Threads and processes that have ended are not in it.
    pub waits: u64,
}

/// Memory of some processes, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    pub resident: u64,
    /// Resident memory in which a page counts for one n-th if n processes share it.
    pub proportional: u64,
}

impl Sub for ProcessCosts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(earlier.cpu), waits: self.waits.saturating_sub(earlier.waits) }
    }
}

impl Add for ProcessCosts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, waits: self.waits + other.waits }
    }
}

/// Fields of `/proc/PID/stat`.
struct Stat {
    parent: u32,
    threads: u64,
    own: Duration,
    ended_children: Duration,
}

/// These processes and all that they started, also indirectly.
pub fn with_children(roots: &[u32]) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in all() {
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let (mut found, mut next) = (HashSet::new(), roots.to_vec());
    while let Some(pid) = next.pop() {
        if found.insert(pid) {
            next.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found.into_iter().collect()
}

/// Costs of these processes and of all their children, also of those that have ended.
pub fn costs(roots: &[u32]) -> ProcessCosts {
    with_children(roots).into_iter().filter_map(costs_of).fold(ProcessCosts::default(), Add::add)
}

/// Costs of this process without its children.
pub fn own_costs() -> ProcessCosts {
    let own = std::process::id();
    ProcessCosts { cpu: stat(own).map_or(Duration::ZERO, |stat| stat.own), waits: waits(own).unwrap_or(0) }
}

/// Memory of these processes and of all their children; `None` when the system does not let us read it.
pub fn memory(roots: &[u32]) -> Option<ProcessMemory> {
    let found: Vec<_> = with_children(roots).into_iter().filter_map(memory_of).collect();
    (!found.is_empty()).then(|| ProcessMemory {
        resident: found.iter().map(|one| one.resident).sum(),
        proportional: found.iter().map(|one| one.proportional).sum(),
    })
}

/// The process that started this one.
pub fn parent(pid: u32) -> Option<u32> {
    stat(pid).map(|stat| stat.parent)
}

/// The name of a process's program.
pub fn name(pid: u32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim().to_owned())
}

fn all() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn costs_of(pid: u32) -> Option<ProcessCosts> {
    let stat = stat(pid)?;
    let own = if stat.threads == 1 { scheduled(pid).unwrap_or(stat.own) } else { stat.own };
    Some(ProcessCosts { cpu: own + stat.ended_children, waits: waits(pid).unwrap_or(0) })
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name of the program is in parentheses and may contain anything. The third field follows it.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u32>().ok();
    let ticks = |first: usize| Some(TICK * (number(first)? + number(first + 1)?));
    Some(Stat { parent: number(4)?, threads: number(20)?.into(), own: ticks(14)?, ended_children: ticks(16)? })
}

/// Time on a processor, in nanoseconds, of a process with one thread; `None` where the kernel does not count it.
fn scheduled(pid: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
    (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds))
}

fn waits(pid: u32) -> Option<u64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    Some(threads.filter_map(|thread| field(&std::fs::read_to_string(thread.path().join("status")).ok()?, "voluntary_ctxt_switches:")).sum())
}

fn memory_of(pid: u32) -> Option<ProcessMemory> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(ProcessMemory { resident: field(&text, "Rss:")?, proportional: field(&text, "Pss:")? })
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let text = "42 (a) (b) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 9 0 100 1 2";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.parent, stat.threads), (7, 9));
        assert_eq!((stat.own, stat.ended_children), (Duration::from_secs(2), Duration::from_millis(500)));
    }

    #[test]
    fn a_child_counts_while_it_runs_and_after_it_ended() {
        let own = std::process::id();
        let before = costs(&[own]);
        let mut command = Command::new("sh");
        command.args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; read line"]).stdin(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        assert!(with_children(&[own]).contains(&child.id()));
        while costs_of(child.id()).unwrap().cpu < Duration::from_millis(50) {
            std::thread::yield_now();
        }
        let meanwhile = costs(&[own]) - before;
        assert!(meanwhile.cpu >= Duration::from_millis(50), "{meanwhile:?}");
        drop(child.stdin.take());
        child.wait().unwrap();
        let after = costs(&[own]) - before;
        assert!(after.cpu + TICK * 2 >= meanwhile.cpu, "{after:?} after {meanwhile:?}");
    }

    #[test]
    fn memory_that_is_shared_counts_in_part() {
        let memory = memory(&[std::process::id()]).unwrap();
        assert!(memory.resident > 0 && memory.proportional > 0 && memory.proportional <= memory.resident, "{memory:?}");
        assert_eq!(super::memory(&[]), None);
        assert!(name(std::process::id()).is_some() && parent(std::process::id()).is_some());
    }
}
