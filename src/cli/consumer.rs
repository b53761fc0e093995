//! Runs `recado consumer`: creates, lists, moves and deletes consumers.
//!
//! It works while a hub is running, with the same settings.

use clap::{Args, Subcommand};
use serde_json::json;

use super::error::CliFailure;
use super::output::{self, Format};
use crate::config::Config;
use crate::domain::{AccountId, CONSUMER_START_RULE, ConsumerFilter, ConsumerName, ConsumerStart, UserId};
use crate::startup::Startup;
use crate::store::Database;
use crate::store::consumers::{self, ConsumerError, ListedConsumer};
use crate::wire::consumer::{CONSUMER_TYPES_RULE, types};

/// Create, list, move and delete consumers: services that follow the log.
#[derive(Debug, Args)]
pub struct ConsumerCommand {
    #[command(subcommand)]
    action: ConsumerAction,
}

#[derive(Debug, Subcommand)]
enum ConsumerAction {
    /// Create a consumer, with its position and the rows that it receives
    Create {
        #[arg(value_parser = name)]
        name: ConsumerName,
        #[command(flatten)]
        definition: ConsumerArgs,
    },
    /// List the consumers: how far each has come, and who has its lease
    List,
    /// Move the position of a consumer, also backward; whoever has the lease loses it
    Seek {
        #[arg(value_parser = name)]
        name: ConsumerName,
        /// earliest, now, or the sequence number after which to go on
        #[arg(value_parser = start)]
        start: ConsumerStart,
    },
    /// Delete a consumer with its position
    Delete {
        #[arg(value_parser = name)]
        name: ConsumerName,
    },
    /// Let an existing login of the database use a consumer in SQL
    Grant {
        #[arg(value_parser = name)]
        name: ConsumerName,
        login: String,
    },
    /// Take a consumer from a login
    Revoke {
        #[arg(value_parser = name)]
        name: ConsumerName,
        login: String,
    },
}

/// Which rows a consumer receives, and where it begins.
#[derive(Debug, Args)]
pub struct ConsumerArgs {
    /// A type that it receives; order_* stands for every type that begins with order_. May be given several times
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,
    /// Only rows that name this user, alone or in a list
    #[arg(long, value_name = "ID", value_parser = |text: &str| UserId::parse(text))]
    user: Option<UserId>,
    /// Only rows to this account, or to users in this account
    #[arg(long, value_name = "ID", value_parser = |text: &str| AccountId::parse(text))]
    account: Option<AccountId>,
    /// Where a new consumer begins: earliest, now, or the sequence number after which to begin [default: earliest]
    #[arg(long, value_parser = start)]
    start: Option<ConsumerStart>,
}

/// Reads the name of a consumer.
pub fn name(text: &str) -> Result<ConsumerName, String> {
    ConsumerName::parse(text).map_err(|error| error.to_string())
}

fn start(text: &str) -> Result<ConsumerStart, &'static str> {
    ConsumerStart::parse(text).ok_or(CONSUMER_START_RULE)
}

impl ConsumerArgs {
    /// Whether an option is given.
    pub fn is_given(&self) -> bool {
        !self.types.is_empty() || self.user.is_some() || self.account.is_some() || self.start.is_some()
    }

    /// # Errors
    /// When a type breaks the rule.
    pub fn filter(&self) -> Result<ConsumerFilter, CliFailure> {
        let rule = || CliFailure { message: format!("--type {CONSUMER_TYPES_RULE}"), code: 2 };
        let types = if self.types.is_empty() { None } else { Some(types(&self.types).ok_or_else(rule)?) };
        Ok(ConsumerFilter { types, user: self.user.clone(), account: self.account.clone() })
    }

    pub fn start(&self) -> ConsumerStart {
        self.start.unwrap_or(ConsumerStart::Earliest)
    }
}

impl ConsumerCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        Startup::with(config, async |startup| self.act(&startup.as_owner(), format).await).await
    }

    async fn act(&self, database: &Database, format: Format) -> Result<(), CliFailure> {
        let mut connection = database.connect("consumer").await?;
        match &self.action {
            ConsumerAction::Create { name, definition } => {
                let created = consumers::create(&mut connection, name, &definition.filter()?, definition.start(), None).await?;
                eprintln!("consumer {name} {}", if created { "was created" } else { "exists, with these conditions" });
                Ok(())
            }
            ConsumerAction::List => list(format, &consumers::list(&mut connection).await?),
            ConsumerAction::Seek { name, start } => {
                let place = consumers::seek(&mut connection, name, *start, None).await?;
                match format {
                    Format::Table => output::line(&format!("{name} goes on after {place}")),
                    _ => output::one(format, &json!({ "name": name, "acked": place })),
                }
            }
            ConsumerAction::Delete { name } => {
                consumers::delete(&mut connection, name).await?;
                eprintln!("consumer {name} is deleted");
                Ok(())
            }
            ConsumerAction::Grant { name, login } => {
                consumers::grant(&mut connection, name, login).await?;
                eprintln!("{login} may use the consumer {name} with recado.consumer_fetch");
                Ok(())
            }
            ConsumerAction::Revoke { name, login } => {
                if !consumers::revoke(&mut connection, name, login).await? {
                    return Err(CliFailure::other(format!(
                        "{login:?} may not use the consumer {name}; recado consumer list shows the logins"
                    )));
                }
                eprintln!("{login} may not use the consumer {name} any more");
                Ok(())
            }
        }
    }
}

fn list(format: Format, consumers: &[ListedConsumer]) -> Result<(), CliFailure> {
    if format != Format::Table {
        return output::rows(format, consumers);
    }
    let rows = consumers.iter().map(|consumer| {
        let types = consumer.types.iter().flatten().map(|kind| format!("type:{kind}"));
        let conditions = types
            .chain(consumer.account_id.iter().map(|account| format!("account:{account}")))
            .chain(consumer.user_id.iter().map(|user| format!("user:{user}")));
        let conditions: Vec<String> = conditions.collect();
        vec![
            consumer.name.clone(),
            if conditions.is_empty() { "everything".to_owned() } else { conditions.join(" ") },
            consumer.acked.to_string(),
            consumer.lag.to_string(),
            consumer.state.clone(),
            consumer.owner.clone().unwrap_or_else(|| "-".to_owned()),
            if consumer.logins.is_empty() { "-".to_owned() } else { consumer.logins.join(",") },
        ]
    });
    output::table(&["NAME", "RECEIVES", "ACKED", "LAG", "STATE", "OWNER", "LOGINS"], rows)
}

impl From<ConsumerError> for CliFailure {
    fn from(error: ConsumerError) -> Self {
        match error {
            ConsumerError::Store(error) => error.into(),
            ConsumerError::NotAllowed(_) => Self::refused(error.to_string()),
            _ => Self::other(error.to_string()),
        }
    }
}
