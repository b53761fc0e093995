//! `recado analyst`: logins that read the views, and nothing else. Works beside a running hub, on the same settings.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::error::Failure;
use super::output::{self, Format};
use crate::backing::Backing;
use crate::config::Config;
use crate::store::analysts::{self, AnalystError};
use crate::store::{Database, read};

/// Make, list and drop logins that read the views in SQL.
#[derive(Debug, Args)]
pub struct Analyst {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a login and print how it connects, with its password: once, only a hash is kept
    Create { name: String },
    /// List the logins that may read the views
    #[command(visible_alias = "list")]
    Ls,
    /// End a login's sessions and drop it
    Drop { name: String },
}

#[derive(Serialize)]
struct Created<'a> {
    name: &'a str,
    password: &'a str,
    url: &'a str,
    psql: &'a str,
}

impl Analyst {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), Failure> {
        Backing::with(config, async |backing| self.act(config, backing, format).await).await
    }

    async fn act(&self, config: &Config, backing: &Backing, format: Format) -> Result<(), Failure> {
        // Making roles is for the user of the connection, not for the role that serves.
        let database = backing.database.clone().under_role(None);
        let mut connection = database.connect("analyst").await?;
        match &self.action {
            Action::Create { name } => {
                let password = analysts::mint_password();
                for setting in analysts::create(&mut connection, name, &password).await? {
                    eprintln!("not limited: this user may not give a role the setting {setting}");
                }
                let url = login_url(&backing.url(config), &read::database_name(&mut connection).await?, name, &password);
                let psql = format!("psql '{url}'");
                if backing.is_private() {
                    eprintln!("the private server runs while a hub does; only its own user and root reach it, and it asks for no password");
                }
                match format {
                    Format::Table => output::line(&psql),
                    _ => output::one(format, &Created { name, password: &password, url: &url, psql: &psql }),
                }
            }
            Action::Ls => output::rows(format, &analysts::list(&mut connection).await?),
            Action::Drop { name } => drop_login(&database, name).await,
        }
    }
}

async fn drop_login(database: &Database, name: &str) -> Result<(), Failure> {
    // Without the limit of a hub's statements: it waits for sessions to end.
    let mut connection = database.connect("analyst").await?;
    if !analysts::drop(&mut connection, name).await? {
        return Err(Failure::other(format!("no login {name:?} was made here; recado analyst ls shows them")));
    }
    eprintln!("{name} is dropped");
    Ok(())
}

impl From<AnalystError> for Failure {
    fn from(error: AnalystError) -> Self {
        match error {
            AnalystError::NotAllowed => Self::refused(error.to_string()),
            AnalystError::Store(error) => error.into(),
            AnalystError::BadName | AnalystError::NameTaken => Self::other(error.to_string()),
        }
    }
}

/// The hub's URL with another login, for psql and every other client of PostgreSQL: without what is the hub's own, and
/// with the names of libpq where we understand others as well.
fn login_url(url: &str, database: &str, name: &str, password: &str) -> String {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (scheme, rest) = base.split_once("://").unwrap_or(("postgres", base));
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let mut parameters: Vec<String> = query.split('&').filter_map(shared_parameter).collect();
    let login = if host.is_empty() {
        // "user@" with no host behind it is no URL.
        parameters.extend([format!("user={name}"), format!("password={password}")]);
        String::new()
    } else {
        format!("{name}:{password}@{host}")
    };
    let question = if parameters.is_empty() { "" } else { "?" };
    // The quote of the shell.
    format!("{scheme}://{login}/{}{question}{}", escaped(database), parameters.join("&")).replace('\'', "%27")
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
            ("postgres://hub:se%40cret@db.example:6432/recado?sslmode=require", "postgres://ana:pw@db.example:6432/recado?sslmode=require"),
            ("postgresql://db.example", "postgresql://ana:pw@db.example/recado"),
            (
                "postgres://hub@[::1]:5432/x?ssl-mode=disable&statement-cache-capacity=0",
                "postgres://ana:pw@[::1]:5432/recado?sslmode=disable",
            ),
            (
                "postgres:///recado?host=%2Frun%2Fit's&port=5432&user=recado&password=x&options=-c%20a%3Db&sslmode=disable",
                "postgres:///recado?host=%2Frun%2Fit%27s&port=5432&sslmode=disable&user=ana&password=pw",
            ),
        ] {
            assert_eq!(login_url(url, "recado", "ana", "pw"), expected);
        }
        assert_eq!(login_url("postgres://h/x", "a b/ä", "ana", "pw"), "postgres://ana:pw@h/a%20b%2F%C3%A4");
    }
}
