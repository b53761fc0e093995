//! Runs `recado key`: creates, limits, lists and revokes keys of services and admins.
//!
//! It works while a hub is running, with the same settings.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::error::CliFailure;
use super::output::{self, Format};
use super::scope_args::{KeyScopeArgs, SCOPES_HELP, ScopeWords, expires};
use crate::config::Config;
use crate::domain::{Role, Scopes};
use crate::startup::Startup;
use crate::store::Database;
use crate::store::keys::{self, KeyError, ListedKey};

/// Create, limit, list and revoke service keys.
#[derive(Debug, Args)]
pub struct KeyCommand {
    #[command(subcommand)]
    action: KeyAction,
}

#[derive(Debug, Subcommand)]
enum KeyAction {
    /// Create a key and print it, once: only a hash is kept
    #[command(after_help = SCOPES_HELP)]
    Create {
        name: String,
        /// service: may post; admin: may also read /stats and use /api/admin/
        #[arg(long, default_value = "service")]
        role: String,
        #[command(flatten)]
        scopes: KeyScopeArgs,
    },
    /// Replace the scopes of a key: hubs follow at once, and within 5 s if a NOTIFY is lost
    #[command(after_help = SCOPES_HELP)]
    Limit {
        name: String,
        /// Remove all scopes: the key may do everything that its role allows
        #[arg(long)]
        unlimited: bool,
        #[command(flatten)]
        scopes: KeyScopeArgs,
    },
    /// List the keys with their scopes, without the keys themselves
    List,
    /// Revoke a key: hubs refuse it at once, and within 5 s if a NOTIFY is lost
    Revoke { name: String },
}

#[derive(Serialize)]
struct CreatedKey<'a> {
    name: &'a str,
    role: &'a str,
    key: String,
    #[serde(flatten)]
    scopes: &'a Scopes,
}

impl KeyCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        Startup::with(config, async |startup| self.act(&startup.as_owner(), format).await).await
    }

    async fn act(&self, database: &Database, format: Format) -> Result<(), CliFailure> {
        let mut connection = database.connect("key").await?;
        match &self.action {
            KeyAction::Create { name, role, scopes } => {
                let role = Role::parse(role).ok_or_else(|| CliFailure::other("--role must be service or admin"))?;
                if scopes.wants_read() && role != Role::Admin {
                    return Err(CliFailure::other("--read needs --role admin: no route that reads is open to a key of a service"));
                }
                let scopes = scopes.scopes()?.unwrap_or_else(Scopes::everything);
                let key = keys::mint();
                let created = keys::create_scoped(&mut connection, name, role, &key, &scopes).await;
                created.map_err(|error| match error {
                    KeyError::Store(error) => error.into(),
                    _ => CliFailure::other(error.to_string()),
                })?;
                match format {
                    Format::Table => output::line(&key),
                    _ => output::one(format, &CreatedKey { name, role: role.as_str(), key, scopes: &scopes }),
                }
            }
            KeyAction::Limit { name, unlimited, scopes } => {
                let scopes = match (scopes.scopes()?, unlimited) {
                    (Some(scopes), false) => scopes,
                    (None, true) => Scopes::everything(),
                    (Some(_), true) => return Err(CliFailure::other("--unlimited removes all scopes; give it alone")),
                    (None, false) => {
                        return Err(CliFailure::other(
                            "give the scopes that the key is to have, or --unlimited; they replace all former ones",
                        ));
                    }
                };
                if !keys::limit(&mut connection, name, &scopes).await? {
                    return Err(no_key(name));
                }
                match format {
                    Format::Table => output::line(&format!("{name}: {}, expires {}", words(&scopes), expires(scopes.expires_at))),
                    _ => output::one(format, &scopes),
                }
            }
            KeyAction::List => list(format, &keys::list(&mut connection).await?),
            KeyAction::Revoke { name } => match keys::revoke(&mut connection, name).await? {
                true => {
                    eprintln!("{name} is revoked");
                    Ok(())
                }
                false => Err(no_key(name)),
            },
        }
    }
}

fn no_key(name: &str) -> CliFailure {
    CliFailure::other(format!("no valid key has the name {name:?}; recado key list shows the keys"))
}

fn words(scopes: &Scopes) -> String {
    let rights = [("broadcast", scopes.broadcast), ("members", scopes.members), ("read", scopes.read)];
    ScopeWords {
        types: scopes.types.as_deref(),
        accounts: scopes.accounts.as_deref(),
        users: scopes.users.as_deref(),
        rights: &rights,
        rate: scopes.rate,
        networks: scopes.networks.as_deref(),
        consumers: &scopes.consumers,
    }
    .line()
}

fn list(format: Format, keys: &[ListedKey]) -> Result<(), CliFailure> {
    if format != Format::Table {
        return output::rows(format, keys);
    }
    let day = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%MZ").to_string();
    let now = Utc::now();
    let rows = keys.iter().map(|key| {
        let state = match (key.revoked_at, key.scopes.expires_at) {
            (Some(at), _) => format!("revoked {}", day(at)),
            (None, Some(at)) if at <= now => format!("expired {}", day(at)),
            _ => "live".to_owned(),
        };
        let last_used = key.last_used_at.map_or_else(|| "-".to_owned(), day);
        let expires = key.scopes.expires_at.map_or_else(|| "never".to_owned(), day);
        vec![key.name.clone(), key.role.clone(), day(key.created_at), state, words(&key.scopes), expires, last_used]
    });
    output::table(&["NAME", "ROLE", "CREATED", "STATE", "SCOPES", "EXPIRES", "LAST USED"], rows)
}
