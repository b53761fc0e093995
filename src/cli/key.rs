//! `recado key`: keys of services and admins. Works beside a running hub, on the same settings.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::error::Failure;
use super::output::{self, Format};
use crate::backing::Backing;
use crate::config::Config;
use crate::domain::Role;
use crate::store::{Database, keys};

/// Make, list and revoke service keys.
#[derive(Debug, Args)]
pub struct Key {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key and print it, once: only a hash is kept
    Create {
        name: String,
        /// service: may publish; admin: may also read /stats and act under /api/admin/
        #[arg(long, default_value = "service")]
        role: String,
    },
    /// List the keys, without the keys themselves
    List,
    /// End a key; hubs stop taking it within 10 s
    Revoke { name: String },
}

#[derive(Serialize)]
struct Created<'a> {
    name: &'a str,
    role: &'a str,
    key: String,
}

impl Key {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), Failure> {
        Backing::with(config, async |backing| self.act(&backing.as_owner(), format).await).await
    }

    async fn act(&self, database: &Database, format: Format) -> Result<(), Failure> {
        let mut connection = database.connect("key").await?;
        match &self.action {
            Action::Create { name, role } => {
                let role = Role::parse(role).ok_or_else(|| Failure::other("--role is service or admin"))?;
                let key = keys::mint();
                let created = keys::create(&mut connection, name, role, &key).await;
                created.map_err(|error| Failure::other(error.to_string()))?;
                match format {
                    Format::Table => output::line(&key),
                    _ => output::one(format, &Created { name, role: role.as_str(), key }),
                }
            }
            Action::List => output::rows(format, &keys::list(&mut connection).await?),
            Action::Revoke { name } => match keys::revoke(&mut connection, name).await? {
                true => {
                    eprintln!("{name} is revoked");
                    Ok(())
                }
                false => Err(Failure::other(format!("no live key has the name {name:?}; recado key list shows them"))),
            },
        }
    }
}
