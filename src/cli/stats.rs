//! `recado stats`.

use super::error::Failure;
use super::hub_client::HubClient;
use super::output::{self, Format};
use crate::config::Config;
use crate::domain::Role;

pub async fn run(config: &Config, format: Format) -> Result<(), Failure> {
    let stats = HubClient::new(config, Some(Role::Admin))?.get("/stats").await?.into_success()?;
    match format {
        Format::Table => {
            eprintln!("{} connections; the log ends at {}", stats["totalConnections"], stats["head"]);
            let connections = stats["connections"].as_array().cloned().unwrap_or_default();
            output::rows(format, &connections)
        }
        Format::Json | Format::Ndjson => output::one(format, &stats),
    }
}
