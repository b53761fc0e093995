//! `recado notify`: post one notification.

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::error::Failure;
use super::hub_client::HubClient;
use super::output::{self, Format};
use crate::backoff::Backoff;
use crate::config::Config;
use crate::domain::Role;

/// How often an answer that leaves the outcome open is asked for again; the key makes that safe.
const TRIES: u32 = 5;

/// Post a notification.
#[derive(Debug, Args)]
pub struct Notify {
    /// What kind it is, such as order_created
    #[arg(long = "type", default_value = "message")]
    kind: String,
    #[arg(long)]
    title: String,
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
    /// Makes a repeat harmless (default: a random one)
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl Notify {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), Failure> {
        let body = Value::Object(self.body()?);
        let key = self.idempotency_key.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let client = HubClient::new(config, Some(Role::Service))?;
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(4));
        for _ in 1..TRIES {
            match client.post("/api/internal/notify", &key, &body).await {
                Ok(answer) if answer.status.is_server_error() || answer.status.as_u16() == 429 => {
                    eprintln!("{}; trying again", answer.status);
                }
                Ok(answer) => return output::one(format, &answer.into_success()?),
                Err(failure) => eprintln!("{}; trying again", failure.message),
            }
            tokio::time::sleep(backoff.failed()).await;
        }
        output::one(format, &client.post("/api/internal/notify", &key, &body).await?.into_success()?)
    }

    fn body(&self) -> Result<Map<String, Value>, Failure> {
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        set("type", self.kind.as_str().into());
        set("title", self.title.as_str().into());
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
        Ok(body)
    }
}
