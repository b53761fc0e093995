//! Implements `recado-bench upstream`: the cost of provider sessions and the punctuality of keep-alives.
//!
//! It also measures how soon another hub has taken over the sessions of a killed one.

use std::time::Duration;

use clap::Args;
use recado::cli::error::CliFailure;
use recado::domain::{ProviderName, UserId};
use recado::store::providers::sessions;
use tokio::time::Instant;

use super::figure::Goal;
use super::ground::{BenchHub, Ground};
use super::plain_provider::{PlainProvider, ProviderCounts};
use super::post::user;
use super::report::Report;
use super::times::SortedTimes;

/// How long the sessions stay wanted: longer than any bench.
const WANTED: Duration = Duration::from_secs(3600);
/// Pause before memory is measured.
const QUIET: Duration = Duration::from_secs(3);
/// Allowed in addition to the lease until the last session of a dead hub is taken over.
const AFTER_LEASE: Duration = Duration::from_secs(5);

/// Measure provider sessions on one hub: memory, keep-alives by the provider's clock, and the take-over from a killed
/// hub
#[derive(Debug, Clone, Args)]
pub struct UpstreamBench {
    /// Sessions that one hub holds at the end
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    sessions: u32,
    /// Sessions that it takes over from a killed hub; at most --sessions
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    taken_over: u32,
    /// Seconds between two keep-alives of a session
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=300))]
    interval: u64,
    /// Seconds during which keep-alives are timed
    #[arg(long, default_value_t = 45, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Lease in seconds (RECADO_UPSTREAM_LEASE)
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=300))]
    lease: u64,
    /// Sessions that a hub begins in a second (RECADO_UPSTREAM_STARTS)
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    starts: u32,
}

/// Memory of the second hub in KiB: before it held anything, after the take-over, and with all sessions.
type HubMemory = [Option<u64>; 3];

struct UpstreamFindings {
    memory: HubMemory,
    killed_ms: u64,
    taken_over: ProviderCounts,
    kept_alive: ProviderCounts,
}

impl UpstreamBench {
    /// Sockets of one process.
    pub fn sockets(&self) -> usize {
        self.sessions as usize
    }

    pub async fn run(&self, ground: &Ground) -> Result<Report, CliFailure> {
        if ground.hub_is_given() {
            return Err(CliFailure::settings("bench upstream starts hubs of its own and kills one: remove --url"));
        }
        if self.taken_over > self.sessions {
            return Err(CliFailure::settings("--taken-over must not be above --sessions"));
        }
        let provider = PlainProvider::start(Duration::from_secs(self.interval)).await?;
        let found = self.through(ground, &provider).await;
        provider.stop().await?;
        Ok(self.report(&found?))
    }

    async fn through(&self, ground: &Ground, provider: &PlainProvider) -> Result<UpstreamFindings, CliFailure> {
        let (all, some) = (self.sessions as usize, self.taken_over as usize);
        let file = ground.keep("providers.toml", &provider.toml(Duration::from_secs(self.interval)))?;
        let settings = [
            ("RECADO_UPSTREAM_FILE", file),
            ("RECADO_UPSTREAM_KEY", "0".repeat(64)),
            ("RECADO_UPSTREAM_LEASE", format!("{}s", self.lease)),
            ("RECADO_UPSTREAM_STARTS", self.starts.to_string()),
            ("RECADO_UPSTREAM_SESSIONS", self.sessions.to_string()),
        ];
        let users: Vec<UserId> = (0..all).map(user).collect::<Result<_, _>>()?;
        let first = ground.hub_with("first.log", &settings).await?;
        eprintln!("{some} sessions on one hub");
        want(ground, &users[..some]).await?;
        self.until(provider, some, |record| record.open).await?;

        // The second hub starts while every session is held by the first.
        let second = ground.hub_with("second.log", &settings).await?;
        tokio::time::sleep(QUIET).await;
        let before = second.resident_kib();
        eprintln!("killing that hub");
        let killed_ms = provider.forget().await?.now_ms;
        first.kill().await;
        let taken_over = self.until(provider, some, |record| record.opened_ms.len()).await?;
        tokio::time::sleep(QUIET).await;
        let after = second.resident_kib();

        eprintln!("{all} sessions on the other hub");
        want(ground, &users).await?;
        self.until(provider, all, |record| record.open).await?;
        // A session has begun and uses its memory once it has sent its first keep-alive.
        tokio::time::sleep(Duration::from_secs(self.interval) + QUIET).await;
        provider.forget().await?;
        eprintln!("timing keep-alives for {} s", self.seconds);
        tokio::time::sleep(Duration::from_secs(self.seconds)).await;
        let kept_alive = provider.record().await?;
        let memory = [before, after, second.resident_kib()];
        stop(second).await?;
        Ok(UpstreamFindings { memory, killed_ms, taken_over, kept_alive })
    }

