//! `recado config`: all settings, from the table in the code.

use clap::Args;
use serde::Serialize;

use super::error::Failure;
use super::output::{self, Format};
use crate::config::{TABLE, markdown};

/// Show all settings and their meaning.
#[derive(Debug, Args)]
pub struct ShowConfig {
    /// As the page docs/settings.md
    #[arg(long)]
    markdown: bool,
}

#[derive(Serialize)]
struct Row {
    setting: &'static str,
    default: &'static str,
    meaning: &'static str,
}

impl ShowConfig {
    pub fn run(&self, format: Format) -> Result<(), Failure> {
        if self.markdown {
            return output::line(markdown().trim_end());
        }
        let rows: Vec<Row> = TABLE.iter().map(|s| Row { setting: s.name, default: s.default, meaning: s.meaning }).collect();
        output::rows(format, &rows)
    }
}
