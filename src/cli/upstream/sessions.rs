//! `recado upstream ls`, `show`, `reconnect`, `release`: sessions with providers. Works beside running hubs, on the same
//! database: what is asked of a session is a word in its row, which its owner takes.

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::backing::Backing;
use crate::cli::error::Failure;
use crate::cli::output::{self, Format};
use crate::config::Config;
use crate::domain::{ProviderName, UserId};
use crate::store::Database;
use crate::store::upstream::admin::{self, CommandOverview, Overview};
use crate::store::upstream::leases::Asked;

/// Most sessions that are listed.
const LISTED: i64 = 10_000;
/// Commands that are shown with a user's sessions.
const COMMANDS: i64 = 20;

#[derive(Debug, Subcommand)]
pub enum Sessions {
    /// List the sessions that are wanted or held
    Ls,
    /// Show a user's sessions and last commands
    Show { user: String },
    /// Have a user's sessions dropped and begun anew
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
struct Shown {
    sessions: Vec<Overview>,
    commands: Vec<CommandOverview>,
}

/// A session in a table: what one looks for first.
#[derive(Serialize)]
struct Line<'a> {
    provider: &'a str,
    user: &'a str,
    state: &'a str,
    live: bool,
    attempts: i32,
    owner: String,
    connected: String,
    error: &'a str,
}

impl<'a> Line<'a> {
    fn of(session: &'a Overview) -> Self {
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

impl Sessions {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), Failure> {
        Backing::with(config, async |backing| self.act(&backing.as_owner(), format).await).await
    }

    async fn act(&self, database: &Database, format: Format) -> Result<(), Failure> {
        let mut connection = database.connect("upstream").await?;
        match self {
            Self::Ls => list(format, &admin::list(&mut connection, None, LISTED).await?),
            Self::Show { user } => {
                let user = user_id(user)?;
                let sessions = admin::list(&mut connection, Some(&user), LISTED).await?;
                let commands = admin::last_commands(&mut connection, &user, COMMANDS).await?;
                if format != Format::Table {
                    return output::one(format, &Shown { sessions, commands });
                }
                list(format, &sessions)?;
                if commands.is_empty() { Ok(()) } else { output::rows(format, &commands) }
            }
            Self::Reconnect(which) => ask(database, which, Asked::Reconnect).await,
            Self::Release(which) => ask(database, which, Asked::Release).await,
        }
    }
}

fn list(format: Format, sessions: &[Overview]) -> Result<(), Failure> {
    match format {
        Format::Table => output::rows(format, &sessions.iter().map(Line::of).collect::<Vec<_>>()),
        Format::Json | Format::Ndjson => output::rows(format, sessions),
    }
}

async fn ask(database: &Database, which: &Which, asked: Asked) -> Result<(), Failure> {
    let user = user_id(&which.user)?;
    let provider = which.provider.as_deref().map(ProviderName::parse).transpose();
    let provider = provider.map_err(|error| Failure::other(format!("--provider {error}")))?;
    let mut connection = database.connect("upstream").await?;
    match admin::ask(&mut connection, &user, provider.as_ref(), asked).await? {
        0 => Err(Failure::other(format!("{user} has no such session; recado upstream ls shows those that there are"))),
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

fn user_id(text: &str) -> Result<UserId, Failure> {
    UserId::parse(text).map_err(|error| Failure::other(format!("the user {error}")))
}