    /// Asks the provider until it has as many.
    async fn until(
        &self,
        provider: &PlainProvider,
        wanted: usize,
        count: impl Fn(&ProviderCounts) -> usize,
    ) -> Result<ProviderCounts, CliFailure> {
        let limit = Duration::from_secs(self.lease + 60 + u64::from(self.sessions / self.starts));
        let end = Instant::now() + limit;
        loop {
            let record = provider.record().await?;
            if count(&record) >= wanted {
                return Ok(record);
            }
            if Instant::now() > end {
                return Err(CliFailure::other(format!("only {} of {wanted} sessions after {limit:?}", count(&record))));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn report(&self, found: &UpstreamFindings) -> Report {
        let mut report = Report::new("upstream");
        for (name, value) in [("sessions", self.sessions), ("taken_over", self.taken_over), ("starts_per_s", self.starts)] {
            report.setting(name, value);
        }
        for (name, value) in [("interval_s", self.interval), ("seconds", self.seconds), ("lease_s", self.lease)] {
            report.setting(name, value);
        }
        let [before, after, at_last] = found.memory.map(|kib| kib.map(|kib| kib as f64));
        if let (Some(before), Some(after), Some(at_last)) = (before, after, at_last) {
            report.figure("session_kib", (at_last - before) / f64::from(self.sessions), "KiB").goal(Goal::AtMost(40.0));
            let more = self.sessions - self.taken_over;
            if more > 0 {
                report.figure("each_further_session_kib", (at_last - after) / f64::from(more), "KiB");
            }
        } else {
            report.note("memory of the hub not measured: this system does not report it");
        }
        let late = SortedTimes::new(found.kept_alive.late_ms.iter().map(|ms| Duration::from_millis(*ms)).collect());
        report
            .figure("keep_alives", late.len() as f64, "")
            .beside("due in that time", (u64::from(self.sessions) * self.seconds / self.interval) as f64);
        report.figure("keep_alive_late_p50_ms", late.percentile_ms(50.0), "ms");
        report.figure("keep_alive_late_p99_ms", late.percentile_ms(99.0), "ms").goal(Goal::AtMost(1000.0));
        report.figure("keep_alive_late_max_ms", late.max_ms(), "ms").goal(Goal::AtMost(1000.0));
        let lost = found.kept_alive.opened_ms.len() as f64;
        report.figure("sockets_lost_meanwhile", lost, "").goal(Goal::AtMost(0.0));

        let took = |at: Option<&u64>| at.map_or(0.0, |at| at.saturating_sub(found.killed_ms) as f64 / 1000.0);
        let opened = &found.taken_over.opened_ms;
        let most = (Duration::from_secs(self.lease) + AFTER_LEASE).as_secs_f64();
        report.figure("take_over_first_s", took(opened.iter().min()), "s");
        report.figure("take_over_last_s", took(opened.iter().max()), "s").goal(Goal::AtMost(most));
        // On a busy machine a delayed start may fall into the next second, which then counts one more than the dial
        // rate let through.
        let starts = busiest_second(opened) as f64;
        report
            .figure("take_over_starts_in_a_second", starts, "1/s")
            .beside("starts_per_s", f64::from(self.starts))
            .goal(Goal::AtMost(1.05));
        report.figure("take_over_sign_ins", found.taken_over.signed_in as f64, "").goal(Goal::AtMost(0.0));
        report.note("all times by the provider's clock; it runs on the same machine, over ws:// without TLS");
        report
    }
}

async fn want(ground: &Ground, users: &[UserId]) -> Result<(), CliFailure> {
    let provider = ProviderName::parse("bench").map_err(|error| CliFailure::other(error.to_string()))?;
    let mut connection = ground.database().connect("bench").await?;
    Ok(sessions::want(&mut connection, &[provider], users, WANTED, true).await?)
}

async fn stop(hub: BenchHub) -> Result<(), CliFailure> {
    hub.stop().await
}

/// The most of these times that fall within one second.
fn busiest_second(times_ms: &[u64]) -> usize {
    let mut times = times_ms.to_vec();
    times.sort_unstable();
    let mut most = 0;
    let mut first = 0;
    for (at, time) in times.iter().enumerate() {
        while times[first] + 1000 <= *time {
            first += 1;
        }
        most = most.max(at + 1 - first);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_second_may_begin_at_any_moment() {
        assert_eq!(busiest_second(&[900, 100, 1000, 1099, 5000]), 4);
        assert_eq!(busiest_second(&[0, 1000, 2000]), 1);
        assert_eq!(busiest_second(&[]), 0);
    }
}
