//! Runs `recado token`: makes a token with the hub's own secret.

use clap::Args;
use serde::Serialize;

use super::error::CliFailure;
use super::output::{self, Format};
use crate::config::{Config, parse_duration};
use crate::domain::{AccountId, Principal, Role, UserId};
use crate::identity::{self, ACCOUNTS_MAX, TOKEN_MAX_BYTES};
use crate::startup;

/// Print a token.
#[derive(Debug, Args)]
pub struct TokenCommand {
    /// The user of the token (its sub)
    #[arg(long)]
    user: String,
    /// An account of the user; may be given several times
    #[arg(long = "account")]
    accounts: Vec<String>,
    /// How long it is valid
    #[arg(long, default_value = "1h")]
    ttl: String,
    /// service or admin: a token for posting or for /stats, which opens no stream
    #[arg(long)]
    role: Option<String>,
}

#[derive(Serialize)]
struct TokenReport {
    token: String,
    user: String,
    expires_in_s: u64,
}

impl TokenCommand {
    pub fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let who = principal(&self.user, &self.accounts)?;
        let role = match self.role.as_deref() {
            None => None,
            Some(text) => Some(Role::parse(text).ok_or_else(|| CliFailure::other("--role must be service or admin"))?),
        };
        let ttl = parse_duration(&self.ttl).ok_or_else(|| CliFailure::other("--ttl must be a duration such as 30s, 5m or 1h"))?;
        if ttl.as_secs() == 0 {
            return Err(CliFailure::other("--ttl must be 1s or more: the token would expire before it is used"));
        }
        if ttl > config.jwt.max_lifetime {
            return Err(CliFailure::other("--ttl is above RECADO_JWT_MAX_LIFETIME: the hub would refuse the token"));
        }
        let token = mint(config, &who, role, ttl)?;
        match format {
            Format::Table => output::line(&token),
            _ => output::one(format, &TokenReport { token, user: self.user.clone(), expires_in_s: ttl.as_secs() }),
        }
    }
}

pub fn principal(user: &str, accounts: &[String]) -> Result<Principal, CliFailure> {
    let user = UserId::parse(user).map_err(|error| CliFailure::other(format!("--user {error}")))?;
    if accounts.len() > ACCOUNTS_MAX {
        return Err(CliFailure::other(format!(
            "--account is given {} times; the hub accepts tokens with at most {ACCOUNTS_MAX} accounts",
            accounts.len()
        )));
    }
    let accounts = accounts.iter().map(|account| AccountId::parse(account)).collect::<Result<_, _>>();
    Ok(Principal { user, accounts: accounts.map_err(|error| CliFailure::other(format!("--account {error}")))? })
}

pub fn mint(config: &Config, who: &Principal, role: Option<Role>, ttl: std::time::Duration) -> Result<String, CliFailure> {
    let token = identity::mint_with(&startup::own_secrets(config)?.current, &config.jwt, who, role, ttl);
    let token = token.map_err(|error| CliFailure::other(format!("the token could not be made: {error}")))?;
    if token.len() > TOKEN_MAX_BYTES {
        return Err(CliFailure::other(format!(
            "the token has {} bytes, but the hub accepts {TOKEN_MAX_BYTES}: give fewer accounts",
            token.len()
        )));
    }
    Ok(token)
}
