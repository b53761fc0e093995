//! Runs `recado serve`: starts the hub.

use std::net::SocketAddr;

use clap::Args;
use private_postgres::HandedOver;

use super::error::CliFailure;
use super::{admin, output};
use crate::app::{self, Kept, ReadyAddresses};
use crate::config::{Config, LogFormat, Values};
use crate::identity::OwnSecret;
use crate::startup::{self, StartupError};
use crate::{privileges, telemetry};

/// Run a hub until SIGTERM or Ctrl-C.
#[derive(Debug, Args)]
pub struct ServeCommand {
    /// Address to listen on (RECADO_BIND)
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<String>,
    /// Port to listen on, 0 for any (PORT)
    #[arg(long)]
    port: Option<String>,
    /// text or json (RECADO_LOG_FORMAT)
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl ServeCommand {
    pub fn flags(&self, flags: &mut Values) {
        let given = [("RECADO_BIND", &self.bind), ("PORT", &self.port), ("RECADO_LOG_FORMAT", &self.log_format)];
        flags.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))));
    }
}

/// The result of the steps before the runtime starts: a hub that root starts becomes another user.
pub struct Ready {
    kept: Kept,
    /// Why the hub stays root, if it does.
    stays_root: Option<String>,
}

/// Reads the secrets and gives up root's rights.
///
/// # Errors
/// If a secret cannot be read, or the hub cannot become the configured user.
pub fn prepare(config: &mut Config) -> Result<Ready, CliFailure> {
    // Read as root: the files may be readable by root alone.
    let kept = Kept::read(config).map_err(CliFailure::from)?;
    Ok(Ready { kept, stays_root: leave_root(config)? })
}

fn leave_root(config: &mut Config) -> Result<Option<String>, CliFailure> {
    let named = config.user.clone();
    if !privileges::is_root() {
        if let Some(name) = named {
            let wanted = private_postgres::find_user(&name).map_err(|error| CliFailure::settings(error.to_string()))?;
            if wanted.uid != privileges::user() {
                return Err(CliFailure::settings(format!(
                    "RECADO_USER is {name}, and only root can become another user (this is user number {})",
                    privileges::user()
                )));
            }
        }
        return Ok(None);
    }
    if !privileges::CAN_BE_GIVEN_UP {
        return Ok(Some("a hub can give them up on Linux only; start it as a user of its own".to_owned()));
    }
    let user = match (&config.database_url, named) {
        (None, _) if config.user.is_some() && config.postgres_user.is_some() && config.user != config.postgres_user => {
            return Err(CliFailure::settings(
                "RECADO_USER and RECADO_POSTGRES_USER differ: with a private server the hub is the user who runs that; leave one out",
            ));
        }
        (None, _) => {
            // Fix the folder now: its default depends on the user.
            config.data_dir = Some(startup::state_dir(config).map_err(StartupError::from)?);
            match startup::hand_over(config).map_err(StartupError::from)? {
                HandedOver::To(user) => user,
                HandedOver::Not(folder) => {
                    return Ok(Some(format!(
                        "RECADO_DATA_DIR {} holds other files or belongs to another user, so it is not given to the private server's user: use a \
                         folder of the hub's own",
                        folder.display()
                    )));
                }
            }
        }
        (Some(_), Some(name)) => private_postgres::find_user(&name).map_err(|error| CliFailure::settings(error.to_string()))?,
        (Some(_), None) => {
            return Ok(Some("RECADO_USER names no user to become; set it, or start the hub as a user of its own".to_owned()));
        }
    };
    privileges::become_user(user.uid, user.gid, &user.groups)
        .map_err(|error| CliFailure::settings(format!("the hub cannot become user {}: {error}", user.name)))?;
    // The process is that user now, so nothing is left to change.
    (config.user, config.postgres_user) = (None, None);
    Ok(None)
}

pub async fn run(config: Config, ready: Ready) -> Result<(), CliFailure> {
    let Ready { kept, stays_root } = ready;
    if let Some(why) = stays_root {
        tracing::warn!(why, "the hub runs with root's rights");
    }
    // The commands are for a first try. A hub with an internal listener is in production, and a log of JSON has no
    // plain lines.
    let hints = (config.internal_bind.is_none() && config.log_format == LogFormat::Text).then(|| Hints::of(&config));
    // Only for a person who started the hub in a terminal: stderr may be a log, and a log must not hold a token.
    let link_secret = output::is_terminal().then(|| kept.current_secret().clone());
    app::serve(config, kept, |ReadyAddresses { clients, console }| {
        // The parent process may no longer read stdout; the hub serves nevertheless.
        let ready = format!("ready http://{clients}");
        // On a thread of its own: writing to a full pipe without a reader blocks.
        drop(tokio::task::spawn_blocking(move || output::line(&ready)));
        let Some(hints) = hints else { return };
        let console = console.filter(|address| address.ip().is_loopback());
        let console = console.map_or_else(String::new, |address| hints.console(address, link_secret.as_ref()));
        telemetry::say(&hints.text(clients, &console));
    })
    .await?;
    Ok(())
}

/// The commands that a new user can paste next.
struct Hints {
    program: String,
    flags: String,
}

impl Hints {
    fn of(config: &Config) -> Self {
        let program = std::env::current_exe().map_or_else(|_| "recado".to_owned(), |path| quoted(&path.display().to_string()));
        let flags = config.data_dir.as_ref().map(|dir| format!(" --data-dir {}", quoted(&dir.display().to_string()))).unwrap_or_default();
        Self { program, flags }
    }

    /// The lines about the console: a link that opens it signed in, or the command that prints the link.
    fn console(&self, address: SocketAddr, secret: Option<&OwnSecret>) -> String {
        let Self { program, flags } = self;
        match secret {
            // Made now: the hub may have waited for its database for longer than a link lives.
            Some(secret) => {
                let link = admin::link_at_start(&format!("http://{address}"), secret);
                format!("\nopen the console in a browser, within 5 minutes:\n  {link}")
            }
            None => format!("\nprint a link to the console:\n  {program} admin{flags}{}", url(address)),
        }
    }

    fn text(&self, address: SocketAddr, console: &str) -> String {
        let Self { program, flags } = self;
        let url = url(address);
        format!(
            "{console}\nlisten as user 42, in a second terminal:\n  {program} listen --user 42{flags}{url}\n\
             post to user 42, in a third:\n  curl -sS http://{address}/api/internal/notify -H \"Authorization: Bearer $({program} token --user me --role service{flags})\" \
             -H 'Content-Type: application/json' -d '{{\"type\":\"order_created\",\"title\":\"New order\",\"message\":\"Order #1001\",\"user_id\":\"42\"}}'\n\
             stop with Ctrl-C\n"
        )
    }
}

/// The flag that leads a command to this hub.
fn url(address: SocketAddr) -> String {
    if address == SocketAddr::from(([127, 0, 0, 1], 8080)) { String::new() } else { format!(" --url http://{address}") }
}

/// Quotes a text for a shell if necessary.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
