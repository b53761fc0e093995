//! Runs `recado admin`: prints a link that opens the console signed in.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::error::CliFailure;
use super::output::{self, Format};
use super::token;
use crate::config::{Config, parse_duration};
use crate::domain::Role;
use crate::identity::OwnSecret;
use crate::startup;

/// How long the link of a hub's start opens the console.
const TTL: Duration = Duration::from_secs(8 * 3600);
/// The subject of the token, by which the audit names it. Unlike the command line's own subject it can be revoked:
/// `recado revoke console` ends all links.
const SUBJECT: &str = "console";

/// Print a link that opens the console.
#[derive(Debug, Args)]
pub struct AdminCommand {
    /// How long the link opens the console
    #[arg(long, default_value = "8h")]
    ttl: String,
}

#[derive(Serialize)]
struct LinkReport {
    url: String,
    expires_in_s: u64,
}

impl AdminCommand {
    pub fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let ttl = parse_duration(&self.ttl).filter(|ttl| ttl.as_secs() > 0);
        let ttl = ttl.ok_or_else(|| CliFailure::other("--ttl must be a duration of 1s or more, such as 30m or 8h"))?;
        let ttl = ttl.min(config.jwt.max_lifetime);
        let token = mint(&startup::own_secrets(config)?.current, config, ttl)?;
        // The token stands in the fragment, which a browser sends to no server.
        let url = link(&config.internal_url, &token);
        match format {
            Format::Table => output::line(&url),
            _ => output::one(format, &LinkReport { url, expires_in_s: ttl.as_secs() }),
        }
    }
}

/// Makes the token of the link that a hub prints at its start.
///
/// # Errors
/// When the token cannot be made.
pub fn token(secret: &OwnSecret, config: &Config) -> Result<String, CliFailure> {
    mint(secret, config, TTL.min(config.jwt.max_lifetime))
}

/// The link to the console of the hub at this address.
pub fn link(hub: &str, token: &str) -> String {
    format!("{hub}/admin#token={token}")
}

fn mint(secret: &OwnSecret, config: &Config, ttl: Duration) -> Result<String, CliFailure> {
    token::mint_with(secret, config, &token::principal(SUBJECT, &[])?, Some(Role::Admin), ttl)
}
