//! `recado upstream`: the providers and the sessions with them.

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
    #[command(flatten)]
    Sessions(sessions::Sessions),
}

impl Upstream {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), Failure> {
        match &self.action {
            Action::Sessions(sessions) => sessions.run(config, format).await,
        }
    }
}
