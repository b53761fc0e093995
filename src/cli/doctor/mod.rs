//! Runs `recado doctor`: checks an installation, and names the fix for each fault.
//!
//! It changes nothing that lasts. It sends one NOTIFY on a channel of its own. A private server that it had to start is
//! stopped again.

mod database;
mod hub;
mod keys;
mod report;

use clap::Args;

use self::report::Report;
use super::error::CliFailure;
use super::output::Format;
use crate::config::Config;

/// Exit code of a doctor that could not run: its settings are invalid, or stdout is closed.
pub const COULD_NOT_RUN: i32 = 2;

/// Check the database, the keys and, with --url, a running hub and the proxies before it.
///
/// Exit codes: 0 all good · 1 something to fix · 2 the checks could not run.
#[derive(Debug, Args)]
pub struct DoctorCommand {
    /// Hubs that are to share the database, for the check of its connections [default: those that run, one at least]
    #[arg(long, value_name = "COUNT")]
    hubs: Option<u32>,
}

impl DoctorCommand {
    /// # Errors
    /// Exit code 1 when something is to be fixed, 2 when the report cannot be printed.
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let mut report = Report::default();
        keys::check(config, &mut report).await;
        database::check(config, self.hubs, &mut report).await;
        if config.url_is_given {
            hub::check(config, &mut report).await;
        } else {
            report.skipped("hub", "no hub was named; give its public address with --url to check it and the proxies before it");
        }
        report.print(format).map_err(|failure| CliFailure { code: COULD_NOT_RUN, ..failure })?;
        match report.fixes() {
            0 => Ok(()),
            fixes => Err(CliFailure::other(format!("{fixes} {} to fix", if fixes == 1 { "thing" } else { "things" }))),
        }
    }
}
