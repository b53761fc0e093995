//! `recado export`: the log, or a part of it, as lines of JSON or as CSV. Works beside running hubs, on the same settings.
//!
//! It reads page after page up to the head as it was at the start, one short statement each, so it holds up nobody, needs
//! little memory whatever the log's length, and gives every notification once.

mod shape;
mod target;

use std::path::PathBuf;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::error::Failure;
use crate::backing::Backing;
use crate::config::Config;
use crate::domain::{LogId, Seq};
use crate::store::export::{self, Wanted};
use crate::store::{Database, read};
use shape::{Place, Shape};
use target::Target;

/// Write the log, or a part of it, to a file or stdout.
#[derive(Debug, Args)]
pub struct Export {
    /// The file to write; - is stdout
    #[arg(default_value = "-")]
    file: PathBuf,
    /// How records are written
    #[arg(long, value_enum, default_value_t = Shape::Ndjson)]
    format: Shape,
    /// Only what was appended at this time or later: 2026-11-21, or 2026-11-21T08:00:00Z
    #[arg(long, value_parser = time)]
    since: Option<DateTime<Utc>>,
    /// Only what was appended before this time
    #[arg(long, value_parser = time)]
    until: Option<DateTime<Utc>>,
    /// Only this type; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Go on with a file after its last whole record; give the same flags as before
    #[arg(long, requires = "file")]
    resume: bool,
}

/// A day begins at midnight, UTC.
fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let day = || text.parse::<NaiveDate>().map(|day| day.and_time(NaiveTime::MIN).and_utc()).ok();
    let exact = DateTime::parse_from_rfc3339(text).map(|at| at.to_utc()).ok();
    exact.or_else(day).ok_or_else(|| "a time such as 2026-11-21 or 2026-11-21T08:00:00Z".to_owned())
}

impl Export {
    pub async fn run(self, config: &Config) -> Result<(), Failure> {
        let to_stdout = self.file.as_os_str() == "-";
        if to_stdout && self.resume {
            return Err(Failure { message: "--resume needs a file".to_owned(), code: 2 });
        }
        Backing::with(config, async |backing| self.act(&backing.database, to_stdout).await).await
    }

    async fn act(self, database: &Database, to_stdout: bool) -> Result<(), Failure> {
        let mut connection = database.connect("export").await?;
        let log = read::state(&mut connection).await?;
        let (mut target, place) = if to_stdout { (Target::Stdout, None) } else { Target::open(&self.file, self.format, self.resume)? };
        let mut after = log.floor;
        if let Some(place) = place {
            let there = export::id_at(&mut connection, place.seq).await?;
            after = going_on(place, log, there.map(|id| id == place.id))?;
        }
        let wanted = Wanted { since: self.since, until: self.until, types: self.types };
        let bar = bar(log.head.since(after));
        let first = after;
        let (mut records, mut text) = (0_u64, String::new());
        while after < log.head {
            let page = export::page(&mut connection, &wanted, after, log.head).await?;
            if page.log_id != log.log_id {
                return Err(another_log(log.log_id, page.log_id));
            }
            if page.floor > after {
                return Err(lost(after, page.floor));
            }
            text.clear();
            page.records.iter().for_each(|record| self.format.write(record, page.log_id, &mut text));
            target.write(text.as_bytes())?;
            records += page.records.len() as u64;
            after = page.through;
            bar.set_position(u64::try_from(after.since(first)).unwrap_or(0));
        }
        bar.finish_and_clear();
        target.finish()?;
        eprintln!("{records} records, up to {}", log.head);
        Ok(())
    }
}

/// After which number a file goes on; `is_there`: whether the log holds the same notification at its place, if any.
fn going_on(place: Place, log: read::LogState, is_there: Option<bool>) -> Result<Seq, Failure> {
    if place.log_id != log.log_id {
        return Err(another_log(place.log_id, log.log_id));
    }
    if place.seq < log.floor {
        return Err(lost(place.seq, log.floor));
    }
    // At the floor itself the row is gone, and nothing is missing.
    if is_there == Some(false) || place.seq > log.head || is_there.is_none() && place.seq > log.floor {
        return Err(Failure::settings(format!(
            "the log no longer holds what the file has at {}: it was restored to an earlier state; begin a new file",
            place.seq
        )));
    }
    Ok(place.seq)
}

fn another_log(before: LogId, now: LogId) -> Failure {
    Failure::settings(format!("the file holds the log {before}, the database another one now, {now}; begin a new file"))
}

fn lost(after: Seq, floor: Seq) -> Failure {
    Failure::other(format!("retention has dropped {} to {floor}, which the file does not have; begin a new file", after.next()))
}

fn bar(numbers: i64) -> ProgressBar {
    // It draws on stderr, and only where that is a terminal.
    let style = ProgressStyle::with_template("{bar:40} {percent} % of {human_len} numbers, {eta} left");
    ProgressBar::new(u64::try_from(numbers).unwrap_or(0)).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
