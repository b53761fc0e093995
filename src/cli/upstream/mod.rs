//! Runs `recado upstream`: the commands for providers and provider sessions.

mod check;
mod sessions;

use clap::{Args, Subcommand};

use super::error::CliFailure;
use super::output::Format;
use crate::config::Config;

#[derive(Debug, Args)]
pub struct UpstreamCommand {
    #[command(subcommand)]
    action: UpstreamAction,
}

#[derive(Debug, Subcommand)]
enum UpstreamAction {
    /// Check a provider file; with --dial sign a user in and open a socket
    Check(check::CheckCommand),
    #[command(flatten)]
    Sessions(sessions::SessionsCommand),
}

impl UpstreamCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        match &self.action {
            UpstreamAction::Check(check) => check.run(config, format).await,
            UpstreamAction::Sessions(sessions) => sessions.run(config, format).await,
        }
    }
}
