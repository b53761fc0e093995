//! Collects the checks of `recado doctor`, and prints them.

use serde::Serialize;

use crate::cli::error::CliFailure;
use crate::cli::output::{self, Format};

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    /// Something to fix.
    Fix,
    /// Not checked; the reason is in `found`.
    Skipped,
}

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Stable, for programs.
    pub check: &'static str,
    pub outcome: Outcome,
    pub found: String,
    /// What to do; `None` unless something is to be fixed.
    pub fix: Option<String>,
}

/// All checks, in the order in which they were made.
#[derive(Debug, Default)]
pub struct Report(Vec<Check>);

impl Report {
    pub fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.0.push(Check { check, outcome: Outcome::Ok, found: found.into(), fix: None });
    }

    pub fn fix(&mut self, check: &'static str, found: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Check { check, outcome: Outcome::Fix, found: found.into(), fix: Some(fix.into()) });
    }

    pub fn skipped(&mut self, check: &'static str, why: impl Into<String>) {
        self.0.push(Check { check, outcome: Outcome::Skipped, found: why.into(), fix: None });
    }

    /// Adds a finding that holds its own fix after a semicolon or colon, as the checks at the start of a hub have it.
    pub fn finding(&mut self, check: &'static str, finding: &str) {
        let (found, fix) = finding.split_once("; ").or_else(|| finding.split_once(": ")).unwrap_or((finding, finding));
        self.fix(check, found, fix);
    }

    pub fn fixes(&self) -> usize {
        self.0.iter().filter(|check| check.outcome == Outcome::Fix).count()
    }

    /// Prints one line for each check, and the fix below it.
    ///
    /// # Errors
    /// When stdout is closed.
    pub fn print(&self, format: Format) -> Result<(), CliFailure> {
        if format != Format::Table {
            return output::rows(format, &self.0);
        }
        output::line(&self.text())
    }

    fn text(&self) -> String {
        let width = self.0.iter().map(|check| check.check.len()).max().unwrap_or(0);
        let mut lines = Vec::new();
        for Check { check, outcome, found, fix } in &self.0 {
            let mark = match outcome {
                Outcome::Ok => "ok",
                Outcome::Fix => "FIX",
                Outcome::Skipped => "-",
            };
            lines.push(format!("{mark:<3}  {check:width$}  {}", output::one_line(found)));
            if let Some(fix) = fix {
                lines.push(format!("     {:width$}  fix: {}", "", output::one_line(fix)));
            }
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_has_a_line_and_a_fix_stands_below_it() {
        let mut report = Report::default();
        report.ok("clock", "0.1 s apart");
        report.finding("durability", "fsync is off: a row could be lost in a crash; set fsync = on");
        report.skipped("hub", "no --url");
        assert_eq!(
            report.text(),
            "ok   clock       0.1 s apart\n\
             FIX  durability  fsync is off: a row could be lost in a crash\n                 fix: set fsync = on\n\
             -    hub         no --url"
        );
        assert_eq!(report.fixes(), 1);
    }
}
