//! `recado healthcheck`: exit code 0 when the hub is ready.

use super::error::Failure;
use super::hub_client::HubClient;
use crate::config::Config;

pub async fn run(config: &Config) -> Result<(), Failure> {
    let answer = HubClient::new(config, None)?.get("/readyz").await?;
    if answer.status.is_success() { Ok(()) } else { Err(Failure::unavailable("the hub is not ready")) }
}
