//! Runs `recado key`: creates, lists and revokes keys of services and admins.
//!
//! It works while a hub is running, with the same settings.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::error::CliFailure;
use super::output::{self, Format};
use crate::config::Config;
use crate::domain::Role;
use crate::startup::Startup;
use crate::store::Database;
use crate::store::keys::{self, ListedKey};

/// Create, list and revoke service keys.
#[derive(Debug, Args)]
pub struct KeyCommand {
    #[command(subcommand)]
    action: KeyAction,
}

#[derive(Debug, Subcommand)]
enum KeyAction {
    /// Create a key and print it, once: only a hash is kept
    Create {
        name: String,
        /// service: may post; admin: may also read /stats and use /api/admin/
        #[arg(long, default_value = "service")]
        role: String,
    },
    /// List the keys, without the keys themselves
    List,
    /// Revoke a key: hubs refuse it at once, and within 5 s if a NOTIFY is lost
    Revoke { name: String },
}

#[derive(Serialize)]
struct CreatedKey<'a> {
    name: &'a str,
    role: &'a str,
    key: String,
}

impl KeyCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        Startup::with(config, async |startup| self.act(&startup.as_owner(), format).await).await
    }

    async fn act(&self, database: &Database, format: Format) -> Result<(), CliFailure> {
        let mut connection = database.connect("key").await?;
        match &self.action {
            KeyAction::Create { name, role } => {
                let role = Role::parse(role).ok_or_else(|| CliFailure::other("--role must be service or admin"))?;
                let key = keys::mint();
                let created = keys::create(&mut connection, name, role, &key).await;
                created.map_err(|error| CliFailure::other(error.to_string()))?;
                match format {
                    Format::Table => output::line(&key),
                    _ => output::one(format, &CreatedKey { name, role: role.as_str(), key }),
                }
            }
            KeyAction::List => list(format, &keys::list(&mut connection).await?),
            KeyAction::Revoke { name } => match keys::revoke(&mut connection, name).await? {
                true => {
                    eprintln!("{name} is revoked");
                    Ok(())
                }
                false => Err(CliFailure::other(format!("no valid key has the name {name:?}; recado key list shows the keys"))),
            },
        }
    }
}

fn list(format: Format, keys: &[ListedKey]) -> Result<(), CliFailure> {
    if format != Format::Table {
        return output::rows(format, keys);
    }
    let day = |at: chrono::DateTime<chrono::Utc>| at.format("%Y-%m-%d %H:%MZ").to_string();
    let rows = keys.iter().map(|key| {
        let state = key.revoked_at.map_or_else(|| "live".to_owned(), |at| format!("revoked {}", day(at)));
        vec![key.name.clone(), key.role.clone(), day(key.created_at), state]
    });
    output::table(&["NAME", "ROLE", "CREATED", "STATE"], rows)
}
