//! Runs `recado member`: adds, removes and lists the members of an account, through a hub.

use clap::{Args, Subcommand};

use super::error::CliFailure;
use super::hub_client::HubClient;
use super::output::{self, Format};
use crate::config::Config;
use crate::domain::{AccountId, Role, UserId};

/// Add, remove and list the members of an account.
#[derive(Debug, Args)]
#[command(after_help = "Members count on hubs with RECADO_ACCOUNTS=table or both. A new member receives what is addressed to the account \
from the change on, and nothing from before. A removed member receives nothing after the change.")]
pub struct MemberCommand {
    #[command(subcommand)]
    action: MemberAction,
}

#[derive(Debug, Subcommand)]
enum MemberAction {
    /// Add a user to an account
    Add(MemberArgs),
    /// Remove a user from an account
    Remove(MemberArgs),
    /// List the members of an account
    List {
        #[arg(value_parser = |text: &str| AccountId::parse(text))]
        account: AccountId,
    },
}

#[derive(Debug, Args)]
struct MemberArgs {
    #[arg(value_parser = |text: &str| UserId::parse(text))]
    user: UserId,
    #[arg(value_parser = |text: &str| AccountId::parse(text))]
    account: AccountId,
}

impl MemberArgs {
    /// No character of an id has to be escaped in a path.
    fn path(&self) -> String {
        format!("{}/{}", members_of(&self.account), self.user)
    }
}

fn members_of(account: &AccountId) -> String {
    format!("/api/internal/accounts/{account}/members")
}

impl MemberCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let client = HubClient::new(config, Some(Role::Service))?;
        match &self.action {
            MemberAction::Add(member) => output::one(format, &client.put(&member.path()).await?.into_success()?),
            MemberAction::Remove(member) => output::one(format, &client.delete(&member.path()).await?.into_success()?),
            MemberAction::List { account } => output::rows(format, &client.list(&members_of(account), "members").await?),
        }
    }
}
