//! Runs `recado inbox`: shows a user's counts, and what they are made of.

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::error::CliFailure;
use super::hub_client::HubClient;
use super::output::{self, Format};
use crate::config::Config;
use crate::domain::{COUNT_MAX, Role, UserId};

/// Show a user's inbox: counts over all accounts that the user came with, and what they are made of.
#[derive(Debug, Args)]
pub struct InboxCommand {
    /// The user's id
    #[arg(value_parser = |text: &str| UserId::parse(text))]
    user: UserId,
}

/// The answer of the hub.
#[derive(Debug, Deserialize)]
struct ShownInbox {
    unread: u32,
    unseen: u32,
    as_of: u64,
    seen_seq: u64,
    read_seq: u64,
    archived_seq: u64,
    marked: u64,
    muted: Vec<String>,
    since: Vec<ShownSince>,
}

#[derive(Debug, Deserialize)]
struct ShownSince {
    topic: String,
    seq: u64,
}

impl InboxCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let path = format!("/api/admin/users/{}", self.user.as_str().replace('+', "%2B"));
        let answer = HubClient::new(config, Some(Role::Admin))?.get(&path).await?.into_success()?;
        let Some(inbox) = answer.get("inbox") else {
            return Err(CliFailure::other("the hub is of an earlier version, which keeps no inboxes".to_owned()));
        };
        if format != Format::Table {
            return output::one(format, inbox);
        }
        if *inbox == Value::Null {
            return output::line(&format!("{} has never opened an inbox: no stream with inbox=1, and no GET /api/inbox", self.user));
        }
        let inbox: ShownInbox = serde_json::from_value(inbox.clone())
            .map_err(|error| CliFailure::other(format!("the hub's answer has another form ({error}); -o json prints it as it is")))?;
        inbox.lines().iter().try_for_each(|line| output::line(line))
    }
}

impl ShownInbox {
    fn lines(&self) -> Vec<String> {
        let count = |count: u32| if count < COUNT_MAX { count.to_string() } else { format!("{COUNT_MAX} or more") };
        let Self { as_of, seen_seq, read_seq, archived_seq, marked, .. } = self;
        let mut lines = vec![
            format!("unread {}, unseen {}, at number {as_of} of the log", count(self.unread), count(self.unseen)),
            format!("seen up to {seen_seq}, read up to {read_seq}, archived up to {archived_seq}; {marked} items are marked one by one"),
            if self.muted.is_empty() { "no type is muted".to_owned() } else { format!("muted: {}", self.muted.join(", ")) },
        ];
        for ShownSince { topic, seq } in &self.since {
            let whom = topic.strip_prefix("a/").map_or_else(|| "everyone".to_owned(), |account| format!("account {account}"));
            lines.push(format!("items for {whom} count above {seq}"));
        }
        lines
    }
}
