//! `recado notify`: post one notification, or those that come on stdin.

use clap::Args;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::error::Failure;
use super::hub_client::HubClient;
use super::notify_stdin;
use super::output::{self, Format};
use crate::config::Config;
use crate::domain::Role;

/// Options that describe a single notification.
const OF_ONE: [&str; 9] = ["title", "kind", "message", "data", "users", "account", "broadcast", "ttl", "no_replay"];

/// Post a notification.
#[derive(Debug, Args)]
pub struct Notify {
    /// Read notifications from stdin, one JSON object a line, and post them in batches
    #[arg(value_name = "-", value_parser = ["-"], conflicts_with_all = OF_ONE)]
    from: Option<String>,
    /// The same as -
    #[arg(long, conflicts_with_all = OF_ONE)]
    from_stdin: bool,
    /// What kind it is, such as order_created
    #[arg(long = "type", default_value = "message")]
    kind: String,
    #[arg(long, required_unless_present_any = ["from", "from_stdin"])]
    title: Option<String>,
    #[arg(long, default_value = "")]
    message: String,
    /// Any JSON
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
    /// A user to tell; may be given several times
    #[arg(long = "user")]
    users: Vec<String>,
    /// An account to tell, or the account that the users are told in
    #[arg(long)]
    account: Option<String>,
    /// Tell everyone
    #[arg(long)]
    broadcast: bool,
    /// Seconds after which it is not replayed any more
    #[arg(long)]
    ttl: Option<u32>,
    /// Only for who is connected now
    #[arg(long)]
    no_replay: bool,
    /// Makes a repeat harmless (default: a random one). With -: names the whole input; run it again with the same key
    /// after a break, and nothing is doubled
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl Notify {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), Failure> {
        let key = self.idempotency_key.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let client = HubClient::new(config, Some(Role::Service))?;
        if self.from_stdin || self.from.is_some() {
            return notify_stdin::run(&client, format, &key).await;
        }
        let answer = client.insist("/api/internal/notify", &key, &self.body()?).await?;
        output::one(format, &answer.into_success()?)
    }

    fn body(&self) -> Result<String, Failure> {
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        set("type", self.kind.as_str().into());
        set("title", self.title.as_deref().unwrap_or_default().into());
        set("message", self.message.as_str().into());
        if let Some(data) = &self.data {
            set("data", serde_json::from_str(data).map_err(|error| Failure::other(format!("--data is not JSON: {error}")))?);
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
        Ok(Value::Object(body).to_string())
    }
}
