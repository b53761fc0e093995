//! Runs `recado migrate`: migrates the database to this program's schema.

use clap::Args;
use serde::Serialize;

use super::error::CliFailure;
use super::output::{self, Format};
use crate::config::Config;
use crate::startup::{Startup, StartupError};
use crate::store::migrate::{self, Migrated, Separated};
use crate::store::roles::{self, Names};

/// Bring the database to the schema of this program, and end.
#[derive(Debug, Args)]
pub struct Migrate {
    /// Give this database roles of its own if it shares them with another one of the cluster, and close it to other
    /// logins. Every hub must be stopped
    #[arg(long)]
    own_roles: bool,
}

#[derive(Serialize)]
struct MigrateReport {
    version: i32,
    applied: Vec<String>,
    /// Whether a newer program migrated the database. Then nothing was done.
    newer: bool,
    hub_role: Option<String>,
    producer_role: Option<String>,
    analyst_role: Option<String>,
}

impl Migrate {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let mut startup = Startup::open(config).await?;
        let outcome = self.act(config, &mut startup).await;
        startup.close().await;
        let (migrated, names) = outcome?;
        if migrated.newer {
            eprintln!(
                "the schema has version {}, made by a newer recado; this one ({}) changed nothing and may serve at the same time",
                migrated.version,
                env!("CARGO_PKG_VERSION")
            );
        }
        let Migrated { version, applied, newer } = migrated;
        let Names { hub, producer, analyst } = names;
        output::one(format, &MigrateReport { version, applied, newer, hub_role: hub, producer_role: producer, analyst_role: analyst })
    }

    async fn act(&self, config: &Config, startup: &mut Startup) -> Result<(Migrated, Names), CliFailure> {
        let migrated = startup.prepare(config).await?;
        let database = startup.as_owner();
        if self.own_roles && !migrated.newer {
            let Separated { names, left_out } = migrate::own_roles(&database).await.map_err(StartupError::from)?;
            let role_of = |purpose: &str| match purpose {
                "hub" => names.hub.clone(),
                "producer" => names.producer.clone(),
                _ => names.analyst.clone(),
            };
            for member in left_out {
                let role = role_of(&member.purpose).unwrap_or_default();
                eprintln!("{} has lost its rights in this database; to restore them: GRANT {role} TO {}", member.login, member.login);
            }
            return Ok((migrated, names));
        }
        let mut connection = database.connect("migrate").await?;
        Ok((migrated, roles::names(&mut connection).await?))
    }
}
