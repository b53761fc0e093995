//! Runs `recado notify`: posts one notification, or those of stdin.

use clap::Args;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::error::CliFailure;
use super::hub_client::HubClient;
use super::notify_stdin;
use super::output::{self, Format};
use crate::config::Config;
use crate::domain::Role;

/// Options of a single notification.
const OF_ONE: [&str; 10] = ["title", "kind", "message", "data", "users", "account", "broadcast", "ttl", "no_replay", "no_inbox"];

/// Post a notification.
#[derive(Debug, Args)]
pub struct NotifyCommand {
    /// Read notifications from stdin, one JSON object per line, and post them in batches
    #[arg(value_name = "-", value_parser = ["-"], conflicts_with_all = OF_ONE)]
    from: Option<String>,
    /// The same as -
    #[arg(long, conflicts_with_all = OF_ONE)]
    from_stdin: bool,
    /// The type of the notification, such as order_created
    #[arg(long = "type", default_value = "message")]
    kind: String,
    #[arg(long, required_unless_present_any = ["from", "from_stdin"])]
    title: Option<String>,
    #[arg(long, default_value = "")]
    message: String,
    /// Any JSON value
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
    /// A user to notify; may be given several times
    #[arg(long = "user")]
    users: Vec<String>,
    /// An account to notify, or the account in which the users are notified
    #[arg(long)]
    account: Option<String>,
    /// Notify everyone
    #[arg(long)]
    broadcast: bool,
    /// Seconds after which the notification is no longer replayed
    #[arg(long)]
    ttl: Option<u32>,
    /// Only for users who are connected now
    #[arg(long)]
    no_replay: bool,
    /// Not an item of the users' inboxes
    #[arg(long)]
    no_inbox: bool,
    /// Makes a retry safe (default: a random key). With -: names the whole input; after an interruption run it again
    /// with the same key, and nothing is posted twice
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl NotifyCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let key = self.idempotency_key.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let client = HubClient::new(config, Some(Role::Service))?;
        if self.from_stdin || self.from.is_some() {
            return notify_stdin::run(&client, format, &key).await;
        }
        let answer = client.insist("/api/internal/notify", &key, &self.body()?).await?;
        output::one(format, &answer.into_success()?)
    }

    fn body(&self) -> Result<String, CliFailure> {
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        set("type", self.kind.as_str().into());
        set("title", self.title.as_deref().unwrap_or_default().into());
        set("message", self.message.as_str().into());
        if let Some(data) = &self.data {
            set("data", serde_json::from_str(data).map_err(|error| CliFailure::other(format!("--data is not JSON: {error}")))?);
        }
        match self.users.as_slice() {
            [] => None,
            [one] => set("user_id", one.as_str().into()),
            many => set("user_ids", many.into()),
        };
        if let Some(account) = &self.account {
            set("account_id", account.as_str().into());
        }
        if self.broadcast {
            set("broadcast", true.into());
        }
        if let Some(ttl) = self.ttl {
            set("ttl", ttl.into());
        }
        if self.no_replay {
            set("replay", false.into());
        }
        if self.no_inbox {
            set("inbox", false.into());
        }
        Ok(Value::Object(body).to_string())
    }
}
