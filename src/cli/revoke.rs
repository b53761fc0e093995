//! Runs `recado revoke`, `recado revocation` and `recado close`: takes access back, through a hub.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::error::CliFailure;
use super::hub_client::HubClient;
use super::output::{self, Format};
use crate::config::Config;
use crate::domain::{AccountId, Role, UserId};

const REVOCATIONS: &str = "/api/admin/revocations";

/// Refuse a user's tokens that were issued before now, and close the user's connections.
#[derive(Debug, Args)]
#[command(
    after_help = "Takes effect on every hub within 5 s, and stays until recado revocation lift. A token that the user gets afterwards \
is accepted: tell the issuer too, or give a later time with --before."
)]
pub struct RevokeCommand {
    #[arg(value_parser = |text: &str| UserId::parse(text))]
    user: UserId,
    /// Refuse tokens that were issued before this time instead (RFC 3339). It may be in the future
    #[arg(long, value_name = "TIME", value_parser = time)]
    before: Option<DateTime<Utc>>,
    /// Why; kept with the revocation
    #[arg(long, default_value = "")]
    reason: String,
}

fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text).map(|time| time.with_timezone(&Utc));
    time.map_err(|_| "must be a time such as 2026-11-29T12:00:00Z".to_owned())
}

impl RevokeCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let client = HubClient::new(config, Some(Role::Admin))?;
        let mut body = json!({ "user_id": self.user, "reason": self.reason });
        if let Some(before) = self.before {
            body["before"] = before.to_rfc3339().into();
        }
        output::one(format, &client.post(REVOCATIONS, &body).await?.into_success()?)
    }
}

/// List and lift revocations.
#[derive(Debug, Args)]
pub struct RevocationCommand {
    #[command(subcommand)]
    action: RevocationAction,
}

#[derive(Debug, Subcommand)]
enum RevocationAction {
    /// List the users whose older tokens are refused
    List,
    /// Accept the user's older tokens again
    Lift {
        #[arg(value_parser = |text: &str| UserId::parse(text))]
        user: UserId,
    },
}

impl RevocationCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let client = HubClient::new(config, Some(Role::Admin))?;
        match &self.action {
            RevocationAction::List => output::rows(format, &client.list(REVOCATIONS, "revocations").await?),
            RevocationAction::Lift { user } => {
                let answer = client.delete(&format!("{REVOCATIONS}/{user}")).await?.into_success()?;
                if answer["lifted"] == Value::Bool(false) {
                    return Err(CliFailure::other(format!("{user} is not revoked; recado revocation list shows who is")));
                }
                output::one(format, &answer)
            }
        }
    }
}

/// Close one session, or all sessions of a user or of an account, on every hub.
#[derive(Debug, Args)]
#[command(
    after_help = "Takes effect within 5 s. Clients that follow the close codes do not come back by themselves (4505); a person may connect again. \
recado revoke keeps a user out."
)]
pub struct CloseCommand {
    #[command(flatten)]
    sessions: CloseArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct CloseArgs {
    /// One session; recado stats -o json shows the ids
    #[arg(long, value_name = "ID")]
    session: Option<uuid::Uuid>,
    /// All sessions of a user
    #[arg(long, value_parser = |text: &str| UserId::parse(text))]
    user: Option<UserId>,
    /// All sessions of an account's users
    #[arg(long, value_parser = |text: &str| AccountId::parse(text))]
    account: Option<AccountId>,
}

impl CloseCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let client = HubClient::new(config, Some(Role::Admin))?;
        let body = match &self.sessions {
            CloseArgs { session: Some(session), .. } => json!({ "session_id": session.to_string() }),
            CloseArgs { user: Some(user), .. } => json!({ "user_id": user }),
            CloseArgs { account, .. } => json!({ "account_id": account }),
        };
        output::one(format, &client.post("/api/admin/sessions/close", &body).await?.into_success()?)
    }
}
