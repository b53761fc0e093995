//! What a bench found, with what one must know of the machine to read it: printed, written to a file, read again.

use std::io::Read;
use std::path::Path;

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::report::Report;
use crate::cli::error::Failure;
use crate::cli::output::{self, Format};

/// A report and where it comes from.
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
    machine: Machine,
}

/// A file holds the results of one bench, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Kept {
    Many(Vec<Results>),
    One(Box<Results>),
}

impl Results {
    pub fn new(report: Report, machine: Machine, label: Option<String>, revision: Option<String>) -> Self {
        let (measured, version) = (Utc::now().trunc_subsecs(0), env!("CARGO_PKG_VERSION").to_owned());
        Self { report, label, measured, version, revision, machine }
    }

    /// The bench, and the label where it has one.
    pub fn name(&self) -> String {
        match &self.label {
            Some(label) => format!("{} ({label})", self.report.bench),
            None => self.report.bench.clone(),
        }
    }

    pub fn print(&self, format: Format) -> Result<(), Failure> {
        match format {
            Format::Table => output::line(&self.report.table()),
            Format::Json => output::one(format, self),
            Format::Ndjson => self.report.figures.iter().try_for_each(|figure| {
                let mut value = serde_json::to_value(figure).map_err(|error| Failure::other(error.to_string()))?;
                value["bench"] = self.name().into();
                output::line(&value.to_string())
            }),
        }
    }

    /// Writes them where somebody wants to keep them.
    pub fn write(&self, file: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Failure::other(error.to_string()))?;
        std::fs::write(file, text + "\n").map_err(|error| Failure::other(format!("{}: {error}", file.display())))
    }
}

/// All that a file holds; `-` is stdin.
pub fn read(file: &Path) -> Result<Vec<Results>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::other(format!("{}: {error}", file.display()));
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map_err(|error| failed(&error))?;
    } else {
        text = std::fs::read_to_string(file).map_err(|error| failed(&error))?;
    }
    match serde_json::from_str(&text) {
        Ok(Kept::Many(many)) => Ok(many),
        Ok(Kept::One(one)) => Ok(vec![*one]),
        Err(_) => Err(failed(&"holds no results of recado bench --json")),
    }
}
