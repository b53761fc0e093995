//! Runs `recado analyst`: manages logins that can only read the views, of all accounts or of some.
//!
//! It works while a hub is running, with the same settings.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::error::CliFailure;
use super::output::{self, Format};
use crate::config::Config;
use crate::domain::AccountId;
use crate::startup::Startup;
use crate::store::analysts::{self, AnalystError};
use crate::store::{Database, read};

/// Create, limit, list and drop logins that read the views in SQL.
#[derive(Debug, Args)]
#[command(after_help = "A login with --account is a tenant: it reads the schema recado_tenant, which shows what belongs to its accounts. \
Any other login reads recado_views, which shows everything.")]
pub struct AnalystCommand {
    #[command(subcommand)]
    action: AnalystAction,
}

#[derive(Debug, Subcommand)]
enum AnalystAction {
    /// Create a login and print how to connect, with its password: once, only a hash is kept
    Create {
        name: String,
        /// Maximum number of concurrent connections, such as the size of a tool's pool
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
        connections: u16,
        /// Show only what belongs to this account; may be given several times
        #[arg(long = "account", value_name = "ACCOUNT", value_parser = |text: &str| AccountId::parse(text))]
        accounts: Vec<AccountId>,
    },
    /// Limit a login to these accounts, in place of those it had, and end its sessions
    Limit {
        name: String,
        /// An account that the login sees; may be given several times
        #[arg(long = "account", value_name = "ACCOUNT", value_parser = |text: &str| AccountId::parse(text), required_unless_present = "none")]
        accounts: Vec<AccountId>,
        /// No account: the login sees nothing until it is limited to one
        #[arg(long, conflicts_with = "accounts")]
        none: bool,
    },
    /// List the logins that may read the views
    #[command(visible_alias = "list")]
    Ls,
    /// End a login's sessions and drop it
    Drop { name: String },
}

#[derive(Serialize)]
struct CreatedAnalyst<'a> {
    name: &'a str,
    password: &'a str,
    url: &'a str,
    psql: &'a str,
}

impl AnalystCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        Startup::with(config, async |startup| self.act(config, startup, format).await).await
    }

    async fn act(&self, config: &Config, startup: &Startup, format: Format) -> Result<(), CliFailure> {
        // The user of the connection creates roles, not the role that serves.
        let database = startup.database.clone().under_role(None);
        let mut connection = database.connect("analyst").await?;
        match &self.action {
            AnalystAction::Create { name, connections, accounts } => {
                let password = analysts::mint_password();
                let left_out = match accounts.as_slice() {
                    [] => analysts::create(&mut connection, name, &password).await?,
                    accounts => analysts::create_limited(&mut connection, name, &password, accounts).await?,
                };
                for setting in left_out {
                    eprintln!("no limit: this user may not set {setting} for a role");
                }
                analysts::limit(&mut connection, name, *connections).await?;
                let url = login_url(&startup.url(config), &read::database_name(&mut connection).await?, name, &password);
                let psql = format!("psql '{url}'");
                if startup.is_private() {
                    eprintln!("the private server runs only while a hub does; only its own user and root can connect");
                }
                match format {
                    Format::Table => output::line(&psql),
                    _ => output::one(format, &CreatedAnalyst { name, password: &password, url: &url, psql: &psql }),
                }
            }
            AnalystAction::Limit { name, accounts, .. } => {
                if !analysts::limit_to_accounts(&mut connection, name, accounts).await? {
                    return Err(unknown(name));
                }
                eprintln!("{name} reads the schema recado_tenant, and sees {}", seen(accounts));
                Ok(())
            }
            AnalystAction::Ls => output::rows(format, &analysts::list(&mut connection).await?),
            AnalystAction::Drop { name } => drop_login(&database, name).await,
        }
    }
}

async fn drop_login(database: &Database, name: &str) -> Result<(), CliFailure> {
    // Without the statement limit of a hub: dropping waits for sessions to end.
    let mut connection = database.connect("analyst").await?;
    if !analysts::drop(&mut connection, name).await? {
        return Err(unknown(name));
    }
    eprintln!("{name} is dropped");
    Ok(())
}

fn unknown(name: &str) -> CliFailure {
    CliFailure::other(format!("no login {name:?} was created here; recado analyst ls shows the logins"))
}

fn seen(accounts: &[AccountId]) -> String {
    match accounts {
        [] => "nothing: it has no account".to_owned(),
        [one] => format!("account {one}"),
        more => format!("accounts {}", more.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

impl From<AnalystError> for CliFailure {
    fn from(error: AnalystError) -> Self {
        match error {
            AnalystError::NotAllowed(_) | AnalystError::ReadsMore(_) => Self::refused(error.to_string()),
            AnalystError::Store(error) => error.into(),
            AnalystError::BadName | AnalystError::NameTaken => Self::other(error.to_string()),
        }
    }
}

/// The hub's URL with another login, for psql and every other client of PostgreSQL: without the hub's own parameters,
/// and with libpq's names where the hub accepts others as well.
fn login_url(url: &str, database: &str, name: &str, password: &str) -> String {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let rest = base.split_once("://").map_or(base, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let mut parameters: Vec<String> = query.split('&').filter_map(shared_parameter).collect();
    let login = if host.is_empty() {
        // "user@" without a host is not a valid URL.
        parameters.extend([format!("user={name}"), format!("password={password}")]);
        String::new()
    } else {
        format!("{name}:{password}@{host}")
    };
    let question = if parameters.is_empty() { "" } else { "?" };
    // The scheme `postgresql` is known to every client; some refuse `postgres`. The replacement escapes the shell's
    // quote.
    format!("postgresql://{login}/{}{question}{}", escaped(database), parameters.join("&")).replace('\'', "%27")
}

fn shared_parameter(parameter: &str) -> Option<String> {
    let (name, value) = parameter.split_once('=')?;
    let name = match name {
        "ssl-mode" => "sslmode",
        "ssl-root-cert" | "ssl-ca" => "sslrootcert",
        "host" | "hostaddr" | "port" | "sslmode" | "sslrootcert" => name,
        _ => return None,
    };
    Some(format!("{name}={value}"))
}

fn escaped(text: &str) -> String {
    let escape = |b: u8| if b.is_ascii_alphanumeric() || b"-._~".contains(&b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_takes_the_place_of_the_hubs_own() {
        for (url, expected) in [
            (
                "postgres://hub:se%40cret@db.example:6432/recado?sslmode=require",
                "postgresql://ana:pw@db.example:6432/recado?sslmode=require",
            ),
            ("postgresql://db.example", "postgresql://ana:pw@db.example/recado"),
            (
                "postgres://hub@[::1]:5432/x?ssl-mode=disable&statement-cache-capacity=0",
                "postgresql://ana:pw@[::1]:5432/recado?sslmode=disable",
            ),
            (
                "postgres:///recado?host=%2Frun%2Fit's&port=5432&user=recado&password=x&options=-c%20a%3Db&sslmode=disable",
                "postgresql:///recado?host=%2Frun%2Fit%27s&port=5432&sslmode=disable&user=ana&password=pw",
            ),
        ] {
            assert_eq!(login_url(url, "recado", "ana", "pw"), expected);
        }
        assert_eq!(login_url("postgres://h/x", "a b/ä", "ana", "pw"), "postgresql://ana:pw@h/a%20b%2F%C3%A4");
    }
}
