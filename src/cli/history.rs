//! Runs `recado history`: prints a user's notifications, oldest first, from the hub's own route.

use clap::Args;
use serde_json::Value;

use super::error::CliFailure;
use super::hub_client::HubClient;
use super::listen;
use super::output::{self, Format};
use super::token::principal;
use crate::config::Config;

/// Maximum notifications in one answer of the route.
const PAGE_MAX: usize = 1000;

/// Print a user's notifications, page by page.
#[derive(Debug, Args)]
pub struct HistoryCommand {
    /// The user, with a token made from the secret on this machine
    user: String,
    /// An account of the user; may be given several times
    #[arg(long = "account")]
    accounts: Vec<String>,
    /// Only notifications with a higher sequence number
    #[arg(long, default_value_t = 0)]
    after: u64,
    /// Maximum number of notifications to print
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Only this type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only these types, and beginnings of types: order_*,stock.low
    #[arg(long, value_parser = listen::types, conflicts_with = "kind")]
    types: Option<String>,
}

impl HistoryCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let client = HubClient::of_user(config, &principal(&self.user, &self.accounts)?)?;
        let mut left = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let (mut after, mut printed) = ((self.after > 0).then_some(self.after), 0_usize);
        let mut all = Vec::new();
        let next = loop {
            let page = client.history(after, left.min(PAGE_MAX), self.kind.as_deref(), self.types.as_deref()).await?;
            for text in page.lines {
                left = left.saturating_sub(1);
                printed += 1;
                match format {
                    Format::Json => all.push(output::one_line(&text)),
                    _ => listen::print(&serde_json::from_str::<Value>(&text).unwrap_or_default(), &text, format)?,
                }
            }
            match page.next {
                Some(next) if left > 0 => after = Some(next),
                next => break next,
            }
        };
        if format == Format::Json {
            let next = next.map_or_else(|| "null".to_owned(), |next| next.to_string());
            return output::line(&format!("{{\"notifications\":[{}],\"next\":{next}}}", all.join(",")));
        }
        match next {
            Some(next) => eprintln!("{printed} notifications; there are more: --after {next}"),
            None => eprintln!("{printed} notifications; these are all"),
        }
        Ok(())
    }
}
