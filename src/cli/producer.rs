//! Runs `recado producer`: grants, limits and lists the logins that post in SQL.
//!
//! It works while a hub is running, with the same settings.

use clap::{Args, Subcommand};

use super::error::CliFailure;
use super::output::{self, Format};
use super::scope_args::{PostScopeArgs, SCOPES_HELP, ScopeWords, expires};
use crate::config::Config;
use crate::startup::Startup;
use crate::store::Database;
use crate::store::producers::{self, ListedProducer, ProducerError};

/// Grant, limit and list the logins that post in SQL with recado.notify.
#[derive(Debug, Args)]
pub struct ProducerCommand {
    #[command(subcommand)]
    action: ProducerAction,
}

#[derive(Debug, Subcommand)]
enum ProducerAction {
    /// Let an existing login call recado.notify; with --members also recado.add_member and recado.remove_member
    #[command(after_help = SCOPES_HELP)]
    Grant {
        login: String,
        #[command(flatten)]
        scopes: PostScopeArgs,
    },
    /// Replace the scopes of a login by those that are given; its next call follows them
    #[command(after_help = SCOPES_HELP)]
    Limit {
        login: String,
        /// Remove all scopes: the login may post anything
        #[arg(long)]
        unlimited: bool,
        #[command(flatten)]
        scopes: PostScopeArgs,
    },
    /// List the logins that may post, with their scopes
    List,
    /// Take from a login the right to post, and its scopes
    Revoke { login: String },
}

impl ProducerCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        Startup::with(config, async |startup| self.act(&startup.as_owner(), format).await).await
    }

    async fn act(&self, database: &Database, format: Format) -> Result<(), CliFailure> {
        let mut connection = database.connect("producer").await?;
        match &self.action {
            ProducerAction::Grant { login, scopes } => {
                // Only the option gives that right: a login with other scopes, or none, does not get it by default.
                let with_members = scopes.wants_members();
                let scopes = scopes.scopes()?;
                // The scopes first: the login is never without them.
                if let Some(scopes) = &scopes {
                    producers::limit(&mut connection, login, scopes).await?;
                }
                producers::grant(&mut connection, login, with_members).await?;
                eprintln!("{login} may post with recado.notify");
                Ok(())
            }
            ProducerAction::Limit { login, unlimited, scopes } => {
                match (scopes.scopes()?, unlimited) {
                    (Some(scopes), false) => producers::limit(&mut connection, login, &scopes).await?,
                    (None, true) => producers::free(&mut connection, login).await?,
                    (Some(_), true) => return Err(CliFailure::other("--unlimited removes all scopes; give it alone")),
                    (None, false) => {
                        return Err(CliFailure::other(
                            "give the scopes that the login is to have, or --unlimited; they replace all former ones",
                        ));
                    }
                }
                eprintln!("{login} has the scopes that recado producer list shows");
                Ok(())
            }
            ProducerAction::List => list(format, &producers::list(&mut connection).await?),
            ProducerAction::Revoke { login } => {
                if !producers::revoke(&mut connection, login).await? {
                    return Err(CliFailure::other(format!(
                        "{login:?} neither may post nor has scopes; recado producer list shows the logins"
                    )));
                }
                eprintln!("{login} may not post any more");
                Ok(())
            }
        }
    }
}

fn list(format: Format, producers: &[ListedProducer]) -> Result<(), CliFailure> {
    if format != Format::Table {
        return output::rows(format, producers);
    }
    let rows = producers.iter().map(|producer| {
        let (words, expiry) = match &producer.scopes {
            None => ("everything".to_owned(), expires(None)),
            Some(scopes) => {
                let rights = [("broadcast", scopes.broadcast), ("members", scopes.members)];
                let words = ScopeWords {
                    types: scopes.types.as_deref(),
                    accounts: scopes.accounts.as_deref(),
                    users: scopes.users.as_deref(),
                    rights: &rights,
                    rate: None,
                    networks: None,
                    consumers: &[],
                };
                (words.line(), expires(scopes.expires_at))
            }
        };
        let may = if producer.may_notify { "yes" } else { "no" };
        vec![producer.login.clone(), may.to_owned(), words, expiry]
    });
    output::table(&["LOGIN", "MAY NOTIFY", "SCOPES", "EXPIRES"], rows)
}

impl From<ProducerError> for CliFailure {
    fn from(error: ProducerError) -> Self {
        match error {
            ProducerError::NotAllowed(_) => Self::refused(error.to_string()),
            ProducerError::NoLogin(_) => Self::other(error.to_string()),
            ProducerError::Store(error) => error.into(),
        }
    }
}
