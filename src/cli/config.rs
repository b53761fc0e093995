//! Runs `recado config`: prints all settings, from the table in the code.

use clap::Args;
use serde::Serialize;

use super::error::CliFailure;
use super::output::{self, Format};
use crate::config::{Setting, TABLE, markdown};

/// Show all settings and their meaning.
#[derive(Debug, Args)]
pub struct ConfigCommand {
    /// Print the page docs/reference/settings.md
    #[arg(long)]
    markdown: bool,
}

#[derive(Serialize)]
struct ConfigRow {
    setting: &'static str,
    default: &'static str,
    meaning: &'static str,
}

impl ConfigCommand {
    pub fn run(&self, format: Format) -> Result<(), CliFailure> {
        if self.markdown {
            return output::line(markdown().trim_end());
        }
        if format == Format::Table {
            let entries: Vec<String> = TABLE.iter().map(entry).collect();
            return output::line(&entries.join("\n\n"));
        }
        let rows: Vec<ConfigRow> = TABLE.iter().map(|s| ConfigRow { setting: s.name, default: s.default, meaning: s.meaning }).collect();
        output::rows(format, &rows)
    }
}

/// Maximum width of a meaning's lines.
const WIDTH: usize = 96;

/// Formats a setting for people: its name and default, then its meaning.
fn entry(setting: &Setting) -> String {
    let mut entry = setting.name.to_owned();
    if !setting.default.is_empty() {
        entry.push_str(&format!("  (default: {})", setting.default));
    } else if setting.secret {
        entry.push_str(&format!("  (or {}_FILE)", setting.name));
    }
    let mut column = WIDTH;
    for word in setting.meaning.split_whitespace() {
        if column + 1 + word.chars().count() > WIDTH {
            entry.push_str("\n   ");
            column = 3;
        }
        entry.push(' ');
        entry.push_str(word);
        column += 1 + word.chars().count();
    }
    entry
}
