//! `recado migrate`.

use serde::Serialize;

use super::error::Failure;
use super::output::{self, Format};
use crate::backing::Backing;
use crate::config::Config;

#[derive(Serialize)]
struct Answer {
    version: i32,
    applied: Vec<String>,
}

pub async fn run(config: &Config, format: Format) -> Result<(), Failure> {
    let mut backing = Backing::open(config).await?;
    let outcome = backing.prepare(config).await;
    backing.close().await;
    let migrated = outcome?;
    output::one(format, &Answer { version: migrated.version, applied: migrated.applied })
}
