//! Runs `recado devices`: lists devices, those that lag most first, with the reason why each lags.

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::CliFailure;
use super::hub_client::HubClient;
use super::output::{self, Format};
use crate::config::Config;
use crate::domain::device_lag::{DeviceSort, DeviceState};
use crate::domain::{AccountId, ClientId, Role, UserId};

/// List devices, connected and away, and why each lags.
#[derive(Debug, Args)]
pub struct DevicesCommand {
    /// Only devices of this user
    #[arg(long, value_parser = |text: &str| UserId::parse(text))]
    user: Option<UserId>,
    /// Only devices of users in this account
    #[arg(long, value_parser = |text: &str| AccountId::parse(text))]
    account: Option<AccountId>,
    /// Only devices with this client_id
    #[arg(long, value_parser = |text: &str| ClientId::parse(text))]
    client: Option<ClientId>,
    /// Only devices in this state: connected, away or forgotten
    #[arg(long, value_parser = state)]
    state: Option<DeviceState>,
    /// Only devices that lag at least so many numbers
    #[arg(long, value_name = "N")]
    min_lag: Option<u32>,
    /// The order: lag, seen_at or user, with - before it for descending
    #[arg(long, default_value = "-lag", value_parser = sort, allow_hyphen_values = true)]
    sort: DeviceSort,
    /// Most devices
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

fn state(text: &str) -> Result<DeviceState, String> {
    DeviceState::parse(text).ok_or_else(|| "must be connected, away or forgotten".to_owned())
}

fn sort(text: &str) -> Result<DeviceSort, String> {
    DeviceSort::parse(text).ok_or_else(|| "must be lag, seen_at or user, with - before it for descending".to_owned())
}

/// The answer of the hub.
#[derive(Debug, Deserialize)]
struct ShownDevices {
    as_of: DateTime<Utc>,
    more: bool,
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

impl DevicesCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let answer = HubClient::new(config, Some(Role::Admin))?.get(&self.path()).await?.into_success()?;
        if format == Format::Json {
            return output::one(format, &answer);
        }
        let ShownDevices { as_of, more, columns, rows } = serde_json::from_value(answer)
            .map_err(|error| CliFailure::other(format!("the hub's answer has another form ({error}); -o json prints it as it is")))?;
        let named: Vec<Map<String, Value>> = rows.into_iter().map(|row| columns.iter().cloned().zip(row).collect()).collect();
        if format == Format::Ndjson {
            return output::rows(format, &named);
        }
        let heads = ["USER", "DEVICE", "STATE", "LAG", "UNACKED", "SEEN", "WHY"];
        output::table(&heads, named.iter().map(|row| cells(row, as_of)))?;
        if more {
            eprintln!("{} devices are shown, and there are more: raise --limit or set a filter", named.len());
        }
        Ok(())
    }

    /// No character of an id has to be escaped in a query, but for `+`.
    fn path(&self) -> String {
        let mut path = format!("/api/admin/devices?sort={}&limit={}", self.sort.as_str(), self.limit);
        let conditions = [
            ("user", self.user.as_ref().map(ToString::to_string)),
            ("account", self.account.as_ref().map(ToString::to_string)),
            ("client", self.client.as_ref().map(ToString::to_string)),
            ("state", self.state.map(|state| state.as_str().to_owned())),
            ("min_lag", self.min_lag.map(|lag| lag.to_string())),
        ];
        for (name, value) in conditions {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", value.replace('+', "%2B")));
            }
        }
        path
    }
}

fn cells(row: &Map<String, Value>, now: DateTime<Utc>) -> Vec<String> {
    let text = |name: &str| match row.get(name) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let more = if row.get("unacked_more") == Some(&Value::Bool(true)) { "+" } else { "" };
    let seen = row.get("seen_at").and_then(Value::as_i64).and_then(DateTime::from_timestamp_millis);
    vec![
        text("user_id"),
        text("client_id"),
        text("state"),
        text("lag"),
        text("unacked") + more,
        seen.map_or_else(|| "-".to_owned(), |at| output::ago(at, now)),
        text("why"),
    ]
}
