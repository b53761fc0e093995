//! Chooses memory and room for WAL of a new server, by its machine.
//!
//! They stand in the new server's `postgresql.conf`, so its owner may change them; a server that exists is left as it
//! is. PostgreSQL's own defaults, 128 MB and 1 GB, are for the smallest machines: with a long log each key of a batch
//! lies on another page of its index, and that index should stay in memory between two checkpoints
//! (<https://www.postgresql.org/docs/current/runtime-config-resource.html>,
//! <https://www.postgresql.org/docs/current/wal-configuration.html>).

use std::fs;
use std::path::Path;

use rustix::fs::statvfs;

const MIB: u64 = 1 << 20;
/// PostgreSQL's defaults, in MiB. A smaller value is never chosen.
const BUFFERS_DEFAULT: u64 = 128;
const WAL_DEFAULT: u64 = 1024;
/// Most that a server takes without being told to, in MiB.
const BUFFERS_MAX: u64 = 2048;
const WAL_MAX: u64 = 4096;
/// The server shares the machine with its hub and with others.
const PART_OF_MEMORY: u64 = 8;
const PART_OF_DISK: u64 = 10;

/// What a new server may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MachineSize {
    /// Bytes; `None` if unknown.
    memory: Option<u64>,
    /// Free bytes of the file system with the data; `None` if unknown.
    free_disk: Option<u64>,
}

impl MachineSize {
    pub(super) fn of(data_dir: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let installed = read("/proc/meminfo").and_then(|text| installed(&text));
        // Version 2 of control groups, and version 1.
        let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
        let limit = limits.iter().filter_map(|path| read(path)?.trim().parse::<u64>().ok()).min();
        let memory = installed.map(|installed| limit.map_or(installed, |limit| limit.min(installed)));
        let free_disk = statvfs(data_dir).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        Self { memory, free_disk }
    }

    /// Lines for `postgresql.conf`; empty where the defaults fit.
    pub(super) fn lines(self) -> String {
        let share = |of: Option<u64>, part: u64, default: u64, max: u64| of.map_or(default, |of| (of / part / MIB).clamp(default, max));
        let buffers = share(self.memory, PART_OF_MEMORY, BUFFERS_DEFAULT, BUFFERS_MAX);
        let wal = share(self.free_disk, PART_OF_DISK, WAL_DEFAULT, WAL_MAX);
        let mut lines = String::new();
        if buffers > BUFFERS_DEFAULT {
            lines += &format!("shared_buffers = {buffers}MB\n");
        }
        if wal > WAL_DEFAULT {
            lines += &format!("max_wal_size = {wal}MB\n");
        }
        if lines.is_empty() {
            lines
        } else {
            format!("\n# By the size of this machine when the server was made. Change them as you like.\n{lines}")
        }
    }
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn installed(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_server_grows_with_its_machine_up_to_a_limit() {
        let lines = |memory: Option<u64>, free_disk: Option<u64>| {
            let text = MachineSize { memory, free_disk }.lines();
            text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(None, None), [""; 0]);
        assert_eq!(lines(Some(GIB), Some(5 * GIB)), [""; 0], "a small machine keeps the defaults");
        assert_eq!(lines(Some(8 * GIB), Some(20 * GIB)), ["shared_buffers = 1024MB", "max_wal_size = 2048MB"]);
        assert_eq!(lines(Some(1 << 40), Some(1 << 45)), ["shared_buffers = 2048MB", "max_wal_size = 4096MB"]);
        assert_eq!(lines(Some(u64::MAX), Some(0)), ["shared_buffers = 2048MB"]);
    }

    #[test]
    fn the_memory_of_the_machine_is_read() {
        assert_eq!(installed("MemTotal:       24676352 kB\nMemFree: 1 kB\n"), Some(24_676_352 * 1024));
        for bad in ["", "MemFree: 1 kB", "MemTotal: x kB", "MemTotal: 1", "MemTotal: 99999999999999999999 kB"] {
            assert_eq!(installed(bad), None, "{bad:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_a_size() {
        let size = MachineSize::of(Path::new("/"));
        assert!(size.memory.is_some_and(|bytes| bytes > 64 * MIB) && size.free_disk.is_some());
    }
}
