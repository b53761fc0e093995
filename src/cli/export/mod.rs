//! Runs `recado export`: writes the log, or a part of it, as NDJSON or CSV.
//!
//! It works while hubs are running, with the same settings. It reads page after page up to the head as it was at the
//! start. Each page is one short statement, so an export blocks no other query, needs little memory whatever the
//! log's length, and writes every notification once. Standbys are used as a hub uses them, but one that was left stays
//! unused until the export has ended.

mod shape;
mod target;

use std::path::PathBuf;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::error::CliFailure;
use crate::config::Config;
use crate::domain::{LogId, Seq};
use crate::startup::Startup;
use crate::store::export::{self, ExportFilter};
use crate::store::standby::look_at_standbys;
use crate::store::{Database, read};
use shape::{CsvCells, ExportFormat, ExportPosition};
use target::ExportTarget;

/// Connections to the primary, and to each standby. One page is read at a time; a connection that was lost is replaced.
const READ_CONNECTIONS: u32 = 2;

/// Write the log, or a part of it, to a file or stdout.
#[derive(Debug, Args)]
pub struct ExportCommand {
    /// The file to write; - is stdout
    #[arg(default_value = "-")]
    file: PathBuf,
    /// The format of the records
    #[arg(long, value_enum, default_value_t = ExportFormat::Ndjson)]
    format: ExportFormat,
    /// Only notifications appended at this time or later: 2026-11-21, or 2026-11-21T08:00:00Z
    #[arg(long, value_parser = time)]
    since: Option<DateTime<Utc>>,
    /// Only notifications appended before this time
    #[arg(long, value_parser = time)]
    until: Option<DateTime<Utc>>,
    /// Only this type; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// With csv: write a ' before cells that a spreadsheet would read as a formula (those that begin with = + - @, a
    /// tab, or a line end)
    #[arg(long)]
    spreadsheet_safe: bool,
    /// Continue a file after its last whole record; give the same flags as before
    #[arg(long, requires = "file")]
    resume: bool,
}

/// Parses a time. A day begins at midnight, UTC.
fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let day = || text.parse::<NaiveDate>().map(|day| day.and_time(NaiveTime::MIN).and_utc()).ok();
    let exact = DateTime::parse_from_rfc3339(text).map(|at| at.to_utc()).ok();
    exact.or_else(day).ok_or_else(|| "a time such as 2026-11-21 or 2026-11-21T08:00:00Z".to_owned())
}

impl ExportCommand {
    pub async fn run(self, config: &Config) -> Result<(), CliFailure> {
        if self.spreadsheet_safe && self.format != ExportFormat::Csv {
            return Err(CliFailure { message: "--spreadsheet-safe requires --format csv".to_owned(), code: 2 });
        }
        let to_stdout = self.file.as_os_str() == "-";
        if to_stdout && self.resume {
            return Err(CliFailure { message: "--resume requires a file".to_owned(), code: 2 });
        }
        Startup::with(config, async |backing| self.act(&backing.database, to_stdout).await).await
    }

    async fn act(self, database: &Database, to_stdout: bool) -> Result<(), CliFailure> {
        let mut connection = database.connect("export").await?;
        let log = read::state(&mut connection).await?;
        let (mut target, position) =
            if to_stdout { (ExportTarget::Stdout, None) } else { ExportTarget::open(&self.file, self.format, self.resume)? };
        if to_stdout {
            target.write(self.format.head().as_bytes())?;
        }
        let cells = if self.spreadsheet_safe { CsvCells::ForSpreadsheets } else { CsvCells::AsTheyAre };
        let mut after = log.floor;
        if let Some(position) = position {
            let there = export::id_at(&mut connection, position.seq).await?;
            after = resume_after(position, log, there.map(|id| id == position.id))?;
        }
        let standbys = database.standbys(READ_CONNECTIONS);
        if let Some(standbys) = &standbys {
            look_at_standbys(standbys, log.log_id).await;
        }
        let reader = database.reader("export", READ_CONNECTIONS).with_standbys(standbys);
        let wanted = ExportFilter { since: self.since, until: self.until, types: self.types };
        let bar = bar(log.head.since(after));
        let first = after;
        let (mut records, mut text) = (0_u64, String::new());
        while after < log.head {
            let page = export::page(&reader, &wanted, after, log.head).await?;
            if page.log_id != log.log_id {
                return Err(another_log(log.log_id, page.log_id));
            }
            if page.floor > after {
                return Err(lost(after, page.floor));
            }
            text.clear();
            page.records.iter().for_each(|record| self.format.write(record, page.log_id, cells, &mut text));
            target.write(text.as_bytes())?;
            records += page.records.len() as u64;
            after = page.through;
            bar.set_position(u64::try_from(after.since(first)).unwrap_or(0));
        }
        bar.finish_and_clear();
        reader.close().await;
        target.finish()?;
        eprintln!("{records} records, up to {}", log.head);
        Ok(())
    }
}

/// The number after which a file resumes. `is_there` tells whether the log has the same notification at that number;
/// `None` if the log has no row there.
fn resume_after(position: ExportPosition, log: read::LogState, is_there: Option<bool>) -> Result<Seq, CliFailure> {
    if position.log_id != log.log_id {
        return Err(another_log(position.log_id, log.log_id));
    }
    if position.seq < log.floor {
        return Err(lost(position.seq, log.floor));
    }
    // At the floor itself the row is gone, and nothing is missing.
    if is_there == Some(false) || position.seq > log.head || is_there.is_none() && position.seq > log.floor {
        return Err(CliFailure::settings(format!(
            "the log no longer has the file's notification {}: it was restored to an earlier state; start a new file",
            position.seq
        )));
    }
    Ok(position.seq)
}

fn another_log(before: LogId, now: LogId) -> CliFailure {
    CliFailure::settings(format!("the file has the log {before}, but the database now has the log {now}; start a new file"))
}

fn lost(after: Seq, floor: Seq) -> CliFailure {
    CliFailure::other(format!("retention dropped {} to {floor}, which the file does not have; start a new file", after.next()))
}

fn bar(numbers: i64) -> ProgressBar {
    // The bar is drawn on stderr, and only if that is a terminal.
    let style = ProgressStyle::with_template("{bar:40} {percent} % of {human_len} numbers, {eta} left");
    ProgressBar::new(u64::try_from(numbers).unwrap_or(0)).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
