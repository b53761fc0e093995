//! `recado token`: a token from the hub's own secret.

use clap::Args;
use serde::Serialize;

use super::error::Failure;
use super::output::{self, Format};
use crate::backing;
use crate::config::{Config, parse_duration};
use crate::domain::{AccountId, Principal, Role, UserId};
use crate::http;

/// Print a token.
#[derive(Debug, Args)]
pub struct Token {
    /// The user it is for (its sub)
    #[arg(long)]
    user: String,
    /// An account of the user; may be given several times
    #[arg(long = "account")]
    accounts: Vec<String>,
    /// How long it is valid
    #[arg(long, default_value = "1h")]
    ttl: String,
    /// service or admin: a token for publishing or for /stats, which opens no stream
    #[arg(long)]
    role: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    token: String,
    user: String,
    expires_in_s: u64,
}

impl Token {
    pub fn run(&self, config: &Config, format: Format) -> Result<(), Failure> {
        let who = principal(&self.user, &self.accounts)?;
        let role = match self.role.as_deref() {
            None => None,
            Some(text) => Some(Role::parse(text).ok_or_else(|| Failure::other("--role is service or admin"))?),
        };
        let ttl = parse_duration(&self.ttl).ok_or_else(|| Failure::other("--ttl is a time such as 30s, 5m or 1h"))?;
        if ttl > config.jwt.max_lifetime {
            return Err(Failure::other("--ttl is above RECADO_JWT_MAX_LIFETIME: the hub would refuse the token"));
        }
        let token = mint(config, &who, role, ttl)?;
        match format {
            Format::Table => output::line(&token),
            _ => output::one(format, &Answer { token, user: self.user.clone(), expires_in_s: ttl.as_secs() }),
        }
    }
}

pub fn principal(user: &str, accounts: &[String]) -> Result<Principal, Failure> {
    let user = UserId::parse(user).map_err(|error| Failure::other(format!("--user {error}")))?;
    let accounts = accounts.iter().map(|account| AccountId::parse(account)).collect::<Result<_, _>>();
    Ok(Principal { user, accounts: accounts.map_err(|error| Failure::other(format!("--account {error}")))? })
}

pub fn mint(config: &Config, who: &Principal, role: Option<Role>, ttl: std::time::Duration) -> Result<String, Failure> {
    let secret = backing::jwt_secret(config)?;
    http::mint(&secret, &config.jwt, who, role, ttl).map_err(|error| Failure::other(format!("the token could not be made: {error}")))
}
