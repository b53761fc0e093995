//! `recado log`: the log as a whole. Works beside a running hub, on the same settings.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::error::Failure;
use super::output::{self, Format};
use crate::backing::Backing;
use crate::config::{Config, parse_bytes, parse_duration, parse_idle};
use crate::store::retention::{self, Partition, Policy};
use crate::store::{Database, read};

/// Look at the log, drop what is over its time, or give it a new id.
#[derive(Debug, Args)]
pub struct Log {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show its id, its ends and its partitions
    Info,
    /// Do one round of retention now, by the settings or by these flags
    Retain {
        /// Partitions whose newest notification is older go, such as 90d (RECADO_RETENTION_AGE)
        #[arg(long)]
        age: Option<String>,
        /// The oldest partitions go while the log is larger, such as 50GB (RECADO_RETENTION_SIZE)
        #[arg(long)]
        size: Option<String>,
        /// Sessions that ended longer ago go, such as 30d (RECADO_RETENTION_SESSIONS)
        #[arg(long)]
        sessions: Option<String>,
        /// Settled commands and unwanted upstream sessions that are older go, such as 30d (RECADO_RETENTION_UPSTREAM)
        #[arg(long)]
        upstream: Option<String>,
        /// Devices that were not here for longer are forgotten, such as 180d, 2d at least (RECADO_RETENTION_DEVICES)
        #[arg(long)]
        devices: Option<String>,
    },
    /// Give the log a new id after it was restored by hand: every client is told to reset
    NewId,
}

#[derive(Serialize)]
struct Info {
    log_id: String,
    earliest: i64,
    head: i64,
    partitions: Vec<Partition>,
}

impl Log {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), Failure> {
        Backing::with(config, async |backing| self.act(config, &backing.as_owner(), format).await).await
    }

    async fn act(&self, config: &Config, database: &Database, format: Format) -> Result<(), Failure> {
        match &self.action {
            Action::Info => info(database, format).await,
            Action::Retain { age, size, sessions, devices, upstream } => {
                let duration =
                    |text: &String| parse_duration(text).ok_or_else(|| Failure::other(format!("{text:?} is no time such as 90d")));
                let bytes = |text: &String| parse_bytes(text).ok_or_else(|| Failure::other(format!("{text:?} is no size such as 50GB")));
                let idle = |text: &String| {
                    parse_idle(text).ok_or_else(|| Failure::other(format!("{text:?} is no time of 2d or more, such as 180d")))
                };
                let policy = Policy {
                    age: age.as_ref().map(duration).transpose()?.or(config.retention.age),
                    bytes: size.as_ref().map(bytes).transpose()?.or(config.retention.bytes),
                    sessions: sessions.as_ref().map(duration).transpose()?.or(config.retention.sessions),
                    upstream: upstream.as_ref().map(duration).transpose()?.or(config.retention.upstream),
                    devices: devices.as_ref().map(idle).transpose()?.or(config.retention.devices),
                };
                output::one(format, &retention::round(database, policy).await?)
            }
            Action::NewId => {
                let mut connection = database.connect("log").await?;
                let old = read::state(&mut connection).await?.log_id;
                read::renew_log_id(&mut connection, old).await?;
                eprintln!("the log was {old}; every client that knew it is told to reset");
                info(database, format).await
            }
        }
    }
}

async fn info(database: &Database, format: Format) -> Result<(), Failure> {
    let mut connection = database.connect("log").await?;
    let state = read::state(&mut connection).await?;
    let partitions = retention::partitions(&mut connection).await?;
    if format == Format::Table {
        eprintln!("log {}, from {} to {}", state.log_id, state.floor.next(), state.head);
        return output::rows(format, &partitions);
    }
    let (earliest, head) = (state.floor.next().get(), state.head.get());
    output::one(format, &Info { log_id: state.log_id.to_string(), earliest, head, partitions })
}
