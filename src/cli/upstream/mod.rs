//! `recado upstream`: the providers and the sessions with them.

mod check;
mod sessions;

use clap::{Args, Subcommand};

use super::error::Failure;
use super::output::Format;
use crate::config::Config;

#[derive(Debug, Args)]
pub struct Upstream {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check a provider file; with --dial sign a user in and open a socket
    Check(check::Check),
    #[command(flatten)]
    Sessions(sessions::Sessions),
}

impl Upstream {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), Failure> {
        match &self.action {
            Action::Check(check) => check.run(config, format).await,
            Action::Sessions(sessions) => sessions.run(config, format).await,
        }
    }
}
