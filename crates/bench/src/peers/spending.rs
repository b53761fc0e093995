//! Turns costs into figures.

use recado::cli::error::CliFailure;

use super::super::database_counts::StatementCount;
use super::super::figure::{COUNTED, Goal};
use super::super::ground::BenchHub;
use super::super::meter::{Cost, Meter};
use super::PeersRun;

/// Statements that `--statements` lists for one part.
const LISTED: usize = 20;
/// Bytes of a statement's text that `--statements` prints.
const TEXT: usize = 110;

impl PeersRun<'_> {
    pub(super) async fn meter(&self, hub: &BenchHub) -> Result<Meter, CliFailure> {
        Meter::of(self.ground, Some(hub), &self.bench.server_pid).await
    }

    /// Adds the processor time for each thousand of so many units.
    pub(super) fn cpu(&mut self, name: &str, cost: Cost, units: usize, goal: Option<f64>) {
        let per_1000 = |time: std::time::Duration| time.as_secs_f64() * 1000.0 / units.max(1) as f64;
        let all = cost.hub + cost.database;
        if !all.cpu.is_zero() {
            let name_all = format!("{name}_cpu_s_per_1000");
            match goal {
                Some(goal) => self.goal(&name_all, per_1000(all.cpu), "s", Goal::AtMost(goal)),
                None => {
                    self.report.figure(name_all, per_1000(all.cpu), "s");
                }
            }
            if !cost.hub.cpu.is_zero() && !self.ground.hub_is_given() {
                self.report.figure(format!("{name}_hub_cpu_s_per_1000"), per_1000(cost.hub.cpu), "s");
            }
        }
        self.report.figure(format!("{name}_client_cpu_s_per_1000"), per_1000(cost.bench.cpu), "s");
        eprintln!(
            "  {name}: {:.3} s of CPU for 1,000, hub {:.3}, database {:.3}; client {:.3}",
            per_1000(all.cpu),
            per_1000(cost.hub.cpu),
            per_1000(cost.database.cpu),
            per_1000(cost.bench.cpu)
        );
    }

    /// Adds what the database counted for each of so many units, less what an idle hub would have cost meanwhile.
    /// `statements` are those that an idle hub does not send.
    pub(super) fn counted(&mut self, name: &str, cost: Cost, idle: Cost, statements: Option<i64>, units: usize) {
        let (Some(counts), Some(idle_counts)) = (cost.counts, idle.counts) else { return };
        let share = cost.time.as_secs_f64() / idle.time.as_secs_f64();
        let each = |count: f64, idle: f64| (count - idle * share).max(0.0) / units.max(1) as f64;
        let [of_statements, of_transactions] = COUNTED;
        if let Some(statements) = statements {
            self.report.figure(format!("{name}_statements"), each(statements as f64, 0.0), of_statements);
        }
        let writes = each(counts.writes as f64, idle_counts.writes as f64);
        self.report.figure(format!("{name}_transactions"), writes, of_transactions);
        let wal = each(counts.wal_bytes as f64, idle_counts.wal_bytes as f64);
        // Without a unit that is compared: a page that changes first after a checkpoint is written as a whole.
        self.report.figure(format!("{name}_wal_bytes"), wal, "B");
        if !self.ground.hub_is_given() {
            let waits = each(cost.hub.waits as f64, idle.hub.waits as f64);
            // Without a unit that is compared: on a busy machine a thread finds more work each time it wakes up.
            self.report.figure(format!("{name}_hub_waits"), waits, "");
        }
    }

    /// Prints these statements, with `--statements`.
    pub(super) fn print_statements(&self, name: &str, units: usize, statements: &[StatementCount]) {
        if !self.bench.statements {
            return;
        }
        eprintln!("  {name}: calls and microseconds in the database for each");
        for one in statements.iter().take(LISTED) {
            let text: String = one.text.chars().take(TEXT).collect();
            eprintln!("  {:8.3} {:9.1}  {text}", one.calls as f64 / units as f64, one.microseconds as f64 / units as f64);
        }
    }
}
