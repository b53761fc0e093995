//! Runs `recado healthcheck`: exit code 0 if the hub is ready.

use super::error::CliFailure;
use super::hub_client::HubClient;
use crate::config::Config;

pub async fn run(config: &Config) -> Result<(), CliFailure> {
    let answer = HubClient::new(config, None)?.get("/readyz").await?;
    if answer.status.is_success() { Ok(()) } else { Err(CliFailure::unavailable("the hub is not ready")) }
}
