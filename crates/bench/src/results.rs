//! Prints, writes and reads the results of a bench, with facts about the machine.

use std::io::Read;
use std::path::Path;

use chrono::{DateTime, SubsecRound, Utc};
use recado::cli::error::CliFailure;
use recado::cli::output::{self, Format};
use serde::{Deserialize, Serialize};

use super::machine::BenchMachine;
use super::report::Report;

/// A report with its origin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    #[serde(flatten)]
    pub report: Report,
    /// Tells two runs of one bench apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    pub measured: DateTime<Utc>,
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    machine: BenchMachine,
}

/// A file holds the results of one bench, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum KeptResults {
    Many(Vec<Results>),
    One(Box<Results>),
}

impl Results {
    pub fn new(report: Report, machine: BenchMachine, label: Option<String>, revision: Option<String>) -> Self {
        let (measured, version) = (Utc::now().trunc_subsecs(0), env!("CARGO_PKG_VERSION").to_owned());
        Self { report, label, measured, version, revision, machine }
    }

    /// Name of the bench, with the label where it has one.
    pub fn name(&self) -> String {
        match &self.label {
            Some(label) => format!("{} ({label})", self.report.bench),
            None => self.report.bench.clone(),
        }
    }

    pub fn print(&self, format: Format) -> Result<(), CliFailure> {
        match format {
            Format::Table => output::line(&self.report.table()),
            Format::Json => output::one(format, self),
            Format::Ndjson => self.report.figures.iter().try_for_each(|figure| {
                let mut value = serde_json::to_value(figure).map_err(|error| CliFailure::other(error.to_string()))?;
                value["bench"] = self.name().into();
                output::line(&value.to_string())
            }),
        }
    }

    /// Writes the results to the file that the user named.
    pub fn write(&self, file: &Path) -> Result<(), CliFailure> {
        let text = serde_json::to_string_pretty(self).map_err(|error| CliFailure::other(error.to_string()))?;
        std::fs::write(file, text + "\n").map_err(|error| CliFailure::other(format!("{}: {error}", file.display())))
    }
}

/// Reads all results in a file; `-` is stdin.
pub fn read(file: &Path) -> Result<Vec<Results>, CliFailure> {
    let failed = |error: &dyn std::fmt::Display| CliFailure::other(format!("{}: {error}", file.display()));
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map_err(|error| failed(&error))?;
    } else {
        text = std::fs::read_to_string(file).map_err(|error| failed(&error))?;
    }
    match serde_json::from_str(&text) {
        Ok(KeptResults::Many(many)) => Ok(many),
        Ok(KeptResults::One(one)) => Ok(vec![*one]),
        Err(_) => Err(failed(&"holds no results of recado-bench --json")),
    }
}
