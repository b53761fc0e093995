//! Runs `recado log`: shows the log, applies retention, or renews the log id.
//!
//! It works while a hub is running, with the same settings.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::error::CliFailure;
use super::output::{self, Format};
use crate::config::{Config, FOREVER, parse_bytes, parse_duration, parse_idle};
use crate::domain::audit::{Act, Outcome};
use crate::log::retention::{self, RetentionPolicy};
use crate::startup::Startup;
use crate::store::audit::{self, Entry};
use crate::store::retention::{Partition, partitions};
use crate::store::{Database, read};

/// Show the log, apply retention once, or give the log a new id.
#[derive(Debug, Args)]
pub struct LogCommand {
    #[command(subcommand)]
    action: LogAction,
}

#[derive(Debug, Subcommand)]
enum LogAction {
    /// Show its id, its first and last number, and its partitions
    Info,
    /// Apply retention once now, by the settings or by these flags
    Retain {
        /// Drop partitions whose newest notification is older, such as 90d (RECADO_RETENTION_AGE)
        #[arg(long)]
        age: Option<String>,
        /// Drop the oldest partitions while the log is larger, such as 50GB (RECADO_RETENTION_SIZE)
        #[arg(long)]
        size: Option<String>,
        /// Delete sessions that ended longer ago, such as 30d (RECADO_RETENTION_SESSIONS)
        #[arg(long)]
        sessions: Option<String>,
        /// Delete settled commands and unwanted provider sessions that are older, such as 30d
        /// (RECADO_RETENTION_UPSTREAM)
        #[arg(long)]
        upstream: Option<String>,
        /// Delete rows of the audit that are older, such as 400d (RECADO_RETENTION_AUDIT)
        #[arg(long)]
        audit: Option<String>,
        /// Delete the stored position of devices not seen for longer, such as 180d, at least 2d
        /// (RECADO_RETENTION_DEVICES)
        #[arg(long)]
        devices: Option<String>,
    },
    /// Give the log a new id after it was restored by hand: every client gets reset
    NewId,
}

#[derive(Serialize)]
struct LogInfo {
    log_id: String,
    earliest: i64,
    head: i64,
    partitions: Vec<Partition>,
}

impl LogCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        Startup::with(config, async |startup| self.act(config, &startup.as_owner(), format).await).await
    }

    async fn act(&self, config: &Config, database: &Database, format: Format) -> Result<(), CliFailure> {
        match &self.action {
            LogAction::Info => info(database, format).await,
            LogAction::Retain { age, size, sessions, devices, upstream, audit } => {
                let kept = config.retention;
                let policy = RetentionPolicy {
                    age: given(age.as_ref(), kept.age, parse_duration, "time such as 90d")?,
                    bytes: given(size.as_ref(), kept.bytes, parse_bytes, "size such as 50GB")?,
                    sessions: given(sessions.as_ref(), kept.sessions, parse_duration, "time such as 30d")?,
                    upstream: given(upstream.as_ref(), kept.upstream, parse_duration, "time such as 30d")?,
                    audit: given(audit.as_ref(), kept.audit, parse_duration, "time such as 400d")?,
                    devices: given(devices.as_ref(), kept.devices, parse_idle, "time of 2d or more, such as 180d")?,
                };
                let mut connection = database.connect("log").await?;
                let details = json!({
                    "age_s": policy.age.map(|age| age.as_secs()), "bytes": policy.bytes,
                    "sessions_s": policy.sessions.map(|age| age.as_secs()), "devices_s": policy.devices.map(|age| age.as_secs()),
                    "upstream_s": policy.upstream.map(|age| age.as_secs()), "audit_s": policy.audit.map(|age| age.as_secs()),
                });
                let begun = Entry { outcome: Outcome::Started, ..Entry::done(Act::LogRetain, "log") }.with_details(details);
                audit::record(&mut connection, None, &begun).await?;
                match retention::round(database, policy).await {
                    Ok(done) if done.not_owner => {
                        let why = "this login does not own the tables; use the DATABASE_URL of the user who migrated";
                        audit::record_failure(&mut connection, Act::LogRetain, "log", why).await;
                        Err(CliFailure::refused(why))
                    }
                    Ok(done) => {
                        let details = serde_json::to_value(&done).unwrap_or_default();
                        audit::record(&mut connection, None, &Entry::done(Act::LogRetain, "log").with_details(details)).await?;
                        output::one(format, &done)
                    }
                    Err(error) => {
                        audit::record_failure(&mut connection, Act::LogRetain, "log", &error.to_string()).await;
                        Err(error.into())
                    }
                }
            }
            LogAction::NewId => {
                let mut connection = database.connect("log").await?;
                let old = read::state(&mut connection).await?.log_id;
                read::renew_log_id(&mut connection, old).await?;
                eprintln!("the log id was {old}; every client that knows it gets reset");
                info(database, format).await
            }
        }
    }
}

/// The value of a flag, or of the setting if the flag is not given.
fn given<T>(flag: Option<&String>, setting: Option<T>, parse: fn(&str) -> Option<T>, expected: &str) -> Result<Option<T>, CliFailure> {
    match flag {
        None => Ok(setting),
        Some(text) if text == FOREVER => Ok(None),
        Some(text) => parse(text).map(Some).ok_or_else(|| CliFailure::other(format!("{text:?} is not a {expected}, and not {FOREVER}"))),
    }
}

async fn info(database: &Database, format: Format) -> Result<(), CliFailure> {
    let mut connection = database.connect("log").await?;
    let state = read::state(&mut connection).await?;
    let partitions = partitions(&mut connection).await?;
    if format == Format::Table {
        eprintln!("log {}, from {} to {}", state.log_id, state.floor.next(), state.head);
        return output::rows(format, &partitions);
    }
    let (earliest, head) = (state.floor.next().get(), state.head.get());
    output::one(format, &LogInfo { log_id: state.log_id.to_string(), earliest, head, partitions })
}
