//! Runs `recado upstream ls`, `show`, `reconnect` and `release`: lists and controls provider sessions.
//!
//! The commands work while hubs are running, on the same database: a request is written to the session's row, and its
//! owner executes it.

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::error::CliFailure;
use crate::cli::output::{self, Format};
use crate::config::Config;
use crate::domain::{ProviderName, UserId};
use crate::startup::Startup;
use crate::store::Database;
use crate::store::providers::admin::{self, CommandOverview, SessionOverview};
use crate::store::providers::leases::AdminRequest;

/// Maximum number of listed sessions.
const LISTED: i64 = 10_000;
/// Number of commands that are shown with a user's sessions.
const COMMANDS: i64 = 20;

#[derive(Debug, Subcommand)]
pub enum SessionsCommand {
    /// List the sessions that are wanted or held
    Ls,
    /// Show a user's sessions and last commands
    Show { user: String },
    /// Drop a user's sessions and start them again
    Reconnect(Which),
    /// End a user's sessions until the user's next connection
    Release(Which),
}

#[derive(Debug, Args)]
pub struct Which {
    user: String,
    /// With this provider only
    #[arg(long)]
    provider: Option<String>,
}

#[derive(Serialize)]
struct ShownSessions {
    sessions: Vec<SessionOverview>,
    commands: Vec<CommandOverview>,
}

/// A session as a table row: the most needed fields.
#[derive(Serialize)]
struct SessionLine<'a> {
    provider: &'a str,
    user: &'a str,
    state: &'a str,
    live: bool,
    attempts: i32,
    owner: String,
    connected: String,
    error: &'a str,
}

impl<'a> SessionLine<'a> {
    fn of(session: &'a SessionOverview) -> Self {
        Self {
            provider: &session.provider,
            user: &session.user_id,
            state: &session.state,
            live: session.is_live,
            attempts: session.attempts,
            owner: session.owner.map_or_else(String::new, |owner| owner.to_string()),
            connected: session.connected_at.map_or_else(String::new, |at| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
            error: session.error.as_deref().unwrap_or_default(),
        }
    }
}

impl SessionsCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        Startup::with(config, async |backing| self.act(&backing.as_owner(), format).await).await
    }

    async fn act(&self, database: &Database, format: Format) -> Result<(), CliFailure> {
        let mut connection = database.connect("upstream").await?;
        match self {
            Self::Ls => list(format, &admin::list(&mut connection, None, LISTED).await?),
            Self::Show { user } => {
                let user = user_id(user)?;
                let sessions = admin::list(&mut connection, Some(&user), LISTED).await?;
                let commands = admin::last_commands(&mut connection, &user, COMMANDS).await?;
                if format != Format::Table {
                    return output::one(format, &ShownSessions { sessions, commands });
                }
                list(format, &sessions)?;
                if commands.is_empty() { Ok(()) } else { output::rows(format, &commands) }
            }
            Self::Reconnect(which) => ask(database, which, AdminRequest::Reconnect).await,
            Self::Release(which) => ask(database, which, AdminRequest::Release).await,
        }
    }
}

fn list(format: Format, sessions: &[SessionOverview]) -> Result<(), CliFailure> {
    match format {
        Format::Table => output::rows(format, &sessions.iter().map(SessionLine::of).collect::<Vec<_>>()),
        Format::Json | Format::Ndjson => output::rows(format, sessions),
    }
}

async fn ask(database: &Database, which: &Which, asked: AdminRequest) -> Result<(), CliFailure> {
    let user = user_id(&which.user)?;
    let provider = which.provider.as_deref().map(ProviderName::parse).transpose();
    let provider = provider.map_err(|error| CliFailure::other(format!("--provider {error}")))?;
    let mut connection = database.connect("upstream").await?;
    match admin::ask(&mut connection, &user, provider.as_ref(), asked, None).await? {
        0 => Err(CliFailure::other(format!("{user} has no such session; recado upstream ls shows the existing ones"))),
        1 => {
            eprintln!("asked: {} of one session", asked.as_str());
            Ok(())
        }
        many => {
            eprintln!("asked: {} of {many} sessions", asked.as_str());
            Ok(())
        }
    }
}

fn user_id(text: &str) -> Result<UserId, CliFailure> {
    UserId::parse(text).map_err(|error| CliFailure::other(format!("the user {error}")))
}
