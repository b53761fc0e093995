//! Runs `recado why`: tells whether a user has a notification, and the reason.

use clap::Args;

use super::error::CliFailure;
use super::hub_client::HubClient;
use super::output::{self, Format};
use crate::config::Config;
use crate::domain::{Role, UserId};

/// Tell whether a user has a notification, and why or why not.
#[derive(Debug, Args)]
pub struct WhyCommand {
    /// The user's id
    #[arg(value_parser = |text: &str| UserId::parse(text))]
    user: UserId,
    /// The number of the notification
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    seq: u64,
}

impl WhyCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        // No character of an id has to be escaped in a query.
        let path = format!("/api/admin/why?user={}&seq={}", self.user, self.seq);
        let answer = HubClient::new(config, Some(Role::Admin))?.get(&path).await?.into_success()?;
        match format {
            Format::Table => output::line(answer["text"].as_str().unwrap_or_default()),
            Format::Json | Format::Ndjson => output::one(format, &answer),
        }
    }
}
