//! Runs `recado admin`: prints a link that opens the console signed in.

use std::time::Duration;

use chrono::Utc;
use clap::Args;
use serde::Serialize;

use super::error::CliFailure;
use super::output::{self, Format};
use crate::config::{Config, parse_duration};
use crate::identity::OwnSecret;
use crate::identity::sign_in_link::{self, LINK_LIFE};
use crate::startup;

/// How long the link of a hub's start signs in for.
const SESSION: Duration = Duration::from_secs(8 * 3600);

/// Print a link that opens the console, once, within 5 minutes.
#[derive(Debug, Args)]
pub struct AdminCommand {
    /// How long the console stays signed in
    #[arg(long, default_value = "8h")]
    ttl: String,
}

#[derive(Serialize)]
struct LinkReport {
    url: String,
    /// Of the link.
    expires_in_s: u64,
    /// Of the token that the page gets for the link.
    session_s: u64,
}

impl AdminCommand {
    pub fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let session = parse_duration(&self.ttl).filter(|ttl| ttl.as_secs() > 0);
        let session = session.ok_or_else(|| CliFailure::other("--ttl must be a duration of 1s or more, such as 30m or 8h"))?;
        // The hub would not give a longer token.
        let session = session.min(config.jwt.max_lifetime);
        let url = link(&config.internal_url, &sign_in_link::make(&startup::own_secrets(config)?.current, Utc::now(), session));
        match format {
            Format::Table => output::line(&url),
            _ => output::one(format, &LinkReport { url, expires_in_s: LINK_LIFE.as_secs(), session_s: session.as_secs() }),
        }
    }
}

/// The link that a hub prints at its start, to the console at this address.
pub fn link_at_start(hub: &str, secret: &OwnSecret) -> String {
    link(hub, &sign_in_link::make(secret, Utc::now(), SESSION))
}

/// The token stands in the fragment, which a browser sends to no server. The history of the browser keeps it.
fn link(hub: &str, token: &str) -> String {
    format!("{hub}/admin#token={token}")
}
