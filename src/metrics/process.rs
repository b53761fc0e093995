//! Measures this process, under the names that Prometheus gives to every program.

use std::fs;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::text::MetricsText;

/// Writes what the system reports of this process. A system without `/proc` reports less.
pub fn write(page: &mut MetricsText) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    page.counter("process_cpu_seconds_total", "Processor time, user and system, in seconds.", seconds);
    if let Some(at) = start_time() {
        page.gauge("process_start_time_seconds", "When the process started, in seconds since 1970.", at);
    }
    if let Some(bytes) = resident_bytes() {
        page.gauge("process_resident_memory_bytes", "Resident memory.", bytes as f64);
    }
    if let Some(bytes) = status_bytes("VmSize:") {
        page.gauge("process_virtual_memory_bytes", "Virtual memory.", bytes as f64);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        page.gauge("process_open_fds", "Open files and sockets.", files.count() as f64);
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        page.gauge("process_max_fds", "Most files and sockets that the process may open.", most as f64);
    }
}

/// The resident memory of this process, where the system reports it.
pub fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// A line of `/proc/self/status` that counts KiB (proc(5)).
fn status_bytes(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse::<u64>().ok()?;
    Some(kib * 1024)
}

/// Seconds since 1970: the boot of the machine, and the ticks from there to the start of the process (proc(5)).
fn start_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name of the program, in parentheses; it may contain spaces. The start is the 22nd.
    let ticks: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let boot: f64 = fs::read_to_string("/proc/stat").ok()?.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    Some(boot + ticks / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_knows_when_it_started() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let at = start_time().unwrap();
        assert!(at <= now + 2.0 && at > now - 3600.0, "{at}, now {now}");
    }
}
