//! Runs `recado audit`: lists administrative acts, and checks that no row was changed.
//!
//! It works while a hub is running and while none is, with the same settings.

use std::fmt::Display;

use chrono::{DateTime, Local, TimeZone};
use clap::Args;
use serde::Serialize;

use super::error::CliFailure;
use super::output::{self, Format};
use crate::config::Config;
use crate::domain::StartTime;
use crate::domain::audit::{AuditFilter, AuditRow, Pattern};
use crate::startup::Startup;
use crate::store::Database;
use crate::store::audit::{self, ChainEnd, ChainFault};

/// Rows of one statement.
const PAGE: i64 = 1000;

/// List administrative acts, the newest first.
#[derive(Debug, Args)]
pub struct AuditCommand {
    /// Only acts since then: a duration such as 7d, or a time of RFC 3339
    #[arg(long, value_parser = start_time)]
    since: Option<StartTime>,
    /// Only acts of this actor, such as key:shop, or os:* for all of a kind
    #[arg(long, value_parser = pattern)]
    who: Option<Pattern>,
    /// Only these acts, such as key.create, or 'key.*'
    #[arg(long, value_parser = pattern)]
    what: Option<Pattern>,
    /// Most acts
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// Check every row against the hash chain, and print the end of the chain
    #[arg(long, conflicts_with_all = ["since", "who", "what", "limit"])]
    verify: bool,
}

fn start_time(text: &str) -> Result<StartTime, String> {
    StartTime::parse(text).ok_or_else(|| "must be a duration such as 7d, or a time such as 2026-11-21T16:39:58Z".to_owned())
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text).ok_or_else(|| "must be a text, or the beginning of texts and a *, such as 'key.*'".to_owned())
}

/// The result of a check.
#[derive(Serialize)]
struct Verified {
    link: i64,
    hash: String,
    faults: Vec<ChainFault>,
}

impl AuditCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        Startup::with(config, async |startup| {
            let database = startup.as_owner();
            if self.verify { verify(&database, format).await } else { self.list(&database, format).await }
        })
        .await
    }

    async fn list(&self, database: &Database, format: Format) -> Result<(), CliFailure> {
        let mut connection = database.connect("audit").await?;
        let mut filter = AuditFilter { since: self.since, who: self.who.clone(), what: self.what.clone(), before: None };
        let (mut rows, most) = (Vec::new(), i64::from(self.limit));
        loop {
            let wanted = PAGE.min(most - i64::try_from(rows.len()).unwrap_or(most));
            let page = audit::list(&mut connection, &filter, wanted).await?;
            let is_last = i64::try_from(page.len()).is_ok_and(|found| found < wanted);
            filter.before = page.last().map(|row| row.audit_id);
            rows.extend(page);
            if is_last || i64::try_from(rows.len()).is_ok_and(|found| found >= most) {
                break;
            }
        }
        if format != Format::Table {
            return output::rows(format, &rows);
        }
        match table(&rows, &Local::now()) {
            Some(table) => output::line(&table),
            None => {
                eprintln!("nothing to show");
                Ok(())
            }
        }
    }
}

async fn verify(database: &Database, format: Format) -> Result<(), CliFailure> {
    let mut connection = database.connect("audit").await?;
    let ChainEnd { link, hash, .. } = audit::chain(&mut connection).await?;
    let faults = audit::verify(&mut connection).await?;
    let count = faults.len();
    if format != Format::Table {
        output::one(format, &Verified { link, hash, faults })?;
    } else {
        for ChainFault { problem, link, audit_id } in &faults {
            let number = |number: &Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
            output::line(&format!("{problem}: row {}, link {}", number(audit_id), number(link)))?;
        }
        output::line(&format!("end of the chain: link {link}, hash {hash}"))?;
    }
    if count == 0 { Ok(()) } else { Err(CliFailure::other(format!("{count} differences between the rows and the hash chain"))) }
}

/// The table for people. Times are in the time zone of `now`.
fn table<Z: TimeZone<Offset: Display>>(rows: &[AuditRow], now: &DateTime<Z>) -> Option<String> {
    let heads = ["AT", "WHO", "FROM", "WHAT", "OBJECT", "USER", "OUTCOME", "COUNT", "DETAILS"];
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    output::columns(
        &heads,
        &["COUNT"],
        rows.iter().map(|row| {
            vec![
                output::when(row.at, now),
                row.who.clone(),
                or_dash(&row.address),
                row.what.clone(),
                or_dash(&row.object),
                or_dash(&row.user_id),
                row.outcome.clone(),
                row.count.to_string(),
                details(row),
            ]
        }),
    )
}

/// The reason and the further facts on one line. The settings of a hub are left to `-o json`: they are many.
fn details(row: &AuditRow) -> String {
    let mut parts: Vec<String> = row.reason.iter().cloned().collect();
    for (name, value) in row.details.as_object().into_iter().flatten() {
        let value = match value {
            serde_json::Value::Object(fields) => format!("{} (-o json shows them)", fields.len()),
            serde_json::Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        parts.push(format!("{name}={value}"));
    }
    if parts.is_empty() { "-".to_owned() } else { output::one_line(&parts.join(" ")) }
}

#[cfg(test)]
mod tests {
    use chrono::{FixedOffset, TimeDelta};
    use serde_json::json;

    use super::*;

    #[test]
    fn people_read_one_act_a_line_with_local_times() {
        let now: DateTime<FixedOffset> = "2026-03-01T12:05:00+02:00".parse().unwrap();
        let row = |what: &str, user: Option<&str>, details| AuditRow {
            audit_id: 7,
            at: (now - TimeDelta::minutes(3)).to_utc(),
            who: "os:ops".into(),
            login: "recado".into(),
            via: "cli".into(),
            address: Some("db1".into()),
            what: what.into(),
            object: Some("shop".into()),
            user_id: user.map(Into::into),
            outcome: "done".into(),
            reason: None,
            count: 1,
            details,
            link: None,
        };
        let rows = [
            row("key.create", None, json!({ "role": "admin" })),
            row("hub.start", Some("ann"), json!({ "settings": { "PORT": "1" }, "version": "1.0.0" })),
        ];
        let expected = [
            "  AT                    WHO     FROM  WHAT        OBJECT  USER  OUTCOME  COUNT  DETAILS",
            "  12:02:00 (3 min ago)  os:ops  db1   key.create  shop    -     done         1  role=admin",
            "  12:02:00 (3 min ago)  os:ops  db1   hub.start   shop    ann   done         1  settings=1 (-o json shows them) version=1.0.0",
        ];
        let shown = table(&rows, &now).unwrap();
        assert_eq!(shown.lines().collect::<Vec<_>>(), expected, "\n{shown}");
    }
}
